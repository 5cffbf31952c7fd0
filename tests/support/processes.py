"""Child processes for tests that kill, fork and limit them."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from queue_doubles import make_queue

from fastlog.events.items import SCALAR
from fastlog.events.sinks.event_files import EventFileSink


@contextlib.contextmanager
def forked(function: Callable[[], object]) -> Iterator[int]:
    """The pid of a child that runs ``function``: exits with 0, or where it raises with 1 and a traceback."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def with_support() -> dict[str, str]:
    """The environment of a child that imports what lies beside this file."""
    return {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}


def exit_code(pid: int, seconds: float = 60.0) -> int:
    """Waits for a child; its exit code, or minus the signal that ended it. Fails where it hangs."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    raise AssertionError("the child hangs")


def resident_bytes() -> int:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Board:
    """Numbers that a child leaves for its parent, readable after it was killed."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 64)

    def __setitem__(self, slot: int, value: float) -> None:
        struct.pack_into("<d", self._memory, 8 * slot, value)

    def __getitem__(self, slot: int) -> float:
        return struct.unpack_from("<d", self._memory, 8 * slot)[0]


PUT, GAP, FLUSHED, TICK = 0, 1, 2, 3


def longest_gap(board: Board, until: float) -> float:
    """The longest that a thread of :func:`log_at_full_speed` waited its turn, up to a wall time."""
    return max(board[GAP], until - board[TICK])


def log_at_full_speed(logdir: Path, board: Board, flush_every: int | None = None) -> None:
    """Logs for ever. On the board: events put, events flushed, the longest that a thread waited its turn."""

    def measure_gap() -> None:
        while True:
            began = board[TICK] = time.time()
            time.sleep(0.005)
            board[GAP] = max(board[GAP], time.time() - began - 0.005)

    threading.Thread(target=measure_gap, daemon=True).start()
    sink = EventFileSink(str(logdir))
    queue = make_queue(queue_events=8192, queue_bytes=1 << 24)
    step = 0
    while True:
        queue.put(sink, (SCALAR, "x", float(step), step, time.time()), 200)
        step += 1
        board[PUT] = step
        if flush_every is not None and step % flush_every == 0:
            queue.flush()
            board[FLUSHED] = step
