"""The host side of the CUDA engine: packing, pinned memory, events, back-pressure."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from cuda_on_cpu.device import LateEvent, LateRuntime
from cuda_on_cpu.launches import assert_summaries, read, rows_of, tensors_of, transfers_on

from fastlog.summaries.cuda import transfers as transfer
from fastlog.summaries.cuda.transfers import PendingLaunch


def test_it_is_the_value_at_the_call_in_stream_order(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    tensors = tensors_of(1)
    before = [tensor.clone() for tensor in tensors]
    late_runtime.device.gate.clear()
    # What the device does first is seen, what it does afterwards is not; the host has run ahead.
    late_runtime.device.put(
        0,
        lambda: [tensor.mul_(2) for tensor in tensors if tensor.is_floating_point() and tensor.itemsize > 1],
    )
    pending = transfers.start(rows_of(tensors))
    late_runtime.device.put(0, lambda: [tensor.zero_() for tensor in tensors])
    late_runtime.device.gate.set()
    doubled = [t * 2 if t.is_floating_point() and t.itemsize > 1 else t for t in before]
    assert_summaries(read(pending), doubled)


def test_the_calling_thread_never_waits(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    late_runtime.device.gate.clear()
    calls = [tensors_of(seed) for seed in range(20)]
    started = [transfers.start(rows_of(tensors)) for tensors in calls]
    assert transfers.stats()["in_flight"] == 20
    late_runtime.device.gate.set()
    for pending, tensors in zip(started, calls, strict=True):
        assert_summaries(read(pending), tensors)
    assert transfers.stats()["in_flight"] == transfers.stats()["in_flight_bytes"] == 0


def test_the_double_notices_a_wait(late_runtime: LateRuntime) -> None:
    pending = transfers_on(late_runtime).start(rows_of(tensors_of(1)))
    assert pending is not None
    with pytest.raises(AssertionError, match="a training thread waits"):
        pending.packed()


def test_the_double_notices_an_early_read(late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = transfers_on(late_runtime)
    read(transfers.start(rows_of(tensors_of(1))))
    late_runtime.device.gate.clear()
    pending = transfers.start(rows_of(tensors_of(1)))
    monkeypatch.setattr(LateEvent, "wait", lambda event: None)
    with pytest.raises(RuntimeError, match="has not written"):
        read(pending)


def test_nothing_is_allocated_once_warm(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    tensors = tensors_of(3, count=12)
    assert_summaries(read(transfers.start(rows_of(tensors))), tensors)
    warm = transfers.stats()
    for _ in range(3):
        assert_summaries(read(transfers.start(rows_of(tensors))), tensors)
    assert {**transfers.stats(), "launches": 1} == warm


def test_a_workspace_that_grows_while_the_old_one_is_in_use(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    late_runtime.device.gate.clear()
    calls = [tensors_of(seed, count=1 + 20 * seed) for seed in range(4)]
    started = [transfers.start(rows_of(tensors)) for tensors in calls]
    gc.collect()
    late_runtime.device.gate.set()
    for pending, tensors in zip(started, calls, strict=True):
        assert_summaries(read(pending), tensors)


@pytest.mark.parametrize("seed", range(3))
def test_threads_and_streams(cuda_module: ModuleType, seed: int) -> None:
    runtime = LateRuntime(cuda_module, seed)
    transfers = transfers_on(runtime)
    results: list[tuple[list[bytes], list[torch.Tensor]]] = []

    def train(stream: int) -> None:
        runtime.training_threads.add(threading.current_thread())
        runtime.use_stream(stream)
        for step in range(5):
            tensors = tensors_of(100 * stream + step, count=3)
            before = [tensor.clone() for tensor in tensors]
            pending = transfers.start(rows_of(tensors))
            runtime.device.put(stream, lambda tensors=tensors: [tensor.zero_() for tensor in tensors])
            results.append((read(pending), before))

    threads = [threading.Thread(target=train, args=(1 + i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    runtime.device.close()
    assert len(results) == 20
    for packed, tensors in results:
        assert_summaries(packed, tensors)


def test_streams_that_are_used_no_more_give_their_memory_back(late_runtime: LateRuntime) -> None:
    """In stream order: what is still enqueued there keeps it until then."""
    transfers = transfers_on(late_runtime)
    tensors = tensors_of(3)
    late_runtime.device.gate.clear()
    flights, held = [], []
    for stream in range(1, 41):
        late_runtime.use_stream(stream)
        flights.append(transfers.start(rows_of(tensors)))
        held.append(transfers.stats()["device_bytes"])
    late_runtime.device.gate.set()
    for flight in flights:
        assert_summaries(read(flight), tensors)
    assert max(held) == held[-1] <= 16 * held[0]


def test_more_tensors_than_a_launch_takes(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime, max_tensors=16)
    tensors = tensors_of(4, count=50)
    assert_summaries(read(transfers.start(rows_of(tensors))), tensors)
    assert transfers.stats()["launches"] == 4
    assert read(transfers.start([])) == []


def test_back_pressure(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime, max_bytes=1 << 15)
    tensors = tensors_of(5, count=1)
    late_runtime.device.gate.clear()
    started = [transfers.start(rows_of(tensors)) for _ in range(2)]
    # Full: the newcomer is refused, at once or after its time; those in flight stay.
    assert transfers.start(rows_of(tensors), timeout=0) is None
    assert transfers.start(rows_of(tensors), timeout=0.06) is None
    assert transfers.stats()["refused"] == 2
    late: list[PendingLaunch | None] = []
    blocked = threading.Thread(target=lambda: late.append(transfers.start(rows_of(tensors))))
    blocked.start()
    late_runtime.device.gate.set()
    for pending in started:
        assert_summaries(read(pending), tensors)
    blocked.join(timeout=60)
    assert_summaries(read(late[0]), tensors)
    assert transfers.stats()["pinned_bytes"] <= 1 << 15


def test_a_call_larger_than_the_limit_passes_alone(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime, max_bytes=1 << 15)
    small, large = tensors_of(6, count=1), tensors_of(7, count=30)
    late_runtime.device.gate.clear()
    pending = transfers.start(rows_of(small))
    assert transfers.start(rows_of(large), timeout=0) is None
    late_runtime.device.gate.set()
    assert_summaries(read(pending), small)
    assert_summaries(read(transfers.start(rows_of(large))), large)
    assert_summaries(read(transfers.start(rows_of(small))), small)


def test_what_is_let_go_unread_returns_after_the_device_is_done(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime, max_bytes=1 << 14)
    tensors = tensors_of(8, count=1)
    late_runtime.device.gate.clear()
    assert transfers.start(rows_of(tensors)) is not None  # and is gone
    gc.collect()
    assert transfers.start(rows_of(tensors), timeout=0) is None
    late_runtime.device.gate.set()
    late_runtime.device.synchronize()
    assert_summaries(read(transfers.start(rows_of(tensors), timeout=0)), tensors)
    assert transfers.stats()["pinned_bytes"] == 1 << 14


def test_memory_in_use_outlives_everything(late_runtime: LateRuntime) -> None:
    late_runtime.device.gate.clear()
    transfers = transfers_on(late_runtime)
    pending = transfers.start(rows_of(tensors_of(8)))
    del transfers, pending
    gc.collect()
    late_runtime.device.gate.set()
    late_runtime.device.synchronize()  # would read and write overwritten memory, and crash
    assert late_runtime.failure is None


def test_a_flight_can_be_read_again(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    pending = transfers.start(rows_of(tensors_of(9)))
    first = read(pending)
    read(transfers.start(rows_of(tensors_of(10))))
    assert read(pending) == first


def test_finished_launches_make_room_without_a_reader(late_runtime: LateRuntime) -> None:
    """The thread that needs room holds all launches itself: it reads what is finished, and waits for none."""
    transfers = transfers_on(late_runtime, max_bytes=1 << 15)
    calls = [tensors_of(seed, count=1) for seed in range(20)]
    started = [transfers.start(rows_of(tensors)) for tensors in calls]
    assert transfers.stats()["pinned_bytes"] == 1 << 15
    for pending, tensors in zip(started, calls, strict=True):
        assert_summaries(read(pending), tensors)
    assert transfers.stats()["in_flight"] == transfers.stats()["in_flight_bytes"] == 0


def test_a_launch_that_starts_while_another_thread_makes_room(
    late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It joins the pending launches when the other thread has looked through them, not meanwhile."""
    transfers = transfers_on(late_runtime, max_bytes=1 << 15)
    tensors = tensors_of(5, count=1)
    launches = [transfers.start(rows_of(tensors))]
    started, looked_at = threading.Event(), threading.Event()
    late: list[PendingLaunch | None] = []
    other = threading.Thread(target=lambda: late.append(transfers.start(rows_of(tensors))))

    class StartedByOther(PendingLaunch):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.set()
            looked_at.wait()

    class LookedThrough(deque[Any]):
        def __iter__(self) -> Iterator[Any]:
            for pending in super().__iter__():
                yield pending
                looked_at.set()
                other.join(0.2)

    monkeypatch.setattr(transfer, "PendingLaunch", StartedByOther)
    other.start()
    started.wait()
    monkeypatch.setattr(transfer, "PendingLaunch", PendingLaunch)
    transfers._pending = LookedThrough(transfers._pending)
    launches.append(transfers.start(rows_of(tensors)))
    other.join()
    for pending in (*launches, *late):
        assert_summaries(read(pending), tensors)


def test_reading_needs_no_lock_that_an_interrupted_thread_may_hold(late_runtime: LateRuntime) -> None:
    """A signal handler that flushes waits for the worker, inside of whatever the main thread was doing."""
    transfers = transfers_on(late_runtime)
    tensors = tensors_of(13)
    pending = transfers.start(rows_of(tensors))
    with transfers._lock, transfers._enqueueing:
        assert_summaries(read(pending), tensors)
    assert transfers.stats()["in_flight"] == 0
