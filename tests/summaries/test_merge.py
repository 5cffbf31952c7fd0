"""Summaries of parts add up to the summary of the whole: exactly but for the sums, which round."""

from __future__ import annotations

import functools
import math
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CONTENTS, DTYPES, assert_exact, assert_summary, exact_fields, landmarks, random_tensor

import fastlog
from fastlog import TensorSummary

EXACT = list(exact_fields(np.empty(0)))


def assert_same_but_sums(a: TensorSummary, b: TensorSummary) -> None:
    for name in EXACT:
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True), name


def add(parts: list[TensorSummary]) -> TensorSummary:
    return functools.reduce(TensorSummary.merge, parts)


@st.composite
def splits(draw, dtypes=tuple(DTYPES), sizes=(1, 30, 3000, 70_000)):
    """A tensor and its parts: some empty, of different sizes."""
    tensor = random_tensor(
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(CONTENTS)),
        draw(st.sampled_from(sizes)),
        draw(st.integers(0, 2**32)),
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(tensor)), min_size=1, max_size=6)))
    return tensor, torch.tensor_split(tensor, cuts)


@given(splits())
def test_parts_add_up_to_the_whole(split):
    tensor, parts = split
    merged = add([fastlog.summarize(part) for part in parts])
    assert_same_but_sums(merged, fastlog.summarize(tensor))
    if not any(math.isinf(fastlog.summarize(part).sum) for part in parts):
        assert_summary(merged, tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_parts_of_different_sizes_and_means(dtype):
    generator = torch.Generator().manual_seed(0)
    sizes, means = [1, 7, 3000, 200_000, 40, 0], [1e6, -3.0, 0.5, -1e-3, -2e8, 0.0]
    parts = [
        (torch.randn(size, dtype=torch.float64, generator=generator) + mean).to(dtype)
        for size, mean in zip(sizes, means, strict=True)
    ]
    whole = torch.cat(parts)
    merged = sum(fastlog.summarize(parts))
    assert_summary(merged, whole)
    # Means of the parts do not average: sizes weigh.
    values = whole.double().numpy()
    assert merged.mean == pytest.approx(values.mean(), abs=1e-12 * np.abs(values).mean())
    assert merged.std == pytest.approx(values.std(), rel=1e-9)


@settings(max_examples=30)
@given(splits(sizes=(30, 3000)))
def test_order_and_grouping_do_not_matter_for_what_is_exact(split):
    _, parts = split
    summaries = [fastlog.summarize(part) for part in parts]
    shuffled = random.Random(0).sample(summaries, len(summaries))
    middle = len(shuffled) // 2
    grouped = (add(shuffled[:middle]) + add(shuffled[middle:])) if middle else shuffled[0]
    assert_same_but_sums(add(summaries), grouped)


def test_merge_commutes_to_the_bit():
    a, b = fastlog.summarize(random_tensor(torch.float32, "normal", 500, 1)), fastlog.summarize([1.5, np.nan])
    assert a + b == b + a
    assert (a + b).to_packed() == a.merge(b).to_packed()


@pytest.mark.parametrize("content", CONTENTS)
def test_an_empty_summary_changes_nothing(content):
    summary = fastlog.summarize(random_tensor(torch.float64, content, 500, 1))
    empty = fastlog.summarize(torch.empty(0))
    assert summary + empty == empty + summary == summary
    assert empty + empty == empty


def test_parts_without_finite_values():
    nothing = fastlog.summarize([np.nan, np.inf, -np.inf, np.inf])
    merged = nothing + nothing
    assert (merged.nan, merged.pos_inf, merged.neg_inf, merged.num) == (2, 4, 2, 8)
    assert math.isnan(merged.min) and math.isnan(merged.max) and math.isnan(merged.abs_max)
    assert_summary(merged + fastlog.summarize([-2.0]), [np.nan, np.inf, -np.inf, np.inf] * 2 + [-2.0])


def test_one_value_at_a_time():
    values = torch.from_numpy(landmarks())
    assert_exact(sum(fastlog.summarize(list(values))), values)


def test_sums_that_overflow_are_infinite_without_a_warning():
    huge = fastlog.summarize(torch.tensor([1e308], dtype=torch.float64))
    assert (huge + huge).sum == math.inf
    assert (huge + huge).sum_squares == math.inf
    opposite = fastlog.summarize(torch.tensor([-1e308, -1e308], dtype=torch.float64))
    assert math.isnan((huge + huge + opposite).sum)


def test_parts_stay_as_they_are():
    a, b = fastlog.summarize([1.0, 2.0]), fastlog.summarize([3.0])
    before = a.to_packed(), b.to_packed()
    merged = a + b
    assert (a.to_packed(), b.to_packed()) == before
    with pytest.raises(ValueError, match="read-only"):
        merged.counts[0] = 1


def test_merging_what_came_over_the_wire():
    parts = random_tensor(torch.bfloat16, "normal", 9000, 3).split(1000)
    here = add([fastlog.summarize(part) for part in parts])
    there = add([pickle.loads(pickle.dumps(fastlog.summarize(part))) for part in parts])
    assert here == there


def test_only_summaries_add_up():
    summary = fastlog.summarize([1.0])
    for other in (1, 1.5, None, "summary", [summary]):
        with pytest.raises(TypeError):
            summary + other
    with pytest.raises(TypeError):
        5 + summary
    assert sum([summary, summary]) == summary + summary
