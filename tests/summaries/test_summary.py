"""TensorSummary: what is derived from it, its packed form, and its manners as a value."""

from __future__ import annotations

import copy
import math
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracles import CONTENTS, EDGES, exact_fields, landmarks, random_tensor, to_float64
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import make_histogram

import fastlog
from fastlog import TensorSummary
from fastlog.common.native import core
from fastlog.summaries.summary import SUMMARY_DTYPE

HEAD = 14 * 8 + 5 * 8
LAST = float(EDGES[-1])
in_reach = st.floats(1e-12, LAST) | st.floats(-LAST, -1e-12, exclude_max=True)
contents = st.tuples(st.sampled_from(CONTENTS), st.sampled_from([1, 2, 60, 3000]), st.integers(0, 2**32))


def summarize64(values) -> TensorSummary:
    return fastlog.summarize(np.asarray(values, np.float64))


def quantile_of(values: np.ndarray, q: float) -> float:
    finite = np.sort(values[np.isfinite(values)])
    return finite[int(q * (len(finite) - 1))]


@settings(max_examples=200)
@given(st.lists(in_reach, min_size=1, max_size=50), st.floats(0, 1))
@example([1e-12], 0.5)
@example([LAST, LAST], 0.5)
@example(list(EDGES[np.abs(EDGES) > 1e-12]), 0.3)
def test_quantile_is_within_4_8_percent(values, q):
    estimate, exact = summarize64(values).quantile(q), quantile_of(np.array(values), q)
    assert abs(estimate - exact) <= 0.048 * abs(exact)


@pytest.mark.parametrize("edges", [EDGES[775:], EDGES[:774]], ids=["positive", "negative"])
def test_quantile_bound_holds_at_both_ends_of_every_bin(edges):
    for value in np.concatenate([edges, np.nextafter(edges, 0)]):
        if value >= 1e-12 or value < -1e-12:
            summary = summarize64([value, value, np.copysign(1e-12, value), np.copysign(LAST, value)])
            q = 0.4 if value > 0 else 0.5  # ranks 1 and 2 of 0..3 hold the value
            assert abs(summary.quantile(q) - value) <= 0.048 * abs(value)


@given(contents, st.floats(0.001, 0.999))
def test_quantile_of_any_content(content, q):
    values = to_float64(random_tensor(torch.float64, *content))
    assume(np.isfinite(values).any())
    summary = summarize64(values)
    estimate, exact = summary.quantile(q), quantile_of(values, q)
    assert summary.min <= estimate <= summary.max or estimate == 0.0
    if -1e-12 <= exact < 1e-12:
        assert estimate == 0.0
    elif abs(exact) <= LAST:
        assert abs(estimate - exact) <= 0.048 * abs(exact)
    else:
        assert abs(estimate) >= LAST


def test_quantile_at_its_ends():
    summary = summarize64([3.0, -7.0, 0.25, np.nan, np.inf])
    assert (summary.quantile(0), summary.quantile(1)) == (-7.0, 3.0)
    assert math.isnan(summarize64([np.nan]).quantile(0.5))
    assert math.isnan(summarize64([]).quantile(0))
    assert summarize64([1e300, -1e300]).quantile(0.2) == -1e300
    for q in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"q must be in \[0, 1\]"):
            summary.quantile(q)


@given(contents)
def test_mean_norms_and_deviation(content):
    values = to_float64(random_tensor(torch.float32, *content))
    finite = values[np.isfinite(values)]
    summary = fastlog.summarize(torch.from_numpy(values))
    if not finite.size:
        assert all(math.isnan(x) for x in (summary.mean, summary.std, summary.rms))
        assert summary.l2_norm == 0.0
        return
    with np.errstate(under="ignore"):
        second = np.mean(finite * finite)
        assert summary.mean == pytest.approx(finite.mean(), rel=0, abs=2e-12 * np.abs(finite).mean())
        assert summary.l2_norm == pytest.approx(math.sqrt(math.fsum(finite * finite)), rel=1e-12, abs=0)
        assert summary.rms == pytest.approx(math.sqrt(second), rel=1e-12, abs=0)
        assert abs(summary.std**2 - finite.var()) <= 8e-12 * second


def test_deviation_of_what_barely_varies_is_not_a_root_of_a_negative():
    assert summarize64([0.1] * 1000).std < 1e-8
    assert summarize64([1e100] * 7).std <= 1e93


def test_what_overflows_is_infinite():
    summary = summarize64([1e200, -1e200])
    assert summary.sum_squares == summary.l2_norm == summary.rms == summary.std == math.inf
    assert summary.mean == 0.0
    assert "std=inf" in repr(summary)
    assert summarize64([1e308] * 3).mean == math.inf


@given(contents)
def test_proto_is_what_tensorboardx_writes(content):
    # Without what tensorboardX cannot do: non-finite values, and values beyond the edges or beyond float32.
    values = to_float64(random_tensor(torch.float64, *content))
    values = values[np.abs(values) <= LAST] + 0.0  # it writes -0 where that is an extreme
    assume(values.size)
    ours, theirs = summarize64(values).to_proto(compact=False), make_histogram(values, EDGES)
    with np.errstate(under="ignore"):
        squares = np.sum(values * values)
    assert ours.sum == pytest.approx(theirs.sum, rel=0, abs=1e-11 * np.abs(values).sum())
    assert ours.sum_squares == pytest.approx(theirs.sum_squares, rel=1e-11, abs=1e-11 * squares)
    for proto in (ours, theirs):
        proto.sum = proto.sum_squares = 0
    assert ours == theirs


def test_proto_of_values_beyond_the_edges():
    proto = summarize64([-1e300, -1e25, 1.0, 1e25, np.nan, np.inf]).to_proto()
    assert proto.num == 6
    assert list(proto.bucket)[:2] == [0, 2] and proto.bucket[-1] == 1
    assert proto.bucket_limit[0] == EDGES[0] and proto.bucket_limit[-1] == LAST
    assert (proto.min, proto.max) == (-np.finfo(np.float32).max, 1e25)
    for value in (1e300, -1e300):
        proto = summarize64([value]).to_proto()
        assert proto.min == proto.max == math.copysign(np.finfo(np.float32).max, value)
        assert list(proto.bucket) == [0, 1]


def test_proto_without_finite_values():
    for values in ([], [np.nan, np.inf]):
        proto = summarize64(values).to_proto()
        assert proto.num == len(values)
        assert not proto.bucket and not proto.bucket_limit
        assert proto.min == proto.max == proto.sum == proto.sum_squares == 0


@given(contents)
@example(("edges", 3000, 0))
def test_proto_is_what_the_encoder_writes(content):
    summary = fastlog.summarize(random_tensor(torch.float64, *content))
    for compact in (False, True):
        record = core.encode_events([(1, "tag", summary.to_packed(), 5, 1.5)], compact)
        event = Event.FromString(record[12:-4])
        assert event.summary.value[0].histo == summary.to_proto(compact)


@given(contents, st.sampled_from([torch.float64, torch.bfloat16, torch.int64]))
def test_packed_round_trip(content, dtype):
    summary = fastlog.summarize(random_tensor(dtype, *content))
    packed = summary.to_packed()
    again = TensorSummary.from_packed(packed)
    assert again == summary and again.to_packed() == packed
    for name in (*exact_fields(np.empty(0)), "sum", "sum_squares"):
        assert np.array_equal(getattr(again, name), getattr(summary, name), equal_nan=True)


def test_packed_is_small():
    assert len(summarize64([]).to_packed()) == HEAD + 8
    gradient = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert len(fastlog.summarize(gradient).to_packed()) < 2048


def test_packed_layout():
    packed = summarize64([1.0, 1.0, -2.0, np.nan]).to_packed()
    record = np.frombuffer(core.unpack(packed), SUMMARY_DTYPE)[0]
    first, span = struct.unpack_from("<ii", packed, HEAD)
    occupied = np.flatnonzero(record["counts"])
    assert (first, span) == (occupied[0], occupied[-1] - occupied[0] + 1)
    # One value at -2, a run of zeros (its length less one as a varint), two values at 1.
    run = span - 3
    assert packed[HEAD + 8 :] == bytes([1, 0, run & 0x7F | 0x80, run >> 7, 2])
    assert packed[:HEAD] == record.tobytes()[1548 * 8 :]


def assert_rejected_or_sound(data: bytes) -> None:
    try:
        summary = TensorSummary.from_packed(data)
    except ValueError:
        return
    packed = summary.to_packed()
    assert TensorSummary.from_packed(packed).to_packed() == packed


packed_example = fastlog.summarize(np.concatenate([landmarks(), np.arange(-300, 300) / 7])).to_packed()


@given(st.binary(max_size=300))
def test_any_bytes_are_rejected_or_sound(data):
    assert_rejected_or_sound(data)


@settings(max_examples=300)
@given(st.integers(-3, 1552), st.integers(-3, 1552), st.binary(max_size=60))
@example(0, 1548, b"\x00\x8b\x0c")
@example(1547, 2, b"\x01\x01")
@example(1548, 0, b"")
@example(2**31 - 1, 2**31 - 1, b"\x01")
@example(-(2**31), -1, b"\x01")
@example(0, 1, b"\xff" * 9 + b"\x01")
def test_any_span_and_counts_are_rejected_or_sound(first, span, counts):
    assert_rejected_or_sound(packed_example[:HEAD] + struct.pack("<ii", first, span) + counts)


@settings(max_examples=300)
@given(st.data())
def test_flipped_bits_are_rejected_or_sound(data):
    flip = st.tuples(st.integers(0, len(packed_example) - 1), st.integers(1, 255))
    changed = bytearray(packed_example)
    for at, mask in data.draw(st.lists(flip, min_size=1, max_size=5)):
        changed[at] ^= mask
    assert_rejected_or_sound(bytes(changed))


@pytest.mark.parametrize(
    ("first", "span", "counts"),
    [
        (-1, 1, b"\x01"),
        (0, -1, b""),
        (1549, 0, b""),
        (1500, 49, b"\x01" * 49),
        (0, 2, b"\x01"),
        (0, 1, b"\x01\x01"),
        (0, 3, b"\x01\x00"),
        (0, 3, b"\x01\x00\x02"),
        (0, 3, b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        (0, 1, b"\x80" * 10 + b"\x01"),
        (0, 1, b"\x80"),
    ],
)
def test_malformed_bytes_are_rejected(first, span, counts):
    with pytest.raises(ValueError, match="malformed"):
        TensorSummary.from_packed(packed_example[:HEAD] + struct.pack("<ii", first, span) + counts)


def test_truncated_or_extended_bytes_are_rejected():
    for size in range(len(packed_example)):
        with pytest.raises(ValueError, match="malformed"):
            TensorSummary.from_packed(packed_example[:size])
    with pytest.raises(ValueError, match="malformed"):
        TensorSummary.from_packed(packed_example + b"\x00")


def test_records_of_another_shape_are_rejected():
    for record in (np.zeros(3), np.zeros(2, SUMMARY_DTYPE)):
        with pytest.raises(TypeError, match="SUMMARY_DTYPE"):
            TensorSummary(record)
    with pytest.raises(ValueError, match="not a summary record"):
        core.pack(b"\x00" * 100)


def test_is_a_value():
    summary, same, other = summarize64([1.0, 2.0]), summarize64([2.0, 1.0]), summarize64([1.0, 3.0])
    assert summary == same and hash(summary) == hash(same)
    assert summary != other and summary != "summary" and summary is not None
    assert len({summary, same, other}) == 2
    for twin in (pickle.loads(pickle.dumps(summary)), copy.copy(summary), copy.deepcopy(summary)):
        assert twin == summary and twin.sum == 3.0
    nothing = summarize64([np.nan])
    assert nothing == pickle.loads(pickle.dumps(nothing))


def test_cannot_be_changed():
    summary = summarize64([1.0, 2.0])
    for name in ("sum", "counts", "mean", "anything"):
        with pytest.raises(AttributeError):
            setattr(summary, name, 0)
    with pytest.raises(ValueError, match="read-only"):
        summary.counts[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        summary.edges[0] = 1
    with pytest.raises(AttributeError, match="'TensorSummary' object has no attribute 'median'"):
        summary.median  # noqa: B018


def test_fields_are_plain_numbers():
    summary = summarize64([1.0, 2.0])
    assert summary.counts.dtype == np.int64 and summary.counts.shape == (1548,)
    assert summary.edges.shape == (1549,)
    for name in exact_fields(np.empty(0)):
        if name != "counts":
            assert type(getattr(summary, name)) is (float if name in ("min", "max", "abs_max") else int)
    derived = [summary.mean, summary.std, summary.l2_norm, summary.rms, summary.quantile(0.5)]
    assert {type(value) for value in [summary.sum, summary.sum_squares, *derived]} == {float}


def test_repr_says_what_matters():
    text = repr(summarize64([1.0, 0.0, 4.0, np.nan, np.inf, -np.inf]))
    assert text.startswith("TensorSummary(num=6, min=0, max=4, ")
    assert "zeros=1" in text and "nan=1" in text and "inf=2" in text
    assert "num=0" in repr(summarize64([]))
