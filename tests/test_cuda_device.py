"""The CUDA engine on a real device; what can be shown without one is shown in test_cuda_kernels.py."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import fastlog
from fastlog.summary import TensorSummary
from fastlog.tensors import _CODES
from fastlog.transfer import Row, Transfers, transfers_of

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def transfers() -> Transfers:
    from fastlog import _cuda

    return transfers_of(_cuda, torch.cuda.current_device())


def _rows(tensors: list[torch.Tensor]) -> list[Row]:
    return [(t.data_ptr(), t.numel(), _CODES[t.dtype], 0, 0) for t in tensors]


def _read(transfers: Transfers, tensors: list[torch.Tensor]) -> list[TensorSummary]:
    flight = transfers.start(_rows(tensors))
    assert flight is not None
    return [TensorSummary.from_packed(packed) for packed in flight.packed()]


def _assert_same(found: list[TensorSummary], tensors: list[torch.Tensor]) -> None:
    for one, other in zip(found, fastlog.summarize([t.cpu() for t in tensors]), strict=True):
        for name in one._record.dtype.names:
            if name in ("sum", "sum_squares"):
                assert one._record[name] == pytest.approx(other._record[name], rel=1e-9, abs=1e-9)
            else:
                assert np.array_equal(one._record[name], other._record[name]), name


def _of_every_dtype(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    bits = [torch.randint(0, 256, (count * dtype.itemsize,), generator=generator) for dtype in _CODES]
    return [b.to(torch.uint8).view(dtype).cuda() for b, dtype in zip(bits, _CODES, strict=True)]


@pytest.mark.parametrize("count", [1, 33, 4097, 1_000_003])
def test_every_dtype_at_every_alignment(transfers: Transfers, count: int) -> None:
    for start in range(0, 16, 5):
        tensors = [tensor[start:] for tensor in _of_every_dtype(count + start)]
        _assert_same(_read(transfers, tensors), tensors)


def test_the_same_bytes_every_time(transfers: Transfers) -> None:
    tensors = [torch.randn(3_000_000, device="cuda").to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    first = _read(transfers, tensors)
    assert all(_read(transfers, tensors) == first for _ in range(5))


def test_no_synchronisation_and_the_value_at_the_call(transfers: Transfers) -> None:
    tensors = [torch.randn(1 << 20, device="cuda") for _ in range(8)]
    before = [tensor.clone() for tensor in tensors]
    _read(transfers, tensors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        flight = transfers.start(_rows(tensors))
        for tensor in tensors:
            tensor.zero_()
        del tensor, tensors
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert flight is not None
    _assert_same([TensorSummary.from_packed(packed) for packed in flight.packed()], before)


def test_threads_and_streams(transfers: Transfers) -> None:
    def log() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            tensors = [torch.randn(100_000, device="cuda") for _ in range(5)]
            for _ in range(20):
                _assert_same(_read(transfers, tensors), tensors)
            done.append(1)

    done: list[int] = []
    threads = [threading.Thread(target=log) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4


def test_more_than_32_bits_of_values(transfers: Transfers) -> None:
    tensor = torch.ones((1 << 32) + 5, dtype=torch.uint8, device="cuda")
    (summary,) = _read(transfers, [tensor])
    assert summary.num == summary.sum == (1 << 32) + 5


def test_a_capture_in_another_thread_survives_reads(transfers: Transfers) -> None:
    tensor = torch.randn(1000, device="cuda")
    flights = [transfers.start(_rows([tensor])) for _ in range(50)]
    reader = threading.Thread(target=lambda: [flight.packed() for flight in flights if flight])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        reader.start()
        for _ in range(50):
            tensor.mul_(1.0)
        with pytest.raises(RuntimeError, match="log after its replay"):
            transfers.start(_rows([tensor]))
    reader.join()
    graph.replay()
