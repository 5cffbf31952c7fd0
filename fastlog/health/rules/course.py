"""The course of a loss: whether it has fallen, whether it falls, and what is usual for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fastlog.health.history import WEIGHTS, Floats, History
from fastlog.health.losses import find_losses

Trend = Literal["falling", "flat", "rising", "unknown"]

_FEWEST = 8
_FEWEST_COPIED = 4
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
        if not why_not and (copied := _chased_copy(history)):
            why_not = f"{copied} is a copy that is not trained, and moves: a loss against it need not fall"
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
        """Whether the last values are below the first ones, by a tenth and by more than their scatter
        explains; None: not known.
        """
        if self.why_not:
            return None
        lower = self.early() - self.late()
        if lower <= _PROGRESS * abs(self.early()):
            return False
        return (
            lower > _NOISES * _error(_scatter(self.values), _some(len(self.values)))
            or self._trend(self.values) == "falling"
        )

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
        return self._trend(values)

    def _trend(self, values: Floats) -> Trend:
        half = len(values) // 2
        one, other = values[:half], values[-half:]
        change = float(np.median(other) - np.median(one))
        scatter = _scatter(values)
        if abs(change) <= max(_NOISES * _error(scatter, half), 0.01 * abs(float(np.median(one)))):
            return "flat"
        return "falling" if change < 0 else "rising"

    @property
    def is_at_floor(self) -> bool:
        """Whether it has become next to nothing of what it was: converged."""
        if not len(self.values):
            return False
        high = max(abs(float(self.values[0])), abs(self.early()))  # what a blow-up comes down to is no floor
        return abs(self.late()) < 1e-3 * high or self.late() == 0.0


def _some(count: int) -> int:
    return min(max(3, count // 10), 20, max(count, 1))


def _scatter(values: Floats) -> float:
    """Standard deviation of values around their course, by their steps from one to the next."""
    return 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)


def _error(scatter: float, count: int) -> float:
    """Standard deviation of the difference of two medians of ``count`` values."""
    return 1.2533 * scatter * math.sqrt(2 / count)


def _chased_copy(history: History) -> str:
    """The part of the model that is a copy of another one, in no optimizer, and not known to stand still: the
    target of an agent, a teacher that is a moving average. "": there is none.
    """
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    trained: set[str] = set()
    for name, parameter in history.parameters.items():
        top, _, rest = name.partition(".")
        parts.setdefault(top, {})[rest] = parameter.shape
        if parameter.group is not None and parameter.trainable:
            trained.add(top)
    if not trained or not history.groups:
        return ""
    for top, shapes in parts.items():
        alike = any(parts[other] == shapes for other in trained)
        if top not in trained and alike and len(shapes) >= _FEWEST_COPIED and not _stands_still(history, top):
            return top
    return ""


def _stands_still(history: History, top: str) -> bool:
    weights = history.kinds.get(WEIGHTS)
    rows = [i for i, name in enumerate(weights.names) if name.startswith(f"{top}.")] if weights else []
    if weights is None or not rows:
        return False
    heads = weights.heads[rows]
    return bool((heads[:, 1:] == heads[:, :-1]).all())
