"""The records that C++ writes, byte for byte against tensorboardX's protos and record writer."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import crc32c
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import HistogramProto, Summary
from tensorboardX.record_writer import RecordWriter, masked_crc32c
from tensorboardX.summary import make_histogram

from fastlog import _core
from fastlog.events.items import HISTOGRAM, RAW, SCALAR
from fastlog.summaries.summary import EDGES, SUMMARY_DTYPE

FLOAT32_MAX = float(np.finfo(np.float32).max)

tags = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
steps = st.none() | st.integers(-(2**63), 2**63 - 1)
times = st.floats()
# protobuf refuses what does not fit float32, tensorboardX with it; we store it as infinity
values = st.floats(width=32) | st.floats(-FLOAT32_MAX, FLOAT32_MAX)


def framed(event: bytes) -> bytes:
    """One record, written by tensorboardX's own writer."""
    writer = RecordWriter.__new__(RecordWriter)
    writer._writer = io.BytesIO()
    writer.write(event)
    return writer._writer.getvalue()


def scalar_event(tag: str, value: float, step: int | None, wall_time: float) -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
    return Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()


def histogram_event(tag: str, histogram: HistogramProto, step: int | None, wall_time: float) -> bytes:
    summary = Summary(value=[Summary.Value(tag=tag, histo=histogram)])
    return Event(wall_time=wall_time, step=step, summary=summary).SerializeToString()


def record_of(values: np.ndarray) -> np.ndarray:
    """The summary of some values, by NumPy."""
    record = np.zeros((), SUMMARY_DTYPE)
    finite = values[np.isfinite(values)]
    record["counts"] = np.histogram(finite, EDGES)[0]
    record["underflow"] = (finite < EDGES[0]).sum()
    record["overflow"] = (finite > EDGES[-1]).sum()
    record["nan"] = np.isnan(values).sum()
    record["pos_inf"] = (values == np.inf).sum()
    record["neg_inf"] = (values == -np.inf).sum()
    record["num"] = values.size
    record["num_finite"] = finite.size
    record["min"], record["max"] = (finite.min(), finite.max()) if finite.size else (np.inf, -np.inf)
    with np.errstate(over="ignore"):
        record["sum"], record["sum_squares"] = finite.sum(), finite.dot(finite)
    return record


def expected_histogram(record: np.ndarray) -> HistogramProto:
    """What the event has to say about a summary, straight from the promise."""
    counts = record["counts"].copy()
    counts[0] += record["underflow"]
    counts[-1] += record["overflow"]
    if not record["num_finite"]:
        return HistogramProto(num=float(record["num"]))
    occupied = np.flatnonzero(counts)
    first, last = int(occupied[0]), int(occupied[-1])
    return HistogramProto(
        min=float(np.clip(record["min"], -FLOAT32_MAX, FLOAT32_MAX)),
        max=float(np.clip(record["max"], -FLOAT32_MAX, FLOAT32_MAX)),
        num=float(record["num"]),
        sum=float(record["sum"]),
        sum_squares=float(record["sum_squares"]),
        bucket_limit=EDGES[first : last + 2].tolist(),
        bucket=[0.0, *counts[first : last + 1].tolist()],
    )


@given(tags, values, steps, times)
@example("", 0.0, None, 0.0)
@example("loss/train", -0.0, 0, -0.0)
@example("läuft 🎉", float("nan"), -1, float("inf"))
def test_scalars_are_the_bytes_of_the_protos(tag, value, step, wall_time):
    assert _core.encode_events([(SCALAR, tag, value, step, wall_time)]) == framed(
        scalar_event(tag, value, step, wall_time)
    )


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_scalars_beyond_float32_are_infinite(value):
    (event,) = read(_core.encode_events([(SCALAR, "x", value, 1, 0.0)]))
    assert event.summary.value[0].simple_value == np.copysign(np.inf, value)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.floats(-11, 19), tags, steps, times)
def test_histograms_within_the_edges_are_the_bytes_of_tensorboardx(seed, size, scale, tag, step, wall_time):
    values = np.random.default_rng(seed).normal(size=size) * 10**scale
    values = np.clip(values, EDGES[0], EDGES[-1])
    packed = _core.pack(record_of(values).tobytes())
    assert _core.encode_events([(HISTOGRAM, tag, packed, step, wall_time)]) == framed(
        histogram_event(tag, make_histogram(values, EDGES), step, wall_time)
    )


@settings(max_examples=60)
@given(
    st.lists(
        st.floats()
        | st.sampled_from(
            [0.0, -0.0, 1e25, -1e25, 1e300, -1e300, 5e-324, EDGES[0], EDGES[-1], np.nan, np.inf, -np.inf]
        ),
        max_size=30,
    )
)
@example([])
@example([np.nan])
@example([np.inf, -np.inf])
@example([1e25])
@example([-1e25])
@example([1e25, -1e25])
@example([1e308, 1e308])
@example([0.0])
def test_histograms_of_any_values(values):
    record = record_of(np.array(values, dtype=np.float64))
    assert _core.encode_events([(HISTOGRAM, "w", _core.pack(record.tobytes()), 3, 1.5)]) == framed(
        histogram_event("w", expected_histogram(record), 3, 1.5)
    )


def test_every_single_bin():
    for i in range(len(EDGES) - 1):
        record = np.zeros((), SUMMARY_DTYPE)
        record["counts"][i] = record["num"] = record["num_finite"] = i + 1
        record["min"] = record["max"] = EDGES[i]
        assert _core.encode_events([(HISTOGRAM, "w", _core.pack(record.tobytes()), i, 0.0)]) == framed(
            histogram_event("w", expected_histogram(record), i, 0.0)
        )


def test_large_counts():
    record = np.zeros((), SUMMARY_DTYPE)
    record["counts"][[3, 1000]] = record["underflow"] = 2**62 - 1
    record["num"] = record["num_finite"] = 2**63 - 1
    assert _core.encode_events([(HISTOGRAM, "w", _core.pack(record.tobytes()), 1, 0.0)]) == framed(
        histogram_event("w", expected_histogram(record), 1, 0.0)
    )


@given(st.binary(max_size=300))
def test_raw_events_are_framed_as_they_are(event):
    assert _core.encode_events([(RAW, event)]) == framed(event)


@given(st.lists(st.tuples(tags, values, steps, times), max_size=8))
def test_batches_are_the_records_in_order(scalars):
    items = []
    for row in scalars:
        items += [(SCALAR, *row), (RAW, scalar_event(*row))]
    assert _core.encode_events(items) == b"".join(2 * framed(scalar_event(*row)) for row in scalars)


def test_tags_with_lone_surrogates_stay_readable():
    (event,) = read(_core.encode_events([(SCALAR, "bad\ud800tag", 1.0, 1, 0.0)]))
    assert event.summary.value[0].tag == "bad?tag"


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ((), TypeError),
        ("tag", TypeError),
        ((9, "tag", 1.0, 1, 0.0), ValueError),
        ((SCALAR, "tag", 1.0), ValueError),
        ((SCALAR, b"tag", 1.0, 1, 0.0), TypeError),
        ((SCALAR, "tag", "high", 1, 0.0), TypeError),
        ((SCALAR, "tag", 1.0, 1.5, 0.0), TypeError),
        ((SCALAR, "tag", 1.0, 2**63, 0.0), OverflowError),
        ((SCALAR, "tag", 1.0, 1, None), TypeError),
        ((HISTOGRAM, "tag", "packed", 1, 0.0), TypeError),
        ((HISTOGRAM, "tag", b"", 1, 0.0), ValueError),
        ((RAW, "text"), TypeError),
    ],
)
def test_wrong_items_raise(item, error):
    with pytest.raises(error):
        _core.encode_events([(SCALAR, "good", 1.0, 1, 0.0), item])


PACKED = _core.pack(record_of(np.array([-1.0, 0.0, 2.0, 2.0, 1e9])).tobytes())


@settings(max_examples=300)
@given(st.data())
def test_malformed_summaries_raise_or_give_a_readable_record(data):
    packed = bytearray(PACKED)
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = bytes(packed)[: data.draw(st.integers(0, len(packed)) | st.just(len(packed)))]
    try:
        records = _core.encode_events([(HISTOGRAM, "w", packed, 1, 0.0)])
    except ValueError:
        return
    (event,) = read(records)
    histogram = event.summary.value[0].histo
    assert len(histogram.bucket) == len(histogram.bucket_limit)


def test_a_span_has_no_empty_ends():
    head = bytearray(PACKED[:152])
    for counts in (b"\x00\x00\x01", b"\x01\x00\x00"):
        with pytest.raises(ValueError, match="malformed"):
            _core.encode_events([(HISTOGRAM, "w", bytes(head) + struct.pack("<ii", 5, 2) + counts, 1, 0.0)])


@given(st.binary(max_size=200))
@example(bytes(32))
def test_checksums(data):
    expected = masked_crc32c(data)
    assert _core.masked_crc32c(data) == expected
    assert _core.masked_crc32c(data, portable=True) == expected
    crc = crc32c.crc32c(data)
    assert expected == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_checksum_of_the_standard():
    # RFC 3720, B.4: CRC-32C of 32 bytes of zeros
    crc = 0x8A9136AA
    assert _core.masked_crc32c(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert _core.crc32c_path() in ("sse4.2", "armv8", "portable")


def read(records: bytes) -> list[Event]:
    """The events of some records, by tensorboardX's protos; checks the frames."""
    events = []
    while records:
        (length,) = struct.unpack_from("<Q", records)
        assert framed(records[12 : 12 + length]) == records[: length + 16]
        events.append(Event.FromString(records[12 : 12 + length]))
        records = records[length + 16 :]
    return events


def test_tensorboard_reads_what_we_write(tmp_path: Path):
    items = [(SCALAR, f"tag/{i}", i / 7, i, 1e9 + i) for i in range(100)]
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(_core.encode_events(items))
    events = list(RawEventFileLoader(str(path)).Load())
    assert events == [scalar_event(*item[1:]) for item in items]
