"""The CUDA engine on a real device; what can be shown without one is shown in test_cuda_kernels.py."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from event_files import histograms, simple_values

import fastlog
from fastlog.summaries.cuda import devices
from fastlog.summaries.cuda.runtime import Row
from fastlog.summaries.cuda.transfers import Transfers
from fastlog.summaries.summary import TensorSummary
from fastlog.summaries.tensors import CODES

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module")
def transfers() -> Transfers:
    found = devices.transfers_of(torch.cuda.current_device())
    assert found is not None, devices.report(torch.cuda.current_device())
    return found


def _rows(tensors: list[torch.Tensor]) -> list[Row]:
    return [(t.data_ptr(), t.numel(), CODES[t.dtype], 0, 0) for t in tensors]


def _read(transfers: Transfers, tensors: list[torch.Tensor]) -> list[TensorSummary]:
    pending = transfers.start(_rows(tensors))
    assert pending is not None
    return [TensorSummary.from_packed(packed) for packed in pending.packed()]


def _assert_same(found: list[TensorSummary], tensors: list[torch.Tensor]) -> None:
    for one, other in zip(found, fastlog.summarize([t.cpu() for t in tensors]), strict=True):
        for name in one._record.dtype.names:
            if name in ("sum", "sum_squares"):
                assert one._record[name] == pytest.approx(other._record[name], rel=1e-9, abs=1e-9)
            else:
                assert np.array_equal(one._record[name], other._record[name]), name


@contextlib.contextmanager
def _nothing_waits() -> Iterator[None]:
    """The device is busy for some seconds; what is inside is over before it is done with that."""
    torch.cuda._sleep(10_000_000_000)
    busy = torch.cuda.Event()
    busy.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not busy.query(), "the calling thread waited for the device"


def _of_every_dtype(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    bits = [torch.randint(0, 256, (count * dtype.itemsize,), generator=generator) for dtype in CODES]
    return [b.to(torch.uint8).view(dtype).cuda() for b, dtype in zip(bits, CODES, strict=True)]


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
    with _nothing_waits():
        pending = transfers.start(_rows(tensors))
        for tensor in tensors:
            tensor.zero_()
        del tensor, tensors
    assert pending is not None
    _assert_same([TensorSummary.from_packed(packed) for packed in pending.packed()], before)


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
    started = [transfers.start(_rows([tensor])) for _ in range(50)]
    reader = threading.Thread(target=lambda: [pending.packed() for pending in started if pending])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        reader.start()
        for _ in range(50):
            tensor.mul_(1.0)
        with pytest.raises(RuntimeError, match="log after its replay"):
            transfers.start(_rows([tensor]))
    reader.join()
    graph.replay()


def test_a_little_of_everything_for_the_sanitizer(transfers: Transfers) -> None:
    tensors = [tensor[1:] for tensor in _of_every_dtype(20_001)]
    _assert_same(_read(transfers, tensors), tensors)


def test_the_writer_never_waits(transfers: Transfers, tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path)
    values = torch.randn(100_000, device="cuda", dtype=torch.bfloat16)
    before = values.clone()
    writer.add_histogram("warm", values)
    writer.add_scalar("warm scalar", values[0])
    writer.flush()
    with _nothing_waits():
        for step in range(20):
            writer.add_histogram("values", values, step)
            writer.add_scalar("first", values[0], step)
            values.mul_(2)
    writer.close()
    found = histograms(tmp_path)
    for step in range(20):
        assert found["values", step].max == (before * 2.0**step).max().item()
        assert simple_values(tmp_path)["first", step] == (before[0] * 2.0**step).item()
    assert writer.stats()["cuda"]["in_flight"] == 0


def test_watch_sees_what_it_sees_on_the_cpu(transfers: Transfers, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 64))
    writer = fastlog.SummaryWriter(tmp_path)
    on_device = copy.deepcopy(model).cuda()
    optimizer = torch.optim.SGD(on_device.parameters(), lr=0.1)
    watcher = fastlog.watch(on_device, writer, optimizer, every=1, log="all")
    batch = torch.randn(32, 64, device="cuda")
    weights = []

    def step() -> None:
        on_device(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weights.append([param.detach().clone() for param in on_device.parameters()])

    step()
    writer.flush()
    with _nothing_waits():
        for _ in range(4):
            step()
    watcher.remove()
    writer.close()
    found = histograms(tmp_path)
    for step, tensors in enumerate(weights):
        for (name, _), tensor in zip(model.named_parameters(), tensors, strict=True):
            expected = fastlog.summarize(tensor.cpu())
            histo = found[f"weights/{name}", step]
            assert (histo.min, histo.max, histo.num) == (expected.min, expected.max, expected.num)
            assert histo.sum == pytest.approx(expected.sum, rel=1e-9, abs=1e-9)
            assert list(histo.bucket) == list(expected.to_proto().bucket)
    assert ("gradients/0.weight", 4) in found and ("activations/2", 4) in found
