"""add_histogram: odd values, other bins than the default ones, nothing at all."""

import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import histograms, log
from tensorboardX.summary import make_histogram

import fastlog

Calls = Callable[[Any], object]
FLOAT32_MAX = float(np.finfo(np.float32).max)


ODD = {
    "all NaN": (np.full(5, np.nan), 5, 0),
    "infinities": (np.array([np.inf, -np.inf, np.inf, 1.0]), 0, 3),
    "only infinities": (np.array([np.inf, -np.inf]), 0, 2),
    "NaN among numbers": (np.array([1.0, np.nan, 2.0, np.inf]), 1, 1),
    "beyond the edges": (np.array([1e25, -1e25, 1.0]), 0, 0),
    "beyond float32": (np.array([1e300, -1e300, 0.0]), 0, 0),
    "range beyond float64": (np.array([1.7e308, -1.7e308, 1.0]), 0, 0),
    "constant": (np.full(7, 3.25), 0, 0),
    "huge constant": (np.full(7, 1e300), 0, 0),
    "zeros": (np.zeros(4, np.float32), 0, 0),
    "denormals": (np.array([5e-324, 1e-310, 0.0]), 0, 0),
    "one outlier": (np.append(np.linspace(0, 1, 1000), 1e12), 0, 0),
    "bfloat16": (torch.tensor([1e-30, -1e-30, 3e38, -0.0]).bfloat16(), 0, 0),
    "float8": (torch.tensor([1.0, -448.0, 0.5]).to(torch.float8_e4m3fn), 0, 0),
    "bools": (np.array([True, False, True]), 0, 0),
    "uint64": (np.array([2**64 - 1, 0], np.uint64), 0, 0),
    "scalar": (2.5, 0, 0),
}
BINS: list[Any] = [
    "tensorflow",
    "auto",
    "fd",
    "scott",
    "sturges",
    "doane",
    "rice",
    "sqrt",
    1,
    10,
    [0.0, 1.0, 2.0],
]


@pytest.mark.parametrize("bins", BINS, ids=str)
@pytest.mark.parametrize("name", ODD)
def test_odd_values_make_a_readable_histogram(name: str, bins: Any, tmp_path: Path) -> None:
    data, nan, inf = ODD[name]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", fastlog.FastlogWarning)
        got = log(tmp_path, lambda w: [w.add_histogram("t", data, step, bins) for step in (1, 2)])
    about_values = [w for w in said if "NaN" in str(w.message)]
    assert len(about_values) == (1 if nan or inf else 0)
    assert len(said) - len(about_values) <= 1
    histogram = got["t"].histo
    num = np.size(data) if not isinstance(data, torch.Tensor) else data.numel()
    assert histogram.num == num
    assert {tag: value.simple_value for tag, value in got.items() if tag != "t"} == {
        f"t/{kind}": count for kind, count in (("nan", nan), ("inf", inf)) if count
    }
    limits = [histogram.min, histogram.max, *histogram.bucket_limit]
    assert all(math.isfinite(limit) and abs(limit) <= FLOAT32_MAX for limit in limits)
    assert list(histogram.bucket_limit) == sorted(histogram.bucket_limit)
    assert len(histogram.bucket) == len(histogram.bucket_limit)
    finite = num - nan - inf
    assert bool(histogram.bucket) == bool(finite)
    assert not math.isnan(histogram.sum) and not math.isnan(histogram.sum_squares)
    if not isinstance(bins, list):
        assert sum(histogram.bucket) == finite
    if not finite:
        assert histogram.min == histogram.max == histogram.sum == 0


@pytest.mark.parametrize(
    ("empty", "options"),
    [
        *itertools.product(
            [torch.empty(0, 3), np.array([]), []],
            [{}, {"bins": 10}, {"bins": [0.0, 1.0]}, {"max_bins": 5}],
        ),
        (fastlog.summarize(torch.empty(0)), {}),
        (fastlog.summarize(torch.empty(0)), {"max_bins": 5}),
    ],
)
def test_an_empty_tensor_is_counted_and_said_once(empty: Any, options: Any, tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path / "warn")
    with pytest.warns(fastlog.FastlogWarning) as said:
        for _ in range(3):
            writer.add_histogram("t", empty, **options)
        writer.close()
    assert writer.stats()["bad_values"] == 3 and histograms(tmp_path / "warn") == {}
    text, total = [str(warning.message) for warning in said]
    assert text.startswith("add_histogram('t'): nothing is logged: ValueError: values has no elements")
    assert "only where it has some" in text and "3 values were not logged" in total
    refusal = pytest.raises(ValueError, match=r"^add_histogram\('t'\): values has no elements")
    with fastlog.SummaryWriter(tmp_path / "raise", on_error="raise") as writer, refusal:
        writer.add_histogram("t", empty, **options)


@pytest.mark.parametrize("max_bins", [None, 1, 7])
@pytest.mark.parametrize(
    "bins",
    [
        *(
            1,
            10,
            np.int64(37),
            [-1.0, 0.0, 0.5, 2.0],
            (-9, 9),
            np.linspace(-3, 3, 50),
            torch.arange(-3.0, 3.0),
        ),
        *([5, 6, 7], "auto", "doane", "fd", "rice", "scott", "sqrt", "stone", "sturges"),
    ],
    ids=str,
)
def test_other_bins_give_numpys_result(bins: Any, max_bins: int | None, tmp_path: Path) -> None:
    data = np.random.default_rng(1).standard_normal(500)
    histogram = log(tmp_path, lambda w: w.add_histogram("t", data, 1, bins, max_bins=max_bins))["t"].histo
    bins = bins.numpy() if isinstance(bins, torch.Tensor) else bins
    counts, edges = np.histogram(data, bins)
    if counts.any():
        assert histogram == make_histogram_for_tensorboard(data, bins, max_bins)
    else:
        assert sum(histogram.bucket) == 0 and next(iter(histogram.bucket_limit)) == edges[0]


def make_histogram_for_tensorboard(data: Any, bins: Any, max_bins: int | None) -> Any:
    from tensorboard.compat.proto.summary_pb2 import HistogramProto

    return HistogramProto.FromString(make_histogram(data, bins, max_bins).SerializeToString())


@pytest.mark.parametrize("bins", ["auto", "fd", "scott"])
def test_an_estimator_is_held_to_65536_bins(bins: str, tmp_path: Path) -> None:
    data = np.append(np.random.default_rng(2).standard_normal(10_000), 1e15 if bins != "scott" else 1e300)
    if bins == "scott":  # its width follows the outlier: only many values make many bins
        data = np.concatenate([np.zeros(10_000), [1e300]])
        expected = None
    else:
        expected = "65536 are made"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        histogram = log(tmp_path, lambda w: w.add_histogram("t", data, bins=bins))["t"].histo
    assert len(histogram.bucket) <= 65_537
    assert sum(histogram.bucket) == len(data)
    if expected:
        assert [expected in str(w.message) for w in said] == [True]


def test_one_warning_per_tag(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        log(tmp_path, lambda w: [w.add_histogram(tag, [math.nan], step) for tag in "ab" for step in range(3)])
    assert sorted(str(w.message)[:18] for w in said) == ["add_histogram('a')", "add_histogram('b')"]


@pytest.mark.parametrize("max_bins", [1, 7, 100, 1547, 5000])
def test_fewer_default_bins_count_every_value(max_bins: int, tmp_path: Path) -> None:
    data = np.random.default_rng(3).standard_normal(5000)
    odd = np.concatenate([data, [1e25, -1e30, np.nan, np.inf]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fastlog.FastlogWarning)
        found = log(
            tmp_path,
            lambda w: (
                w.add_histogram("plain", data, max_bins=max_bins),
                w.add_histogram("summary", fastlog.summarize(data), max_bins=max_bins),
                w.add_histogram("odd", odd, max_bins=max_bins),
            ),
        )
        edges = fastlog.SummaryWriter(tmp_path, write_to_disk=False).default_bins
    expected = make_histogram_for_tensorboard(data, np.array(edges), max_bins)
    plain = found["plain"].histo
    assert (plain.bucket_limit, plain.bucket) == (expected.bucket_limit, expected.bucket)
    assert plain.num == 5000 and plain.sum == pytest.approx(data.sum())
    assert found["summary"].histo == plain
    assert sum(found["odd"].histo.bucket) == 5002  # those beyond the edges are in the end buckets
    assert found["odd"].histo.num == 5004
    assert (found["odd/nan"].simple_value, found["odd/inf"].simple_value) == (1, 1)
