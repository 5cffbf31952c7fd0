"""What the course of the loss says, where no cause was found in the model."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fastlog.health.findings import Finding
from fastlog.health.history import Floats
from fastlog.health.losses import find_losses
from fastlog.health.rules.base import Rule, Run, both, chart_of, needs_inventory, nothing

_SPIKE, _SPIKE_BOTH, _FACTOR = 8.0, 6.0, 1.2
_BACK = 20
_WORSE, _IN_A_ROW = 1.3, 20
_LOST = 0.5
_FLAT_OBSERVATIONS, _FLAT_VALUES = 50, 100
_UP, _EVALUATIONS = 1.03, 3


def _needs_loss(run: Run) -> str:
    if run.loss.why_not:
        return run.loss.why_not
    return "" if (run.loss.values > 0).all() else "the loss is not positive"


# ---- loss-spike


def _robust_z(values: Floats, window: int = 50) -> Floats:
    """How far each value is from the median of those before it, in robust deviations; NaN for the first."""
    z = np.full(len(values), np.nan)
    for at in range(20, len(values)):
        before = values[max(0, at - window) : at]
        median = float(np.median(before))
        spread = max(1.4826 * float(np.median(np.abs(before - median))), 0.05)
        z[at] = (values[at] - median) / spread
    return z


def _loss_spike(run: Run) -> Iterator[Finding]:
    steps, values = run.loss.steps, run.loss.values
    log = np.log(np.maximum(values, 1e-12))
    z = _robust_z(log)
    norm = np.log(np.where(run.gradient_norm > 0, run.gradient_norm, np.nan))
    norm_z = _robust_z(norm[np.isfinite(norm)])
    norm_steps = run.steps[np.isfinite(norm)]
    spikes = []
    for at in np.flatnonzero(z > _SPIKE_BOTH):
        usual = float(np.median(values[max(0, at - 50) : at]))
        near = norm_z[
            (norm_steps >= steps[max(0, at - 1)]) & (norm_steps <= steps[min(at + 1, len(steps) - 1)])
        ]
        if values[at] >= _FACTOR * usual and (z[at] > _SPIKE or (near > _SPIKE_BOTH).any()):
            spikes.append((int(at), usual))
    if not spikes or run.loss.is_at_floor:
        return
    first, usual = spikes[0]
    last = spikes[-1][0]
    after = values[last + 1 :]
    scatter = float(np.std(log[max(0, first - 50) : first]))
    back = np.flatnonzero(after <= usual * math.exp(max(2 * scatter, 0.1)))
    returned = len(back) > 0 and back[0] < _BACK
    waiting = len(after) < _BACK
    improving = run.loss.trend(int(steps[last])) == "falling"  # other data, perhaps, and it learns
    place = run.at(int(steps[first]))
    yield run.finding(
        "loss-spike",
        "info" if returned or waiting or improving else "warning",
        f"the loss jumps to {values[first] / usual:.1f} times its usual value at step {int(steps[first])}"
        + (f", and {len(spikes) - 1} more times" if len(spikes) > 1 else "")
        + ("" if returned or waiting else " and does not come back"),
        [],
        place,
        run.at(int(steps[last])),
        evidence={
            "loss": float(values[first]),
            "usual": usual,
            "robust z": float(z[first]),
            "jumps": len(spikes),
        },
        cause="An unusual batch, a learning rate at the edge of what is stable, or other data from then on.",
        advice="Look at the batch of that step. Clip gradients, or lower the learning rate, if it comes "
        "again.",
        judged_by="loss-spike: logarithm of the loss over 8 robust deviations above the median of 50 "
        "values and 1.2 times "
        "it, or 6 in loss and gradient norm; warning where it is not back after 20 values and does not "
        "fall again",
        chart=chart_of("loss", steps, values, None, logarithmic=True),
        share=1.0,
    )


# ---- loss-diverging


def _smooth(values: Floats, width: int = 7) -> Floats:
    """Median of the last ``width`` values."""
    return np.array([np.median(values[max(0, at - width + 1) : at + 1]) for at in range(len(values))])


def _loss_diverging(run: Run) -> Iterator[Finding]:
    steps, values = run.loss.steps, run.loss.values
    if len(values) < 2 * _IN_A_ROW or run.loss.is_at_floor:
        return
    smooth = _smooth(values)
    best = np.minimum.accumulate(smooth)
    worse = smooth > _WORSE * best
    if not worse[-_IN_A_ROW:].all():
        return
    first = int(np.flatnonzero(~worse)[-1]) + 1 if not worse.all() else 0
    start, low, now = run.loss.early(), float(best[-1]), float(np.median(smooth[-_IN_A_ROW:]))
    lost = (now - low) / max(start - low, 1e-12)
    if lost < _LOST or run.loss.trend(int(steps[max(first, len(steps) - 2 * _IN_A_ROW)])) == "falling":
        return
    rise = np.diff(np.log(smooth[max(0, first - _IN_A_ROW) :]))
    total = math.log(now / low)
    if now < 1.1 * start and float(rise.max()) > 0.6 * total:
        return  # at once: other data, rather
    at = run.at(int(steps[first]))
    yield run.finding(
        "loss-diverging",
        "error",
        f"the loss diverges: {now:.3g}, after it was {low:.3g}",
        [],
        at,
        evidence={
            "loss now": now,
            "best": low,
            "at the start": start,
            "values in a row": int(worse[first:].sum()),
        },
        cause="The learning rate is too high for where the training is now, or something breaks as it "
        "goes on: data, "
        "labels, precision.",
        advice="Go back to a checkpoint before this step, and lower the learning rate or clip gradients: "
        "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`.",
        judged_by="loss-diverging: median of 7 values over 1.3 times its best in 20 in a row, half of the "
        "progress lost, "
        "not falling again, and not in a single jump",
        chart=chart_of("loss", steps, values, _WORSE * low, logarithmic=True),
        share=1.0,
    )


# ---- not-learning


def _not_learning(run: Run) -> Iterator[Finding]:
    classes = run.classes
    since = int(run.steps[run.warmed_up]) if run.count else 0
    values = run.loss.values[run.loss.steps >= since]
    observed = run.count - run.warmed_up
    if classes is None or observed < _FLAT_OBSERVATIONS or len(values) < _FLAT_VALUES:
        return
    chance = math.log(classes)
    first, late = np.array_split(values, 2)  # from above chance down to chance nothing is learnt
    before, after = np.array_split(late, 2)
    level, change = float(np.mean(late)), float(np.mean(after) - np.mean(before))
    error = float(np.std(late)) * math.sqrt(2 / len(after))
    at_chance = -0.01 * chance < level - chance < 0.03 * chance and np.mean(first) > 0.99 * chance
    if not at_chance or change < -max(2 * error, 0.0) or error > 0.02 * chance or change < -0.01 * chance:
        return
    yield run.finding(
        "not-learning",
        "warning",
        f"the loss stays at the level of chance: {level:.3f}, and the logarithm of {classes} classes is "
        f"{chance:.3f}",
        [],
        run.warmed_up,
        evidence={"loss": level, "chance": chance, "change at last": change, "values": len(values)},
        cause="Labels that do not belong to the inputs (shuffled apart?), inputs without information (all "
        "alike, "
        "wrongly normalised), or a learning rate that is far off.",
        advice="Try to learn one batch by heart: if that works look at the data, if not at the model and "
        "the rate.",
        judged_by="not-learning: mean of the later half of the losses 1 % below to 3 % above the logarithm "
        "of the number of classes (rows of the last matrix), its halves differ by under 1 %, 100 values and "
        "50 observations after the warm-up",
        chart=chart_of("loss", run.loss.steps, run.loss.values, chance),
        share=1.0,
    )


# ---- overfitting


def _overfitting(run: Run) -> Iterator[Finding]:
    found = find_losses(run.history.scalars, run.history.loss_tag)
    if found.validation is None:
        return
    steps, values = run.history.scalars[found.validation]
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if len(values) < _EVALUATIONS + 2 or values.min() <= 0:
        return
    best = int(np.argmin(values))
    after = values[best + 1 :]
    if len(after) < _EVALUATIONS or not (after[-_EVALUATIONS:] >= _UP * values[best]).all():
        return
    if run.loss.trend(int(steps[best])) not in ("falling",):
        return
    at = run.at(int(steps[best]))
    yield run.finding(
        "overfitting",
        "info",
        f"{found.validation} was best at step {int(steps[best])} and is "
        f"{after[-1] / values[best] - 1:.0%} above that, "
        f"while {found.training} falls",
        [],
        at,
        evidence={"best": float(values[best]), "now": float(after[-1]), "evaluations since": len(after)},
        cause="The model learns the training data by heart from there on.",
        advice=f"Keep the checkpoint of step {int(steps[best])}; more data, regularisation or a smaller "
        f"model.",
        judged_by="overfitting: validation loss 3 % over its best in the last 3 evaluations, training "
        "loss falling",
        chart=chart_of(found.validation, _of(steps), values, _UP * float(values[best])),
        share=1.0,
    )


def _of(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return steps


def _needs_validation(run: Run) -> str:
    found = find_losses(run.history.scalars, run.history.loss_tag)
    return "" if found.validation is not None else "no validation loss is logged"


OVERFITTING = Rule(
    "overfitting",
    _overfitting,
    both(nothing, _needs_validation),
    "validation loss 3 % over its best in the last 3 evaluations while the training loss falls",
    "information only",
)

LOSS_DIVERGING = Rule(
    "loss-diverging",
    _loss_diverging,
    both(nothing, _needs_loss),
    "median of 7 values over 1.3 times its best, 20 in a row, half of the progress lost, not falling again",
    "planted: labels that rot, in an MLP; quiet where data become harder at once",
)

LOSS_SPIKE = Rule(
    "loss-spike",
    _loss_spike,
    both(nothing, _needs_loss),
    "robust z over 8 in the logarithm and 1.2 times; or 6 in loss and gradient norm",
    "in a simulation of heavy-tailed losses z > 8 alone fires in most runs: it is information where "
    "it comes back",
)

NOT_LEARNING = Rule(
    "not-learning",
    _not_learning,
    both(nothing, _needs_loss, needs_inventory),
    "loss 1 % below to 3 % above the logarithm of the number of classes, flat, 100 values, 50 observations",
    "planted: 4, 10 and 24 classes, with labels shuffled and images all alike",
)
