"""From values to places in a picture, and the round values to write beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def spans_decades(finite: Values) -> bool:
    """Whether a logarithmic axis shows values best: all are positive, and they are far apart."""
    return len(finite) > 0 and bool(finite.min() > 0 and finite.max() / 50 > finite.min())


@dataclass(frozen=True)
class Axis:
    """The values from ``low`` to ``high``, drawn from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Values, start: float, end: float, logarithmic: bool | None = None) -> Axis:
        """Room for all finite values. ``logarithmic=None``: where all are positive and far apart."""
        finite = values[np.isfinite(values)]
        if logarithmic is None:
            logarithmic = spans_decades(finite)
        if logarithmic:
            finite = finite[finite > 0]
        if not len(finite):
            return cls(0.0, 1.0, start, end)
        low, high = float(finite.min()), float(finite.max())
        if logarithmic:
            low, high = (low, high) if low < high / 1.2 else (low / 1.1, high * 1.1)
        elif high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):  # a constant runs through the middle
            spare = abs(high) / 2 or 0.5
            low, high = low - spare, high + spare
        return cls(low, high, start, end, logarithmic)

    def place(self, values: Values) -> Values:
        """Where each value lies; those beyond the ends lie at the ends. NaN stays NaN."""
        with np.errstate(all="ignore"):
            if self.logarithmic:
                low = math.log(self.low)
                share = (np.log(np.maximum(values, 0)) - low) / (math.log(self.high) - low)
            else:  # halves: the difference of two large numbers may be infinite
                share = (values / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return self.start + np.clip(share, 0, 1) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values inside, at most ``most`` (at least 2)."""
        if self.logarithmic:
            powers = range(
                math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1
            )
            if len(powers) >= 2:
                return [10.0**power for power in powers[:: math.ceil(len(powers) / most)]]
        span = self.high - self.low
        if not 0 < span < math.inf:
            return [self.low]
        size = 10.0 ** math.floor(math.log10(span / most))
        step = next(size * m for m in (1, 2, 5, 10, 20) if span / (size * m) < most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]
