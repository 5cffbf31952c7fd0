"""Whether a step moves what it should, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastlog.health.findings import Finding, Severity
from fastlog.health.history import GRADIENTS, WEIGHTS, Bools, Floats
from fastlog.health.rules.base import (
    Rule,
    Run,
    both,
    by_onset,
    needs_exact,
    needs_inventory,
    needs_kinds,
    needs_lr,
    subject,
    trailing,
)

_ULP = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def _not_updating(run: Run) -> Iterator[Finding]:
    weights, gradients = run.kind(WEIGHTS), run.kind(GRADIENTS)
    assert weights is not None and gradients is not None
    starts = {}
    for name in weights.names:
        if name not in gradients.index or run.is_muted("not-updating", name):
            continue
        parameter = run.parameter(name)
        if parameter is not None and (not parameter.trainable or parameter.group is None):
            continue
        stuck, known = _stuck(run, name)
        in_a_row, first = trailing(stuck, known)
        if in_a_row >= 2:
            starts[name] = max(0, first - 1)
    for first, tensors in by_onset(starts):
        yield run.finding(
            "not-updating",
            "error" if run.share(tensors) >= 0.01 or len(tensors) > 1 else "warning",
            f"{subject(tensors, len(weights.names))} {'does' if len(tensors) == 1 else 'do'} not change, "
            f"though "
            f"{'it gets' if len(tensors) == 1 else 'they get'} gradients",
            tensors,
            first,
            evidence={
                "tensors": len(tensors),
                "gradient norm": float(gradients.stat("norm")[gradients.index[tensors[0]], -1]),
                "learning rate": float(run.lr_of(tensors[0])[-1]),
            },
            cause="The optimizer steps another copy of them, its step is skipped or undone (weights are "
            "loaded or "
            "copied back after it), or each step is lost to rounding.",
            advice="Check that the optimizer has these very tensors: "
            "`{id(p) for g in optimizer.param_groups for p in g['params']}` against `model.parameters()`.",
            judged_by="not-updating: gradient not zero, learning rate above 0, and the weights' summary "
            "(all values) "
            "is bit for bit the one before, 2 of 2 observations",
        )


def _stuck(run: Run, name: str) -> tuple[Bools, Bools]:
    weights, gradients = run.history.kinds[WEIGHTS], run.history.kinds[GRADIENTS]
    w, g = weights.index[name], gradients.index[name]
    heads = weights.heads[w]
    same = np.zeros(run.count, bool)
    same[1:] = heads[1:] == heads[:-1]
    known = weights.present[w] & gradients.present[g] & _should_move(run, name)
    known[1:] &= weights.present[w][:-1]
    known[0] = False
    known[[start for start in run.history.starts if start < run.count]] = False
    return same & known, known


def _should_move(run: Run, name: str) -> Bools:
    """Where a step of the usual size would change what a float of this dtype holds."""
    weights, gradients = run.history.kinds[WEIGHTS], run.history.kinds[GRADIENTS]
    heads = gradients.heads[gradients.index[name]]
    lr = run.lr_of(name)
    parameter = run.parameter(name)
    unit = _ULP.get(parameter.dtype if parameter is not None else "float32", 2.0**-24)
    with np.errstate(all="ignore"):
        weight = weights.stat("rms")[weights.index[name]]
        gradient = gradients.stat("rms")[gradients.index[name]]
        usual = np.fmax.accumulate(np.where(np.isfinite(gradient), gradient, 0))
        step = lr if run.is_adaptive(name) else lr * np.minimum(gradient, 1.0)
        moves = (lr > 0) & (step > 8 * unit * weight) & (gradient > 0.01 * usual)
    result: Bools = moves & (heads["zeros"] < heads["num"]) & (heads["num_finite"] == heads["num"])
    return result


def _lr_zero(run: Run) -> Iterator[Finding]:
    lr = run.history.lr
    for number in range(len(lr)):
        row = lr[number]
        known = np.isfinite(row)
        moving = np.flatnonzero(known & (row > 0))
        rises = int(moving[0]) if len(moving) else 0
        after = known.copy()
        after[:rises] = False  # a warm-up from zero
        zero = after & (row == 0)
        count, of = int(zero.sum()), int(after.sum())
        tail, _ = trailing(zero, after)
        if tail == count and count <= max(2, 0.05 * of):  # a decay that ends the run
            continue
        if count < 3 or count < 0.1 * of or (not len(moving) and of < 5):
            continue
        everywhere = bool((np.nan_to_num(run.lr[zero], nan=0.0) == 0).all())
        if not everywhere and (count < 0.99 * of or of < 20):
            continue  # a group that is let in later
        tensors = [n for n, p in run.history.parameters.items() if p.group == number and p.trainable]
        yield run.finding(
            "lr-zero",
            "error" if everywhere and count >= 0.99 * of else "warning",
            f"the learning rate{'' if everywhere else f' of optimizer group {number}'} is 0 in {count} of "
            f"{of} "
            "observations while training goes on",
            [] if everywhere else tensors,
            int(np.argmax(zero)),
            int(np.flatnonzero(zero)[-1]),
            evidence={"observations with 0": count, "of": of, "highest": float(np.nanmax(row))},
            cause="The schedule has come to its end before the training (its number of steps counts "
            "batches where it "
            "should count steps, or epochs), is stepped twice, or the rate was set to 0.",
            advice="Compare the scheduler's total steps with `epochs * len(loader) // accumulation`, and log "
            "`scheduler.get_last_lr()`.",
            judged_by="lr-zero: 0 in 10 % of the observations past the warm-up; a decay that ends the run "
            "is none",
            chart=run.chart("learning rate", row),
            share=1.0 if everywhere else None,
        )
        if everywhere:
            return


def _frozen_moves(run: Run) -> Iterator[Finding]:
    moved = run.measure("moved_frozen")
    if moved is not None:
        found = [n for n in moved.names if (moved.row(n) == 1).any() and not run.is_muted("frozen-moves", n)]
        if found:
            rows = [moved.names.index(name) for name in found]
            first = int(np.argmax((moved.values[rows] == 1).any(axis=0)))
            yield _moves_finding(run, "warning", found, first, "by the optimizer's step")
    weights = run.kind(WEIGHTS)
    if weights is None or not run.history.parameters:
        return
    changed: dict[str, int] = {}
    for name, parameter in run.history.parameters.items():
        if parameter.trainable or name not in weights.index or run.is_muted("frozen-moves", name):
            continue
        row: Floats = weights.heads[weights.index[name]]
        differs = np.append(False, row[1:] != row[:-1]) & weights.present[weights.index[name]]
        if differs.any() and (moved is None or name not in moved.names):
            changed[name] = int(np.argmax(differs))
    if changed:
        yield _moves_finding(run, "info", sorted(changed), min(changed.values()), "between steps")


def _moves_finding(run: Run, severity: Severity, names: Sequence[str], first: int, how: str) -> Finding:
    return run.finding(
        "frozen-moves",
        severity,
        f"{subject(names, len(run.sizes))} {'is' if len(names) == 1 else 'are'} frozen, but changed {how}",
        names,
        first,
        evidence={"tensors": len(names)},
        cause="`requires_grad` was turned off while a gradient was still there: momentum goes on with it."
        if severity == "warning"
        else "Something else writes to it: the moving average of a teacher, or a mistake.",
        advice="Set `param.grad = None` when freezing, or leave the parameter out of the optimizer."
        if severity == "warning"
        else "Nothing, if it is the average of another network.",
        judged_by="frozen-moves: a parameter without requires_grad whose values change, 1 observation",
        share=min(1.0, sum(run.sizes.get(name, 0) for name in names) / max(1, sum(run.sizes.values()))),
    )


NOT_UPDATING = Rule(
    "not-updating",
    _not_updating,
    both(needs_kinds(WEIGHTS, GRADIENTS), needs_exact, needs_lr),
    "gradient not zero, learning rate above 0, weights bit for bit as before, 2 of 2 observations",
    "exact, where a usual step is 8 units in the last place or more",
)

LR_ZERO = Rule(
    "lr-zero",
    _lr_zero,
    needs_lr,
    "learning rate 0 in 10 % of the observations past the warm-up",
    "exact; 10 % leaves room for the last steps of a decay",
)

FROZEN_MOVES = Rule(
    "frozen-moves",
    _frozen_moves,
    needs_inventory,
    "a parameter without requires_grad changes in the optimizer's step, 1 observation",
    "exact; no threshold",
)
