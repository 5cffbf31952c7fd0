"""The CUDA kernels' own source, executed on the CPU, against NumPy in float64 and against the CPU engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_on_cpu import build, cases
from cuda_on_cpu.cases import DTYPES, Case

import fastlog
from fastlog.summaries.summary import EDGES, TensorSummary

SIZES = (0, 1, 31, 32, 33, 255, 256, 257, 4095, 4096, 4097)
FLOATS = [dtype for dtype in DTYPES if dtype.is_floating_point]


def _ids(value: object) -> str:
    return str(value).removeprefix("torch.")


def _random(dtype: torch.dtype, count: int, seed: int = 0) -> torch.Tensor:
    """Values over many magnitudes, with zeros; every bit pattern for what is no ordinary number format."""
    generator = np.random.default_rng(seed)
    if dtype is torch.bool or (dtype.is_floating_point and dtype.itemsize == 1):
        bits = torch.from_numpy(
            generator.integers(0, 2 if dtype is torch.bool else 256, count, dtype=np.uint8)
        )
        return bits.view(dtype)
    if not dtype.is_floating_point:
        size = dtype.itemsize
        values = generator.integers(0, 256, count * size, dtype=np.uint8)
        values.reshape(count, size)[::3, size // 2 :] = 0
        return torch.from_numpy(values.view(f"{'u' if 'uint' in str(dtype) else ''}int{8 * size}"))
    spread = 10.0 ** generator.uniform(-14, 4, count) * generator.choice([-1, 0, 1, 1, -1], count)
    return torch.from_numpy(spread).to(dtype)


def _check_all(tensors: list[Case], **how: object) -> np.ndarray:
    records = cases.run(tensors, **how)
    for case, record in zip(tensors, records, strict=True):
        cases.check(case, record)
    return records


def _assert_equal_but_for_sums(record: np.void, summary: TensorSummary) -> None:
    for name in record.dtype.names:
        if name not in ("sum", "sum_squares"):
            assert np.array_equal(record[name], summary._record[name]), name


@pytest.mark.parametrize("dtype", DTYPES, ids=_ids)
def test_sizes_and_alignments(dtype: torch.dtype) -> None:
    _check_all(
        [
            Case(_random(dtype, size, seed=size), misalignment=(i * dtype.itemsize) % 16)
            for i, size in enumerate(SIZES)
        ]
    )


@pytest.mark.parametrize("tuning", ["product", "small", "middling"])
def test_the_products_block_size_on_every_dtype(tuning: str) -> None:
    _check_all(
        [Case(_random(dtype, 3000 + i, seed=i)) for i, dtype in enumerate(DTYPES)], tuning=tuning, grid=2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=_ids)
def test_a_million_values(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    tensor = torch.randn(1_000_003, generator=generator).to(dtype)
    record = _check_all([Case(tensor, misalignment=4)], tuning="product", grid=3)[0]
    _assert_equal_but_for_sums(record, fastlog.summarize(tensor))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, *(d for d in FLOATS if d.itemsize == 1)], ids=_ids
)
def test_every_pattern(dtype: torch.dtype) -> None:
    if dtype.itemsize == 1:
        bits = torch.arange(256).to(torch.uint8)
    else:
        bits = torch.from_numpy(np.arange(65536, dtype=np.uint16).view(np.int16))
    _check_all([Case(bits.view(dtype)), Case(bits.flip(0)[:-3].clone().view(dtype), misalignment=2)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=_ids)
def test_on_and_beside_every_edge(dtype: torch.dtype) -> None:
    powers = np.array([2.0**-126, 2.0**-14, 2.0**-6, 448, 57344, 65504, 1e-12, 1e20])
    edges = torch.from_numpy(np.concatenate([EDGES, powers, -powers])).to(dtype)
    infinity = torch.tensor(float("inf"), dtype=dtype)
    _check_all(
        [Case(torch.cat([edges, torch.nextafter(edges, infinity), torch.nextafter(edges, -infinity)]))]
    )


def test_special_values() -> None:
    nan, inf = float("nan"), float("inf")
    tiny = torch.from_numpy(np.arange(-2000, 2000, dtype=np.float64) * 5e-324)
    mixes = [
        [nan] * 777,
        [inf, -inf, nan, 1.0] * 300,
        [0.0, -0.0] * 500,
        [3e38, -3e38, 1e21, -1e21, 500.0, -60000.0, -65504.0, 65505.0] * 70,
        [1.0] * 1000 + [nan],
        [-0.0] * 100,
    ]
    tensors = [torch.tensor(mix, dtype=dtype) for mix in mixes for dtype in (torch.float32, torch.float64)]
    tensors += [torch.tensor(mix).to(torch.bfloat16) for mix in mixes]
    tensors += [tiny, (torch.arange(-4000, 4000) + 0).to(torch.int32).view(torch.float32)]
    _check_all([Case(tensor) for tensor in tensors])


def test_sums_whose_partial_sums_overflow() -> None:
    huge = torch.tensor([1e308, -1e308, 3.0], dtype=torch.float64)
    tensors = [
        huge.repeat(3000),
        huge[:2].repeat_interleave(3000),
        huge[:1].repeat(5),
        -huge[:1].repeat(3000),
    ]
    _check_all([*map(Case, tensors), Case(torch.tensor([1.5e300, 1e290], dtype=torch.float64).repeat(700))])


def test_one_hot_bin_and_two() -> None:
    tensors = [torch.full((50_000,), 0.37), torch.zeros(50_001), torch.tensor([0.5, -2.0]).repeat(20_000)]
    _check_all([Case(t.to(d)) for t in tensors for d in (torch.float32, torch.bfloat16, torch.float8_e5m2)])


@pytest.mark.parametrize("dtype", DTYPES, ids=_ids)
def test_a_multiplier_on_the_device_and_zeros_that_are_not_stored(dtype: torch.dtype) -> None:
    tensor = _random(dtype, 5000, seed=3)
    _check_all(
        [
            Case(tensor, multiplier=1 / 65536),
            Case(tensor, multiplier=-0.1, implicit_zeros=7),
            Case(tensor[:17].clone(), multiplier=0.0),
            Case(tensor[:17].clone(), multiplier=float("inf"), implicit_zeros=5),
            Case(tensor[:0].clone(), implicit_zeros=9),
        ]
    )


def test_five_thousand_tensors_in_one_call() -> None:
    generator = np.random.default_rng(5)
    sizes = generator.integers(0, 40, 5000)
    sizes[generator.integers(0, 5000, 12)] = 9000
    kinds = [DTYPES[i % len(DTYPES)] for i in range(5000)]
    tensors = [
        Case(_random(kind, int(size), i)) for i, (kind, size) in enumerate(zip(kinds, sizes, strict=True))
    ]
    for i, (case, record) in enumerate(zip(tensors, cases.run(tensors), strict=True)):
        cases.check(case, record, check_sums=i % 10 == 0)


def test_results_do_not_depend_on_grid_or_schedule() -> None:
    mixture = [
        Case(_random(dtype, 9001 + i, seed=i), misalignment=dtype.itemsize) for i, dtype in enumerate(DTYPES)
    ]
    mixture += [Case(torch.randn(40_000)), Case(torch.empty(0)), Case(torch.randn(5), multiplier=2.0)]
    reference = cases.run(mixture).tobytes()
    for grid, seed, resident in [(1, 1, 1), (2, 2, 2), (7, 3, 4), (64, 4, 3)]:
        assert cases.run(mixture, grid=grid, seed=seed, resident=resident).tobytes() == reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8], ids=_ids)
def test_counts_beyond_32_bits(dtype: torch.dtype) -> None:
    """As if the tensor had 2**33 more elements, all 1."""
    tensor = (torch.arange(20_000) % 3).to(dtype)
    record = cases.run([Case(tensor)], tuning="huge")[0]
    counts = np.histogram(tensor.to(torch.float64).numpy(), EDGES)[0]
    counts[np.searchsorted(EDGES, 1.0, side="right") - 1] += 2**33
    assert np.array_equal(record["counts"], counts)
    assert record["num"] == record["num_finite"] == 20_000 + 2**33


def test_the_asan_build_finds_nothing() -> None:
    tensors = [
        Case(_random(dtype, 700 + 37 * i, seed=i), misalignment=dtype.itemsize)
        for i, dtype in enumerate(DTYPES)
    ]
    for seed in (0, 1):
        _check_all([*tensors, *_one_of_each_route()], mode="asan", seed=seed, resident=3)


def test_thread_sanitizer_finds_nothing() -> None:
    for seed in (0, 1):
        _check_all(_one_of_each_route(), mode="tsan", seed=seed, resident=3)


def _one_of_each_route() -> list[Case]:
    return [
        Case(torch.randn(9001).to(torch.bfloat16), misalignment=2),
        Case(torch.randn(3000), multiplier=0.5),
        Case(torch.tensor([float("nan"), 1e38, -1e38, 70000.0]).repeat(50)),
        Case(torch.arange(5000)),
        Case(torch.randn(9000).to(torch.float8_e5m2), misalignment=1),
        Case(torch.empty(0)),
    ]


# One change of the kernels each, the build that notices it, and what is then said.
MUTATIONS = {
    "no barrier between counting and flushing": (
        "tsan",
        "summarize.cuh",
        "    __syncthreads();\n    flush<T>(shared, work);",
        "    flush<T>(shared, work);",
        "ThreadSanitizer: data race",
    ),
    "blocks add without atomics": (
        "tsan",
        "stretch.cuh",
        "if (total) atomicAdd(totals + i, total);",
        "totals[i] += total;",
        "ThreadSanitizer: data race",
    ),
    "blocks take chunks without atomics": (
        "tsan",
        "summarize.cuh",
        "const unsigned taken = atomicAdd(work.next_chunk, static_cast<unsigned>(work.run));",
        "const unsigned taken = *work.next_chunk;\n    *work.next_chunk = taken + work.run;",
        "ThreadSanitizer: data race",
    ),
    "a vector too many": (
        "asan",
        "stretch.cuh",
        "const int vectors = (count - head) / kPerVector;",
        "const int vectors = (count - head) / kPerVector + 1;",
        "heap-buffer-overflow",
    ),
}


@pytest.mark.parametrize("mutation", list(MUTATIONS))
def test_a_mistake_in_the_kernels_is_noticed(mutation: str, tmp_path: Path) -> None:
    mode, name, right, wrong, message = MUTATIONS[mutation]
    shutil.copytree(build.CSRC, tmp_path / "csrc")
    source = tmp_path / "csrc" / "cuda" / name
    assert source.read_text().count(right) == 1
    source.write_text(source.read_text().replace(right, wrong))
    with pytest.raises(AssertionError, match=message):
        cases.run(_one_of_each_route(), mode=mode, resident=3, csrc=tmp_path / "csrc")
