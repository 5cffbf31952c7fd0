"""The curves of training: loss, learning rate, norm of all gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastlog.health.history import GRADIENTS, Floats, History
from fastlog.health.report.axes import spans_decades
from fastlog.health.report.drawing import Line
from fastlog.health.report.thinning import Steps

_MOST_GROUPS = 4
_LR_TAGS = ("lr", "learning_rate", "learning rate")


@dataclass(frozen=True)
class Curve:
    """One panel: the first line is the one that its last value is written of."""

    title: str
    note: str
    lines: tuple[Line, ...]
    logarithmic: bool


def training_curves(history: History) -> list[Curve]:
    """Those that the history knows."""
    return [curve for curve in (_loss(history), _learning_rate(history), _gradient_norm(history)) if curve]


def _loss(history: History) -> Curve | None:
    if history.loss is None or history.loss_tag is None or not len(history.loss[0]):
        return None
    note, lines = history.loss_tag, [Line(*history.loss)]
    validation = history.validation_tag
    if validation is not None and validation in history.scalars:
        note += f", dashed: {validation}"
        lines.append(Line(*history.scalars[validation], kind="line second"))
    return Curve("loss", note, tuple(lines), _spans_decades(lines))


def _learning_rate(history: History) -> Curve | None:
    if history.lr.size:
        different = list({row.tobytes(): row for row in history.lr}.values())[:_MOST_GROUPS]
        note = f"{len(history.lr)} groups" if len(history.lr) > 1 else ""
        kinds = ["line", *["line second"] * _MOST_GROUPS]
        lines = [Line(history.steps, row, kind) for row, kind in zip(different, kinds, strict=False)]
        return Curve("learning rate", note, tuple(lines), False)
    for tag, (steps, values) in history.scalars.items():
        if tag.lower().replace("-", "_").rpartition("/")[2] in _LR_TAGS and len(steps):
            return Curve("learning rate", tag, (Line(steps, values),), False)
    return None


def _gradient_norm(history: History) -> Curve | None:
    gradients = history.kinds.get(GRADIENTS)
    if gradients is None or not len(history.steps) or not gradients.present.any():
        return None
    steps, norm = gradient_norm(history)
    return Curve("gradient norm", "of all gradients", (Line(steps, norm),), True)


def gradient_norm(history: History) -> tuple[Steps, Floats]:
    """Norm of all gradients together, where there are any; NaN where one of them has NaN or Inf."""
    gradients = history.kinds[GRADIENTS]
    there = gradients.present.any(axis=0)
    norm = np.sqrt(gradients.total("sum_squares"))
    norm[gradients.total("num_finite") < gradients.total("num")] = np.nan
    return history.steps[there], norm[there]


def _spans_decades(lines: list[Line]) -> bool:
    values = np.concatenate([line.values for line in lines])
    return spans_decades(values[np.isfinite(values)])
