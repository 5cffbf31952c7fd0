"""The asynchronous queue between the training thread and the files."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  (has to register what it does at the end before us)
import math
import multiprocessing
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.util import Finalize, register_after_fork
from typing import Any, Literal

from fastlog.common import forks
from fastlog.events.delivery import run_job
from fastlog.events.items import JOB, Item, nbytes_of, tags_of
from fastlog.events.sinks.sink import Sink
from fastlog.events.waiting import ProgressTimeout, WorkerThread
from fastlog.events.worker import QueueOptions, Worker

_CLOSE_GRACE = 5.0  # how long close() goes on trying a sink in trouble
_HANG_SECS = 120.0  # flush() and close() wait no longer for a sink that finishes nothing

# Not a WeakSet: its iteration fails where another thread makes a queue meanwhile.
_queues: weakref.WeakValueDictionary[int, AsyncQueue] = weakref.WeakValueDictionary()


def live_queues() -> list[AsyncQueue]:
    """All queues of this process."""
    return [queue for reference in _queues.valuerefs() if (queue := reference()) is not None]


class AsyncQueue:
    """Bounded, ordered, durable on request, and never in the way of training.

    - ``put`` costs the calling thread about half a microsecond. Only under ``overflow="block"`` can it wait:
      as long as the worker gets on, and for ``block_timeout`` if it does not; then it drops at once until
      something is written again.
    - First in, first out, but for jobs that run aside: only what may log under the same tag waits for them.
      What waits otherwise is handed to the operating system within 0.2 s while the sink keeps up.
    - A sink in trouble keeps its events waiting, within the limits, and is tried again after growing pauses;
      until then the other sinks of this queue wait with it.
    - Each event that came is in exactly one of ``written``, ``dropped`` and ``depth`` of ``stats()``; a job
      counts as one event.
    - Drops and errors are said in one warning per cause, out of the next call, and drops in a scalar series
      ``fastlog/dropped`` in the first sink.
    - A forked child inherits no events and no counts. In it, as in each process that multiprocessing may end
      without asking (a daemon: the workers of a Pool), ``put`` returns when the event is written. A pickled
      queue is an empty one with the same options.

    Args:
        queue_events, queue_bytes: limits of what waits. A job larger than ``queue_bytes`` runs at the call;
            an event that is larger may wait beside the others, but not two of them.
        overflow: what happens when full. ``drop_oldest``: the oldest histogram or image goes, then the oldest
            other event. ``drop_newest``: the newest histogram or image that waits goes to admit another
            event, else the newcomer goes. ``block``: waits, then as ``drop_newest``.
        block_timeout: seconds in which nothing is finished and nothing computed, or None for as long as it
            takes.
        on_error: "raise": what a sink raises comes as SinkError out of the next call, which does no more.
        flush_secs: from a write to its fsync or upload.
        clock: seconds, monotonic; for tests.

    Raises:
        ValueError: a limit is not positive, a time is negative, one is no number, or a name is unknown.
    """

    def __init__(
        self,
        *,
        queue_events: int,
        queue_bytes: int,
        overflow: Literal["block", "drop_oldest", "drop_newest"],
        block_timeout: float | None,
        on_error: Literal["warn", "raise"],
        flush_secs: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = QueueOptions(queue_events, queue_bytes, overflow, block_timeout, on_error, flush_secs)
        self._start(clock)

    def _start(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._worker = self._make_worker()
        self._worker.through = multiprocessing.current_process().daemon
        self._begin()
        _queues[id(self)] = self
        forks.register(self)

    def _make_worker(self) -> Worker:
        return Worker(self._options, self._clock)

    def _begin(self) -> None:
        self._lock, self._backlog = self._worker.lock, self._worker.backlog  # at hand: put is to be quick
        self._caller_seconds = 0.0

    def attach(self, sink: Sink) -> None:
        """Makes ``close`` close this sink, used or not. The first one gets ``fastlog/dropped``."""
        with self._lock:
            self._worker.delivery.attach(sink)

    def listen(self, sink: Sink, listener: Callable[[Sequence[Item]], None]) -> None:
        """``listener`` gets all items that are written to the sink from now on, on the worker. Must not
        raise.
        """
        with self._lock:
            self._worker.delivery.listen(sink, listener)

    def put(
        self, sink: Sink, item: Item, nbytes: int, first_to_go: bool = False, since: float | None = None
    ) -> None:
        """Enqueues an item of :mod:`fastlog.events.items`.

        Args:
            nbytes: what it holds in memory, for ``queue_bytes``.
            first_to_go: dropped before others: histograms, images.
            since: the clock when the user's call began, for ``caller_seconds`` of ``stats()``.

        Raises:
            SinkError: under ``on_error="raise"``, once after a sink raised; the item is not enqueued then.
        """
        if since is None:
            since = self._clock()
        backlog = self._backlog
        with self._lock:
            if backlog.depth < backlog.event_mark and backlog.bytes + nbytes <= backlog.byte_mark:
                self._caller_seconds += self._clock() - since
                backlog.append(sink, item, nbytes, since, first_to_go)
                return
        self._put_with_care(sink, item, nbytes, first_to_go, since)

    def _put_with_care(self, sink: Sink, item: Item, nbytes: int, first_to_go: bool, since: float) -> None:
        if nbytes > self._backlog.max_bytes and item[0] == JOB:
            item = run_job(item, tags_of(item))
            nbytes = nbytes_of(item)
        waits = self._options.overflow == "block" and not _on_worker()
        timeout = self._worker.timeout(self._options.block_timeout if waits else 0.0)
        done = False
        while not done:
            self._worker.notices.warn()
            self._worker.notices.raise_error()
            with self._lock:
                done = self._admit(sink, item, nbytes, first_to_go, since, timeout)
                has_worker = self._worker.call()
                if not done and has_worker:
                    self._worker.wait(self._worker.changed, timeout.left())
            if not has_worker:
                self._work_through()
                timeout = self._worker.timeout(0.0)  # there is nobody to wait for
        self._worker.notices.warn()
        with self._lock:
            self._caller_seconds += self._clock() - since

    def _admit(
        self, sink: Sink, item: Item, nbytes: int, first_to_go: bool, since: float, timeout: ProgressTimeout
    ) -> bool:
        """Appends or drops; False: wait for room."""
        backlog = self._backlog
        if not backlog.fits(nbytes):
            if not self._worker.stalled and timeout.left() > 0:
                return False
            if self._options.overflow == "block" and not self._worker.stalled and not _on_worker():
                self._worker.stalled = True
                self._worker.changed.notify_all()
            self._worker.tell_drop(
                "overflow",
                f"the queue is full ({backlog.depth:,} events, {backlog.bytes:,} bytes): dropping, as "
                f"overflow={self._options.overflow!r} says, until the files keep up.",
            )
            oldest = self._options.overflow == "drop_oldest"
            if not backlog.make_room(nbytes, first_to_go, oldest, "overflow"):
                backlog.refuse("overflow")
                return True
        append = backlog.append if nbytes <= backlog.max_bytes else backlog.append_oversize
        append(sink, item, nbytes, since, first_to_go)
        return True

    def _work_through(self) -> bool:
        """Writes what waits on the calling thread, after another that may be at it; False if that hangs."""
        timeout = self._worker.timeout(self._options.block_timeout)
        while not self._worker.work_here():
            with self._lock:
                left = timeout.left()
                if left <= 0 or _on_worker() or self._worker.thread is threading.current_thread():
                    return False
                if self._worker.thread is not None:
                    self._worker.wait(self._worker.changed, left)
        return True

    def progress(self) -> tuple[int, float]:
        """For the ``ProgressTimeout`` of who waits for something that puts."""
        return self._worker.progress()

    def wait_seconds(self) -> float | None:
        """Seconds that ``put`` would now wait for room, None: as long as it takes. For who needs room
        elsewhere before there is an item to put."""
        with self._lock:
            waits = self._options.overflow == "block" and not self._worker.stalled and not _on_worker()
            return self._options.block_timeout if waits else 0.0

    def refuse(self, memory: str) -> None:
        """Counts an item that found no room in some other memory within ``wait_seconds``."""
        with self._lock:
            self._worker.stalled |= self._options.overflow == "block" and not _on_worker()
            self._backlog.refuse("overflow")
            policy = f"overflow={self._options.overflow!r}"
            self._worker.tell_drop(
                memory, f"{memory} is full: dropping what comes, as {policy} says, until there is room."
            )
        self._worker.notices.warn()

    def flush(self, timeout: float | None = None) -> None:
        """Returns when all that any thread put before is in the files and fsynced (or uploaded), or dropped.

        Without a timeout it does not wait for a sink that fails, or for a worker that finishes nothing and
        computes nothing for two minutes: it warns, under ``on_error="raise"`` raises, and returns.

        Args:
            timeout: seconds.

        Raises:
            TimeoutError: the time is up; says how much is left.
            SinkError: under ``on_error="raise"``, a sink has raised.
        """
        left = self._flush(timeout)
        self._worker.notices.warn()
        self._worker.notices.raise_error()
        if left is not None:
            if timeout is not None:
                raise TimeoutError(f"{left}; waited {timeout} s")
            self._worker.notices.tell("flush", f"fastlog: {left}")
            self._worker.notices.warn()

    def _flush(self, timeout: float | None) -> str | None:
        """Without a warning or an error; returns what is left."""
        began, asked = self._clock(), self._worker.asked
        with self._lock:
            target = self._backlog.accepted
            round_ = self._worker.rounds
            needed = target > asked.flushed_to or bool(self._worker.delivery.unsynced)
            if needed:
                asked.ask_flush(target)
        if needed:
            patient = timeout is not None
            self._ask_and_wait(
                lambda: asked.flushed_to >= target or (not patient and self._worker.failed_round > round_),
                timeout,
            )
        with self._lock:
            self._caller_seconds += self._clock() - began
            reached = asked.flushed_to >= target or _on_worker()
            left, nbytes = self._backlog.count_to(target)
        if reached:
            return None
        return (
            f"flush: {left:,} of the events logged before ({nbytes:,} bytes) are not yet in the files"
            f" (last error: {self._worker.notices.last_error})"
        )

    def close(self, timeout: float | None = None) -> None:
        """Flushes, closes the sinks and ends the worker. A later ``put`` opens them again. Idempotent.

        What a sink in trouble does not take within 5 seconds, or ``timeout``, or while nothing is finished or
        computed for two minutes, is dropped, counted and warned about.

        Args:
            timeout: seconds.

        Raises:
            SinkError: under ``on_error="raise"``, a sink has raised.
        """
        if sys.is_finalizing():
            return  # the worker is frozen, maybe inside the lock
        began, asked = self._clock(), self._worker.asked
        with self._lock:
            if not self._worker.delivery.is_open and not self._backlog.depth:
                return
            target = self._backlog.accepted
            grace = _CLOSE_GRACE if timeout is None else min(timeout, _CLOSE_GRACE)
            close = asked.ask_close(target, began + grace)
        self._ask_and_wait(lambda: asked.is_closed(close), timeout)
        with self._lock:
            if not asked.is_closed(close) and not _on_worker():
                self._backlog.drop_to(target, "close")
                self._worker.tell_total()
            self._caller_seconds += self._clock() - began
        self._worker.notices.warn()
        self._worker.notices.raise_error()

    def stats(self) -> dict[str, Any]:
        """Counts and times so far.

        ``accepted`` events put, ``written`` handed to the operating system, ``dropped`` by reason
        (``overflow``; ``invalid``: could not be encoded; ``close``: left when the sinks were
        closed); ``depth`` and ``bytes`` waiting now, ``max_depth`` and ``max_bytes`` at most so far;
        ``oldest_seconds``, the age of the oldest event that waits; ``caller_seconds`` that calling threads
        spent in fastlog; ``worker_cpu_seconds`` and ``worker_wall_seconds`` of work; ``errors`` of sinks and
        jobs, and ``last_error`` (str or None).
        """
        with self._lock:
            backlog = self._backlog
            since = backlog.oldest_since()
            return {
                "accepted": backlog.accepted,
                "written": backlog.written,
                "dropped": dict(backlog.dropped),
                "depth": backlog.depth,
                "bytes": backlog.bytes,
                "max_depth": backlog.deepest,
                "max_bytes": backlog.largest,
                "oldest_seconds": 0.0 if since is None else self._clock() - since,
                "caller_seconds": self._caller_seconds,
                "worker_cpu_seconds": self._worker.cpu_seconds + self._worker.jobs.cpu_seconds,
                "worker_wall_seconds": self._worker.wall_seconds + self._worker.jobs.wall_seconds,
                "errors": self._worker.notices.errors,
                "last_error": self._worker.notices.last_error,
            }

    def _ask_and_wait(self, answered: Callable[[], bool], timeout: float | None) -> None:
        """Wakes the worker and waits for its answer, until the time is up or the worker hangs."""
        began = self._clock()
        hang = self._worker.timeout(_HANG_SECS)
        tried = False
        with self._lock:
            self._worker.hurry = True
        while True:
            with self._lock:
                if answered():
                    return
                has_worker = self._worker.call()
                aside = self._backlog.aside
                done = tried and not aside.running() and aside.finished_since == math.inf
                if _on_worker() or (done and not has_worker):
                    return
                if has_worker or (tried and aside.running()):
                    left = hang.left() if timeout is None else began + timeout - self._clock()
                    if left <= 0:
                        return
                    self._worker.wait(self._worker.changed, left)
            if not has_worker:
                tried = self._work_through()

    def become_child(self) -> None:
        """After a fork, in the child: nothing waits, and callers write by themselves what they put."""
        self._worker.become_child()
        self._begin()

    def __getstate__(self) -> QueueOptions:
        return self._options

    def __setstate__(self, options: QueueOptions) -> None:
        self._options = options
        self._start(time.monotonic)


def _on_worker() -> bool:
    return isinstance(threading.current_thread(), WorkerThread)


def _close_all() -> None:
    """For the end of the process. What is put later is written at once, by its caller."""
    Worker.exiting = True
    failure: Exception | None = None
    for queue in live_queues():
        try:
            queue.close()
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


def _flush_all() -> None:
    """For the end of the main thread: clients of remote stores cannot use their executors any later."""
    for queue in live_queues():
        queue._flush(None)


def _close_at_exit_of_child(_: object = None) -> None:
    # multiprocessing's children leave by os._exit: atexit says nothing there, but this does.
    Finalize(None, _close_all, exitpriority=100)


atexit.register(_close_all)
if hasattr(threading, "_register_atexit"):
    threading._register_atexit(_flush_all)  # called before what was registered earlier: by executors
register_after_fork(_close_all, _close_at_exit_of_child)
if multiprocessing.parent_process() is not None:
    _close_at_exit_of_child()
