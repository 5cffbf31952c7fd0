"""Sinks, queues and clocks for tests of the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from fastlog.events.items import SCALAR, Item
from fastlog.events.queue import AsyncQueue
from fastlog.events.sinks.memory import MemorySink
from fastlog.events.worker import Worker


class Clock:
    """Stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class OpenableSink(MemorySink):
    """A sink that waits inside ``write`` until ``gate`` is set, and then raises ``error`` if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.flush_error: BaseException | None = None
        self.batches: list[int] = []
        self.lock = threading.Lock()

    def write(self, items: Sequence[Item]) -> None:
        assert self.lock.acquire(blocking=False), "two threads write at once"
        try:
            self.entered.release()
            assert self.gate.wait(60)
            if self.error is not None:
                raise self.error
            self.batches.append(len(items))
            super().write(items)
        finally:
            self.lock.release()

    def flush(self) -> None:
        if self.flush_error is not None:
            raise self.flush_error
        super().flush()


class ManualWorker(Worker):
    """A worker without a thread: where a caller would wait, it does its next round, 0.1 s later."""

    clock: Clock
    on_wait: Callable[[], object]

    def begin(self) -> None:
        super().begin()
        self.thread = threading.current_thread()
        self._set_marks()

    def call(self) -> bool:
        self._set_marks()
        return True

    def _may_start(self, aside: str | None = None) -> bool:
        return False

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        self.on_wait()
        self.clock.now += 0.1
        self.work()

    def work(self) -> None:
        self._work(threading.current_thread())


class ManualQueue(AsyncQueue):
    """A queue with a ``ManualWorker``, which calls ``on_wait`` where a caller waits."""

    _clock: Clock
    _worker: ManualWorker

    def __init__(self, on_wait: Callable[[], object] = lambda: None, **options: Any) -> None:
        super().__init__(clock=Clock(), **options)
        self._worker.on_wait = on_wait

    def _make_worker(self) -> ManualWorker:
        return ManualWorker(self._options, self._clock)

    def work(self) -> None:
        self._worker.work()


def scalar(number: int, tag: str = "x") -> Item:
    return (SCALAR, tag, float(number), number, 0.0)


def make_queue(**options: Any) -> AsyncQueue:
    defaults = {
        "queue_events": 1000,
        "queue_bytes": 1 << 20,
        "overflow": "block",
        "block_timeout": None,
        "on_error": "warn",
        "flush_secs": 120.0,
    }
    return AsyncQueue(**{**defaults, **options})


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for something that another thread or process is about to do."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "did not happen"
        time.sleep(0.002)
