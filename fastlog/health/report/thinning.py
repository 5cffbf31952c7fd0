"""Many logged steps on few columns: what is drawn stays small, spikes and NaN stay visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Equal pieces of the axis of steps; ``first`` and ``last`` are the middles of the first and the last."""

    first: int
    last: int
    number: int

    @classmethod
    def over(cls, steps: Steps, most: int) -> Columns:
        """As many as there are logged steps; at most ``most``, at least two where there are two steps."""
        if not len(steps):
            return cls(0, 0, 1)
        first, last = int(steps.min()), int(steps.max())
        gaps = np.diff(np.unique(steps))
        usual = int(np.median(gaps)) if len(gaps) else 1
        return cls(first, last, min(round((last - first) / usual) + 1, max(most, 2)))

    @property
    def width(self) -> float:
        """In steps."""
        return (self.last - self.first) / (self.number - 1) if self.last > self.first else 1.0

    @property
    def span(self) -> tuple[float, float]:
        """Left end of the first one, right end of the last one."""
        return self.first - self.width / 2, self.first + (self.number - 0.5) * self.width

    def of(self, steps: Steps) -> npt.NDArray[np.int64]:
        """The column of each step."""
        return np.clip(np.rint((steps - self.first) / self.width), 0, self.number - 1).astype(np.int64)


def matrix(
    values: Values, there: npt.NDArray[np.bool_], steps: Steps, columns: Columns
) -> tuple[Values, npt.NDArray[np.bool_]]:
    """[rows, steps] as [rows, columns]: the median of what a column holds, NaN where one of it is not finite.

    A column without a logged step shows the one before.
    """
    rows = len(values)
    out, is_there = np.full((rows, columns.number), np.nan), np.zeros((rows, columns.number), bool)
    place = columns.of(steps)
    filled = np.unique(place)
    for column in filled.tolist():
        inside = place == column
        piece, known = values[:, inside], there[:, inside]
        is_there[:, column] = known.any(axis=1)
        bad = (~np.isfinite(piece) & known).any(axis=1)
        ordered = np.sort(np.where(known, piece, np.nan), axis=1)  # NaN last
        middle = np.maximum(known.sum(axis=1) - 1, 0) // 2
        out[:, column] = np.where(bad, np.nan, ordered[np.arange(rows), middle])
    held = np.maximum.accumulate(
        np.where(np.isin(np.arange(columns.number), filled), np.arange(columns.number), 0)
    )
    return out[:, held], is_there[:, held]


def line(steps: Steps, values: Values, most: int) -> tuple[Steps, Values]:
    """Of each of ``most`` / 5 pieces the first, lowest, highest, last and a value that is not finite."""
    if len(steps) <= most:
        return steps, values
    place = Columns.over(steps, most // 5).of(steps)
    kept = set()
    for column in np.unique(place).tolist():
        inside = np.flatnonzero(place == column)
        piece = values[inside]
        kept |= {int(inside[0]), int(inside[-1])}
        finite = inside[np.isfinite(piece)]
        if len(finite):
            kept |= {int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])}
        if len(finite) < len(inside):
            kept.add(int(inside[~np.isfinite(piece)][0]))
    order = np.array(sorted(kept))
    return steps[order], values[order]
