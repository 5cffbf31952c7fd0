"""Steps that are too large or too small, and weights that decay to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastlog.health.findings import Finding, Severity
from fastlog.health.history import WEIGHTS, Bools, Floats
from fastlog.health.rules.base import (
    Rule,
    Run,
    both,
    first_run,
    middle,
    needs_inventory,
    needs_kinds,
    needs_loss,
    needs_lr,
    needs_updates,
    subject,
    trailing,
    typical,
)

_TOO_HIGH, _FAR_TOO_HIGH, _TOO_LOW = 0.1, 0.3, 1e-6


def _median_ratio(run: Run) -> Floats:
    ratios = run.update_ratios
    assert ratios is not None
    return typical(ratios.values)


def _scheduled(run: Run) -> str:
    return "the learning rate" if np.isfinite(run.lr).any() else "the step size"


# ---- lr-too-high


def _lr_too_high(run: Run) -> Iterator[Finding]:
    ratio = _median_ratio(run)
    known = np.isfinite(ratio)
    known[: min(1, run.count)] = False  # what begins at zero moves by more than itself
    first = first_run(ratio > _TOO_HIGH, known, 5)
    at_once = first_run(ratio > _FAR_TOO_HIGH, np.isfinite(ratio), 1)
    harm = _harm(run, first) if first >= 0 else None
    if harm is None and at_once >= 0 and (harm := _harm(run, at_once)) is not None:
        first = at_once
        harm = harm if harm.rose else None  # one step alone may be meant: it has to have done damage
    if harm is None:
        return
    places = np.flatnonzero(known & (ratio > _TOO_HIGH) & (np.arange(run.count) >= first))[:5]
    high = float(np.median(ratio[places])) if len(places) == 5 else float(ratio[first])
    severity: Severity = "error" if high > _FAR_TOO_HIGH else "warning"
    yield run.finding(
        "lr-too-high",
        severity,
        f"{_scheduled(run)} is too high: a step changes the weights by {high:.0%}, and the loss {harm.what}",
        [],
        first,
        evidence={
            "update/weight (median over matrices)": high,
            "usual": "0.0001 to 0.01",
            "learning rate": float(run.lr[first]),
            "loss at first": harm.early,
            "highest loss since": harm.highest,
            "loss now": harm.now,
        },
        cause="The learning rate is too high for this optimizer and model, there is no warm-up, or the "
        "inputs are not normalised.",
        advice=f"Lower it by a factor of {max(10, round(high / 0.005, -1)):.0f}, or warm it up: "
        "`torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)`.",
        judged_by="lr-too-high: RMS of update over RMS of weight, median over matrices, over 0.1 (error over "
        "0.3) in 5 of 5 observations, and the loss not 10 % below its first value: it has risen by half, or "
        "does not fall; or over 0.3 in one, and the loss rose by half; or the loss doubled, and came down to "
        "the level of chance; or it rose while the weights grew 3 times in ten observations, and is not "
        "half of its first value",
        chart=run.chart("update / weight", ratio, _TOO_HIGH, logarithmic=True),
        share=1.0,
    )


@dataclass(frozen=True)
class _Harm:
    """What large steps did to the loss."""

    early: float
    highest: float
    now: float
    rose: bool

    @property
    def what(self) -> str:
        if self.now < 0.9 * self.early:
            return f"rose to {self.highest / self.early:.1f} times its first value before it fell"
        return "does not fall" if not self.rose else "has risen and does not come down again"


def _harm(run: Run, first: int) -> _Harm | None:
    """None where the loss has stood it, or it is too early to tell."""
    after = run.loss.values[run.loss.steps >= run.steps[min(first + 10, run.count - 1)]]
    if run.count - first < 10 or len(after) < 3:
        return None
    early, now = float(run.loss.values[0]), float(np.median(after[-10:]))
    highest = float(run.loss.values[run.loss.steps >= run.steps[first]].max())
    harm = _Harm(early, highest, now, highest > 1.5 * early)
    if now >= 0.9 * early:
        return harm if harm.rose or run.loss.falls(int(run.steps[first])) is False else None
    if highest > 2 * early and _is_at_chance(run, now):
        return harm
    return harm if now > 0.5 * early and _are_overwritten(run, first) else None


def _is_at_chance(run: Run, loss: float) -> bool:
    """Whether nothing is known of the classes any more. The first values say little where they are far above
    that, as for inputs that are not normalised.
    """
    classes = run.classes
    return classes is not None and abs(loss / np.log(classes) - 1) < 0.03


def _are_overwritten(run: Run, first: int) -> bool:
    """Whether the matrices are three times as large ten observations later, in the median, and the loss was
    higher in between: what they were is gone.
    """
    weights = run.kind(WEIGHTS)
    assert weights is not None
    rms = typical(weights.stat("rms")[[weights.index[n] for n in run.matrices if n in weights.index]])
    later = first + 10
    at_first = float(rms[0]) * float(np.sqrt(max(0.0, 1 - _median_ratio(run)[0] ** 2)))  # before its step
    before = float(rms[first - 1]) if first > 1 else at_first
    steps, values = run.loss.steps, run.loss.values
    usual = values[steps < run.steps[first]][-10:] if first > 1 else values[:1]
    between = values[(steps > run.steps[first]) & (steps <= run.steps[later - 1])]
    if not len(usual) or not len(between):
        return False
    rose = float(np.median(between)) > 1.05 * float(np.median(usual))
    return rose and bool(rms[later - 1] > 3 * before > 0)


# ---- lr-too-low


def _lr_too_low(run: Run) -> Iterator[Finding]:
    ratio = _median_ratio(run)
    lr = run.lr
    known: Bools = np.all([np.isfinite(ratio), lr >= 0.5 * np.nanmax(lr), lr > 0], axis=0)
    known[: run.effective] = False
    in_a_row, first = trailing((ratio < _TOO_LOW) & (ratio > 0), known)
    if in_a_row < 10 or run.loss.is_at_floor:
        return
    resumed = len(run.history.starts) > 1 or bool((run.history.optimizer_steps[:1] > 2).any())
    if not run.is_adaptive() and (resumed or _gradient_fell(run)):
        return  # small steps because gradients are small: it has converged
    if run.loss.has_fallen is not False or run.loss.trend(int(run.steps[first])) != "flat":
        return
    now = middle(ratio[first:])
    yield run.finding(
        "lr-too-low",
        "warning",
        f"{_scheduled(run)} is too low: a step changes the weights by {now:.1e} of themselves, and "
        f"the loss stays "
        "where it is",
        [],
        first,
        evidence={
            "update/weight (median over matrices)": now,
            "usual": "0.0001 to 0.01",
            "learning rate": float(lr[-1]),
            "loss": run.loss.late(),
        },
        cause="The learning rate is set too low (a typo in the exponent?), or a schedule multiplies it by "
        "too little.",
        advice=f"Raise it, by a factor of {10 ** round(np.log10(1e-3 / now)):.0g} or so.",
        judged_by="lr-too-low: RMS of update over RMS of weight, median over matrices, under 1e-6 while "
        "the rate is "
        "at half its peak or more, 10 of 10 observations, and a loss that is flat and never fell",
        chart=run.chart("update / weight", ratio, _TOO_LOW, logarithmic=True),
        share=1.0,
    )


def _gradient_fell(run: Run) -> bool:
    norm = run.gradient_norm[np.isfinite(run.gradient_norm)]
    return len(norm) > 4 and float(np.median(norm[-3:])) < 0.03 * float(norm.max())


# ---- weights-collapse


def _weights_collapse(run: Run) -> Iterator[Finding]:
    weights = run.kind(WEIGHTS)
    assert weights is not None
    names = [name for name in run.matrices if name in weights.index]
    shrinking: dict[str, int] = {}
    for name in names:
        norm = weights.stat("norm")[weights.index[name]]
        known = np.isfinite(norm) & (norm > 0)
        decay = run.option(name, "weight_decay")
        if known.sum() < 11 or decay <= 0 or run.is_muted("weights-collapse", name):
            continue
        falls = np.zeros(run.count, bool)
        falls[1:] = norm[1:] < norm[:-1]
        first = first_run(falls, known, 10)
        if first < 0 or norm[-1] > 0.5 * np.nanmax(norm):
            continue
        lr = run.lr_of(name)
        places = np.flatnonzero(known)
        last = int(places[np.searchsorted(places, first) + 9])  # later on gradients hold against it
        span = run.steps[last] - run.steps[first]
        rate = float(np.log(norm[first] / max(norm[last], 1e-300)) / max(span, 1))
        expected = middle(lr[first : last + 1]) * decay
        decoupled = not run.is_adaptive(name) or "adamw" in _class_of(run, name).lower()
        if (0.5 * expected < rate < 2 * expected) if decoupled else rate > 0:
            shrinking[name] = first
    if 2 * len(shrinking) < len(names) or not names or run.loss.has_fallen:
        return
    first = min(shrinking.values())
    chosen = max(shrinking, key=lambda name: run.sizes.get(name, 0))
    norm = weights.stat("norm")[weights.index[chosen]]
    yield run.finding(
        "weights-collapse",
        "warning",
        f"the weights of {subject(list(shrinking), len(names), 'matrices')} shrink towards 0, as weight "
        f"decay does it",
        sorted(shrinking, key=names.index),
        first,
        evidence={
            "norm now / highest": float(norm[-1] / np.nanmax(norm)),
            "weight decay": run.option(chosen, "weight_decay"),
            "learning rate": float(run.lr[-1]),
        },
        cause="Weight decay is too strong for this learning rate: it takes away more than the gradients "
        "bring.",
        advice="Lower `weight_decay` (0.01 to 0.1 for AdamW, 1e-4 for SGD), and leave norms and biases "
        "out of it.",
        judged_by="weights-collapse: norms of half of the matrices fall 10 times in a row to half of "
        "their highest, at "
        "the rate of learning rate x weight decay, and the loss has not fallen",
        chart=run.chart(f"norm of {chosen}", norm, logarithmic=True),
    )


def _class_of(run: Run, name: str) -> str:
    parameter = run.parameter(name)
    number = parameter.group if parameter is not None else None
    return str(run.history.groups[number].get("optimizer", "")) if number is not None else ""


LR_TOO_HIGH = Rule(
    "lr-too-high",
    _lr_too_high,
    both(needs_updates, needs_loss),
    "update/weight over 0.1 (error over 0.3), 5 of 5 observations, or over 0.3 in one, and a loss that has "
    "suffered",
    "planted: 0.2 to 1.3, in MLP, GRU, GPT, BERT and ViT; healthy runs stay under 0.17, and L-BFGS, sparse "
    "embeddings and what begins at zero under 0.7, while their loss falls",
)
LR_TOO_LOW = Rule(
    "lr-too-low",
    _lr_too_low,
    both(needs_lr, needs_updates, needs_loss),
    "update/weight under 1e-6 at half the peak rate or more, 10 of 10 observations, and a flat loss that "
    "never fell",
    "planted: 2e-9 to 7e-8, in MLP, GRU and ViT; healthy medians are 1e-4 and over, until converged",
)
WEIGHTS_COLLAPSE = Rule(
    "weights-collapse",
    _weights_collapse,
    both(needs_kinds(WEIGHTS), needs_inventory),
    "norms of half of the matrices fall 10 times in a row to a half, at the rate of weight decay; loss "
    "not fallen",
    "planted: AdamW with 20 and 50 in MLP and ViT, SGD with 5 in a CNN",
)
