"""The course of a loss: whether it has fallen, whether it falls, and what is usual for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastlog.health.history import Floats, History
from fastlog.health.losses import find_losses

Trend = Literal["falling", "flat", "rising", "unknown"]

_FEWEST = 8
_PROGRESS = 0.1  # of the early median: so much less is progress
_NOISES = 3.0  # a change counts where it is so many times what chance gives


@dataclass(frozen=True)
class Course:
    """The loss of a run.

    Attributes:
        tag: of the scalar; None: not known.
        steps, values: those with finite values.
        why_not: why nothing can be said of its course; "": it can.
    """

    tag: str | None
    steps: npt.NDArray[np.int64]
    values: Floats
    why_not: str

    @classmethod
    def of(cls, history: History) -> Course:
        """Finds the loss of a history."""
        found = find_losses(history.scalars, history.loss_tag)
        steps, values = history.scalars.get(found.training or "", (np.empty(0, np.int64), np.empty(0)))
        finite = np.isfinite(values)
        steps, values = steps[finite], values[finite]
        why_not = found.why_not
        if not why_not and len(values) < _FEWEST:
            why_not = f"only {len(values)} values of the loss are logged"
        if not why_not and (values < 0).any() and (values > 0).any():
            why_not = "the loss takes both signs"
        return cls(found.training, steps, values, why_not)

    @property
    def is_signed(self) -> bool:
        """Whether it takes both signs, as losses of agents do."""
        return bool(len(self.values) and (self.values < 0).any() and (self.values > 0).any())

    def early(self, upto: int | None = None) -> float:
        """Median of the first values."""
        values = self.values if upto is None else self.values[self.steps <= upto]
        return float(np.median(values[: _some(len(values))])) if len(values) else float("nan")

    def late(self) -> float:
        """Median of the last values."""
        return float(np.median(self.values[-_some(len(self.values)) :])) if len(self.values) else float("nan")

    @property
    def has_fallen(self) -> bool | None:
        """Whether the last values are clearly below the first ones; None: not known."""
        if self.why_not:
            return None
        return self.late() < self.early() - _PROGRESS * abs(self.early())

    def falls(self, since: int) -> bool | None:
        """Whether it has been falling from a step on; None: not known."""
        trend = self.trend(since)
        return None if trend == "unknown" else trend == "falling"

    def trend(self, since: int) -> Trend:
        """Where it goes from a step on: by halves, beyond what the scatter of the values explains."""
        if self.why_not:
            return "unknown"
        values = self.values[self.steps >= since]
        if len(values) < _FEWEST:
            return "unknown"
        half = len(values) // 2
        one, other = values[:half], values[-half:]
        scatter = 1.4826 * float(np.median(np.abs(np.diff(values)))) / np.sqrt(2)
        error = 1.2533 * scatter * np.sqrt(2 / half)
        change = float(np.median(other) - np.median(one))
        if abs(change) <= max(_NOISES * error, 0.01 * abs(float(np.median(one)))):
            return "flat"
        return "falling" if change < 0 else "rising"

    @property
    def is_at_floor(self) -> bool:
        """Whether it has become next to nothing of what it was: converged."""
        if not len(self.values):
            return False
        highest = float(np.max(np.abs(self.values[: max(_FEWEST, len(self.values) // 2)])))
        return abs(self.late()) < 1e-3 * highest or self.late() == 0.0


def _some(count: int) -> int:
    return min(max(3, count // 10), 20, max(count, 1))
