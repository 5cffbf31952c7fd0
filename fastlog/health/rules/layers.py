"""What is wrong with single layers: dead units, saturation, collapsed attention, outliers, unused rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from fastlog.health.findings import Finding, Severity
from fastlog.health.history import ACTIVATIONS, GRADIENTS, WEIGHTS, Bools, Floats
from fastlog.health.names import layer_of, role_of
from fastlog.health.rules.base import (
    FIRST_ARMED,
    Rule,
    Run,
    both,
    by_onset,
    middle,
    needs_exact,
    needs_inventory,
    needs_kinds,
    subject,
    trailing,
)

_DEAD, _MANY, _RISE, _NEARLY_ALL = 0.5, 0.7, 0.25, 0.9
_IDLE = 10  # observations in a row without gradient make a unit idle
_SATURATED, _PASSING = 0.5, 0.25
_KEYS, _DOWN = 1.5, 4.0
_OUTLIER, _DOUBLED = 5.0, 2.0
_NEVER_HIT = 0.01
_ATTENTION = re.compile(r"att|softmax", re.I)


# ---- dead-units


def _dead_units(run: Run) -> Iterator[Finding]:
    idle = run.measure("idle_units")
    assert idle is not None
    starts, dead = {}, {}
    for name in idle.names:
        shares = idle.row(name)
        known = ~np.isnan(shares)
        if known.sum() < 5 or run.is_muted("dead-units", name):
            continue
        many = np.where(
            shares[known][0] <= _DEAD - _RISE, _DEAD, _MANY
        )  # at half of it, little varies in the data
        in_a_row, first = trailing((shares >= many) & _rows_are_idle(run, name, shares), known)
        if in_a_row >= 5 and not (run.loss.is_at_floor and bool((shares[known][-5:] == 1).all())):
            starts[name] = max(0, first - _IDLE + 1)
            dead[name] = float(shares[first:][known[first:]].min())
    if not starts:
        return
    first = min(starts.values())
    tensors = sorted(starts, key=lambda name: -dead[name])
    units = sum(run.sizes.get(name, 0) for name in tensors)
    share = sum(dead[name] * run.sizes.get(name, 0) for name in tensors) / max(units, 1)
    layers = [name.removesuffix(".bias") for name in sorted(tensors, key=idle.names.index)]
    severity: Severity = "warning" if max(dead.values()) >= _MANY else "info"
    if share >= _NEARLY_ALL and 2 * len(tensors) >= len(idle.names):
        severity = "error"
    weights = [f"{layer}.weight" for layer in layers]
    yield run.finding(
        "dead-units",
        severity,
        f"{share:.0%} of the units of {subject(layers, len(idle.names), 'layers')} are dead: no gradient "
        f"reaches them",
        tensors,
        first,
        evidence={"dead units": round(share * units), "of": units, "layers": len(tensors)},
        cause="Behind a ReLU a unit that is never positive gets no gradient and stays so: after a step "
        "that was too "
        "large, a bias far below zero, or inputs that are not normalised.",
        advice="A lower learning rate or a warm-up, `torch.nn.LeakyReLU` or GELU instead of ReLU, a "
        "normalisation "
        "before it. Units that are dead already stay dead: begin anew.",
        judged_by="dead-units: the gradients of bias and weight are exactly 0 in 10 observations in a row "
        "for 70 % "
        "of the units, 5 of 5; information for half of them and 25 % more than at first",
        chart=run.chart(f"share of dead units of {layers[0]}", idle.row(tensors[0]), _DEAD),
        share=run.share([name for name in (*tensors, *weights) if name in run.sizes]),
    )


def _rows_are_idle(run: Run, name: str, shares: Floats) -> Bools:
    """Whether the weight's gradient has the zeros that dead units leave there: a bias may have no slope."""
    gradients = run.kind(GRADIENTS)
    weight = name.removesuffix("bias") + "weight"
    if gradients is None or weight not in gradients.index:
        return np.ones(run.count, bool)
    zeros = gradients.stat("zeros")[gradients.index[weight]]
    found: Bools = ~(zeros < 0.9 * shares)
    return found


def _needs_idle(run: Run) -> str:
    return "" if run.measure("idle_units") is not None else "gradients of single units were not recorded"


# ---- saturated-activations


def _saturated(run: Run) -> Iterator[Finding]:
    saturated, passing, activations = run.measure("saturated"), run.measure("passing"), run.kind(ACTIVATIONS)
    assert saturated is not None and passing is not None and activations is not None
    starts: dict[str, int] = {}
    for name in saturated.names:
        if name == activations.names[-1] or run.is_muted("saturated-activations", name):
            continue  # the output itself may well be at its limits
        near, through = saturated.row(name), passing.row(name)
        in_a_row, first = trailing((near >= _SATURATED) & (through < _PASSING), ~np.isnan(near))
        if in_a_row >= 5:
            starts[name] = first
    learns = run.loss.has_fallen is True and run.loss.trend(int(run.steps[0])) == "falling"
    for first, names in by_onset(starts):
        yield run.finding(
            "saturated-activations",
            "info" if learns else "warning",
            f"{subject(names, len(saturated.names), 'activations')} {'is' if len(names) == 1 else 'are'} "
            f"saturated: "
            f"{middle(saturated.row(names[0])[first:]):.0%} of what they put out is at its limit",
            names,
            first,
            evidence={
                "share near the limits": middle(np.array([saturated.row(n)[-1] for n in names])),
                "gradient that passes": middle(np.array([passing.row(n)[-1] for n in names])),
            },
            cause="What goes in is too large: weights that have grown or were initialised too large, "
            "inputs that are "
            "not normalised. There the slope is next to 0, and gradients with it.",
            advice="A normalisation before it, smaller initial weights (`torch.nn.init.xavier_uniform_`), "
            "or another "
            "activation.",
            judged_by="saturated-activations: tanh beyond 0.97, sigmoid beyond 0.03 to 0.97, in half of "
            "the outputs, "
            "and under a quarter of the gradient passes (RMS of the slope), 5 of 5 observations",
            chart=run.chart(f"share near the limits of {names[0]}", saturated.row(names[0]), _SATURATED),
            share=run.share(_parameters_of(run, [layer_of(name) for name in names])),
        )


def _parameters_of(run: Run, layers: list[str]) -> list[str]:
    return [name for name in run.sizes if layer_of(name) in layers]


def _needs_activations_of(classes: str, measure: str) -> object:
    def needs(run: Run) -> str:
        if run.kind(ACTIVATIONS) is None:
            return 'no activations are logged (log="activations")'
        return "" if run.measure(measure) is not None else f"the model has no module that is {classes}"

    return needs


# ---- attention-collapse


def _probabilities(run: Run) -> list[str]:
    """Activations that are attention probabilities: of a softmax, or of what is called attention and holds
    nothing but numbers from 0 to 1 (or a dropout's scale more).
    """
    activations = run.kind(ACTIVATIONS)
    if activations is None:
        return []
    modules = run.history.inventories[-1].modules if run.history.inventories else {}
    found = []
    for row, name in enumerate(activations.names):
        heads, present = activations.heads[row], activations.present[row]
        kind = modules.get(name, "")
        if not present.any() or not ("Softmax" in kind or ("Dropout" in kind and _ATTENTION.search(name))):
            continue
        heads = heads[present]
        mean = heads["sum"] / np.maximum(heads["num"], 1)
        if (heads["min"] >= 0).all() and (heads["max"] <= 2.0).all() and (mean < 0.5).all():
            found.append(name)
    return found[:-1] if found and len(found) == 1 and not _ATTENTION.search(found[0]) else found


def _attention_collapse(run: Run) -> Iterator[Finding]:
    activations = run.kind(ACTIVATIONS)
    assert activations is not None
    starts, keys = {}, {}
    for name in _probabilities(run):
        row = activations.index[name]
        heads = activations.heads[row]
        with np.errstate(all="ignore"):
            effective = np.where(activations.present[row], heads["sum"] / heads["sum_squares"], np.nan)
        known = np.isfinite(effective)
        if known.sum() < 6:
            continue
        early = float(np.median(effective[known][:5]))
        in_a_row, first = trailing((effective < _KEYS) & (effective < early / _DOWN), known)
        if in_a_row >= 5 and not run.is_muted("attention-collapse", name):
            starts[name], keys[name] = first, effective
    for first, names in by_onset(starts):
        effective = keys[names[0]]
        yield run.finding(
            "attention-collapse",
            "warning",
            f"attention has collapsed in {subject(names, len(_probabilities(run)), 'attentions')}: each "
            f"query looks at "
            f"{effective[-1]:.1f} keys",
            names,
            first,
            evidence={"keys now": float(effective[-1]), "keys early": middle(effective[:5])},
            cause="The logits of the softmax have grown without bound: queries and keys with large norms, "
            "a learning "
            "rate that is too high.",
            advice="Normalise queries and keys (`q = q / q.norm(dim=-1, keepdim=True)`, QK norm), lower "
            "the learning "
            "rate, or cap the logits.",
            judged_by="attention-collapse: sum of probabilities over sum of their squares under 1.5, and "
            "a quarter of "
            "its early value, 5 of 5 observations",
            chart=run.chart(f"keys of {names[0]}", effective, _KEYS),
            share=run.share(_parameters_of(run, [layer_of(name) for name in names])),
        )


def _needs_attention(run: Run) -> str:
    if run.kind(ACTIVATIONS) is None:
        return 'no activations are logged (log="activations")'
    return "" if _probabilities(run) else "no attention probabilities are logged"


# ---- weight-outlier


def _weight_outlier(run: Run) -> Iterator[Finding]:
    weights = run.kind(WEIGHTS)
    assert weights is not None
    norm = weights.stat("norm")
    starts: dict[str, int] = {}
    excess: dict[str, float] = {}
    for names in _blocks(run):
        rows = norm[[weights.index[name] for name in names]]
        for i, name in enumerate(names):
            others = np.delete(rows, i, axis=0)
            known = np.isfinite(rows[i]) & np.isfinite(others).all(axis=0)
            known[: run.effective] = False
            if known.sum() < 6 or run.is_muted("weight-outlier", name):
                continue
            median = np.median(others[:, known], axis=0)
            early = float(np.median(rows[i][known][:3]))
            flags = np.zeros(run.count, bool)
            flags[known] = (
                (rows[i][known] >= _OUTLIER * median) & (rows[i][known] >= _DOUBLED * early) & (median > 0)
            )
            in_a_row, first = trailing(flags, known)
            if in_a_row >= 5:
                starts[name], excess[name] = first, float(rows[i][known][-1] / median[-1])
    for first, names in by_onset(starts):
        worst = max(names, key=excess.__getitem__)
        yield run.finding(
            "weight-outlier",
            "warning",
            f"the norm of {worst} is {excess[worst]:.0f} times that of the same weight in other blocks, "
            f"and has grown",
            sorted(names, key=lambda name: -excess[name]),
            first,
            evidence={"norm / median of the other blocks": excess[worst], "tensors": len(names)},
            cause="One block runs away: a learning rate of its own that is too high, no weight decay, or "
            "a gradient "
            "that always points the same way.",
            advice=f"Look at {layer_of(worst)}: its optimizer group, its gradients, what goes into it.",
            judged_by="weight-outlier: norm 5 times the median of the same role in 3 other blocks or "
            "more, and twice "
            "its early value, 5 of 5 observations",
            chart=run.chart(f"norm of {worst}", norm[weights.index[worst]]),
        )


def _blocks(run: Run) -> list[list[str]]:
    """The matrices of one role and shape in four blocks or more. Vectors begin at 0, or all alike, and what
    they grow to says little.
    """
    weights = run.kind(WEIGHTS)
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name in run.matrices:
        if weights is not None and name in weights.index:
            parameter = run.parameter(name)
            shape = parameter.shape if parameter is not None else (run.sizes[name],)
            found.setdefault((role_of(name), shape), []).append(name)
    return [names for names in found.values() if len(names) >= 4]


def _needs_blocks(run: Run) -> str:
    return "" if _blocks(run) else "the model has no 4 blocks of one kind"


# ---- never-hit


def _never_hit(run: Run) -> Iterator[Finding]:
    second = run.kind("exp_avg_sq")
    assert second is not None
    if run.count < FIRST_ARMED:
        return
    found: dict[str, float] = {}
    for name, parameter in run.history.parameters.items():
        is_table = "Embedding" in parameter.module and len(parameter.shape) == 2 and not parameter.aliases
        if not is_table or name not in second.index or run.is_muted("never-hit", name):
            continue
        zeros = second.stat("zeros")[second.index[name]]
        known = np.isfinite(zeros)
        if known.any() and zeros[known][-1] >= _NEVER_HIT:
            found[name] = float(zeros[known][-1])
    if found:
        worst = max(found, key=found.__getitem__)
        rows = round(found[worst] * run.history.parameters[worst].shape[0])
        yield run.finding(
            "never-hit",
            "info",
            f"{rows:,} of {run.history.parameters[worst].shape[0]:,} rows of {worst} have never been used",
            sorted(found, key=lambda name: -found[name]),
            max(0, run.count - 1),
            evidence={"share of rows never used": found[worst]},
            cause="The data has not had these tokens or positions yet, or the table is larger than it "
            "needs to be.",
            advice="Nothing, if the data is a part of what the table is for.",
            judged_by="never-hit: second moments that are exactly 0, at the last observation",
            share=sum(run.sizes.get(name, 0) * share for name, share in found.items()) / run.total,
        )


NEVER_HIT = Rule(
    "never-hit",
    _never_hit,
    both(
        needs_inventory,
        needs_exact,
        lambda run: "" if run.kind("exp_avg_sq") else 'no second moments are logged (log="optimizer_state")',
    ),
    "second moments of an untied embedding exactly 0 in 1 % of its rows, last observation",
    "exact; information only",
)

DEAD_UNITS = Rule(
    "dead-units",
    _dead_units,
    _needs_idle,
    "gradient exactly 0 in 10 observations in a row for 70 % of the units, or 50 % and rising; error "
    "for 90 %",
    "planted: MLP and CNN whose biases fall by 20 and 100; healthy ReLU nets have up to half, where little "
    "varies in the data",
)

SATURATED_ACTIVATIONS = Rule(
    "saturated-activations",
    _saturated,
    _needs_activations_of("a tanh or a sigmoid", "saturated"),  # type: ignore[arg-type]
    "half of the outputs near the limits and under a quarter of the gradient passes, 5 of 5 observations",
    "planted: tanh with 20 times the usual weights, sigmoid behind inputs up to 255",
)

ATTENTION_COLLAPSE = Rule(
    "attention-collapse",
    _attention_collapse,
    _needs_attention,
    "effective number of keys under 1.5 and a quarter of its early value, 5 of 5 observations",
    "planted: GPT with growing query and key weights",
)

WEIGHT_OUTLIER = Rule(
    "weight-outlier",
    _weight_outlier,
    both(needs_kinds(WEIGHTS), _needs_blocks),
    "norm 5 times the median of the same role in other blocks, and doubled, 5 of 5 observations",
    "planted: 28 times, in a GPT; healthy blocks of GPT, ViT and experts differ by up to 1.1",
)
