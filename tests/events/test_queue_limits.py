"""What is larger than the queue, and how long callers wait for a worker that works, or hangs."""

from __future__ import annotations

import threading
import time
import warnings

import pytest
from queue_doubles import Clock, ManualQueue, OpenableSink, make_queue, scalar, until

from fastlog.common.notices import FastlogWarning
from fastlog.events import queue as async_queue
from fastlog.events.items import DEVICE, ENCODER, JOB, RAW
from fastlog.events.queue import AsyncQueue
from fastlog.events.waiting import ProgressTimeout, WorkerThread


def steps(sink: OpenableSink) -> list[int]:
    return [item[3] for item in sink.items if item[1] != "fastlog/dropped"]


def compute(seconds: float) -> None:
    """Uses the CPU for so long, whatever else runs on the machine."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("aside", [None, ENCODER, DEVICE])
def test_a_job_larger_than_the_queue_runs_at_the_call_and_nothing_is_lost(overflow, aside):
    sink, ran_on = OpenableSink(), []
    queue = make_queue(queue_bytes=1000, overflow=overflow)

    def run():
        ran_on.append(threading.current_thread())
        return [scalar(1), scalar(2)]

    queue.put(sink, scalar(0), 10)
    queue.put(sink, (JOB, run, 10_000, True, "a video", aside, ["x"]), 10_000, True)
    queue.put(sink, scalar(3), 10)
    queue.close()
    assert steps(sink) == [0, 1, 2, 3]
    assert ran_on == [threading.current_thread()]
    stats = queue.stats()
    assert (stats["accepted"], stats["written"], stats["dropped"]) == (3, 3, {})
    assert stats["max_bytes"] <= 1000


def test_a_job_larger_than_the_queue_that_fails_is_dropped_and_named():
    def run():
        raise ValueError("bad frames")

    sink, queue = OpenableSink(), make_queue(queue_bytes=100)
    queue.put(sink, (JOB, run, 101, True, "add_video('v')"), 101, True)
    with pytest.warns(FastlogWarning) as caught:
        queue.close()
    assert "add_video('v'): ValueError: bad frames" in str(caught[0].message)
    assert queue.stats()["dropped"] == {"invalid": 1}


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
def test_an_event_larger_than_the_queue_waits_beside_the_others(overflow):
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue(queue_bytes=100, overflow=overflow)
    queue.put(sink, scalar(0), 60)
    queue.put(sink, scalar(1), 5000)
    queue.put(sink, scalar(2), 40)
    stats = queue.stats()
    assert (stats["depth"], stats["bytes"], stats["dropped"]) == (3, 5100, {})
    sink.gate.set()
    queue.flush()
    queue.put(sink, scalar(3), 101)
    queue.close()
    assert steps(sink) == [0, 1, 2, 3]


def test_a_second_event_larger_than_the_queue_waits_for_the_first():
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue(queue_bytes=100)
    queue.put(sink, scalar(0), 5000)
    thread = threading.Thread(target=queue.put, args=(sink, scalar(1), 6000), daemon=True)
    thread.start()
    until(lambda: len(queue._worker.changed._waiters) == 1)
    assert queue.stats()["bytes"] == 5000
    sink.gate.set()
    thread.join(30)
    queue.close()
    assert steps(sink) == [0, 1]


def test_dropping_an_event_larger_than_the_queue_makes_room_for_another():
    sink = OpenableSink()
    queue = ManualQueue(
        queue_events=2,
        queue_bytes=100,
        overflow="drop_oldest",
        block_timeout=0,
        on_error="warn",
        flush_secs=120,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, nbytes in enumerate((500, 10, 10, 600)):
            queue.put(sink, scalar(i), nbytes)
    assert queue.stats()["bytes"] == 610
    queue.work()
    assert steps(sink) == [2, 3]


def job(run, number: int):
    return (JOB, lambda: run() or [scalar(number)], 60, True, "a video", ENCODER, ["x"])


def test_block_waits_as_long_as_jobs_finish():
    # each job computes nothing: only that it finishes says that the worker gets on
    sink, queue = OpenableSink(), make_queue(queue_bytes=100, block_timeout=1.0)
    for i in range(5):
        queue.put(sink, job(lambda: time.sleep(0.4), i), 60, True)
    queue.close()
    assert (steps(sink), queue.stats()["dropped"]) == ([0, 1, 2, 3, 4], {})


def test_block_waits_as_long_as_a_job_computes():
    sink, queue = OpenableSink(), make_queue(queue_bytes=100, block_timeout=0.2)
    queue.put(sink, job(lambda: compute(1.0), 0), 60, True)
    queue.put(sink, job(lambda: None, 1), 60, True)
    queue.close()
    assert (steps(sink), queue.stats()["dropped"]) == ([0, 1], {})


@pytest.mark.parametrize("wait", [AsyncQueue.flush, AsyncQueue.close])
def test_flush_and_close_wait_as_long_as_a_job_computes(monkeypatch, wait):
    monkeypatch.setattr(async_queue, "_HANG_SECS", 0.2)
    sink, queue = OpenableSink(), make_queue()
    queue.put(sink, job(lambda: compute(1.0), 0), 60, True)
    queue.put(sink, scalar(1), 10)
    wait(queue)
    assert steps(sink) == [0, 1]
    queue.close()


def test_block_and_close_give_up_on_a_job_that_hangs(monkeypatch):
    monkeypatch.setattr(async_queue, "_HANG_SECS", 0.2)
    sink, hold = OpenableSink(), threading.Event()
    queue = make_queue(queue_bytes=100, block_timeout=0.2)
    queue.put(sink, job(lambda: hold.wait(60) and None, 0), 60, True)
    with pytest.warns(FastlogWarning, match="queue is full"):
        queue.put(sink, job(lambda: None, 1), 60, True)
    queue.put(sink, scalar(2), 10)
    with pytest.warns(FastlogWarning, match="2 of 3 events were dropped: overflow 1, close 1"):
        queue.close()
    hold.set()
    until(lambda: queue.stats()["written"] == 1)
    queue.close()


def test_the_time_to_wait_begins_anew_with_each_thing_finished_and_where_threads_compute():
    clock, progress = Clock(), [0, 0.0]
    timeout = ProgressTimeout(10.0, lambda: (progress[0], progress[1]), clock)
    assert timeout.left() == 10
    clock.now = 8
    assert timeout.left() == 2
    progress[0] = 1
    assert timeout.left() == 10
    clock.now = 18
    progress[1] = 0.05  # half a percent: it polls something
    assert timeout.left() == 0
    progress[1] = 0.2
    assert timeout.left() == 10
    assert ProgressTimeout(None, lambda: (0, 0.0), clock).left() == float("inf")


def test_the_time_that_a_worker_computes_is_known_to_others_while_it_lives():
    go_on, computed = threading.Event(), threading.Event()
    thread = WorkerThread(target=lambda: (compute(0.05), computed.set(), go_on.wait(60)), daemon=True)
    assert thread.cpu_seconds() == 0
    thread.start()
    assert computed.wait(60)
    assert thread.cpu_seconds() >= 0.05
    go_on.set()
    thread.join(30)
    until(lambda: thread.cpu_seconds() == 0)


def test_a_text_of_many_megabytes_passes_a_small_queue(tmp_path):
    sink, queue = OpenableSink(), make_queue(queue_bytes=1000)
    for i in range(3):
        queue.put(sink, (RAW, bytes(1 << 20)), 1 << 20)
        queue.put(sink, scalar(i), 10)
    queue.close()
    assert len(sink.items) == 6
