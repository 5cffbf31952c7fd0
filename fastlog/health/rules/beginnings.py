"""How things begin: weights of one value, state that begins anew, copies that were meant to be one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastlog.health.findings import Finding
from fastlog.health.history import GRADIENTS, WEIGHTS
from fastlog.health.rules.base import (
    Rule,
    Run,
    both,
    first_run,
    needs_exact,
    needs_inventory,
    needs_kinds,
    subject,
    trailing,
    typical,
)

_STATE_DROP = 10.0


def _constant_init(run: Run) -> Iterator[Finding]:
    weights, gradients = run.kind(WEIGHTS), run.kind(GRADIENTS)
    equal = run.measure("equal_rows")
    found = []
    for name in run.matrices:
        if run.is_muted("constant-init", name) or weights is None or name not in weights.index:
            continue
        row = weights.index[name]
        heads, known = weights.heads[row], weights.present[row].copy()
        known[: run.effective] = False
        one_value = (heads["min"] == heads["max"]) & (heads["num"] > 1)
        idle = np.zeros(run.count, bool)
        if gradients is not None and name in gradients.index:
            g = gradients.heads[gradients.index[name]]
            idle = gradients.present[gradients.index[name]] & (g["zeros"] == g["num"])
        rows_equal = np.zeros(run.count, bool)
        if equal is not None and name in equal.names:
            moved = np.ones(run.count, bool)
            moved[1:] = heads[1:] != heads[:-1]
            rows_equal = (equal.row(name) == 1) & moved & (not _is_narrow(run, name))
        in_a_row, _ = trailing((one_value & idle) | rows_equal, known)
        if in_a_row >= 2:
            found.append(name)
    if found:
        yield run.finding(
            "constant-init",
            "warning" if run.share(found) < 0.5 else "error",
            f"{subject(found, len(run.matrices), 'matrices')}: all rows are the same, and stay the same",
            found,
            0,
            evidence={"matrices": len(found), "of": len(run.matrices)},
            cause="They were initialised with one value. All units of such a layer get the same gradient "
            "and stay "
            "copies of each other, or get none where the next layer is zero as well.",
            advice="Initialise at random: `torch.nn.init.kaiming_uniform_(layer.weight, a=5 ** 0.5)`; "
            "zeros only for "
            "biases and for the last layer of a branch.",
            judged_by="constant-init: rows equal to 0.1 % (4 rows, 32 columns are read), or one value "
            "and no "
            "gradient, 2 of 2 observations after the first step",
        )


def _is_narrow(run: Run, name: str) -> bool:
    """Whether steps may be lost to rounding, so that equal rows may stay equal."""
    parameter = run.parameter(name)
    return parameter is not None and parameter.dtype not in ("float32", "float64")


def _state_reset(run: Run) -> Iterator[Finding]:
    taken, steps = run.history.optimizer_steps, run.steps
    for at in range(1, run.count):
        if np.isfinite(taken[at]) and np.isfinite(taken[at - 1]) and taken[at] < taken[at - 1]:
            resumed = at in run.history.starts
            if resumed and taken[at] > steps[at] - steps[at - 1] + 1:
                continue  # an older checkpoint with its state
            yield _reset_finding(
                run,
                at,
                {"optimizer steps before": int(taken[at - 1]), "after": int(taken[at])},
                "training was resumed" if resumed else "training went on",
            )
            return
    second = run.kind("exp_avg_sq")
    if second is None:
        return
    with np.errstate(all="ignore"):
        rms = np.log(second.stat("rms"))
    drop = typical(np.diff(rms, axis=1)) if run.count > 1 else np.empty(0)
    beta = _second_beta(run)
    natural = np.diff(steps) * np.log(beta)
    for fall in np.flatnonzero(drop < natural - np.log(_STATE_DROP)):
        yield _reset_finding(
            run, int(fall) + 1, {"second moments fall by": float(np.exp(-drop[fall]))}, "training went on"
        )
        return


def _second_beta(run: Run) -> float:
    for group in run.history.groups:
        betas = group.get("betas")
        if isinstance(betas, (list, tuple)) and len(betas) > 1:
            return float(betas[1])
    return 0.999


def _reset_finding(run: Run, at: int, evidence: dict[str, float], when: str) -> Finding:
    return run.finding(
        "optimizer-state-reset",
        "warning",
        f"the optimizer's state began anew at step {int(run.steps[at])}, while {when}",
        [],
        at,
        at,
        evidence=evidence,
        cause="The checkpoint was loaded without the optimizer's state, or a new optimizer was made.",
        advice="Save and load both: "
        "`torch.save({'model': model.state_dict(), 'optimizer': optimizer.state_dict()})`, "
        "`optimizer.load_state_dict(checkpoint['optimizer'])`.",
        judged_by="optimizer-state-reset: its step counter goes back, or second moments fall at once to a "
        "tenth of "
        "what their decay explains",
        share=1.0,
    )


def _untied(run: Run) -> Iterator[Finding]:
    apart = run.measure("apart")
    names: list[str] = []
    first = run.count
    if apart is not None:
        for name in apart.names:
            at = first_run(apart.row(name) == 1, ~np.isnan(apart.row(name)), 2)
            if at >= 0:
                names.append(name)
                first = min(first, at)
    for before, after in zip(run.history.inventories, run.history.inventories[1:], strict=False):
        for name, parameter in before.parameters.items():
            lost = [alias for alias in parameter.aliases if alias in after.parameters]
            if lost and name in after.parameters:
                names += [name for name in lost if name not in names]
                first = min(first, run.at(after.step))
    names = [name for name in names if not run.is_muted("untied", name)]
    if names:
        yield run.finding(
            "untied",
            "warning",
            f"{subject(names, len(names) + 1)} began as a copy of the embedding, and parts from it",
            names,
            first,
            evidence={"tensors": len(names)},
            cause="The two were tied, or meant to be: loading, copying or moving the model made two "
            "parameters of "
            "one.",
            advice="Tie them again after the model is complete: `model.tie_weights()`, or "
            "`head.weight = embedding.weight`.",
            judged_by="untied: equal at the first step and different parameters; they differ in 2 of 2 "
            "observations",
        )


CONSTANT_INIT = Rule(
    "constant-init",
    _constant_init,
    both(needs_kinds(WEIGHTS), needs_exact),
    "all rows equal to 0.1 %, or one value and no gradient, 2 of 2 observations after the first step",
    "exact; no threshold",
)

OPTIMIZER_STATE_RESET = Rule(
    "optimizer-state-reset",
    _state_reset,
    lambda run: (
        ""
        if np.isfinite(run.history.optimizer_steps).any() or run.kind("exp_avg_sq") is not None
        else "the optimizer counts no steps, and its state is not logged"
    ),
    "the optimizer's step counter goes back, or second moments fall at once to a tenth",
    "exact for the counter",
)

UNTIED = Rule(
    "untied",
    _untied,
    needs_inventory,
    "an output layer that began as a copy of the embedding differs from it, 2 of 2 observations",
    "exact; no threshold",
)
