"""One cause, one finding."""

from __future__ import annotations

from typing import Any

from fastlog.health.findings import Finding
from fastlog.health.rules import RULES
from fastlog.health.rules.causes import without_effects

SIZES = {f"{i}.{part}": size for i in (0, 2, 4) for part, size in (("weight", 64), ("bias", 8))}
ORDER = {rule.id: i for i, rule in enumerate(RULES)}


def finding(
    rule: str,
    first: int,
    tensors: tuple[str, ...] = (),
    share: float = 1.0,
    severity: Any = "error",
    **evidence: Any,
) -> Finding:
    return Finding(rule, severity, "", tensors, share, first, 99, evidence, "", "", "")


def kept(*found: Finding) -> list[str]:
    return [one.rule for one in without_effects(found, ORDER, SIZES)]


def test_zeros_that_come_after_a_high_rate_are_no_finding_of_their_own() -> None:
    rate, zeros = finding("lr-too-high", 5), finding("no-gradient", 30, ("0.weight",), gradient="zero")
    assert kept(zeros, rate) == ["lr-too-high"]
    assert kept(finding("no-gradient", 4, ("0.weight",), gradient="zero"), rate) == ["no-gradient"]
    cut_off = finding("no-gradient", 30, ("0.weight",), 0.3, gradient="None")
    assert kept(cut_off, rate) == ["no-gradient", "lr-too-high"]


def test_a_dead_layer_explains_the_zeros_before_it_and_the_weight_after_it() -> None:
    dead = finding("dead-units", 0, ("2.bias",))
    behind = ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight")
    whole = finding("dead-units", 0, ("0.bias", "2.bias"))
    assert kept(finding("no-gradient", 0, behind, gradient="zero"), whole) == ["dead-units"]
    assert kept(finding("no-gradient", 0, ("2.weight", "2.bias", "4.weight"), gradient="zero"), dead) == [
        "dead-units"
    ]


def test_a_layer_of_zeros_is_not_taken_for_dead_units() -> None:
    idle = finding("dead-units", 0, ("0.bias", "2.bias"))
    before = finding("no-gradient", 0, ("0.weight", "0.bias", "2.weight", "2.bias"), gradient="zero")
    assert kept(before, idle) == ["no-gradient"]


def test_gradients_that_exploded_before_explain_steps_that_are_too_large() -> None:
    rate = finding("lr-too-high", 80)
    usual = {"usual norm": 0.2}
    assert kept(rate, finding("exploding-gradients", 70, **usual)) == ["exploding-gradients"]
    assert kept(rate, finding("exploding-gradients", 80, **usual)) == ["lr-too-high"]
    assert kept(rate, finding("exploding-gradients", 0)) == ["lr-too-high"]  # by depth: of no step


def test_symptoms_go_with_a_cause_of_most_of_the_model_and_stay_beside_a_part() -> None:
    collapse = finding("weights-collapse", 10, ("0.weight",), 0.9, "warning")
    assert kept(collapse, finding("not-learning", 0, severity="warning")) == ["weights-collapse"]
    some_dead = finding("dead-units", 10, ("0.bias",), 0.7, "warning")
    flat = finding("not-learning", 0, severity="warning")
    assert kept(some_dead, flat) == ["dead-units", "not-learning"]


def test_information_explains_nothing() -> None:
    clipped = finding("always-clipped", 0, severity="info")
    assert kept(clipped, finding("not-learning", 0)) == ["always-clipped", "not-learning"]
