"""Killed, out of space, without permission, without a directory: nothing is lost without a count."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
from processes import FLUSHED, PUT, Board, exit_code, forked, log_at_full_speed, longest_gap, with_support
from queue_doubles import make_queue, scalar, until
from sink_files import events_in, files_in, scalars_in, steps_in

from fastlog.common.notices import FastlogWarning
from fastlog.events.sinks.event_files import EventFileSink

# Python warns about forks of threaded processes, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

KILLS = 20


@pytest.mark.parametrize("seed", range(KILLS))
def test_kill_9_loses_half_a_second_at_most(tmp_path, seed):
    board = Board()
    moment = 10 ** random.Random(seed).uniform(-2.5, -0.3)
    with forked(lambda: log_at_full_speed(tmp_path, board)) as pid:
        until(lambda: board[PUT] > 0)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        killed_at = time.time()
        assert exit_code(pid) == -signal.SIGKILL
    assert_half_a_second_is_missing_at_most(tmp_path, board, killed_at, killed_at - moment)


def assert_half_a_second_is_missing_at_most(
    logdir: Path, board: Board, killed_at: float, began: float
) -> None:
    (path,) = files_in(logdir)
    events = events_in(path)[1:]
    assert [event.step for event in events] == list(range(len(events)))
    if len(events) < board[PUT]:
        # Threads that have to wait for the CPU are slower: allow for what this machine makes them wait.
        first_missing = events[-1].wall_time if events else began
        assert killed_at - first_missing < 0.5 + 5 * longest_gap(board, killed_at)


@pytest.mark.parametrize("seed", range(KILLS // 2))
def test_kill_9_after_flush_loses_nothing_of_before(tmp_path, seed):
    board = Board()
    with forked(lambda: log_at_full_speed(tmp_path, board, flush_every=100 * (seed + 1))) as pid:
        until(lambda: board[FLUSHED] > 0)
        time.sleep(random.Random(seed).uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        exit_code(pid)
    (path,) = files_in(tmp_path)
    written = [step for step, _ in scalars_in(path)]
    assert written == list(range(len(written)))
    assert len(written) >= board[FLUSHED]


def test_sigterm_loses_half_a_second_at_most(tmp_path):
    board = Board()
    began = time.time()

    def child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        log_at_full_speed(tmp_path, board)

    with forked(child) as pid:
        until(lambda: board[PUT] > 1000)
        os.kill(pid, signal.SIGTERM)
        killed_at = time.time()
        assert exit_code(pid) == -signal.SIGTERM
    assert_half_a_second_is_missing_at_most(tmp_path, board, killed_at, began)


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    code = """
        import sys
        from queue_doubles import make_queue, scalar
        from fastlog.events.sinks.event_files import EventFileSink
        sink, queue = EventFileSink(sys.argv[1]), make_queue()
        step = 0
        print("ready", flush=True)
        try:
            while True:
                queue.put(sink, scalar(step), 10)
                step += 1
        finally:
            print(step, queue.stats()["accepted"], flush=True)
    """
    environment = with_support()
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        ready = child.stdout.readline()
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (ready, b"KeyboardInterrupt" in err) == (b"ready\n", True), err.decode()
    step, accepted = map(int, out.split())
    assert step in (accepted, accepted - 1)  # the last put may have been interrupted on its way back
    assert steps_in(tmp_path) == list(range(accepted))


class Disk:
    """``os.pwrite`` with so much room, like a file system."""

    def __init__(self, monkeypatch, room: int, code: int = errno.ENOSPC) -> None:
        self.room, self.code = room, code
        self.real = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def pwrite(self, fd, data, at):
        if self.room <= 0:
            raise OSError(self.code, os.strerror(self.code))
        done = self.real(fd, data[: self.room], at)
        self.room -= done
        return done


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_full_disk(tmp_path, monkeypatch, overflow, code):
    sink = EventFileSink(str(tmp_path))
    queue = make_queue(queue_events=100, overflow=overflow, block_timeout=0.01)
    disk = Disk(monkeypatch, room=1000, code=code)
    with pytest.warns(FastlogWarning) as caught:
        for i in range(500):
            queue.put(sink, scalar(i), 10)
        until(lambda: queue.stats()["errors"] >= 2)
        for i in range(500, 1000):  # training goes on
            queue.put(sink, scalar(i), 10)
    said = {str(warning.message).partition(":")[2] for warning in caught}
    assert len(said) == len(caught) == 2  # the queue is full, and why
    stats = queue.stats()
    assert stats["max_depth"] <= 100
    assert os.strerror(code) in stats["last_error"]
    disk.room = 10**9
    queue.flush(timeout=60)
    queue.put(sink, scalar(1000), 10)
    with pytest.warns(FastlogWarning, match="events were dropped: overflow"):
        queue.close()
    stats = queue.stats()
    assert stats["accepted"] == 1001 == stats["written"] + sum(stats["dropped"].values())
    steps = steps_in(tmp_path)
    assert steps == sorted(set(steps))
    assert len(steps) == stats["written"]
    assert steps[-1] == 1000
    for path in files_in(tmp_path):
        events_in(path)
    (*_, (_, reported)) = scalars_in(files_in(tmp_path)[-1], "fastlog/dropped")
    assert reported == stats["dropped"]["overflow"]


def test_a_real_file_system_without_space(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a tmpfs; the simulated disk above has the same errors")
    try:
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(32 << 10))
        sink = EventFileSink(str(tmp_path / "run"))
        queue = make_queue(queue_events=10_000)
        for i in range(3000):  # 140 KB
            queue.put(sink, scalar(i), 10)
        with pytest.warns(FastlogWarning, match="No space left"):
            until(lambda: queue.stats()["errors"] >= 2)
            queue.stats()
            queue.flush()
        (path,) = files_in(tmp_path / "run")
        events_in(path)
        assert subprocess.run(["mount", "-o", "remount,size=1m", str(tmp_path)]).returncode == 0
        queue.flush(timeout=60)
        queue.close()
        assert steps_in(tmp_path / "run") == list(range(3000))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_limit_on_file_sizes_makes_more_files(tmp_path):
    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        sink = EventFileSink(str(tmp_path))
        queue = make_queue(queue_events=10_000, on_error="warn")
        for i in range(2000):  # 90 KB
            queue.put(sink, scalar(i), 10)
        with pytest.warns(FastlogWarning, match="File too large"):
            queue.close()
        assert queue.stats()["dropped"] == {}

    with forked(child) as pid:
        assert exit_code(pid) == 0
    files = files_in(tmp_path)
    assert all(path.stat().st_size <= 20_000 for path in files)
    assert sum(len(scalars_in(path)) for path in files) == 2000
    assert steps_in(tmp_path) == list(range(2000))


def test_a_deleted_directory_comes_back(tmp_path):
    logdir = tmp_path / "run"
    sink = EventFileSink(str(logdir))
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    queue.flush()
    shutil.rmtree(logdir)
    queue.put(sink, scalar(1), 10)
    with pytest.warns(FastlogWarning, match="was deleted"):
        queue.flush()
    queue.flush(timeout=60)
    queue.close()
    assert steps_in(logdir) == [1]
    assert queue.stats()["dropped"] == {}


def test_lost_permission(monkeypatch):
    # not tmp_path: nobody has to be able to reach it
    base = Path(tempfile.mkdtemp())
    base.chmod(0o777)
    try:
        parent = base / "runs"
        parent.mkdir(mode=0o777)
        parent.chmod(0o777)

        def child() -> None:
            if os.geteuid() == 0:
                os.seteuid(65534)
            sink = EventFileSink(str(parent / "run"))
            queue = make_queue()
            queue.put(sink, scalar(0), 10)
            queue.flush()
            shutil.rmtree(parent / "run")
            os.kill(os.getpid(), signal.SIGSTOP)  # meanwhile the right to write is taken
            queue.put(sink, scalar(1), 10)
            with pytest.warns(FastlogWarning) as caught:
                until(lambda: "Permission denied" in str(queue.stats()["last_error"]))
                queue.put(sink, scalar(2), 10)
            assert ["Permission" in str(warning.message) for warning in caught] == [False, True]
            os.kill(os.getpid(), signal.SIGSTOP)  # and given back
            queue.flush(timeout=60)
            queue.close()

        with forked(child) as pid:
            os.waitpid(pid, os.WUNTRACED)
            parent.chmod(0o555)
            os.kill(pid, signal.SIGCONT)
            os.waitpid(pid, os.WUNTRACED)
            parent.chmod(0o777)
            os.kill(pid, signal.SIGCONT)
            assert exit_code(pid) == 0
        assert steps_in(parent / "run") == [1, 2]
    finally:
        shutil.rmtree(base)


def test_out_of_memory_on_the_worker(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    real, calls = sink.write, []

    def write(items):
        calls.append(1)
        if len(calls) < 3:
            raise MemoryError
        real(items)

    sink.write = write
    queue = make_queue()
    with pytest.warns(FastlogWarning, match="MemoryError"):
        for i in range(10):
            queue.put(sink, scalar(i), 10)
        queue.flush()
    queue.flush(timeout=60)
    queue.close()
    assert steps_in(tmp_path) == list(range(10))


def test_a_file_system_that_hangs_does_not_stop_the_caller(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    gate, hangs = threading.Event(), threading.Event()
    real = os.pwrite

    def pwrite(*args):
        hangs.set()
        assert gate.wait(60)
        return real(*args)

    monkeypatch.setattr(os, "pwrite", pwrite)
    queue = make_queue(queue_events=50, overflow="drop_oldest")
    queue.put(sink, scalar(0), 10)
    assert hangs.wait(60)
    with pytest.warns(FastlogWarning, match="queue is full"):
        for i in range(1, 1000):
            queue.put(sink, scalar(i), 10)
    assert queue.stats()["depth"] == 50
    gate.set()
    with pytest.warns(FastlogWarning, match="950 of 1,000 events were dropped"):
        queue.close()
    assert steps_in(tmp_path) == [0, *range(951, 1000)]
