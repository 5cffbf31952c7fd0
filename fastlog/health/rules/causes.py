"""One cause, one finding: which findings are brought about by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fastlog.health.findings import Finding

# What follows a cause that concerns most of the model, whenever it began.
_SYMPTOMS: Final = frozenset(
    {
        "loss-spike",
        "loss-diverging",
        "not-learning",
        "exploding-gradients",
        "vanishing-gradients",
        "lr-too-low",
    }
)
_MOST = 0.5


def without_effects(
    found: Sequence[Finding], order: Mapping[str, int], sizes: Mapping[str, int]
) -> list[Finding]:
    """The findings that no other one explains.

    Args:
        found: of all rules.
        order: of the rules, causes first.
        sizes: number of values of each parameter.
    """
    return [effect for effect in found if not any(_explains(c, effect, order, sizes) for c in found)]


def _explains(cause: Finding, effect: Finding, order: Mapping[str, int], sizes: Mapping[str, int]) -> bool:
    if cause.rule == effect.rule or cause.severity == "info" or _brings(effect, cause, sizes):
        return False
    if _brings(cause, effect, sizes):
        return True
    if order[cause.rule] > order[effect.rule]:
        return False
    widespread = cause.share >= 1 or (cause.share >= _MOST and cause.severity == "error")
    if effect.rule in _SYMPTOMS and (widespread or cause.rule == "weights-collapse"):
        return True
    later = effect.first_step >= cause.first_step
    if not effect.tensors:
        return widespread and later
    return later and (widespread or set(effect.tensors) <= set(cause.tensors))


def _brings(cause: Finding, effect: Finding, sizes: Mapping[str, int]) -> bool:
    """Whether it does so against the order of the rules: zeros come from somewhere."""
    if cause.severity == "info":
        return False
    no_slope = effect.rule == "no-gradient" and effect.evidence.get("gradient") == "zero"
    if cause.rule == "lr-too-high":  # units die of it, and sigmoids saturate
        return no_slope and effect.first_step >= cause.first_step
    if cause.rule == "exploding-gradients":  # large gradients make large steps
        before = cause.first_step < effect.first_step and "usual norm" in cause.evidence
        return effect.rule == "lr-too-high" and before
    if cause.rule == "dead-units":
        return no_slope and _is_behind_dead_units(cause, effect, sizes)
    return cause.rule == "saturated-activations" and effect.rule in (
        "exploding-gradients",
        "vanishing-gradients",
    )


def _is_behind_dead_units(dead: Finding, no_slope: Finding, sizes: Mapping[str, int]) -> bool:
    """Whether these tensors have no slope because all units of a layer put out zero: the next layer's weight
    has none for want of inputs, while its bias has one.
    """
    tensors = set(no_slope.tensors)
    layers = {name.removesuffix(".bias") for name in dead.tensors}
    others = {name for name in tensors if name.rpartition(".")[0] not in layers}
    biases = {name.removesuffix("weight") + "bias" for name in others if name.endswith("weight")}
    return bool(others) and len(biases) == len(others) and biases <= sizes.keys() - tensors
