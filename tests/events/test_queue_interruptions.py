"""Signal handlers, finalizers, KeyboardInterrupt and MemoryError at every point where they can strike."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
from queue_doubles import ManualQueue, ManualWorker, OpenableSink, make_queue, scalar

from fastlog import signals
from fastlog.common import notices
from fastlog.events import backlog, delivery, requests
from fastlog.events import queue as async_queue
from fastlog.events import worker as queue_worker
from fastlog.events.items import JOB

OURS = {module.__file__ for module in (async_queue, backlog, delivery, queue_worker, requests, notices)}


def at_each_point(
    run: Callable[[], Any],
    strike: Callable[[], Any],
    events: Collection[str] = ("call", "c_return"),
    code: Collection[str] = OURS,
) -> Iterator[Callable[[], Any]]:
    """Programs that do ``run``, struck at the first, second, ... point of ``code``, until there is none.

    ``events``: the interpreter looks for signals when a function begins and when one written in C returns.
    """
    for point in itertools.count(1):
        left = point

        def profile(frame: Any, event: str, _: object) -> None:
            nonlocal left
            if event in events and frame.f_code.co_filename in code:
                left -= 1
                if left == 0:
                    sys.setprofile(None)
                    strike()

        def struck_run(profile: Callable[..., None] = profile) -> Any:
            sys.setprofile(profile)
            try:
                return run()
            finally:
                sys.setprofile(None)

        yield struck_run
        if left > 0:
            return


class BusyWorker(ManualWorker):
    """Knows when it is the worker that was struck, for which nobody can wait."""

    working = False

    def work(self) -> None:
        self.working, before = True, self.working
        try:
            super().work()
        finally:
            self.working = before


class BusyQueue(ManualQueue):
    _worker: BusyWorker

    def _make_worker(self) -> BusyWorker:
        return BusyWorker(self._options, self._clock)


@pytest.fixture
def make(monkeypatch):
    def make_both(overflow: str) -> tuple[BusyQueue, OpenableSink]:
        queue = BusyQueue(
            queue_events=3,
            queue_bytes=1000,
            overflow=overflow,
            block_timeout=1.0,
            on_error="warn",
            flush_secs=120,
        )
        monkeypatch.setattr(async_queue, "_on_worker", lambda: queue._worker.working)
        return queue, OpenableSink()

    return make_both


def check(queue: ManualQueue) -> None:
    stats = queue.stats()
    assert stats["accepted"] == stats["written"] + sum(stats["dropped"].values()) + stats["depth"]
    if stats["depth"] == 0:
        assert stats["bytes"] == 0


OVERFLOWS = pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])


@OVERFLOWS
@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_a_handler_may_log_and_flush_at_every_point(make, overflow):
    def run() -> None:
        for i in range(5):
            queue.put(sink, scalar(i), 10, i % 2 == 0)
        queue.put(sink, scalar(5), 2000)
        queue.flush()
        sink.error = OSError("down")
        queue.put(sink, scalar(6), 10)
        queue.close()
        sink.error = None

    def strike() -> None:
        for i in range(3):
            queue.put(sink, scalar(i, "handler"), 10, i % 2 == 0)
        queue.flush()
        queue.put(sink, scalar(9, "handler"), 10)

    points = 0
    queue, sink = make(overflow)
    for struck_run in at_each_point(run, strike):
        queue, sink = make(overflow)
        struck_run()
        sink.error = None
        queue.flush()
        check(queue)
        stats = queue.stats()
        assert stats["depth"] == 0
        items = [item for item in sink.items if item[1] != "fastlog/dropped"]
        assert len(items) == stats["written"]
        for tag in ("x", "handler"):
            steps = [item[3] for item in items if item[1] == tag]
            assert steps == sorted(set(steps))
        points += 1
    assert points > 300


@OVERFLOWS
@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_keyboard_interrupt_at_every_point_of_a_call(make, overflow):
    def run() -> None:
        for i in range(8):
            queue.put(sink, scalar(i), 10, i % 2 == 0)
            done.append(i)
        queue.flush(timeout=1)
        queue.put(sink, scalar(8), 2000)
        queue.close()

    def strike() -> None:
        if not queue._worker.working:  # signals come to the caller's thread
            raise KeyboardInterrupt

    interrupted = 0
    queue, sink = make(overflow)
    done: list[int] = []
    for struck_run in at_each_point(run, strike):
        queue, sink = make(overflow)
        done.clear()
        try:
            struck_run()
        except KeyboardInterrupt:
            interrupted += 1
        queue.flush()
        queue.put(sink, scalar(20), 10)
        queue.flush()
        check(queue)
        steps = [item[3] for item in sink.items if item[1] == "x"]
        assert steps == sorted(set(steps))
        assert steps[-1] == 20
        assert queue.stats()["written"] == len(steps)
        if overflow == "block":
            assert set(done) <= set(steps)
        queue.close()
        assert sink.closed
    assert interrupted > 100


def raise_memory_error() -> None:
    raise MemoryError


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_memory_error_at_every_point_of_the_worker(make):
    def run() -> None:
        with contextlib.suppress(MemoryError):  # the thread is gone; the next call starts another
            queue.work()

    struck = 0
    queue, sink = make("block")
    for struck_run in at_each_point(run, raise_memory_error, events=("call",)):
        queue, sink = make("block")
        queue.put(sink, scalar(0), 10, True)
        queue.put(sink, scalar(1), 10)
        queue.put(sink, (JOB, lambda: [scalar(2)], 10, False, "a job"), 10)
        struck_run()
        queue.put(sink, scalar(3), 10)
        queue.close()
        check(queue)
        steps = [item[3] for item in sink.items if item[1] == "x"]
        # What was written when memory ran out may be written once more, but nothing is lost uncounted.
        lost = sum(queue.stats()["dropped"].values())
        assert len({0, 1, 2, 3} - set(steps)) == lost
        struck += 1
    assert struck > 30


def test_queues_may_be_made_while_all_are_flushed():
    queues = [make_queue() for _ in range(3)]
    weak_collections = {sys.modules[name].__file__ for name in ("weakref", "_weakrefset")}
    struck = 0
    for struck_run in at_each_point(
        signals._flush_all, lambda: queues.append(make_queue()), code=weak_collections
    ):
        struck_run()
        struck += 1
    assert struck > 1
