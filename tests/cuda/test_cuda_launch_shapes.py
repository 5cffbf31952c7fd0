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
START = np.dtype([("chunk", "<i4"), ("tensor", "<i4")])
# A100, RTX 4090, L40S, H100 and others; parts of a device; and what no device has.
MULTIPROCESSORS = (1, 2, 7, 14, 40, 58, 82, 108, 128, 132, 142, 148, 160, 200, 255, 300)


def _rows(shapes: list[Shape]) -> list[tuple[int, int, int, int, int]]:
    """As if the tensors lay one behind the other; nobody reads them."""
    rows, address = [], 4096
    for dtype, count in shapes:
        rows.append((address, count, CODES[dtype], 0, 0))
        address += -(-count * dtype.itemsize // 256) * 256
    return rows


def _check_table(module: ModuleType, shapes: list[Shape], multiprocessors: int) -> None:
    """Whether a launch's blocks, walking as `summarize_kernel` does, count each chunk once, in its tensor."""
    launch = module.Launch(module.prepare_device(0), _rows(shapes))
    table = np.full(launch.table_bytes, 0xDD, np.uint8)
    records = np.full(launch.records_bytes, 0xDD, np.uint8)
    launch.pack(table.ctypes.data, records.ctypes.data)
    entries = table[: len(shapes) * ENTRY.itemsize].view(ENTRY)
    starts = table[len(shapes) * ENTRY.itemsize :].view(START)

    counts = np.array([count for _, count in shapes], np.int64)
    chunks = -(-counts // module.CHUNK_VALUES)
    assert np.array_equal(entries["count"], counts) and np.array_equal(entries["chunks"], chunks)
    assert np.array_equal(entries["first_chunk"], np.cumsum(chunks) - chunks)
    assert len(starts) - 1 == max(1, min(multiprocessors, chunks.sum()))
    runs = np.diff(starts["chunk"])
    assert starts["chunk"][0] == 0 and starts["chunk"][-1] == chunks.sum() and (runs >= 0).all()
    # A block looks for its first chunk's tensor from this one on.
    hints = starts["tensor"][:-1][runs > 0]
    assert (entries["first_chunk"][hints] <= starts["chunk"][:-1][runs > 0]).all()


@pytest.mark.parametrize("how", ["float32", "bfloat16", "bfloat16+float32", "float64"])
@pytest.mark.parametrize("model", list(MODELS))
def test_each_chunk_of_a_real_model_is_one_blocks(
    cuda_module: ModuleType, monkeypatch: pytest.MonkeyPatch, model: str, how: str
) -> None:
    shapes = of_model(MODELS[model], how)
    for begin in range(0, len(shapes), cuda_module.MAX_TENSORS):
        for number in MULTIPROCESSORS:
            monkeypatch.setenv("CUDA_ON_CPU_MULTIPROCESSORS", str(number))
            _check_table(cuda_module, shapes[begin : begin + cuda_module.MAX_TENSORS], number)


def test_each_chunk_of_a_mixture_is_one_blocks(
    cuda_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(300):
        number = int(np.random.default_rng(seed).integers(1, 301))
        monkeypatch.setenv("CUDA_ON_CPU_MULTIPROCESSORS", str(number))
        _check_table(cuda_module, mixture(seed, DTYPES), number)


def test_the_self_check_has_launches_that_blocks_share_unevenly(
    cuda_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = devices._samples(cuda_module.CHUNK_VALUES)
    assert {code for _, _, code in samples} == set(CODES.values()) - {CODES[torch.bool]}
    large = [count > 2 * cuda_module.CHUNK_VALUES for _, count, _ in samples]
    assert large[0] and not large[-1] and sum(large) == 4
    kinds = {code: dtype for dtype, code in CODES.items()}
    for number in MULTIPROCESSORS:
        monkeypatch.setenv("CUDA_ON_CPU_MULTIPROCESSORS", str(number))
        _check_table(cuda_module, [(kinds[code], count) for _, count, code in samples], number)


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
    tuning, shapes = LAUNCHES[name]
    tensors = _tensors(shapes)
    expected = fastlog.summarize(tensors)
    grids = (1, 4, 132) if tuning == "product" else (1, 2, 3, 7, 16, 40, 108, 132, 142)
    results = [cases.run([Case(t) for t in tensors], tuning=tuning, grid=grid, seed=grid) for grid in grids]
    assert len({result.tobytes() for result in results}) == 1
    for record, summary in zip(results[0], expected, strict=True):
        found = TensorSummary(record)
        assert devices._agree(found.to_packed(), summary.to_packed())
