"""flush_on_signals, in processes of their own that get real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from processes import with_support
from sink_files import steps_in

from fastlog import flush_on_signals

# A child that logs as fast as it can and sends itself a signal; what it tells goes to a file of its own.
LOGGING = """
    import os, signal, sys
    import fastlog
    from queue_doubles import OpenableSink, make_queue, scalar
    from fastlog.events.sinks.event_files import EventFileSink

    sink, queue = EventFileSink(sys.argv[1]), make_queue(queue_events=1_000_000, queue_bytes=1 << 30)
    told = open(sys.argv[2], "w", buffering=1)

    def log(kill_at, number, after=1_000):
        for step in range(kill_at + after):
            queue.put(sink, scalar(step), 10)
            if step == kill_at:
                print("all before", step, file=told)
                os.kill(os.getpid(), number)
"""


def run(tmp_path: Path, code: str) -> tuple[int, str, str, list[int]]:
    """Exit code, what the child told, its stderr, and the steps in its file."""
    environment = with_support()
    program = textwrap.dedent(LOGGING) + textwrap.dedent(code)
    command = [sys.executable, "-c", program, str(tmp_path / "logs"), str(tmp_path / "told")]
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    return child.returncode, (tmp_path / "told").read_text(), child.stderr, steps_in(tmp_path / "logs")


def test_sigterm_loses_nothing_and_still_ends_the_process_by_sigterm(tmp_path):
    code, told, stderr, steps = run(tmp_path, "fastlog.flush_on_signals()\nlog(20_000, signal.SIGTERM)")
    assert (code, told) == (-signal.SIGTERM, "all before 20000\n"), stderr
    assert steps == list(range(20_001))


def test_a_previous_handler_runs_after_the_flush_and_once_however_often_it_is_asked(tmp_path):
    code, told, stderr, steps = run(
        tmp_path,
        """
        def handler(number, frame):
            stats = queue.stats()
            print("handled", number == signal.SIGTERM, stats["depth"], stats["written"], file=told)

        signal.signal(signal.SIGTERM, handler)
        for _ in range(3):
            fastlog.flush_on_signals([signal.SIGTERM])
        log(5_000, signal.SIGTERM)
        queue.close()
        """,
    )
    assert (code, told) == (0, "all before 5000\nhandled True 0 5001\n"), stderr
    assert steps == list(range(6_000))


def test_a_handler_that_came_between_two_requests_and_chains_runs_once(tmp_path):
    code, told, stderr, steps = run(
        tmp_path,
        """
        fastlog.flush_on_signals()
        before = signal.getsignal(signal.SIGTERM)

        def handler(number, frame):
            print("handled", file=told)
            before(number, frame)

        signal.signal(signal.SIGTERM, handler)
        fastlog.flush_on_signals()
        log(100, signal.SIGTERM)
        """,
    )
    assert (code, told) == (-signal.SIGTERM, "all before 100\nhandled\n"), stderr
    assert steps == list(range(101))


def test_ctrl_c_flushes_and_raises_keyboard_interrupt(tmp_path):
    code, told, stderr, steps = run(
        tmp_path,
        """
        fastlog.flush_on_signals()
        try:
            log(5_000, signal.SIGINT)
        except KeyboardInterrupt:
            print("interrupted", queue.stats()["written"], file=told)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert (code, told) == (-signal.SIGKILL, "all before 5000\ninterrupted 5001\n"), stderr
    assert steps == list(range(5_001))


def test_an_ignored_signal_flushes_and_is_ignored(tmp_path):
    code, told, stderr, _ = run(
        tmp_path,
        """
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        fastlog.flush_on_signals([signal.SIGUSR1])
        log(3_000, signal.SIGUSR1, after=1)
        print(queue.stats()["written"], file=told)
        """,
    )
    assert (code, told) == (0, "all before 3000\n3001\n"), stderr


@pytest.mark.parametrize("filters", ["default", "error"])
def test_a_sink_that_hangs_holds_up_neither_the_others_nor_the_signal(tmp_path, filters):
    code, _, stderr, steps = run(
        tmp_path,
        f"""
        import warnings
        import fastlog.signals
        fastlog.signals._FLUSH_SECS = 0.5
        warnings.simplefilter({filters!r})
        stuck, hanging = [OpenableSink() for _ in range(3)], [make_queue() for _ in range(3)]
        for one, its_queue in zip(stuck, hanging):
            one.gate.clear()
            its_queue.put(one, scalar(0), 10)
        fastlog.flush_on_signals()
        log(2_000, signal.SIGTERM)
        """,
    )
    assert code == -signal.SIGTERM, stderr
    assert ("FastlogWarning: fastlog: flushing on a signal: flush: 1 of" in stderr) == (filters == "default")
    assert steps == list(range(2_001))


def test_nothing_is_installed_unasked(tmp_path):
    code, told, stderr, _ = run(
        tmp_path,
        """
        from fastlog import SummaryWriter
        with SummaryWriter(sys.argv[1] + "/writer") as writer:
            writer.add_scalar("x", 1.0)
        log(100, 0)
        queue.close()
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        ours = [number for number, handler in handlers.items() if "fastlog" in repr(handler)]
        expected = handlers[signal.SIGINT] is signal.default_int_handler
        print(ours, expected, handlers[signal.SIGTERM] == signal.SIG_DFL, file=told)
        """,
    )
    assert (code, told.splitlines()[-1]) == (0, "[] True True"), stderr


def test_only_the_main_thread_may_ask():
    errors = []

    def ask() -> None:
        try:
            flush_on_signals()
        except RuntimeError as error:
            errors.append(str(error))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert errors == ["flush_on_signals: only the main thread may install signal handlers"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_cannot_be_handled_are_refused():
    with pytest.raises(OSError):
        flush_on_signals([signal.SIGKILL])
    with pytest.raises(ValueError):
        flush_on_signals([10_000])
