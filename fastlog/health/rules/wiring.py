"""Whether what should be trained is connected: gradients arrive, and the optimizer has it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from fastlog.health.findings import Finding, Severity
from fastlog.health.history import GRADIENTS, Bools
from fastlog.health.names import layer_of
from fastlog.health.rules.base import (
    Rule,
    Run,
    by_onset,
    needs_inventory,
    needs_kinds,
    subject,
    trailing,
)

_EXPERT = re.compile(r"\bexperts?\b|\bexpert_\d", re.I)
_LORA = re.compile(r"\blora_|\.lora", re.I)
# Parts of well-known models that stay without gradient when only the rest is used.
_OFTEN_UNUSED = re.compile(
    r"\bpooler\b|\bmask_token\b|\bmasked_spec_embed\b|\bseq_relationship\b|\bAuxLogits\b|\b(visual|text)_projection\b"
)


# ---- no-gradient


def without_gradient(run: Run) -> tuple[tuple[str, ...], Bools, Bools, Bools]:
    """Names; where a gradient is None; where it is None or zero; where it is known. Each bool [names, T]."""
    names: dict[str, None] = {}
    gradients, absent = run.kind(GRADIENTS), run.history.without_gradient
    if gradients is not None:
        names |= dict.fromkeys(gradients.names)
    if absent is not None:
        names |= dict.fromkeys(absent.names)
    order = {name: i for i, name in enumerate(run.sizes)}
    listed = tuple(sorted(names, key=lambda name: order.get(name, len(order))))
    is_none = np.zeros((len(listed), run.count), bool)
    is_zero, known = is_none.copy(), is_none.copy()
    for i, name in enumerate(listed):
        if gradients is not None and name in gradients.index:
            row = gradients.index[name]
            known[i] |= gradients.present[row]
            heads = gradients.heads[row]
            is_zero[i] |= gradients.present[row] & (heads["zeros"] == heads["num"])
        if absent is not None and name in absent.names:
            values = absent.row(name)
            known[i] |= ~np.isnan(values)
            is_none[i] |= values == 1
    return listed, is_none, is_none | is_zero, known


def _no_gradient(run: Run) -> Iterator[Finding]:
    names, is_none, missing, known = without_gradient(run)
    idle: Bools = np.logical_and(np.all(missing | ~known, axis=0), np.any(known, axis=0))  # no slope at all
    if (idle & ~is_none.any(axis=0)).any() and (run.loss.is_at_floor or _ends_flat(run, idle)):
        known = known & ~idle
    counted = known.copy()
    counted[:, : run.effective] = False  # what begins at zero has not moved yet
    starts: dict[str, int] = {}
    for i, name in enumerate(names):
        parameter = run.parameter(name)
        if run.is_muted("no-gradient", name) or (parameter is not None and not parameter.trainable):
            continue
        in_a_row, first = trailing(missing[i], counted[i])
        if in_a_row >= 3:
            at_start = not (known[i, :first] & ~missing[i, :first]).any()
            starts[name] = int(np.argmax(known[i])) if at_start else first
    harmless = {name for name in starts if _is_harmless(run, name, starts, names)}
    serious = {name: start for name, start in starts.items() if name not in harmless}
    loras = [name for name in names if _LORA.search(name)]
    for first, tensors in by_onset(serious):
        share = run.share(tensors)
        all_lora = bool(loras) and set(loras) <= set(tensors)
        yield _no_gradient_finding(
            run, "error" if share > 0.5 or all_lora else "warning", tensors, first, len(names), is_none, names
        )
    if harmless:
        first = min(starts[name] for name in harmless)
        yield _no_gradient_finding(run, "info", sorted(harmless), first, len(names), is_none, names)


def _ends_flat(run: Run, idle: Bools) -> bool:
    """Whether nothing flows at the end, though it did before, and the loss is not known."""
    return run.loss.tag is None and not bool(idle[: max(1, len(idle) // 2)].all())


def _is_harmless(run: Run, name: str, starts: dict[str, int], names: Sequence[str]) -> bool:
    parameter = run.parameter(name)
    if parameter is not None and parameter.group is None and run.history.groups:
        return True  # nobody means to train it: a teacher, a target network
    if _OFTEN_UNUSED.search(name):
        return True
    if _EXPERT.search(name):  # not chosen, as long as others are
        return any(_EXPERT.search(other) and other not in starts for other in names)
    if name.endswith("bias"):  # no slope by construction (a key's bias, one before a normalisation)
        weight = name[: -len("bias")] + "weight"
        return weight in names and weight not in starts
    return False


def _no_gradient_finding(
    run: Run,
    severity: Severity,
    tensors: Sequence[str],
    first: int,
    of: int,
    is_none: Bools,
    names: Sequence[str],
) -> Finding:
    rows = [names.index(name) for name in tensors]
    none = bool(is_none[rows, -1].all())
    what = "get no gradient" if none else "get a gradient of zeros"
    if len(tensors) == 1 or len(tensors) >= of:
        what = what.replace("get", "gets" if len(tensors) == 1 else "get", 1)
    if severity == "info":
        cause = "They are not used in this training: not chosen, not part of the loss, or without slope."
        advice = f"Nothing, if that is meant: `param.requires_grad_(False)` says so. ({tensors[0]})"
    elif none:
        cause = (
            "The loss does not depend on them: a `.detach()`, `torch.no_grad()` or `.item()` on the way, "
            "a module "
            "that `forward` does not use, or a result that is thrown away."
        )
        advice = (
            f"Follow {layer_of(tensors[0])} through `forward` to the loss and look for `detach`, "
            f"`no_grad`, `.data`. "
            "If it is not meant to be trained, say so: `param.requires_grad_(False)`."
        )
    else:
        cause = (
            "What comes after them multiplies by zero: dead ReLUs, a layer of zeros, a mask, or gradients "
            "that "
            "underflow."
        )
        advice = f"Look at what follows {layer_of(tensors[-1])}: its weights, its activation, its mask."
    gradients = run.kind(GRADIENTS)
    chart = None
    if gradients is not None and tensors[0] in gradients.index:
        norm = np.where(gradients.present, gradients.stat("norm"), 0)[gradients.index[tensors[0]]]
        chart = run.chart(f"gradient norm of {tensors[0]}", norm)
    return run.finding(
        "no-gradient",
        severity,
        f"{subject(tensors, of, 'trainable tensors')} {what}",
        tensors,
        first,
        evidence={
            "tensors": len(tensors),
            "layers": len(set(map(layer_of, tensors))),
            "gradient": "None" if none else "zero",
            "observations": run.count - first,
        },
        cause=cause,
        advice=advice,
        judged_by="no-gradient: None or all zero in the last 3 observations or more, after a first step",
        chart=chart,
    )


# ---- not-optimised


def _not_optimised(run: Run) -> Iterator[Finding]:
    absent = run.history.without_gradient
    gradients = run.kind(GRADIENTS)
    if run.count - run.at(run.history.inventories[-1].step) < 2:
        return  # it may be on its way into the optimizer
    left_out = []
    for name, parameter in run.history.parameters.items():
        if not parameter.trainable or parameter.group is not None or run.is_muted("not-optimised", name):
            continue
        flows = absent is not None and name in absent.names and bool((absent.row(name) == 0).any())
        flows |= (
            gradients is not None
            and name in gradients.index
            and bool(gradients.present[gradients.index[name]].any())
        )
        if flows:
            left_out.append(name)
    if left_out:
        of = sum(parameter.trainable for parameter in run.history.parameters.values())
        yield run.finding(
            "not-optimised",
            "error" if run.share(left_out) > 0.5 else "warning",
            f"{subject(left_out, of, 'trainable tensors')} {'is' if len(left_out) == 1 else 'are'} in no "
            f"optimizer",
            left_out,
            _since(run, left_out),
            evidence={"tensors": len(left_out), "of": of, "optimizer groups": len(run.history.groups)},
            cause="They get gradients, but the optimizer was made without them: before they were added or "
            "replaced, "
            "or from some of the parameters only.",
            advice="Make the optimizer when the model is complete: `optimizer = "
            "type(optimizer)(model.parameters(), "
            "...)`, or `optimizer.add_param_group({'params': new})`. If they are meant to stay: "
            "`param.requires_grad_(False)`.",
            judged_by="not-optimised: requires_grad, a gradient, and in none of the optimizer's groups",
        )


def _since(run: Run, names: Sequence[str]) -> int:
    """The observation since which the parameters stand in the inventory as they do now."""
    step = run.history.inventories[-1].step
    for inventory in reversed(run.history.inventories):
        if any(n not in inventory.parameters or inventory.parameters[n].group is not None for n in names):
            break
        step = inventory.step
    return run.at(step)


NOT_OPTIMISED = Rule(
    "not-optimised",
    _not_optimised,
    lambda run: needs_inventory(run) or ("" if run.history.groups else "no optimizer was given to watch"),
    "requires_grad, a gradient, and in none of the optimizer's groups",
    "exact; no threshold",
)

NO_GRADIENT = Rule(
    "no-gradient",
    _no_gradient,
    needs_kinds(GRADIENTS),
    "None or all zero in 3 of 3 observations after a first step; error for over half of what trains",
    "exact; no threshold",
)
