"""Counts, counters and extremes equal NumPy's in float64, bit for bit, in every dtype and on every CPU path.

Sums stay within their bound of the exact sums, and overflow only if those do.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorboardX
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import (
    CONTENTS,
    DTYPES,
    EDGES,
    FLOATS,
    SIZES,
    around_edges,
    assert_exact,
    assert_summary,
    assert_sums,
    cast,
    landmarks,
    random_tensor,
)

import fastlog
from fastlog import TensorSummary
from fastlog.common.native import core
from fastlog.summaries.tensors import view_of

pytestmark = pytest.mark.usefixtures("cpu_path")

FLOAT8 = [dtype for dtype in FLOATS if dtype.itemsize == 1]
# Below and above the size from which 16-bit patterns are counted as wholes.
REPEATS = [1, 3]


def each_alone(tensor: torch.Tensor) -> list[TensorSummary]:
    """One summary per element, without a copy of any."""
    address, count, dtype = view_of(tensor)[:3]
    rows = [(address + i * tensor.itemsize, 1, dtype, 0) for i in range(count)]
    return [TensorSummary.from_packed(packed) for packed in core.summarize(rows, 1)]


def assert_bins_each_alone(tensor: torch.Tensor) -> None:
    """Every element by itself falls into the bin in which np.histogram counts it."""
    values = tensor.to(torch.float64).numpy()
    bins = np.searchsorted(EDGES, values, side="right") - 1
    bins[values == EDGES[-1]] -= 1
    for summary, value, bin in zip(each_alone(tensor), values, bins, strict=True):
        inside = EDGES[0] <= value <= EDGES[-1]
        assert summary.counts.sum() == inside, value
        assert not inside or summary.counts[bin] == 1, value


def test_edges_are_those_of_tensorboardx(tmp_path):
    writer = tensorboardX.SummaryWriter(str(tmp_path), write_to_disk=False)
    assert np.array_equal(EDGES, writer.default_bins)
    assert np.array_equal(fastlog.summarize([1.0]).edges, writer.default_bins)


def test_edges_are_products_and_not_powers():
    # 1e-12 * 1.1**k rounds otherwise, and values between the two would fall into the neighbouring bin.
    steps = (len(EDGES) - 1) // 2
    at_once = 1e-12 * 1.1 ** np.arange(steps)
    assert (at_once != EDGES[steps + 1 :]).any()
    between = torch.from_numpy(np.concatenate([at_once, -at_once]))
    assert_exact(fastlog.summarize(between), between)
    assert_bins_each_alone(between)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=12)
@given(
    content=st.sampled_from(CONTENTS),
    size=st.sampled_from([0, 1, 2, 17, 100, 5000, 20_000, 140_000]),
    seed=st.integers(0, 2**32),
)
def test_any_dtype_and_content(dtype, content, size, seed):
    tensor = random_tensor(dtype, content, size, seed)
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_sizes_at_which_the_engine_changes_its_ways(dtype, size):
    tensor = random_tensor(dtype, "zeros", size, seed=size)
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@given(data=st.data())
def test_any_few_floats(dtype, data):
    numbers = data.draw(st.lists(st.floats(width=8 * dtype.itemsize), max_size=70))
    tensor = torch.tensor(numbers, dtype=dtype)
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64, torch.int32], ids=str)
@given(data=st.data())
def test_any_few_integers(dtype, data):
    limits = torch.iinfo(dtype)
    whole = st.integers(limits.min, limits.max)
    tensor = torch.tensor(data.draw(st.lists(whole, min_size=1, max_size=70)), dtype=dtype)
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@settings(max_examples=15)
@given(size=st.sampled_from([37, 5000, 20_000]), seed=st.integers(0, 2**32))
@example(size=150_000, seed=0)
def test_random_bit_patterns(dtype, size, seed):
    tensor = random_tensor(dtype, "bits", size, seed)
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_edge_and_one_ulp_either_side(dtype):
    tensor = torch.from_numpy(around_edges(dtype))
    assert len(tensor) == 3 * 1549
    assert_exact(fastlog.summarize(tensor), tensor)
    for shift in range(1, 17):  # each value in each lane
        assert_exact(fastlog.summarize(tensor[shift:]), tensor[shift:])
    assert_bins_each_alone(tensor)


def test_float32_around_the_exact_edges():
    # The float32 values next to the float64 edge itself, which is seldom a float32.
    below = EDGES.astype(np.float32)
    below = np.where(below > EDGES, np.nextafter(below, np.float32(-np.inf)), below)
    above = np.where(below < EDGES, np.nextafter(below, np.float32(np.inf)), below)
    tensor = torch.from_numpy(np.concatenate([below, above]))
    assert_exact(fastlog.summarize(tensor), tensor)
    assert_bins_each_alone(tensor)


def test_the_outermost_edges_belong_to_the_outermost_bins():
    last = fastlog.summarize(torch.tensor([EDGES[-1]], dtype=torch.float64))
    first = fastlog.summarize(torch.tensor([EDGES[0]], dtype=torch.float64))
    assert last.counts[-1] == 1 and last.overflow == 0
    assert first.counts[0] == 1 and first.underflow == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_zeros_denormals_and_limits(dtype):
    tensor = cast(landmarks(), dtype)
    assert_summary(fastlog.summarize(tensor), tensor)
    for summary, value in zip(each_alone(tensor), tensor, strict=True):
        assert_summary(summary, value)


@pytest.mark.parametrize("dtype", FLOATS[:4], ids=str)
def test_negative_zero_is_zero(dtype):
    tensor = torch.full((100,), -0.0, dtype=dtype)
    summary = fastlog.summarize(tensor)
    assert summary.zeros == 100
    assert summary.counts[774] == 100, "NumPy counts -0.0 in [0, 1e-12)"
    assert str((summary.min, summary.max, summary.sum)) == "(0.0, 0.0, 0.0)"


@pytest.mark.parametrize("dtype", FLOATS[:4], ids=str)
def test_negative_denormals_are_below_zero(dtype):
    denormal = -torch.finfo(dtype).tiny / 2
    summary = fastlog.summarize(torch.full((100,), denormal, dtype=dtype))
    assert summary.zeros == 0
    assert summary.min == denormal
    assert summary.counts[np.searchsorted(EDGES, denormal, side="right") - 1] == 100


@pytest.mark.parametrize("repeats", REPEATS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int16, torch.uint16], ids=str)
def test_all_patterns_of_16_bits(dtype, repeats):
    patterns = np.arange(65536, dtype=np.uint16).view(np.int16)
    tensor = torch.from_numpy(patterns.repeat(repeats)).view(dtype)
    assert_summary(fastlog.summarize(tensor), tensor)
    # Counts that differ from pattern to pattern, so that two wrong ones cannot make up for each other.
    uneven = torch.from_numpy(patterns.repeat(repeats * np.arange(65536) % 5)).view(dtype)
    assert_summary(fastlog.summarize(uneven), uneven)


@pytest.mark.parametrize("repeats", [1, 11, 700])
@pytest.mark.parametrize("dtype", [*FLOAT8, torch.int8, torch.uint8], ids=str)
def test_all_patterns_of_8_bits(dtype, repeats):
    patterns = np.arange(256, dtype=np.uint8)
    tensor = torch.from_numpy(patterns.repeat(repeats)).view(dtype)
    assert_summary(fastlog.summarize(tensor), tensor)
    uneven = torch.from_numpy(patterns.repeat(repeats * np.arange(256) % 7)).view(dtype)
    assert_summary(fastlog.summarize(uneven), uneven)
    for summary, value in zip(each_alone(tensor[::repeats].clone()), tensor[::repeats], strict=True):
        assert_summary(summary, value)


def test_integers_round_to_float64_before_they_are_counted():
    tensor = torch.tensor([2**53, 2**53 + 1, 2**63 - 1, -(2**63), -(2**53) - 1])
    summary = fastlog.summarize(tensor)
    assert_summary(summary, tensor)
    assert summary.max == 2.0**63
    assert fastlog.summarize(torch.tensor([2**64 - 1], dtype=torch.uint64)).max == 2.0**64


@pytest.mark.parametrize("size", [10, 3000, 70_000, 200_000])
def test_sums_that_cancel(size):
    rng = np.random.default_rng(size)
    half = rng.normal(1.0, 1.0, size) * 10.0 ** rng.uniform(-8, 8, size)
    tensor = torch.from_numpy(rng.permutation(np.concatenate([half, -half])))
    assert_sums(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("size", [2, 40, 3000, 70_000, 200_000])
@pytest.mark.parametrize("order", ["alternating", "halves", "shuffled"])
def test_sums_whose_partial_sums_overflow(size, order):
    signs = np.resize([1.0, -1.0], size)
    if order == "halves":
        signs = np.sort(signs)
    if order == "shuffled":
        signs = np.random.default_rng(size).permutation(signs)
    tensor = torch.from_numpy(1e308 * signs)
    summary = fastlog.summarize(tensor)
    assert summary.sum == 0.0
    assert summary.sum_squares == np.inf
    assert_summary(summary, tensor)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("value", "size"), [(1e308, 10), (1e308, 5000), (1e304, 70_000), (1.2e303, 200_000)])
def test_sums_overflow_where_the_sum_does(value, size, sign):
    tensor = torch.full((size,), sign * value, dtype=torch.float64)
    assert fastlog.summarize(tensor).sum == sign * np.inf
    tensor[0] = np.nan
    tensor[1] = -sign * np.inf
    summary = fastlog.summarize(tensor)
    assert summary.sum == sign * np.inf
    assert_summary(summary, tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2, torch.int8], ids=str)
def test_sums_of_narrow_dtypes_are_not_kept_in_them(dtype):
    tensor = torch.full((300_000,), 96, dtype=torch.float32).to(dtype)
    summary = fastlog.summarize(tensor)
    assert summary.sum == 300_000 * 96.0
    assert summary.sum_squares == 300_000 * 96.0**2


@pytest.mark.parametrize("size", [5, 2048, 140_003])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_one_non_finite_value_spoils_nothing(dtype, special, size):
    tensor = random_tensor(dtype, "zeros", size, seed=size)
    tensor[[0, size // 2, size - 1]] = special
    assert_summary(fastlog.summarize(tensor), tensor)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nothing_finite(dtype):
    if dtype == torch.float8_e8m0fnu:
        special = torch.full((70,), 255, dtype=torch.uint8).view(dtype)  # cannot be converted to
    else:
        special = torch.full((70,), np.nan).to(dtype)
    summary = fastlog.summarize(special)
    assert_summary(summary, special)
    assert (summary.nan, summary.num, summary.num_finite, summary.sum) == (70, 70, 0, 0.0)
