"""What the histograms of other loggers say of a summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastlog.summaries.packed import HEAD, Heads

Numbers = npt.NDArray[Any]


def heads_of_histograms(moments: Numbers, limits: Numbers, counts: Numbers, ends: Numbers) -> Heads:
    """Heads of histograms as ``EventFile.histograms`` gives them: zeros, and how many are finite, from their
    buckets; the rest as the moments say it.
    """
    number = len(ends)
    heads = np.zeros(number, HEAD)
    heads["min"], heads["max"] = np.inf, -np.inf
    lengths = np.diff(ends, prepend=0)
    of = np.repeat(np.arange(number), lengths)
    low, high, num, total, squares = moments.T
    lefts = np.concatenate([[0.0], limits[:-1]]) if len(limits) else limits
    begins = (ends - lengths)[lengths > 0]
    lefts[begins] = np.minimum(low[lengths > 0], limits[begins])
    full = counts > 0
    heads["num"] = num
    heads["num_finite"] = np.rint(np.bincount(of, counts, number))
    filled = np.bincount(of[full], minlength=number) > 0
    for name, column in (("min", low), ("max", high), ("sum", total), ("sum_squares", squares)):
        heads[name][filled] = column[filled]
    heads["abs_max"][filled] = np.maximum(np.abs(low), np.abs(high))[filled]
    # the narrow bucket beside 0 holds the zeros, and next to nothing else
    narrow = limits - lefts < np.maximum(1e-6 * heads["abs_max"][of], 1.1e-12)
    zeros = full & narrow & (lefts <= 0) & (limits >= 0)
    heads["zeros"] = np.rint(np.bincount(of[zeros], counts[zeros], number))
    nothing_else = filled & (low == 0) & (high == 0)
    heads["zeros"][nothing_else] = heads["num_finite"][nothing_else]
    return heads
