"""The rules: pure functions from a history to findings, causes before effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastlog.health.findings import SEVERITIES, Finding, RunHealth
from fastlog.health.history import History
from fastlog.health.rules import (
    beginnings,
    flow,
    layers,
    losses,
    movement,
    numbers,
    pace,
    precision,
    ranks,
    rates,
    wiring,
)
from fastlog.health.rules.base import Rule, Run
from fastlog.health.rules.causes import without_effects

RULES: Final[tuple[Rule, ...]] = (
    numbers.NONFINITE,
    ranks.REPLICAS_DIFFER,
    ranks.SAME_BATCH,
    beginnings.CONSTANT_INIT,
    wiring.NOT_OPTIMISED,
    wiring.NO_GRADIENT,
    movement.NOT_UPDATING,
    movement.LR_ZERO,
    beginnings.OPTIMIZER_STATE_RESET,
    beginnings.UNTIED,
    movement.FROZEN_MOVES,
    precision.LOST_UPDATES,
    precision.GRADIENT_UNDERFLOW,
    precision.NEAR_OVERFLOW,
    precision.ADAM_EPS_DOMINATES,
    rates.LR_TOO_HIGH,
    flow.GRADIENTS_ACCUMULATE,
    flow.EXPLODING_GRADIENTS,
    flow.VANISHING_GRADIENTS,
    rates.LR_TOO_LOW,
    rates.WEIGHTS_COLLAPSE,
    layers.DEAD_UNITS,
    layers.SATURATED_ACTIVATIONS,
    layers.ATTENTION_COLLAPSE,
    layers.WEIGHT_OUTLIER,
    flow.ALWAYS_CLIPPED,
    losses.LOSS_DIVERGING,
    losses.LOSS_SPIKE,
    losses.NOT_LEARNING,
    ranks.STRAGGLER,
    pace.STALLED,
    losses.OVERFITTING,
    layers.NEVER_HIT,
)
"""All rules: a cause stands before what it may bring about."""


def run(history: History, mute: Mapping[str, str] | None = None) -> RunHealth:
    """What all rules say of a run.

    Args:
        history: arrays of what was observed.
        mute: reasons why findings are meant to be so, by "RULE", or by "RULE:REGULAR EXPRESSION" for some
            tensors.

    Raises:
        ValueError: ``mute`` names a rule that there is not.
    """
    mute = mute or {}
    if unknown := [key for key in mute if key.partition(":")[0] not in {rule.id for rule in RULES}]:
        raise ValueError(f"mute: there is no rule {unknown[0].partition(':')[0]!r}")
    looked_at = Run(history, mute)
    found: list[Finding] = []
    checked: list[str] = []
    not_checked: dict[str, str] = {}
    for rule in RULES:
        if rule.id in mute:
            not_checked[rule.id] = f"muted: {mute[rule.id]}"
        elif why := rule.needs(looked_at):
            not_checked[rule.id] = why
        else:
            checked.append(rule.id)
            found += rule.judge(looked_at)
    found = without_effects(found, {rule.id: i for i, rule in enumerate(RULES)}, looked_at.sizes)
    return RunHealth(
        history.run,
        int(history.steps[0]) if len(history.steps) else -1,
        int(history.steps[-1]) if len(history.steps) else -1,
        tuple(sorted(found, key=_rank)),
        tuple(checked),
        not_checked,
        dict(mute),
    )


def _rank(finding: Finding) -> tuple[int, float, int]:
    """The worst first: by severity, share of the parameters, and how long it lasts."""
    return (SEVERITIES.index(finding.severity), -finding.share, finding.first_step - finding.last_step)
