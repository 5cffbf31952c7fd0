"""How far two histograms of one tensor are apart: exact, because both have the same bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fastlog.runs.run import Histograms
from fastlog.summaries.summary import EDGES

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LOG_RATIO: Final = float(np.log(1.1))
"""Width of a bin in natural logarithms: the edges are geometric with the ratio 1.1."""
_NEGATIVE = int(np.searchsorted(EDGES, 0.0))  # bins below zero; the bin of zero is the next one


@dataclass(frozen=True)
class Distances:
    """Of one tensor at each common step; an element each. Differences are those of the second from the first.

    Attributes:
        same: all counts and moments are the same, bit for bit.
        log_rms: logarithm of the ratio of the root mean squares; 0 where both are zero, NaN where one is.
        shift: difference of the means, in root mean squares of the first.
        zeros: difference of the shares of values within 1e-12 of zero.
        nonfinite: difference of the numbers of NaN and infinities.
        ks: Kolmogorov-Smirnov distance: the largest difference of the cumulated shares.
        w1: 1-Wasserstein distance of the logarithms of the magnitudes that are not zero, in bins (of 10 %).
        number: values of the first.
        spread: standard deviation of the first, in root mean squares: 0 for a constant.
    """

    same: Flags
    log_rms: Floats
    shift: Floats
    zeros: Floats
    nonfinite: Floats
    ks: Floats
    w1: Floats
    number: Floats
    spread: Floats

    @property
    def change(self) -> Floats:
        """As ``size``, by the moments alone: one value that crosses an edge of a bin changes a small tensor's
        ``ks`` by much, and its moments by rounding only."""
        parts = [np.abs(self.log_rms), np.abs(self.shift), np.sign(np.abs(self.nonfinite))]
        return np.asarray(np.nan_to_num(np.array(parts), nan=1.0, posinf=1.0).max(axis=0), float)

    @property
    def size(self) -> Floats:
        """One number for how far they are apart: about the relative change of the values. NaN counts as 1."""
        parts = [
            np.abs(self.log_rms),
            np.abs(self.shift),
            np.abs(self.zeros),
            self.ks,
            np.sign(self.nonfinite),
        ]
        return np.asarray(np.nan_to_num(np.abs(np.array(parts)), nan=1.0, posinf=1.0).max(axis=0), float)


def distances(one: Histograms, other: Histograms) -> Distances:
    """Between the histograms of two runs, step by step; both have the same steps."""
    counts = [_counts(histograms) for histograms in (one, other)]
    finite = [sum_counts(histograms) for histograms in (one, other)]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rms = [np.sqrt(h.sum_squares / n) for h, n in zip((one, other), finite, strict=True)]
        mean = [h.sum / n for h, n in zip((one, other), finite, strict=True)]
        log_rms = np.log(rms[1] / rms[0])
        log_rms[(rms[0] == 0) & (rms[1] == 0)] = 0.0
        shift = np.where(mean[0] == mean[1], 0.0, (mean[1] - mean[0]) / np.where(rms[0] > 0, rms[0], rms[1]))
        spread = np.sqrt(np.maximum(0.0, 1 - (mean[0] / rms[0]) ** 2))
    moments = ("min", "max", "num", "sum", "sum_squares")
    same = np.logical_and.reduce([_equal(getattr(one, name), getattr(other, name)) for name in moments])
    ks = w1 = zeros = np.zeros(len(one))
    if counts[0] is not None and counts[1] is not None:
        same &= (counts[0] == counts[1]).all(axis=1)
        ks, w1, zeros = _of_counts(counts[0], counts[1])
    nonfinite = (other.num - finite[1]) - (one.num - finite[0])
    return Distances(same, log_rms, shift, zeros, nonfinite, ks, w1, one.num, np.nan_to_num(spread))


def sum_counts(histograms: Histograms) -> Floats:
    """How many values of each histogram are finite: those that lie in a bucket."""
    return np.array([float(counts.sum()) for counts in histograms.counts])


def _equal(a: Floats, b: Floats) -> Flags:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)), bool)


def _counts(histograms: Histograms) -> npt.NDArray[np.int64] | None:
    return histograms.bins


def _of_counts(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    ks = np.abs(_cumulated(a) - _cumulated(b)).max(axis=1)
    folded = [_magnitudes(counts) for counts in (a, b)]
    w1 = np.abs(_cumulated(folded[0][:, 1:]) - _cumulated(folded[1][:, 1:])).sum(axis=1)
    one_is_empty = (folded[0][:, 1:].sum(axis=1) == 0) | (folded[1][:, 1:].sum(axis=1) == 0)
    shares = [of[:, 0] / np.maximum(of.sum(axis=1), 1) for of in folded]
    return ks, np.where(one_is_empty, 0.0, w1), shares[1] - shares[0]


def _cumulated(counts: npt.NDArray[np.int64]) -> Floats:
    """Shares of the values up to each bin; zeros where there are no values."""
    total = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.cumsum(counts, axis=1) / np.maximum(total, 1), float)


def _magnitudes(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Counts by magnitude, smallest first; the first bin is that of zero."""
    below, above = counts[:, :_NEGATIVE][:, ::-1], counts[:, _NEGATIVE:]
    width = max(below.shape[1], above.shape[1])
    folded = np.zeros((len(counts), width), np.int64)
    folded[:, : above.shape[1]] += above
    folded[:, : below.shape[1]] += below
    return folded
