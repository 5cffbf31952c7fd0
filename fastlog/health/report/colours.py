"""The colours of heatmaps: a scale that the colour-blind can read, and colours for zero, NaN and nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastlog.health.report.numbers import number
from fastlog.health.report.png import Rgb

Indexes = npt.NDArray[np.uint8]

# From low to high; lightness rises evenly, so that the order shows without colours, too.
_ANCHORS = np.array(
    [
        (24, 33, 99),
        (31, 66, 143),
        (25, 106, 171),
        (31, 145, 183),
        (80, 181, 179),
        (146, 210, 176),
        (205, 233, 178),
        (244, 247, 196),
    ]
)
LEVELS = 250
ZERO, NAN, NOTHING = LEVELS, LEVELS + 1, LEVELS + 2  # numbers of colours, after those of the scale
ZERO_COLOUR: Rgb = (0, 0, 0)
NAN_COLOUR: Rgb = (226, 80, 10)


def _scale() -> list[Rgb]:
    at = np.linspace(0, len(_ANCHORS) - 1, LEVELS)
    parts = [np.interp(at, np.arange(len(_ANCHORS)), _ANCHORS[:, i]).round() for i in range(3)]
    return [(int(r), int(g), int(b)) for r, g, b in zip(*parts, strict=True)]


PALETTE: tuple[Rgb, ...] = (*_scale(), ZERO_COLOUR, NAN_COLOUR, (255, 255, 255))
"""What `Scale.colours` counts in; the last one, ``NOTHING``, is meant to be transparent."""


@dataclass(frozen=True)
class Scale:
    """From values to numbers of colours: ``low`` is the first, ``high`` the last, both are limits."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], logarithmic: bool) -> Scale:
        """The scale that shows the values best: one per cent at each end is cut; at most six decades."""
        finite = values[np.isfinite(values)]
        if not logarithmic:
            return cls(0.0, max(1.0, float(finite.max(initial=0.0))), False)
        positive = finite[finite > 0]
        if not len(positive):
            return cls(0.1, 1.0, True)
        low, high = np.percentile(np.log10(positive), (1, 99))
        low, high = max(float(low), float(high) - 6), float(high)
        if high - low < 1:  # one decade at least: noise is not to look like change
            low, high = (low + high) / 2 - 0.5, (low + high) / 2 + 0.5
        return cls(10**low, 10**high, True)

    def colours(self, values: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> Indexes:
        """A number of a colour for each value; ``NOTHING`` where it is not ``there``."""
        with np.errstate(all="ignore"):
            if self.logarithmic:
                place = np.log10(values / self.low) / np.log10(self.high / self.low)
            else:
                place = (values - self.low) / (self.high - self.low)
            level = np.clip(np.nan_to_num(place, posinf=1.0, neginf=0.0), 0, 1) * (LEVELS - 1)
        colours: Indexes = level.round().astype(np.uint8)
        colours[values == 0] = ZERO
        colours[~np.isfinite(values)] = NAN
        colours[~there] = NOTHING
        return colours

    def ends(self) -> tuple[str, str]:
        """The limits in words."""
        return number(self.low), number(self.high)
