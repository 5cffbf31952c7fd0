"""TensorSummary: what fastlog keeps of a tensor. Summaries of parts add up to the summary of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tensorboardX.proto.summary_pb2 import HistogramProto

from fastlog.common.cards import bars, card
from fastlog.common.native import core
from fastlog.summaries.packed import COUNTERS, HEAD, MOMENTS, merge_packed

EDGES = np.frombuffer(core.EDGES)
"""tensorboardX's 1549 default histogram edges, float64, ascending, read-only."""

SUMMARY_DTYPE = np.dtype([("counts", "<i8", (len(EDGES) - 1,)), *HEAD.descr])
"""The record of ``csrc/core/summary.h``, field for field."""

# Neighbouring edges differ by this ratio; 2 / (1 + ratio) places the estimate of a quantile so that its
# relative error is the same at both ends of a bin: (ratio - 1) / (ratio + 1) = 4.8 % (DDSketch, Masson et al.
# 2019, eq. 4).
_RATIO = 1.1
_BARS = 48  # of the picture in a notebook


class TensorSummary:
    """Histogram, counters, extremes and sums of one tensor. Immutable.

    ``counts`` (int64, 1548) over ``edges`` (float64, 1549) equal
    ``np.histogram(values.astype(float64), edges)``. The other counters: ``underflow`` and ``overflow``
    (finite values outside the edges), ``nan``, ``pos_inf``, ``neg_inf``; overlapping the bins ``zeros``
    (exact), ``below_fp32``, ``below_fp16``, ``below_e4m3`` (nonzero magnitudes under 2**-126, 2**-14, 2**-6,
    the smallest normal numbers of fp32/bf16, fp16/e5m2, e4m3) and ``above_e4m3``, ``above_e5m2``,
    ``above_fp16`` (finite magnitudes over 448, 57344, 65504). ``num`` counts all values, ``num_finite`` the
    finite ones; ``min``, ``max``, ``abs_max``, ``sum`` and ``sum_squares`` are over the finite values
    (extremes are NaN if there is none).
    """

    __module__ = "fastlog"

    __slots__ = ("_packed", "_unpacked")

    counts: npt.NDArray[np.int64]
    underflow: int
    overflow: int
    nan: int
    pos_inf: int
    neg_inf: int
    zeros: int
    below_fp32: int
    below_fp16: int
    below_e4m3: int
    above_e4m3: int
    above_e5m2: int
    above_fp16: int
    num: int
    num_finite: int
    min: float
    max: float
    abs_max: float
    sum: float
    sum_squares: float

    def __init__(self, record: npt.NDArray[np.void]) -> None:
        """Wraps a scalar array of `SUMMARY_DTYPE`; `fastlog.summarize` makes summaries of tensors."""
        if record.dtype != SUMMARY_DTYPE or record.shape != ():
            kind = f"{record.dtype} {record.shape}"
            raise TypeError(f"record: expected a scalar array of SUMMARY_DTYPE, got {kind}")
        self._packed: bytes | None = None
        self._unpacked: npt.NDArray[np.void] | None = record

    @classmethod
    def from_packed(cls, packed: bytes) -> TensorSummary:
        """The summary that ``to_packed`` wrote. Raises ValueError for other bytes."""
        return cls(np.frombuffer(core.unpack(packed), SUMMARY_DTYPE).reshape(()))

    @classmethod
    def from_engine(cls, packed: bytes) -> TensorSummary:
        """As ``from_packed``, of bytes that are known to be right: unpacked when first looked at."""
        summary = cls.__new__(cls)
        summary._packed = packed
        summary._unpacked = None
        return summary

    def to_packed(self) -> bytes:
        """A compact form, usually under 2 KB, for queues and between the processes of one job."""
        if self._packed is None:
            self._packed = core.pack(self._record.tobytes())
        return self._packed

    @property
    def _record(self) -> npt.NDArray[np.void]:
        if self._unpacked is None:
            assert self._packed is not None
            self._unpacked = np.frombuffer(core.unpack(self._packed), SUMMARY_DTYPE).reshape(())
        return self._unpacked

    def __getattr__(self, name: str) -> Any:
        if name in COUNTERS:
            return int(self._record[name])
        if name in ("min", "max", "abs_max"):
            return float(self._record[name]) if self.num_finite else float("nan")
        if name in MOMENTS:
            return float(self._record[name])
        if name == "counts":
            counts = self._record["counts"].view()
            counts.flags.writeable = False
            return counts
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The 1549 edges of ``counts``."""
        return EDGES

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN if there is none."""
        return self.sum / self.num_finite if self.num_finite else float("nan")

    @property
    def std(self) -> float:
        """Population standard deviation of the finite values, sqrt(E[x²] - E[x]²); NaN if there is none.

        Infinite where ``sum_squares`` is.
        """
        if not self.num_finite:
            return float("nan")
        if self.sum_squares == float("inf"):
            return self.sum_squares
        return float(np.sqrt(max(0.0, self.sum_squares / self.num_finite - self.mean * self.mean)))

    @property
    def l2_norm(self) -> float:
        """Euclidean norm of the finite values."""
        return float(np.sqrt(self.sum_squares))

    @property
    def rms(self) -> float:
        """Root mean square of the finite values; NaN if there is none."""
        return float(np.sqrt(self.sum_squares / self.num_finite)) if self.num_finite else float("nan")

    def quantile(self, q: float) -> float:
        """The value at rank ``q * (num_finite - 1)``, NaN if there is no finite value.

        0 and 1 give the exact ``min`` and ``max``. Else, where the true quantile x has 1e-12 <= abs(x) <= the
        last edge, the relative error is at most 4.8 %; smaller magnitudes give 0, and so does -1e-12 itself,
        whose bin reaches up to 0.

        Raises:
            ValueError: ``q`` is not in [0, 1].
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q must be in [0, 1], got {q}")
        if not self.num_finite:
            return float("nan")
        if q in (0.0, 1.0):
            return self.max if q else self.min
        rank = q * (self.num_finite - 1)
        below = self.underflow + np.cumsum(self.counts)
        if rank < self.underflow:
            return self.min
        i = int(np.searchsorted(below, rank, side="right"))
        if i == len(self.counts):
            return self.max
        low, high = float(EDGES[i]), float(EDGES[i + 1])
        if low == 0.0 or high == 0.0:
            return 0.0
        outer = high if high > 0 else low
        return min(max(outer * 2 / (1 + _RATIO), self.min), self.max)

    def merge(self, other: TensorSummary) -> TensorSummary:
        """The summary of both parts together: exact but for one rounding of each sum.

        ``sum`` is NaN where those of the parts are infinite with opposite signs.
        """
        return TensorSummary.from_engine(merge_packed([self.to_packed(), other.to_packed()]))

    def __add__(self, other: object) -> TensorSummary:
        return self.merge(other) if isinstance(other, TensorSummary) else NotImplemented

    def __radd__(self, other: object) -> TensorSummary:
        return self if other == 0 else NotImplemented  # so that sum(summaries) works

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorSummary) and self.to_packed() == other.to_packed()

    def __hash__(self) -> int:
        return hash(self.to_packed())

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorSummary.from_packed, (self.to_packed(),)

    def __repr__(self) -> str:
        return (
            f"TensorSummary(num={self.num}, min={self.min:g}, max={self.max:g}, mean={self.mean:g}, "
            f"std={self.std:g}, zeros={self.zeros}, nan={self.nan}, inf={self.pos_inf + self.neg_inf})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the numbers, and the distribution between the extremes."""
        rows = {
            "values": f"{self.num:,}",
            "min … max": f"{self.min:g} … {self.max:g}",
            "mean ± std": f"{self.mean:g} ± {self.std:g}",
            "norm": f"{self.l2_norm:g}",
            "zeros": f"{self.zeros / max(self.num, 1):.1%}",
            "NaN": self.nan or None,
            "Inf": self.pos_inf + self.neg_inf or None,
        }
        below = np.concatenate([[0], np.cumsum(self.counts)])
        limits = np.linspace(self.min, self.max, _BARS + 1) if self.min < self.max else EDGES[[0, -1]]
        heights = np.diff(np.interp(limits, EDGES, below))
        return card("TensorSummary", rows, bars(heights.tolist()) if heights.any() else "")

    def to_proto(self, compact: bool = True) -> HistogramProto:
        """TensorBoard's histogram, as the event file holds it.

        ``num`` is all values; values beyond the edges stand in the two end buckets; ``min`` and ``max`` are
        clamped to float32's range, which is what TensorBoard reads. Without a finite value: no buckets, and
        zeros.

        Args:
            compact: merge runs of empty buckets, as TensorFlow's own writer does; False: as tensorboardX.
        """
        return HistogramProto.FromString(core.encode_histogram(self.to_packed(), compact))
