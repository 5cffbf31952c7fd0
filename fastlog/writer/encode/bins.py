"""Histograms over bins other than the default ones: NumPy's counts for any values, or fewer default bins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsBytes

import numpy as np
from tensorboardX.proto.summary_pb2 import HistogramProto

from fastlog.summaries.summary import EDGES, TensorSummary
from fastlog.writer.encode.snapshots import Snapshot, as_int, take

MAX_ESTIMATED_BINS = 65_536
_MAX_BINS = 2**24
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_ESTIMATORS = frozenset({"auto", "doane", "fd", "rice", "scott", "sqrt", "stone", "sturges"})

Array = np.ndarray[Any, Any]
Bins = int | str | Array


def checked_bins(bins: Any, max_bins: Any) -> tuple[Bins, int | None]:
    """``bins`` as ``np.histogram`` takes it, or "tensorflow", and ``max_bins``; copies edges.

    Raises:
        TypeError: neither a number of bins, nor edges, nor a name.
        ValueError: no such estimator, fewer than 1 or more than 2**24 bins, edges not one ascending row.
    """
    limit = None if max_bins is None else as_int(max_bins, "max_bins")
    if limit is not None and limit < 1:
        raise ValueError(f"max_bins must be at least 1, not {limit}")
    if isinstance(bins, str):
        if bins not in _ESTIMATORS and bins != "tensorflow":
            raise ValueError(f"bins={bins!r} is none of 'tensorflow', {', '.join(sorted(_ESTIMATORS))}")
        return bins, limit
    if bins is None:
        raise TypeError("bins must be an int, edges or a name, not None")
    array = take(bins, "bins").array()
    if array.ndim == 0:
        if array.dtype.kind not in "iu":
            raise TypeError(f"bins must be an int, edges or a name, not {bins!r:.100}")
        count = int(array)
        if not 1 <= count <= _MAX_BINS:
            raise ValueError(f"bins={count} must be from 1 to {_MAX_BINS}")
        return count, limit
    edges = array.astype(float)
    if edges.ndim != 1 or len(edges) < 2 or not np.all(edges[:-1] <= edges[1:]):
        raise ValueError("bins must be a name, a number of bins, or at least 2 ascending edges in one row")
    return edges, limit


def of_packed(packed: bytes | SupportsBytes, max_bins: int | None) -> tuple[HistogramProto, int, int]:
    """The histogram of a packed summary with the default bins, and how many values are NaN and infinite."""
    summary = TensorSummary.from_engine(bytes(packed))
    counts = summary.counts.copy()
    counts[0] += summary.underflow
    counts[-1] += summary.overflow
    counts, limits = _trim(*_merge(counts, EDGES, max_bins))
    proto = summary.to_proto()
    proto.bucket_limit[:] = limits.tolist() if summary.num_finite else []
    proto.bucket[:] = counts.tolist() if summary.num_finite else []
    return proto, summary.nan, summary.pos_inf + summary.neg_inf


def of_snapshot(
    values: Snapshot, bins: Bins, max_bins: int | None, warn: Callable[[str], None]
) -> tuple[HistogramProto, int, int]:
    """:func:`histogram` of a snapshot's array."""
    return histogram(values.array(), bins, max_bins, warn)


def histogram(
    values: Array, bins: Bins, max_bins: int | None, warn: Callable[[str], None]
) -> tuple[HistogramProto, int, int]:
    """The histogram that tensorboardX makes of the finite ``values``, and how many are NaN and infinite.

    Like tensorboardX's ``make_histogram``, but ``num`` counts all values, what a reader takes as float32
    stays within float32, and the values that break ``np.histogram`` do not: where float64 has no room for
    that many bins between the smallest and the largest value, one bin holds them all.

    Args:
        values: any shape and real dtype.
        bins: from :func:`checked_bins`, but not "tensorflow". A named estimator makes at most 65,536 bins.
        warn: told when an estimator is held back.
    """
    values = values.astype(float).reshape(-1)
    finite = values[np.isfinite(values)]
    nan = int(np.isnan(values).sum())
    with np.errstate(all="ignore"):
        counts, limits = _count(finite, bins, warn)
        counts, limits = _trim(*_merge(counts, limits, max_bins))
        proto = HistogramProto(
            min=_within_float32(finite.min()) if finite.size else 0.0,
            max=_within_float32(finite.max()) if finite.size else 0.0,
            num=values.size,
            sum=finite.sum(),
            sum_squares=finite.dot(finite),
            bucket_limit=_within_float32(limits).tolist() if finite.size else [],
            bucket=counts.tolist() if finite.size else [],
        )
    return proto, nan, values.size - finite.size - nan


def _count(values: Array, bins: Bins, warn: Callable[[str], None]) -> tuple[Array, Array]:
    if isinstance(bins, np.ndarray):
        return np.histogram(values, bins)
    # A range that overflows float64 does not in values a quarter the size, and the counts are the same.
    scale = 1.0 if values.size == 0 or np.isfinite(np.ptp(values)) else 0.25
    scaled = values * scale
    if isinstance(bins, str):
        wanted = _estimated_bins(scaled, bins)
        if wanted > MAX_ESTIMATED_BINS:
            warn(f"bins={bins!r} would make {wanted:.3g} bins; {MAX_ESTIMATED_BINS} are made")
            bins = MAX_ESTIMATED_BINS
    try:
        counts, limits = np.histogram(scaled, bins)
    except (ValueError, IndexError, OverflowError):
        low, high = scaled.min(), scaled.max()
        counts = np.array([scaled.size])
        limits = np.array(
            [low, high] if low < high else [np.nextafter(low, -np.inf), np.nextafter(high, np.inf)]
        )
    return counts, limits / scale


def _estimated_bins(values: Array, name: str) -> float:
    """How many bins the estimators that an outlier leads astray would make (see np.histogram_bin_edges)."""
    if values.size == 0 or name not in ("auto", "fd", "scott"):
        return 0.0
    if name == "scott":
        width = (24.0 * np.pi**0.5 / values.size) ** (1.0 / 3.0) * np.std(values)
    else:
        width = 2.0 * np.subtract(*np.percentile(values, [75, 25])) * values.size ** (-1.0 / 3.0)
    return float(np.ptp(values) / width) if width > 0 else 0.0


def _merge(counts: Array, limits: Array, max_bins: int | None) -> tuple[Array, Array]:
    """Adds up neighbouring bins as tensorboardX does when there are more than ``max_bins``."""
    if max_bins is None or len(counts) <= max_bins:
        return counts, limits
    step = len(counts) // max_bins
    starts = np.arange(0, len(counts), step)
    return np.add.reduceat(counts, starts), np.append(limits[starts], limits[-1])


def _trim(counts: Array, limits: Array) -> tuple[Array, Array]:
    """The occupied bins with their upper limits, after an empty bin whose limit is their lower edge."""
    occupied = np.flatnonzero(counts)
    first, last = (int(occupied[0]), int(occupied[-1])) if occupied.size else (0, len(counts) - 1)
    return np.concatenate([[0], counts[first : last + 1]]), limits[first : last + 2]


def _within_float32(value: Any) -> Any:
    return np.clip(value, -_FLOAT32_MAX, _FLOAT32_MAX)
