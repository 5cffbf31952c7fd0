"""Callers and the worker in each other's way: who waits for whom, closes that overlap, workers that die."""

from __future__ import annotations

import threading

import pytest
from queue_doubles import ManualQueue, OpenableSink, make_queue, scalar, until

from fastlog.common.notices import FastlogWarning
from fastlog.events.worker import Worker


def in_thread(function, *args) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def steps(sink: OpenableSink) -> list[int]:
    return [item[3] for item in sink.items if item[1] != "fastlog/dropped"]


def test_what_waits_is_handed_over_within_a_fifth_of_a_second():
    queue = ManualQueue(
        queue_events=10, queue_bytes=1000, overflow="block", block_timeout=0, on_error="warn", flush_secs=1e9
    )
    sink = OpenableSink()
    for i in range(3):
        queue.put(sink, scalar(i), 10)
        assert queue._worker._due(queue._clock()) <= queue._clock() + 0.2
        queue.work()
        assert steps(sink) == list(range(i + 1))
        queue._clock.now += 1000


def test_close_drops_nothing_that_came_after_it():
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    assert sink.entered.acquire(timeout=30)
    queue.put(sink, scalar(1), 10)
    closer = in_thread(queue.close, 0.2)
    until(lambda: queue._worker.asked.close_to == 2)
    queue.put(sink, scalar(2), 10)
    with pytest.warns(FastlogWarning, match="1 of 3 events were dropped: close 1"):
        closer.join(30)
    queue.put(sink, scalar(3), 10)
    sink.error = OSError(5, "Input/output error")
    sink.gate.set()
    with pytest.warns(FastlogWarning):
        until(lambda: queue.stats()["dropped"] == {"close": 2})
        queue.flush()
    sink.error = None
    queue.flush(timeout=30)
    assert steps(sink) == [2, 3]
    queue.close()


def test_a_close_is_not_answered_by_an_earlier_one():
    class SlowToFlush(OpenableSink):
        def flush(self):
            self.entered.release()
            assert self.gate.wait(60)
            super().flush()

    sink = SlowToFlush()
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    until(lambda: steps(sink) == [0])
    assert sink.entered.acquire(timeout=30)  # the write
    sink.gate.clear()
    first = in_thread(queue.close)
    assert sink.entered.acquire(timeout=30)  # the flush
    queue.put(sink, scalar(1), 10)
    seen = []
    second = in_thread(lambda: (queue.close(), seen.append((steps(sink), sink.closed))))
    until(lambda: queue._worker.asked.close_to == 2)
    sink.gate.set()
    for thread in (first, second):
        thread.join(30)
    assert seen == [([0, 1], True)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_leaves_nobody_waiting(monkeypatch):
    sink = OpenableSink()
    sink.gate.clear()
    sink.error = MemoryError()
    queue = make_queue(queue_events=1)

    def die(me, error):
        monkeypatch.undo()
        sink.error = None
        until(lambda: queue._worker.changed._waiters)  # woken by the failed write, and waiting again
        raise MemoryError

    monkeypatch.setattr(queue._worker, "_in_trouble", die)
    queue.put(sink, scalar(0), 10)
    worker = queue._worker.thread
    assert sink.entered.acquire(timeout=30)
    blocked = in_thread(queue.put, sink, scalar(1), 10)
    until(lambda: queue._worker.changed._waiters)
    sink.gate.set()
    for thread in (worker, blocked):
        thread.join(30)
        assert not thread.is_alive()
    queue.close()
    assert steps(sink) == [0, 1]


def test_an_interrupted_start_of_the_worker_is_made_up_for(monkeypatch):
    def interrupted(self):
        monkeypatch.undo()
        raise KeyboardInterrupt

    sink = OpenableSink()
    queue = make_queue()
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.put(sink, scalar(0), 10)
    queue.flush(timeout=30)
    assert steps(sink) == [0]
    queue.close()


def test_a_flush_waits_for_another_caller_who_writes_then_writes_itself(monkeypatch):
    monkeypatch.setattr(Worker, "exiting", True)
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue()
    writing = in_thread(queue.put, sink, scalar(0), 10)
    assert sink.entered.acquire(timeout=30)
    queue.put(sink, scalar(1), 10)
    flushing = in_thread(queue.flush)
    until(lambda: queue._worker.changed._waiters)
    sink.gate.set()
    for thread in (writing, flushing):
        thread.join(30)
        assert not thread.is_alive()
    assert steps(sink) == [0, 1]
    assert sink.flushed == 2
    queue.close()


def test_ctrl_c_reaches_a_caller_who_writes_himself(monkeypatch):
    monkeypatch.setattr(Worker, "exiting", True)
    sink = OpenableSink()
    sink.error = KeyboardInterrupt()
    queue = make_queue()
    with pytest.raises(KeyboardInterrupt):
        queue.put(sink, scalar(0), 10)
    sink.error = None
    with pytest.warns(FastlogWarning, match="KeyboardInterrupt"):
        queue.flush()
    assert steps(sink) == [0]
    queue.close()
