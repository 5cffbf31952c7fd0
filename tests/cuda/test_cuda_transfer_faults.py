"""The host side of the CUDA engine where a device or CUDA refuses: who learns it; the rest goes on."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any

import pytest
import torch
from cuda_on_cpu.device import LateRuntime
from cuda_on_cpu.launches import assert_summaries, read, rows_of, tensors_of, transfers_on


def test_a_failure_found_while_making_room_comes_to_the_reader(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime, max_bytes=1 << 14)
    late_runtime.failure = late_runtime.module.CudaError("an illegal memory access")
    pending = transfers.start(rows_of(tensors_of(11, count=1)))
    late_runtime.device.synchronize()
    late_runtime.failure = None
    tensors = tensors_of(12, count=1)
    assert_summaries(read(transfers.start(rows_of(tensors), timeout=0)), tensors)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="illegal memory access"):
            read(pending)


def test_a_refused_launch_leaves_the_rest_usable(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    tensors = tensors_of(10)
    late_runtime.refuse_launch = late_runtime.module.CudaError(
        "launching summarize_kernel on CUDA device 0: too many resources"
    )
    with pytest.raises(RuntimeError, match="summarize_kernel on CUDA device 0: too many resources"):
        transfers.start(rows_of(tensors))
    late_runtime.device.synchronize()
    assert_summaries(read(transfers.start(rows_of(tensors))), tensors)
    assert transfers.stats()["in_flight"] == 0


def test_a_device_that_fails_later_says_so_to_the_reader(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    late_runtime.failure = late_runtime.module.CudaError(
        "waiting for summaries on CUDA device 0: an illegal memory access"
    )
    late_runtime.device.gate.clear()
    pending = transfers.start(rows_of(tensors_of(11)))
    late_runtime.device.gate.set()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        read(pending)
    assert transfers.stats()["in_flight"] == 0


def test_no_pinned_memory(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    late_runtime.refuse_pinned = RuntimeError("CUDA error: out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        transfers.start(rows_of(tensors_of(12)))
    assert transfers.stats()["in_flight_bytes"] == transfers.stats()["pinned_bytes"] == 0
    late_runtime.refuse_pinned = None
    assert len(read(transfers.start(rows_of(tensors_of(12))))) == 5


def test_devices_with_less_shared_memory(late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_of(14)
    monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(64 << 10))
    assert late_runtime.module.prepare_device(0).small
    assert_summaries(read(transfers_on(late_runtime).start(rows_of(tensors))), tensors)
    monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(48 << 10))
    with pytest.raises(RuntimeError, match="loading summarize_kernel on CUDA device 0: invalid argument"):
        transfers_on(late_runtime)


def test_a_launch_that_cuda_refuses(late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    limits, tables = late_runtime.prepare(), late_runtime.upload(late_runtime.tables())
    launch = late_runtime.launch(limits, rows_of(tensors_of(15)))
    table, device_table = late_runtime.pinned(launch.table_bytes), late_runtime.on_device(launch.table_bytes)
    records, scratch = late_runtime.pinned(launch.records_bytes), late_runtime.on_device(launch.scratch_bytes)
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


def test_an_error_is_reported_once(late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA keeps the last error of any call, and a launch asks for it."""
    launch = late_runtime.launch(late_runtime.prepare(), rows_of(tensors_of(16)))
    assert not late_runtime.module.Event(0, False).done()  # "not ready" is an error code
    monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(48 << 10))
    with pytest.raises(RuntimeError, match="invalid argument"):
        late_runtime.prepare()
    monkeypatch.delenv("CUDA_ON_CPU_SHARED_BYTES")
    assert len(_run(late_runtime, launch)) == 5


def test_a_captured_stream_is_refused(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    late_runtime.is_capturing = True
    with pytest.raises(RuntimeError, match="log after its replay"):
        transfers.start(rows_of(tensors_of(13)))


def test_rows_that_no_launch_can_take(late_runtime: LateRuntime) -> None:
    transfers = transfers_on(late_runtime)
    for row, message in [
        ((4097, 5, 1, 0, 0), "not a multiple of its element size"),
        ((4096, -1, 1, 0, 0), "negative"),
        ((4096, 1, 99, 0, 0), "unknown dtype code"),
    ]:
        with pytest.raises(ValueError, match=message):
            transfers.start([row])
    assert transfers.stats()["in_flight"] == 0


@pytest.mark.parametrize("call", ["cudaEventDestroy", "cudaThreadExchangeStreamCaptureMode"])
def test_what_fails_aside_is_not_taken_for_the_error_of_a_launch(
    late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    event = late_runtime.module.Event(0, False)
    event.record(0)
    monkeypatch.setenv("CUDA_ON_CPU_REFUSE", call)
    assert event.done()
    del event
    gc.collect()
    monkeypatch.delenv("CUDA_ON_CPU_REFUSE")
    tensors = tensors_of(17)
    launch = late_runtime.launch(late_runtime.prepare(), rows_of(tensors))
    assert len(_run(late_runtime, launch)) == len(tensors)


def _run(runtime: LateRuntime, launch: Any) -> list[bytes]:
    """On this thread, past the late streams."""
    tables = runtime.upload(runtime.tables())
    table, device_table = runtime.pinned(launch.table_bytes), runtime.on_device(launch.table_bytes)
    records, scratch = runtime.pinned(launch.records_bytes), runtime.on_device(launch.scratch_bytes)
    launch.pack(table.data_ptr(), records.data_ptr())
    launch.enqueue(*(memory.data_ptr() for memory in (table, device_table, scratch, tables)), stream=0)
    return launch.read(records.data_ptr())


def test_pinned_memory_that_the_device_sees_elsewhere_is_refused(
    late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = late_runtime.pinned(64)
    late_runtime.module.check_mapped(0, memory.data_ptr())
    monkeypatch.setenv("CUDA_ON_CPU_MAPPED_ELSEWHERE", "4096")
    with pytest.raises(RuntimeError, match="pinned memory has another address on CUDA device 0"):
        late_runtime.module.check_mapped(0, memory.data_ptr())


def test_other_threads_run_while_a_call_waits_for_the_driver(
    late_runtime: LateRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full launch queue, or another thread's allocation, holds up the caller and nobody else."""
    launch = late_runtime.launch(late_runtime.prepare(), rows_of([torch.ones(20_000)]))
    event = late_runtime.module.Event(0, False)
    monkeypatch.setenv("CUDA_ON_CPU_CALL_MICROSECONDS", "20000")
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(100)  # nobody else runs unless the call lets the GIL go
    try:
        for call in (lambda: event.record(0), event.done, lambda: _run(late_runtime, launch)):
            ran = threading.Event()
            waiting = threading.Event()
            other = threading.Thread(target=lambda waiting=waiting, ran=ran: waiting.wait() and ran.set())
            other.start()
            waiting.set()
            calls = 0
            while not ran.is_set() and calls < 50:
                call()
                calls += 1
            assert ran.is_set()
            other.join()
    finally:
        sys.setswitchinterval(switch_interval)
