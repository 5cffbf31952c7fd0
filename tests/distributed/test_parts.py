"""Summaries of several ranks by name: whole tensors come out, whatever the ranks' parts are like."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import assert_summary, exact_fields

import fastlog
from fastlog import TensorSummary
from fastlog.distributed.parts import Record, decode, encode, merge
from fastlog.summaries.packed import merge_packed, num_of

EXACT = list(exact_fields(np.empty(0)))


def summary_of(tensor: torch.Tensor) -> TensorSummary:
    return fastlog.summarize(tensor)


@st.composite
def parts(draw) -> torch.Tensor:
    """A part as a rank may hold it: of any size and mean, empty, or without a finite value."""
    size = draw(st.sampled_from([0, 1, 2, 57, 5000]))
    kind = draw(st.sampled_from(["normal", "constant", "NaN", "Inf", "some NaN"]))
    mean = draw(st.sampled_from([0.0, 1e-9, -3.0, 1e6, -1e15]))
    if kind in ("NaN", "Inf"):
        return torch.full((size,), float(kind))
    values = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(size)) + mean
    if kind == "constant":
        values = torch.full_like(values, mean)
    if kind == "some NaN":
        values[::3] = math.nan
    return values


@given(st.lists(parts(), min_size=1, max_size=6))
def test_parts_of_the_ranks_are_the_whole(tensors) -> None:
    whole = torch.cat([tensor.double() for tensor in tensors])
    ranks = [[Record("weights", "w", summary_of(t).to_packed(), i)] for i, t in enumerate(tensors)]
    merged, differing, incomplete, *_ = merge(dict(enumerate(ranks)))
    assert not differing and not incomplete
    if not whole.numel():
        assert merged == []
        return
    ((kind, name, packed, *_),) = merged
    assert (kind, name) == ("weights", "w")
    found, expected = TensorSummary.from_packed(packed), summary_of(whole)
    for field in EXACT:
        assert np.array_equal(getattr(found, field), getattr(expected, field), equal_nan=True), field
    assert_summary(found, whole)
    finite = whole[whole.isfinite()].numpy().astype(np.longdouble)
    if finite.size:
        scale = float(np.square(finite).mean())
        assert found.mean == pytest.approx(float(finite.mean()), abs=2e-12 * float(np.abs(finite).mean()))
        assert found.std**2 == pytest.approx(float(finite.var()), abs=4e-12 * scale)


@given(st.lists(parts(), min_size=1, max_size=5))
def test_merging_many_at_once_is_merging_one_by_one(tensors) -> None:
    summaries = [summary_of(tensor) for tensor in tensors]
    at_once = TensorSummary.from_packed(merge_packed([summary.to_packed() for summary in summaries]))
    one_by_one = sum(summaries[1:], summaries[0])
    for field in (*EXACT, "sum", "sum_squares"):
        assert np.array_equal(getattr(at_once, field), getattr(one_by_one, field), equal_nan=True), field


def test_infinite_sums_of_opposite_signs_are_nan_and_no_warning() -> None:
    big = summary_of(torch.full((2,), 1.7e308, dtype=torch.float64))
    small = summary_of(torch.full((2,), -1.7e308, dtype=torch.float64))
    merged = TensorSummary.from_packed(merge_packed([big.to_packed(), small.to_packed()]))
    assert math.isnan(merged.sum) and merged.sum_squares == math.inf and merged.num == 4


def packed(value: float) -> bytes:
    return summary_of(torch.tensor([value])).to_packed()


def test_a_part_that_several_ranks_hold_counts_once() -> None:
    nothing = summary_of(torch.empty(0)).to_packed()
    merged, differing, _, alike, compared, divided = merge(
        {
            2: [Record("weights", "a", nothing, 0), Record("weights", "norm", packed(5.0))],
            3: [Record("weights", "a", packed(1.0), 0), Record("weights", "norm", packed(5.5))],
            5: [Record("weights", "a", packed(1.0), 0), Record("weights", "a", packed(2.0), 1)],
            7: [Record("weights", "a", packed(2.0), 1)],
        }
    )
    assert differing == {"weights/norm": (2, 3)}
    assert alike == {} and (compared, divided) == ({"weights"}, {"weights"})
    assert [(record.name, TensorSummary.from_packed(record.packed).num) for record in merged] == [
        ("a", 2),
        ("norm", 1),
    ]
    assert TensorSummary.from_packed(merged[0].packed).sum == 3.0


def test_what_is_not_whole_is_not_logged() -> None:
    merged = merge(
        {
            0: [Record("w", "all", packed(1.0), 0, 2), Record("w", "half", packed(1.0), 0, 2)],
            1: [Record("w", "all", packed(2.0), 1, 2), Record("w", "too_much", packed(2.0), 0, 1)],
            2: [Record("w", "too_much", packed(2.0), 1, 2)],
        }
    )
    assert [record.name for record in merged.records] == ["all"]
    assert merged.incomplete == ["w/half", "w/too_much"]


def test_parts_of_two_ranks_with_the_same_values_are_told() -> None:
    seen = {0: packed(1.0), 3: packed(2.0), 4: packed(1.0), 5: packed(2.0)}
    merged = merge({rank: [Record("activations", "stem", p, rank)] for rank, p in seen.items()})
    assert merged.alike == {"activations/stem": (0, 4)}
    assert (merged.compared, merged.divided) == (set(), {"activations"})
    assert TensorSummary.from_packed(merged.records[0].packed).num == 4


class Tag(str):
    """A string that marshal does not know."""


def test_what_a_rank_has_seen_several_times_adds_up() -> None:
    twice = [Record("activations", "head", packed(1.0), 0)] * 2
    (head,), *_ = merge({0: twice, 1: [Record("activations", "head", packed(1.0), 1)]})
    assert TensorSummary.from_packed(head.packed).num == 3


def test_names_come_in_the_order_of_the_first_rank() -> None:
    nothing = summary_of(torch.empty(0)).to_packed()
    assert num_of(nothing) == 0 and num_of(packed(0.0)) == 1
    merged, *_ = merge(
        {
            0: [Record("w", "b", nothing), Record("w", "a", packed(1.0)), Record("w", "none", nothing)],
            1: [Record("w", "c", packed(1.0)), Record("w", "b", packed(1.0))],
        }
    )
    assert [record.name for record in merged] == ["b", "a", "c"]


def test_records_travel_as_bytes() -> None:
    records = [
        Record("weights", "layers.0.wéight", packed(1.0), 3, 7),
        Record("gradients", Tag("b"), packed(2.0)),
        Record("gradients", np.str_("c"), packed(2.0)),
    ]
    assert decode(encode(records, {"step_seconds": 0.25})) == (records, {"step_seconds": 0.25})


def test_a_rank_without_anything_sends_nothing() -> None:
    assert encode([], {}) == b"" and decode(b"") == ([], {})
