"""Jobs, drops and what is said of them; signals, finalizers, interpreter shutdown, copies of the queue."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref

import pytest
from processes import with_support
from queue_doubles import ManualQueue, OpenableSink, make_queue, scalar, until

from fastlog.common.notices import FastlogWarning, SinkError
from fastlog.events.items import HISTOGRAM, JOB, SCALAR
from fastlog.events.queue import AsyncQueue
from fastlog.events.sinks.memory import MemorySink
from fastlog.events.sinks.sink import InvalidItems


def manual(**options) -> ManualQueue:
    defaults = {"queue_events": 10, "queue_bytes": 1000, "overflow": "drop_oldest", "block_timeout": 0}
    return ManualQueue(**{**defaults, "on_error": "warn", "flush_secs": 120, **options})


def job(run, nbytes: int = 10, label: str = "add_image 'cat'"):
    return (JOB, run, nbytes, True, label)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"queue_events": 0}, "queue_events"),
        ({"queue_bytes": -1}, "queue_bytes"),
        ({"overflow": "panic"}, "overflow"),
        ({"block_timeout": -0.1}, "block_timeout"),
        ({"block_timeout": float("nan")}, "block_timeout"),
        ({"flush_secs": -1}, "flush_secs"),
        ({"flush_secs": None}, "flush_secs"),
        ({"queue_bytes": "many"}, "queue_bytes"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_wrong_options_raise_and_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        make_queue(**options)


def test_jobs_run_on_the_worker_in_their_place():
    sink = OpenableSink()
    queue = make_queue()
    ran_on = []

    def run():
        ran_on.append(threading.current_thread())
        return [scalar(1), scalar(2)]

    queue.put(sink, scalar(0), 10)
    queue.put(sink, job(run), 10, True)
    queue.put(sink, scalar(3), 10)
    queue.close()
    assert [item[3] for item in sink.items] == [0, 1, 2, 3]
    assert ran_on[0].name == "fastlog"
    stats = queue.stats()
    assert (stats["accepted"], stats["written"]) == (3, 3)


def test_what_was_put_before_a_job_does_not_wait_for_it():
    sink = OpenableSink()
    queue = make_queue()
    hold = threading.Event()
    queue.put(sink, scalar(0), 10)
    queue.put(sink, job(lambda: [scalar(1)] if hold.wait(60) else []), 10)
    until(lambda: sink.items)
    assert [item[3] for item in sink.items] == [0]
    hold.set()
    queue.close()
    assert [item[3] for item in sink.items] == [0, 1]


def test_a_job_runs_once_even_where_its_items_are_written_in_two_goes():
    class HalfSink(MemorySink):
        failing = True

        def write(self, items):
            if self.failing:
                raise OSError("down")
            super().write(items)

    sink = HalfSink()
    queue = manual()
    runs = []
    queue.put(sink, job(lambda: runs.append(1) or [scalar(1), scalar(2)]), 10, True)
    queue.work()
    queue.work()
    sink.failing = False
    queue.work()
    assert [item[3] for item in sink.items] == [1, 2]
    assert runs == [1]
    assert queue.stats()["written"] == 1


@pytest.mark.parametrize("error", [ValueError("bad image"), MemoryError(), SystemExit(1)])
def test_a_job_that_raises_is_dropped_and_named_and_the_worker_lives(error):
    sink = OpenableSink()
    queue = make_queue()

    def run():
        raise error

    queue.put(sink, job(run), 10)
    queue.put(sink, scalar(1), 10)
    with pytest.warns(FastlogWarning) as caught:
        queue.close()
    texts = [str(warning.message) for warning in caught]
    assert f"add_image 'cat': {type(error).__name__}" in texts[0]
    assert "1 of 2 events were dropped: invalid 1" in texts[1]
    assert [item[3] for item in sink.items if item[1] == "x"] == [1]
    assert queue.stats()["dropped"] == {"invalid": 1}


def test_one_item_that_cannot_be_written_does_not_take_others_with_it():
    class Picky(MemorySink):
        def write(self, items):
            odd = [i for i, item in enumerate(items) if item[3] % 2]
            if odd:
                raise InvalidItems(odd, ValueError("odd step"))
            super().write(items)

    sink = Picky()
    queue = manual()
    for i in range(5):
        queue.put(sink, scalar(i), 10)
    queue.put(sink, job(lambda: [scalar(5), scalar(6)]), 10)
    queue.put(sink, job(lambda: [scalar(7)]), 10)
    queue.work()
    assert [item[3] for item in sink.items if item[1] == "x"] == [0, 2, 4, 6]
    assert queue.stats()["dropped"] == {"invalid": 3}
    assert queue.stats()["last_error"].endswith("odd step")


def test_a_job_may_log_but_never_waits_for_its_own_queue():
    sink = OpenableSink()
    queue = make_queue(queue_events=2)

    def run():
        for i in range(10, 15):
            queue.put(sink, scalar(i), 10)
        queue.flush()
        queue.close()
        return [scalar(1)]

    queue.put(sink, job(run), 10)
    with pytest.warns(FastlogWarning):
        queue.close(timeout=30)
    assert sink.items[0][3] == 1
    assert queue.stats()["dropped"]["overflow"] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        queue.close()


def test_a_sink_in_trouble_holds_up_its_queue_but_loses_nothing():
    good, bad = OpenableSink(), OpenableSink()
    bad.error = OSError("down")
    queue = manual()
    for i in range(4):
        queue.put((good, bad)[i % 2], scalar(i), 10)
    queue.work()
    assert [item[3] for item in good.items] == [0, 2]
    assert queue.stats()["depth"] == 2
    bad.error = None
    queue.work()
    assert [item[3] for item in bad.items] == [1, 3]


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_what_two_sinks_did_not_take_keeps_its_order():
    sinks = OpenableSink(), OpenableSink()
    queue = manual(queue_events=4)
    for i in range(4):
        queue.put(sinks[i % 2], scalar(i), 10)
    for sink in sinks:
        sink.error = OSError("down")
    queue.work()
    for i in range(4, 6):
        queue.put(sinks[i % 2], scalar(i), 10)  # drops the oldest: 0, then 1
    for sink in sinks:
        sink.error = None
    queue.work()
    assert [[item[3] for item in sink.items if item[1] == "x"] for sink in sinks] == [[2, 4], [3, 5]]


def test_drops_are_said_once_and_counted_in_a_series_and_at_the_end():
    sink = OpenableSink()
    queue = manual(queue_events=2, overflow="drop_newest")
    queue.attach(sink)
    with pytest.warns(FastlogWarning) as caught:
        for i in range(10):
            queue.put(sink, scalar(i), 10)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "queue is full (2 events, 20 bytes)" in str(caught[0].message)
    queue.work()
    for i in range(10, 13):
        queue.put(sink, scalar(i), 10)
    queue.work()  # within the second: no second point
    with pytest.warns(FastlogWarning, match="9 of 13 events were dropped: overflow 9"):
        queue.close()
    points = [item[2:4] for item in sink.items if item[1] == "fastlog/dropped"]
    assert points == [(8.0, 1), (9.0, 11)]


def test_stats_name_what_the_calling_threads_and_the_worker_spent():
    sink = OpenableSink()
    queue = manual()
    queue._clock.now = 100.0
    queue.put(sink, (HISTOGRAM, "w", b"", 0, 0.0), 10, True, since=99.0)
    queue._clock.now = 103.0
    stats = queue.stats()
    assert stats["caller_seconds"] == 1.0
    assert stats["oldest_seconds"] == 4.0
    assert (stats["depth"], stats["bytes"], stats["max_depth"], stats["max_bytes"]) == (1, 10, 1, 10)
    queue.work()
    stats = queue.stats()
    assert stats["worker_cpu_seconds"] > 0
    assert stats["last_error"] is None


def test_a_signal_handler_may_log_and_flush_at_any_moment():
    sink = OpenableSink()
    queue = make_queue(queue_events=10_000)
    handled = []

    def handler(signum, frame):
        queue.put(sink, (SCALAR, "signal", 0.0, len(handled), 0.0), 10)
        queue.flush(timeout=60)
        handled.append(signum)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        i = 0
        while len(handled) < 100:
            queue.put(sink, scalar(i), 10)
            i += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    queue.close()
    assert [item[3] for item in sink.items if item[1] == "x"] == list(range(i))
    stats = queue.stats()
    assert stats["accepted"] == stats["written"] == i + len(handled)
    assert (stats["depth"], stats["bytes"]) == (0, 0)


def test_a_queue_nobody_holds_writes_what_it_has_and_goes():
    sink = OpenableSink()
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    queue.close()
    gone = weakref.ref(queue)
    del queue
    until(lambda: gc.collect() >= 0 and gone() is None)
    assert len(sink.items) == 1


@pytest.mark.parametrize("how", [copy.copy, lambda queue: pickle.loads(pickle.dumps(queue))])
def test_a_copied_queue_is_empty_and_works(how):
    sink = OpenableSink()
    queue = make_queue(queue_events=7)
    queue.put(sink, scalar(0), 10)
    other = how(queue)
    assert isinstance(other, AsyncQueue)
    assert other.stats()["accepted"] == 0
    assert other._options == queue._options
    second = OpenableSink()
    other.put(second, scalar(1), 10)
    other.close()
    queue.close()
    assert [item[3] for item in sink.items + second.items] == [0, 1]


def run_python(code: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a program that has tests' doubles at hand."""
    environment = with_support()
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=check)


AT_EXIT = """
    import atexit, sys
    from queue_doubles import make_queue, scalar
    from fastlog.events.sinks.memory import MemorySink
    class Printing(MemorySink):
        def write(self, items):
            super().write(items)
            print(*(item[3] for item in items), flush=True)
        def close(self):
            print("closed", flush=True)
    sink, queue = Printing(), make_queue()
    late = lambda: queue.put(sink, scalar(3), 10)
"""


def test_the_interpreter_leaves_nothing_behind():
    done = run_python(AT_EXIT + "    for i in range(3): queue.put(sink, scalar(i), 10)")
    assert done.stdout.split() == ["0", "1", "2", "closed"]
    assert done.stderr == ""


def test_an_exception_leaves_nothing_behind():
    done = run_python(AT_EXIT + "    queue.put(sink, scalar(0), 10); 1 / 0", check=False)
    assert done.stdout.split() == ["0", "closed"]
    assert done.stderr.count("Traceback") == 1


def test_logging_while_the_interpreter_shuts_down():
    # fastlog has closed its queues by then, and the interpreter may refuse to start threads.
    code = AT_EXIT.replace("import atexit, sys", "import atexit, sys; atexit.register(lambda: late())")
    done = run_python(code + "    queue.put(sink, scalar(0), 10)")
    assert done.stdout.split() == ["0", "closed", "3"]
    assert done.stderr == ""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_replaced(monkeypatch):
    sink = OpenableSink()
    queue = make_queue()

    def die(now):
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(queue._worker, "_due", die)
    with queue._lock:
        queue.put(sink, scalar(0), 10)
        worker = queue._worker.thread
    worker.join(30)
    assert queue._worker.thread is None
    queue.put(sink, scalar(1), 10)
    queue.close()
    assert [item[3] for item in sink.items] == [0, 1]


def test_without_threads_the_caller_writes(monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    sink = OpenableSink()
    queue = make_queue(queue_events=2)
    for i in range(5):
        queue.put(sink, scalar(i), 10)
    queue.flush()
    assert sink.flushed == 5
    sink.error = OSError("down")
    with pytest.warns(FastlogWarning, match="down"):
        queue.put(sink, scalar(5), 10)
        queue.put(sink, scalar(6), 10)
    with pytest.warns(FastlogWarning, match="2 of 7 events were dropped: close 2"):
        queue.close()
    assert [item[3] for item in sink.items] == [0, 1, 2, 3, 4]


def test_raise_comes_out_of_flush_and_close_too():
    sink = OpenableSink()
    sink.error = OSError("down")
    queue = make_queue(on_error="raise")
    queue.put(sink, scalar(0), 10)
    with pytest.raises(SinkError, match="down"):
        queue.flush()
    with (
        pytest.raises(SinkError, match="down"),
        pytest.warns(FastlogWarning, match="1 of 1 events were dropped"),
    ):
        queue.close(timeout=0.2)
