"""Launches of many shapes: every chunk is one block's work, lies in its tensor, and is counted once."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from cuda_on_cpu import cases
from cuda_on_cpu.cases import CODES, DTYPES, Case
from cuda_on_cpu.device import LateRuntime
from cuda_on_cpu.launch_shapes import MODELS, Shape, bert, experts, mixture, of_model

import fastlog
from fastlog.summaries.cuda import devices
from fastlog.summaries.cuda.transfers import Transfers
from fastlog.summaries.summary import TensorSummary

# csrc/cuda/chunk_table.h
ENTRY = np.dtype(
    [
        ("address", "<u8"),
        ("count", "<i8"),
        ("multiplier", "<u8"),
        ("record", "<u8"),
        ("first_chunk", "<i4"),
        ("chunks", "<i4"),
        ("dtype", "<i4"),
        ("wide_counts", "<i4"),
    ]
)


def _rows(shapes: list[Shape]) -> list[tuple[int, int, int, int, int]]:
    """As if the tensors lay one behind the other; nobody reads them."""
    rows, address = [], 4096
    for dtype, count in shapes:
        rows.append((address, count, CODES[dtype], 0, 0))
        address += -(-count * dtype.itemsize // 256) * 256
    return rows


def _check_table(module: ModuleType, shapes: list[Shape]) -> None:
    """Whether the tensors of a launch have all chunks, one behind the other."""
    launch = module.Launch(module.prepare_device(0), _rows(shapes))
    table = np.full(launch.table_bytes, 0xDD, np.uint8)
    records = np.full(launch.records_bytes, 0xDD, np.uint8)
    launch.pack(table.ctypes.data, records.ctypes.data)
    entries = table.view(ENTRY)
    counts = np.array([count for _, count in shapes], np.int64)
    chunks = -(-counts // module.CHUNK_VALUES)
    assert np.array_equal(entries["count"], counts) and np.array_equal(entries["chunks"], chunks)
    assert np.array_equal(entries["first_chunk"], np.cumsum(chunks) - chunks)
    assert [entry["address"] for entry in entries] == [row[0] for row in _rows(shapes)]
    assert (np.diff(entries["record"].astype(np.int64)) > 0).all()


@pytest.mark.parametrize("how", ["float32", "bfloat16+float32"])
@pytest.mark.parametrize("model", list(MODELS))
def test_the_table_of_a_real_model(cuda_module: ModuleType, model: str, how: str) -> None:
    shapes = of_model(MODELS[model], how)
    for begin in range(0, len(shapes), cuda_module.MAX_TENSORS):
        _check_table(cuda_module, shapes[begin : begin + cuda_module.MAX_TENSORS])


def test_the_table_of_a_mixture(cuda_module: ModuleType) -> None:
    for seed in range(300):
        _check_table(cuda_module, mixture(seed, DTYPES))


def test_the_self_check_has_small_tensors_and_some_of_several_chunks(cuda_module: ModuleType) -> None:
    samples = devices._samples(cuda_module.CHUNK_VALUES)
    assert {code for _, _, code in samples} == set(CODES.values()) - {CODES[torch.bool]}
    large = [count > 2 * cuda_module.CHUNK_VALUES for _, count, _ in samples]
    assert large[0] and not large[-1] and sum(large) == 4


def test_the_self_check_passes_the_kernels(cuda_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_ON_CPU_MULTIPROCESSORS", "132")
    runtime = LateRuntime(cuda_module)
    transfers = Transfers(runtime, max_tensors=cuda_module.MAX_TENSORS)
    assert devices.self_check(runtime, transfers, cuda_module.CHUNK_VALUES) is None
    runtime.device.close()


def _tensors(shapes: list[Shape]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for dtype, count in shapes:
        values = torch.randn(count, generator=generator) * 100
        made.append((values > 0) if dtype is torch.bool else values.to(dtype))
    return made


# Little models in chunks of 2,048 values: tensors of many chunks beside tensors of one.
LAUNCHES = {
    "small and large in turn": ("little", of_model([5, 40_000] * 3, "float32")),
    "cheap chunks behind a dear one": (
        "product",
        [(torch.float64, 131072), *[(torch.bfloat16, 10)] * 7],
    ),
    "a little BERT": ("little", of_model(bert(2, 96, 3000), "bfloat16+float32")),
    "little experts": ("little", of_model(experts(2, 64, 32, 8, 500), "float32")),
    "a mixture": ("little", [(dtype, count % 30_000) for dtype, count in mixture(3, DTYPES)]),
}


@pytest.mark.parametrize("name", list(LAUNCHES))
def test_the_kernels_agree_with_the_cpu_for_every_grid(name: str) -> None:
    """Whichever block takes which chunks, and however many are at work at once."""
    tuning, shapes = LAUNCHES[name]
    tensors = _tensors(shapes)
    expected = fastlog.summarize(tensors)
    grids = (1, 4, 132) if tuning == "product" else (1, 2, 3, 7, 16, 40, 108, 132, 142)
    results = [
        cases.run([Case(t) for t in tensors], tuning=tuning, grid=grid, seed=grid, resident=2 + grid // 4)
        for grid in grids
    ]
    assert len({result.tobytes() for result in results}) == 1
    for record, summary in zip(results[0], expected, strict=True):
        found = TensorSummary(record)
        assert devices._agree(found.to_packed(), summary.to_packed())
