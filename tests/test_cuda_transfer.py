"""The host side of the CUDA engine: packing, pinned memory, events, back-pressure, errors."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from cuda_on_cpu.device import LateEvent, LateRuntime, load_module

import fastlog
from fastlog.summary import TensorSummary
from fastlog.tensors import view_of
from fastlog.transfer import Flight, Row, Transfers


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load_module()


@pytest.fixture
def runtime(module: ModuleType) -> Iterator[LateRuntime]:
    made = LateRuntime(module)
    made.training_threads.add(threading.current_thread())
    yield made
    made.device.close()


def _transfers(runtime: LateRuntime, **settings: int) -> Transfers:
    return Transfers(runtime, **{"max_tensors": runtime.module.MAX_TENSORS, **settings})


# A device's memory is freed in stream order, a host tensor's at once: what was handed over stays.
_alive: list[torch.Tensor] = []


def _rows(tensors: list[torch.Tensor]) -> list[Row]:
    _alive.extend(tensors)
    return [(v[0], v[1], v[2], v[3], 0) for v in map(view_of, tensors)]


def _tensors(seed: int, count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = np.random.default_rng(seed).integers(0, 3000, count)
    kinds = (torch.float32, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.float64)
    scaled = [torch.randn(int(size), generator=generator) * 100 for size in sizes]
    return [values.to(kinds[i % len(kinds)]) for i, values in enumerate(scaled)]


def _read(flight: Flight | None) -> list[bytes]:
    """Reads as the worker does: on a thread that may wait."""
    assert flight is not None
    result: list[list[bytes] | BaseException] = []

    def read() -> None:
        try:
            result.append(flight.packed())
        except BaseException as error:
            result.append(error)

    worker = threading.Thread(target=read)
    worker.start()
    worker.join(timeout=60)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _assert_summaries(packed: list[bytes], tensors: list[torch.Tensor]) -> None:
    expected = fastlog.summarize(tensors)
    for one, other in zip(map(TensorSummary.from_packed, packed), expected, strict=True):
        for name in one._record.dtype.names:
            if name in ("sum", "sum_squares"):
                assert one._record[name] == pytest.approx(other._record[name], rel=1e-11, abs=1e-9)
            else:
                assert np.array_equal(one._record[name], other._record[name]), name


def test_it_is_the_value_at_the_call_in_stream_order(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    tensors = _tensors(1)
    before = [tensor.clone() for tensor in tensors]
    runtime.device.gate.clear()
    # What the device does first is seen, what it does afterwards is not; the host has run ahead.
    runtime.device.put(
        0,
        lambda: [tensor.mul_(2) for tensor in tensors if tensor.is_floating_point() and tensor.itemsize > 1],
    )
    flight = transfers.start(_rows(tensors))
    runtime.device.put(0, lambda: [tensor.zero_() for tensor in tensors])
    runtime.device.gate.set()
    doubled = [t * 2 if t.is_floating_point() and t.itemsize > 1 else t for t in before]
    _assert_summaries(_read(flight), doubled)


def test_the_calling_thread_never_waits(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    runtime.device.gate.clear()
    calls = [_tensors(seed) for seed in range(20)]
    flights = [transfers.start(_rows(tensors)) for tensors in calls]
    assert transfers.stats()["in_flight"] == 20
    runtime.device.gate.set()
    for flight, tensors in zip(flights, calls, strict=True):
        _assert_summaries(_read(flight), tensors)
    assert transfers.stats()["in_flight"] == transfers.stats()["in_flight_bytes"] == 0


def test_the_double_notices_a_wait(runtime: LateRuntime) -> None:
    flight = _transfers(runtime).start(_rows(_tensors(1)))
    assert flight is not None
    with pytest.raises(AssertionError, match="a training thread waits"):
        flight.packed()


def test_the_double_notices_an_early_read(runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = _transfers(runtime)
    _read(transfers.start(_rows(_tensors(1))))
    runtime.device.gate.clear()
    flight = transfers.start(_rows(_tensors(1)))
    monkeypatch.setattr(LateEvent, "wait", lambda event: None)
    with pytest.raises(RuntimeError, match="has not written"):
        _read(flight)


def test_nothing_is_allocated_once_warm(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    tensors = _tensors(3, count=12)
    _assert_summaries(_read(transfers.start(_rows(tensors))), tensors)
    warm = transfers.stats()
    for _ in range(3):
        _assert_summaries(_read(transfers.start(_rows(tensors))), tensors)
    assert {**transfers.stats(), "launches": 1} == warm


def test_a_workspace_that_grows_while_the_old_one_is_in_use(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    runtime.device.gate.clear()
    calls = [_tensors(seed, count=1 + 20 * seed) for seed in range(4)]
    flights = [transfers.start(_rows(tensors)) for tensors in calls]
    gc.collect()
    runtime.device.gate.set()
    for flight, tensors in zip(flights, calls, strict=True):
        _assert_summaries(_read(flight), tensors)


@pytest.mark.parametrize("seed", range(3))
def test_threads_and_streams(module: ModuleType, seed: int) -> None:
    runtime = LateRuntime(module, seed)
    transfers = _transfers(runtime)
    results: list[tuple[list[bytes], list[torch.Tensor]]] = []

    def train(stream: int) -> None:
        runtime.training_threads.add(threading.current_thread())
        runtime.use_stream(stream)
        for step in range(5):
            tensors = _tensors(100 * stream + step, count=3)
            before = [tensor.clone() for tensor in tensors]
            flight = transfers.start(_rows(tensors))
            runtime.device.put(stream, lambda tensors=tensors: [tensor.zero_() for tensor in tensors])
            results.append((_read(flight), before))

    threads = [threading.Thread(target=train, args=(1 + i % 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    runtime.device.close()
    assert len(results) == 20
    for packed, tensors in results:
        _assert_summaries(packed, tensors)


def test_more_tensors_than_a_launch_takes(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime, max_tensors=16)
    tensors = _tensors(4, count=50)
    _assert_summaries(_read(transfers.start(_rows(tensors))), tensors)
    assert transfers.stats()["launches"] == 4
    assert _read(transfers.start([])) == []


def test_back_pressure(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime, max_bytes=1 << 15)
    tensors = _tensors(5, count=1)
    runtime.device.gate.clear()
    flights = [transfers.start(_rows(tensors)) for _ in range(2)]
    # Full: the newcomer is refused, at once or after its time; those in flight stay.
    assert transfers.start(_rows(tensors), timeout=0) is None
    assert transfers.start(_rows(tensors), timeout=0.06) is None
    assert transfers.stats()["refused"] == 2
    late: list[Flight | None] = []
    blocked = threading.Thread(target=lambda: late.append(transfers.start(_rows(tensors))))
    blocked.start()
    runtime.device.gate.set()
    for flight in flights:
        _assert_summaries(_read(flight), tensors)
    blocked.join(timeout=60)
    _assert_summaries(_read(late[0]), tensors)
    assert transfers.stats()["pinned_bytes"] <= 1 << 15


def test_a_call_larger_than_the_limit_passes_alone(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime, max_bytes=1 << 15)
    small, large = _tensors(6, count=1), _tensors(7, count=30)
    runtime.device.gate.clear()
    flight = transfers.start(_rows(small))
    assert transfers.start(_rows(large), timeout=0) is None
    runtime.device.gate.set()
    _assert_summaries(_read(flight), small)
    _assert_summaries(_read(transfers.start(_rows(large))), large)
    _assert_summaries(_read(transfers.start(_rows(small))), small)


def test_what_is_let_go_unread_returns_after_the_device_is_done(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime, max_bytes=1 << 14)
    tensors = _tensors(8, count=1)
    runtime.device.gate.clear()
    assert transfers.start(_rows(tensors)) is not None  # and is gone
    gc.collect()
    assert transfers.start(_rows(tensors), timeout=0) is None
    runtime.device.gate.set()
    runtime.device.synchronize()
    _assert_summaries(_read(transfers.start(_rows(tensors), timeout=0)), tensors)
    assert transfers.stats()["pinned_bytes"] == 1 << 14


def test_memory_in_use_outlives_everything(runtime: LateRuntime) -> None:
    runtime.device.gate.clear()
    transfers = _transfers(runtime)
    flight = transfers.start(_rows(_tensors(8)))
    del transfers, flight
    gc.collect()
    runtime.device.gate.set()
    runtime.device.synchronize()  # would read and write overwritten memory, and crash
    assert runtime.failure is None


def test_a_flight_can_be_read_again(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    flight = transfers.start(_rows(_tensors(9)))
    first = _read(flight)
    _read(transfers.start(_rows(_tensors(10))))
    assert _read(flight) == first


def test_finished_flights_make_room_without_a_reader(runtime: LateRuntime) -> None:
    """The thread that needs room holds all flights itself: it reads what is finished, and waits for none."""
    transfers = _transfers(runtime, max_bytes=1 << 15)
    calls = [_tensors(seed, count=1) for seed in range(20)]
    flights = [transfers.start(_rows(tensors)) for tensors in calls]
    assert transfers.stats()["pinned_bytes"] == 1 << 15
    for flight, tensors in zip(flights, calls, strict=True):
        _assert_summaries(_read(flight), tensors)
    assert transfers.stats()["in_flight"] == transfers.stats()["in_flight_bytes"] == 0


def test_reading_needs_no_lock_that_an_interrupted_thread_may_hold(runtime: LateRuntime) -> None:
    """A signal handler that flushes waits for the worker, inside of whatever the main thread was doing."""
    transfers = _transfers(runtime)
    tensors = _tensors(13)
    flight = transfers.start(_rows(tensors))
    with transfers._lock, transfers._enqueueing:
        _assert_summaries(_read(flight), tensors)
    assert transfers.stats()["in_flight"] == 0


def test_a_failure_found_while_making_room_comes_to_the_reader(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime, max_bytes=1 << 14)
    runtime.failure = runtime.module.CudaError("an illegal memory access")
    flight = transfers.start(_rows(_tensors(11, count=1)))
    runtime.device.synchronize()
    runtime.failure = None
    tensors = _tensors(12, count=1)
    _assert_summaries(_read(transfers.start(_rows(tensors), timeout=0)), tensors)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            _read(flight)


def test_a_refused_launch_leaves_the_rest_usable(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    tensors = _tensors(10)
    runtime.refuse_launch = runtime.module.CudaError(
        "launching summarize_kernel on CUDA device 0: too many resources"
    )
    with pytest.raises(RuntimeError, match="summarize_kernel on CUDA device 0: too many resources"):
        transfers.start(_rows(tensors))
    runtime.device.synchronize()
    _assert_summaries(_read(transfers.start(_rows(tensors))), tensors)
    assert transfers.stats()["in_flight"] == 0


def test_a_device_that_fails_later_says_so_to_the_reader(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    runtime.failure = runtime.module.CudaError(
        "waiting for summaries on CUDA device 0: an illegal memory access"
    )
    runtime.device.gate.clear()
    flight = transfers.start(_rows(_tensors(11)))
    runtime.device.gate.set()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        _read(flight)
    assert transfers.stats()["in_flight"] == 0


def test_no_pinned_memory(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    runtime.refuse_pinned = RuntimeError("CUDA error: out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        transfers.start(_rows(_tensors(12)))
    assert transfers.stats()["in_flight_bytes"] == transfers.stats()["pinned_bytes"] == 0
    runtime.refuse_pinned = None
    assert len(_read(transfers.start(_rows(_tensors(12))))) == 5


def test_devices_with_less_shared_memory(runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = _tensors(14)
    monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(64 << 10))
    assert runtime.module.prepare_device(0).small
    _assert_summaries(_read(_transfers(runtime).start(_rows(tensors))), tensors)
    monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(48 << 10))
    with pytest.raises(RuntimeError, match="loading summarize_kernel on CUDA device 0: invalid argument"):
        _transfers(runtime)


def test_a_launch_that_cuda_refuses(runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, tables = runtime.prepare(), runtime.upload(runtime.tables())
    launch = runtime.launch(limits, _rows(_tensors(15)))
    table, device_table = runtime.pinned(launch.table_bytes), runtime.on_device(launch.table_bytes)
    records, scratch = runtime.pinned(launch.records_bytes), runtime.on_device(launch.scratch_bytes)
    launch.pack(table.data_ptr(), records.data_ptr())
    arguments = [memory.data_ptr() for memory in (table, device_table, scratch, tables)]
    monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(48 << 10))
    with pytest.raises(RuntimeError, match="launching summarize_kernel on CUDA device 0: invalid argument"):
        launch.enqueue(*arguments, stream=0)
    with pytest.raises(RuntimeError, match="has not written"):
        launch.read(records.data_ptr())
    monkeypatch.delenv("CUDA_ON_CPU_SHARED_BYTES")
    launch.enqueue(*arguments, stream=0)
    assert len(launch.read(records.data_ptr())) == 5


def test_an_error_is_reported_once(runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA keeps the last error of any call, and a launch asks for it."""
    limits, tables = runtime.prepare(), runtime.upload(runtime.tables())
    launch = runtime.launch(limits, _rows(_tensors(16)))
    table, device_table = runtime.pinned(launch.table_bytes), runtime.on_device(launch.table_bytes)
    records, scratch = runtime.pinned(launch.records_bytes), runtime.on_device(launch.scratch_bytes)
    launch.pack(table.data_ptr(), records.data_ptr())
    assert not runtime.module.Event(0).done()  # "not ready" is an error code
    monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(48 << 10))
    with pytest.raises(RuntimeError, match="invalid argument"):
        runtime.prepare()
    monkeypatch.delenv("CUDA_ON_CPU_SHARED_BYTES")
    launch.enqueue(*(memory.data_ptr() for memory in (table, device_table, scratch, tables)), stream=0)
    assert len(launch.read(records.data_ptr())) == 5


def test_a_captured_stream_is_refused(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    runtime.is_capturing = True
    with pytest.raises(RuntimeError, match="log after its replay"):
        transfers.start(_rows(_tensors(13)))


def test_rows_that_no_launch_can_take(runtime: LateRuntime) -> None:
    transfers = _transfers(runtime)
    for row, message in [
        ((4097, 5, 1, 0, 0), "not a multiple of its element size"),
        ((4096, -1, 1, 0, 0), "negative"),
        ((4096, 1, 99, 0, 0), "unknown dtype code"),
    ]:
        with pytest.raises(ValueError, match=message):
            transfers.start([row])
    assert transfers.stats()["in_flight"] == 0
