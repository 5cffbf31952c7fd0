"""What summaries tell in single numbers, of many summaries at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from fastlog.summaries.packed import Heads

Stat = Callable[[Heads], npt.NDArray[np.float64]]

STATS: Final[dict[str, Stat]] = {
    "norm": lambda h: np.sqrt(h["sum_squares"]),
    "rms": lambda h: np.sqrt(h["sum_squares"] / h["num_finite"]),
    "mean": lambda h: h["sum"] / h["num_finite"],
    "std": lambda h: np.sqrt(
        np.maximum(h["sum_squares"] / h["num_finite"] - (h["sum"] / h["num_finite"]) ** 2, 0)
    ),
    "min": lambda h: np.where(h["num_finite"] > 0, h["min"], np.nan),
    "max": lambda h: np.where(h["num_finite"] > 0, h["max"], np.nan),
    "zeros": lambda h: h["zeros"] / h["num"],
    "nan": lambda h: h["nan"].astype(float),
    "inf": lambda h: (h["pos_inf"] + h["neg_inf"]).astype(float),
    "below_bf16": lambda h: h["below_fp32"] / h["num"],
    "below_fp16": lambda h: h["below_fp16"] / h["num"],
    "below_fp8": lambda h: h["below_e4m3"] / h["num"],
}
"""Scalars by name. All but the counts and shares are over the finite values; NaN where there are none.
``nan`` and ``inf`` are counts; ``zeros`` and ``below_*`` are shares of all values (``below_*``: nonzero
magnitudes under the smallest normal number of bf16, of fp16, of e4m3)."""

FURTHER: Final[dict[str, Stat]] = {
    "abs_max": lambda h: h["abs_max"],
    "nonfinite": lambda h: (h["num"] - h["num_finite"]).astype(float),
}
"""Scalars that `fastlog.watch` does not log."""
