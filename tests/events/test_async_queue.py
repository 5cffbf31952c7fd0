"""What the queue promises to threads, to callers who wait, and about a sink in trouble."""

from __future__ import annotations

import threading

import pytest
from queue_doubles import Clock, ManualQueue, OpenableSink, make_queue, scalar, until

from fastlog.common.notices import FastlogWarning, SinkError
from fastlog.events import queue as async_queue
from fastlog.events import worker as queue_worker
from fastlog.events.items import HISTOGRAM, SCALAR
from fastlog.events.sinks.memory import MemorySink


def steps(sink: MemorySink) -> list[int]:
    return [item[3] for item in sink.items if item[1] != "fastlog/dropped"]


def in_thread(function, *args) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def test_32_threads_all_there_each_in_order():
    sink = OpenableSink()
    queue = make_queue(queue_events=500)
    each = 2000

    def log(name: int) -> None:
        for i in range(each):
            queue.put(sink, (SCALAR, str(name), 0.0, i, 0.0), 10)

    threads = [in_thread(log, name) for name in range(32)]
    for thread in threads:
        thread.join()
    queue.close()
    for name in range(32):
        assert [item[3] for item in sink.items if item[1] == str(name)] == list(range(each))
    stats = queue.stats()
    assert (stats["accepted"], stats["written"], stats["dropped"]) == (32 * each, 32 * each, {})
    assert stats["max_depth"] <= 500
    assert (stats["depth"], stats["bytes"], stats["oldest_seconds"]) == (0, 0, 0.0)


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_threads_that_overflow_the_queue_are_counted_exactly(overflow):
    sink = OpenableSink()
    queue = make_queue(queue_events=100, overflow=overflow)
    each = 3000

    def log(name: int) -> None:
        for i in range(each):
            first_to_go = i % 3 == 0
            kind = HISTOGRAM if first_to_go else SCALAR
            queue.put(sink, (kind, str(name), 0.0, i, 0.0), 10, first_to_go)

    threads = [in_thread(log, name) for name in range(8)]
    for thread in threads:
        thread.join()
    queue.close()
    stats = queue.stats()
    assert stats["accepted"] == 8 * each
    assert stats["written"] + stats["dropped"].get("overflow", 0) == 8 * each
    assert len(steps(sink)) == stats["written"]
    for name in range(8):
        mine = [item[3] for item in sink.items if item[1] == str(name)]
        assert mine == sorted(set(mine))
    reported = [item[2] for item in sink.items if item[1] == "fastlog/dropped"]
    assert reported[-1:] == ([stats["dropped"]["overflow"]] if stats["dropped"] else [])


def test_an_idle_queue_has_no_thread_and_a_worker_that_ends_comes_back(monkeypatch):
    monkeypatch.setattr(queue_worker, "_IDLE_SECS", 0.2)
    sink = OpenableSink()
    queue = make_queue(flush_secs=0)
    queue.attach(sink)
    assert queue._worker.thread is None
    for i in range(3):
        queue.put(sink, scalar(i), 10)
        assert queue._worker.thread is not None
        until(lambda: queue._worker.thread is None)
    assert steps(sink) == [0, 1, 2]
    assert sink.flushed == 3
    queue.close()


def test_a_put_wakes_a_worker_that_sleeps():
    sink = OpenableSink()
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    until(lambda: queue._worker._waiting == "sleep")
    queue.put(sink, scalar(1), 10)
    until(lambda: steps(sink) == [0, 1])
    queue.close()


def test_what_waits_is_written_in_batches():
    sink = OpenableSink()
    queue = make_queue(queue_events=100_000)
    for i in range(5000):
        queue.put(sink, scalar(i), 10)
    queue.flush()
    assert steps(sink) == list(range(5000))
    assert len(sink.batches) < 100
    queue.close()


def test_a_crowd_does_not_wait_for_company(monkeypatch):
    monkeypatch.setattr(queue_worker, "_BATCH_SECS", 1000.0)
    sink = OpenableSink()
    queue = make_queue(queue_events=100)
    for i in range(1000):
        queue.put(sink, scalar(i), 10)
    assert len(steps(sink)) >= 900
    queue.close()
    assert steps(sink) == list(range(1000))


def test_flush_covers_all_threads_and_is_durable():
    sink = OpenableSink()
    queue = make_queue()
    in_thread(lambda: [queue.put(sink, scalar(i), 10) for i in range(100)]).join()
    queue.put(sink, scalar(100), 10)
    queue.flush()
    assert steps(sink) == list(range(101))
    assert sink.flushed == 101
    queue.close()


def test_flush_is_answered_while_others_go_on_logging():
    sink = OpenableSink()
    queue = make_queue()
    stop = threading.Event()

    def log() -> None:
        while not stop.is_set():
            queue.put(sink, scalar(0), 10)

    thread = in_thread(log)
    for _ in range(5):
        queue.put(sink, scalar(1), 10)
        mine = queue.stats()["accepted"]
        queue.flush()
        assert sink.flushed >= mine
    stop.set()
    thread.join()
    queue.close()


def test_flush_with_a_timeout_says_how_much_is_left():
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue()
    for i in range(3):
        queue.put(sink, scalar(i), 10)
    with pytest.raises(TimeoutError, match=r"3 of the events .*30 bytes.*waited 0\.05 s"):
        queue.flush(timeout=0.05)
    sink.gate.set()
    queue.flush()
    assert steps(sink) == [0, 1, 2]
    queue.close()


def test_flush_without_a_timeout_waits_for_no_hanging_sink(monkeypatch):
    monkeypatch.setattr(async_queue, "_HANG_SECS", 0.05)
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    with pytest.warns(FastlogWarning, match="1 of the events logged before"):
        queue.flush()
    sink.gate.set()
    queue.close()
    assert steps(sink) == [0]


def test_flush_without_a_timeout_waits_for_no_sink_that_fails():
    sink = OpenableSink()
    sink.error = OSError(28, "No space left on device")
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    with pytest.warns(FastlogWarning, match="No space left"):
        queue.flush()
    sink.error = None
    queue.flush()
    assert steps(sink) == [0]
    queue.close()


def test_close_is_idempotent_and_a_put_opens_again():
    sink = OpenableSink()
    queue = make_queue()
    queue.close()
    queue.put(sink, scalar(0), 10)
    queue.close()
    queue.close()
    assert sink.closed
    assert (
        queue._worker.thread is None or not queue._worker.thread.is_alive() or queue._worker._waiting == "no"
    )
    queue.put(sink, scalar(1), 10)
    queue.close()
    assert steps(sink) == [0, 1]
    assert sink.closed
    until(lambda: queue._worker.thread is None)


def test_close_closes_what_was_attached_and_never_used():
    sink = OpenableSink()
    queue = make_queue()
    queue.attach(sink)
    queue.close()
    assert sink.closed


def test_many_threads_may_close_while_others_log():
    sink = OpenableSink()
    queue = make_queue()

    def log_and_close(name: int) -> None:
        for i in range(100):
            queue.put(sink, (SCALAR, str(name), 0.0, i, 0.0), 10)
            if i % 10 == name:
                queue.close()

    threads = [in_thread(log_and_close, name) for name in range(8)]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    queue.close()
    assert len(sink.items) == 800
    for name in range(8):
        assert [item[3] for item in sink.items if item[1] == str(name)] == list(range(100))


def test_close_gives_up_on_a_sink_that_keeps_failing(monkeypatch):
    monkeypatch.setattr(async_queue, "_CLOSE_GRACE", 0.3)
    sink = OpenableSink()
    sink.error = OSError(5, "Input/output error")
    queue = make_queue()
    for i in range(7):
        queue.put(sink, scalar(i), 10)
    with pytest.warns(FastlogWarning) as caught:
        queue.close()
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 2
    assert "Input/output error" in texts[0]
    assert "7 of 7 events were dropped: close 7" in texts[1]
    assert queue.stats()["dropped"] == {"close": 7}
    assert sink.closed


def test_close_gives_up_on_a_sink_that_hangs():
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    assert sink.entered.acquire(timeout=30)
    for i in range(1, 4):
        queue.put(sink, scalar(i), 10)
    with pytest.warns(FastlogWarning, match="3 of 4 events were dropped: close 3"):
        queue.close(timeout=0.1)
    assert queue.stats()["depth"] == 1  # the sink has it
    sink.gate.set()
    until(lambda: sink.closed)
    stats = queue.stats()
    assert (stats["written"], stats["dropped"], stats["depth"]) == (1, {"close": 3}, 0)


def test_close_tries_again_before_it_gives_up():
    sink = OpenableSink()
    sink.error = OSError(11, "try again")
    queue = make_queue()
    queue.put(sink, scalar(0), 10)
    threading.Timer(0.5, setattr, (sink, "error", None)).start()
    with pytest.warns(FastlogWarning, match="try again"):
        queue.close()
    assert steps(sink) == [0]
    assert queue.stats()["dropped"] == {}


def test_a_failing_sink_is_tried_again_and_nothing_is_lost():
    sink = OpenableSink()
    sink.error = RuntimeError("store is down")
    queue = make_queue()
    for i in range(5):
        queue.put(sink, scalar(i), 10)
    until(lambda: queue.stats()["errors"] >= 3)
    assert queue.stats()["last_error"] == "events cannot be written: RuntimeError: store is down"
    sink.error = None
    until(lambda: steps(sink) == [0, 1, 2, 3, 4])
    with pytest.warns(FastlogWarning, match="store is down") as caught:
        queue.put(sink, scalar(5), 10)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    queue.close()
    assert steps(sink) == [0, 1, 2, 3, 4, 5]


def test_a_failing_flush_stops_the_writing_until_it_succeeds():
    # a remote store that cannot send keeps everything in memory
    sink = OpenableSink()
    sink.flush_error = ConnectionError("no route")
    queue = ManualQueue(
        queue_events=10, queue_bytes=1000, overflow="block", block_timeout=0, on_error="warn", flush_secs=0
    )
    queue.put(sink, scalar(0), 10)
    queue.work()
    with pytest.warns(FastlogWarning, match="no route"):
        queue.put(sink, scalar(1), 10)
    queue.work()
    assert steps(sink) == [0]
    sink.flush_error = None
    queue.work()
    assert steps(sink) == [0, 1]
    assert sink.flushed == 2


def test_pauses_grow():
    sink = OpenableSink()
    sink.error = OSError("down")
    queue = ManualQueue(
        queue_events=10, queue_bytes=1000, overflow="block", block_timeout=0, on_error="warn", flush_secs=120
    )
    queue.put(sink, scalar(0), 10)
    pauses = []
    for _ in range(12):
        queue.work()
        pauses.append(queue._worker._due(0.0))
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == 30.0
    sink.error = None
    queue.work()
    assert steps(sink) == [0]
    assert queue._worker._pause == 0


def test_raise_comes_out_of_the_next_call():
    sink = OpenableSink()
    sink.error = OSError(28, "No space left on device")
    queue = make_queue(on_error="raise")
    queue.put(sink, scalar(0), 10)
    until(lambda: queue.stats()["errors"] >= 1)
    with pytest.raises(SinkError, match="No space left") as caught:
        queue.put(sink, scalar(1), 10)
    assert caught.value.__cause__ is sink.error
    sink.error = None
    queue.flush()
    queue.close()
    assert steps(sink) == [0]


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_block_waits_once_then_drops_until_the_sink_goes_on():
    clock = Clock()
    sink = OpenableSink()
    sink.gate.clear()
    queue = make_queue(queue_events=4, block_timeout=10.0, clock=clock)
    for i in range(4):
        queue.put(sink, scalar(i), 10)
    waiting = [in_thread(queue.put, sink, scalar(9), 10) for _ in range(3)]
    until(lambda: len(queue._worker.changed._waiters) == 3)
    clock.now = 9.9
    with queue._lock:
        queue._worker.changed.notify_all()
    until(lambda: len(queue._worker.changed._waiters) == 3)
    assert queue.stats()["dropped"] == {}
    clock.now = 10.1
    with queue._lock:
        queue._worker.changed.notify_all()
    for thread in waiting:
        thread.join(30)
        assert not thread.is_alive()
    assert queue.stats()["dropped"] == {"overflow": 3}
    queue.put(sink, scalar(9), 10)  # at once: the clock stands still
    assert queue.stats()["dropped"] == {"overflow": 4}
    sink.gate.set()
    until(lambda: queue.stats()["written"] == 4)
    for i in range(4, 8):
        queue.put(sink, scalar(i), 10)
    sink.gate.clear()
    blocked = in_thread(queue.put, sink, scalar(8), 10)
    until(lambda: len(queue._worker.changed._waiters) == 1)  # it waits again
    sink.gate.set()
    clock.now += 1
    blocked.join(30)
    queue.close()
    assert steps(sink) == list(range(9))
    assert queue.stats()["caller_seconds"] >= 3 * 10
