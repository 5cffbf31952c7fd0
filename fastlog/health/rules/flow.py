"""Gradients on their way: they grow, shrink, pile up, or are always clipped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastlog.health.findings import Finding
from fastlog.health.history import GRADIENTS, WEIGHTS, Bools, Floats
from fastlog.health.losses import words
from fastlog.health.rules.base import (
    Rule,
    Run,
    both,
    needs_kinds,
    needs_loss,
    trailing,
    typical,
)

_HOPELESS = 0.01  # of the limit: whatever the loss does, the first layers do not take part


def _gradients_accumulate(run: Run) -> Iterator[Finding]:
    kept = run.measure("kept_gradient")
    norm = run.gradient_norm
    if kept is not None:
        values = kept.values
        known: Bools = np.any(np.isfinite(values), axis=0)
        held: Bools = np.any(values == 1, axis=0)
        in_a_row, first = trailing(held, known)
        if in_a_row >= 3:
            yield _accumulate_finding(
                run,
                max(0, first - 1),
                norm,
                "the gradient of the step before was still there at each backward pass, 3 of 3 probes",
            )
        if known.any():
            return
    known = np.isfinite(norm) & (norm > 0)
    places = np.flatnonzero(known)
    if len(places) < 15 or run.loss.has_fallen is not False:
        return
    values = norm[places]
    rank = np.argsort(np.argsort(values))
    spearman = float(np.corrcoef(rank, np.arange(len(rank)))[0, 1])
    if spearman > 0.95 and values[-1] > 10 * values[0]:
        yield _accumulate_finding(
            run,
            0,
            norm,
            "norm of all gradients rises (Spearman > 0.95) by 10 times or more, and the loss does not fall",
        )


def _accumulate_finding(run: Run, first: int, norm: Floats, how: str) -> Finding:
    known = norm[np.isfinite(norm)]
    return run.finding(
        "gradients-accumulate",
        "warning",
        "gradients pile up from step to step: nothing clears them",
        [],
        first,
        evidence={
            "gradient norm first": float(known[0]) if len(known) else "not known",
            "gradient norm last": float(known[-1]) if len(known) else "not known",
        },
        cause="`zero_grad` is missing, is called on another optimizer or model, or comes between "
        "`backward` and "
        "`step`.",
        advice="`optimizer.zero_grad()` before each `loss.backward()`.",
        judged_by=f"gradients-accumulate: {how}",
        chart=run.chart("norm of all gradients", norm, logarithmic=True),
        share=1.0,
    )


def _exploding(run: Run) -> Iterator[Finding]:
    norm = run.gradient_norm
    places = np.flatnonzero(np.isfinite(norm) & (norm > 0))
    usual = np.full(run.count, np.nan)
    for at in range(20, len(places)):
        usual[places[at]] = np.median(norm[places[max(0, at - 50) : at]])
    with np.errstate(all="ignore"):
        high = norm > 10 * usual
    first = next(
        (
            int(place)
            for at, place in enumerate(places)
            if high[place] and high[places[at : at + 5]].sum() >= 3
        ),
        -1,
    )
    if first >= 0 and _suffers(run, first):
        yield _exploding_finding(
            run,
            first,
            norm,
            f"their norm is {norm[first] / usual[first]:.0f} times its usual value",
            "norm of all gradients over 10 times the median of up to 50 observations before, 3 of 5, and "
            "the loss "
            "rises, or never fell",
            usual[first],
        )
        return
    grown, depth = _growth_with_depth(run)
    far = grown > 3 or (grown > 2 and grown**depth > 1e3)
    if far and run.loss.has_fallen is False:
        yield _exploding_finding(
            run,
            0,
            norm,
            f"they grow {grown:.1f} times from each layer to the one before it",
            "RMS of the gradients grows by 3 times or more a layer (by 2, where that comes to 1000 in all), "
            "back over 4 matrices or more, in the median of all observations, and the loss has not fallen",
        )


def _suffers(run: Run, first: int) -> bool:
    """Whether the loss rises with it, or never fell."""
    since = int(run.steps[max(0, first - 10)])
    return run.loss.trend(since) == "rising" or (
        run.loss.has_fallen is False and run.loss.falls(since) is False
    )


def _exploding_finding(
    run: Run, first: int, norm: Floats, what: str, how: str, usual: float | None = None
) -> Finding:
    return run.finding(
        "exploding-gradients",
        "error",
        f"gradients explode: {what}",
        [],
        first,
        evidence={
            "gradient norm": float(norm[-1]),
            **({"usual norm": float(usual)} if usual is not None else {}),
        },
        cause="Each layer (or time step) multiplies the gradient by more than 1: weights that are too "
        "large, a long "
        "recurrence, no normalisation; or the learning rate is too high.",
        advice="`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)` before `optimizer.step()`, a "
        "lower learning "
        "rate, or a normalisation.",
        judged_by=f"exploding-gradients: {how}",
        chart=run.chart("norm of all gradients", norm, logarithmic=True),
        share=1.0,
    )


def _growth_with_depth(run: Run) -> tuple[float, int]:
    """Median factor by which gradients grow from one layer to the one before it in the model, and over how
    many steps; 0 where they do not grow steadily.

    Gradients of biases tell what flows back; those of weights are multiplied by what goes in.
    """
    gradients = run.kind(GRADIENTS)
    names = [name for name in _flow(run) if gradients is not None and name in gradients.index]
    if gradients is None or len(names) < 4:
        return 0.0, 0
    rms = gradients.stat("rms")[[gradients.index[name] for name in names], 1:]
    usual = typical(np.where(rms > 0, rms, np.nan).T)
    if not np.isfinite(usual).all():
        return 0.0, 0
    steps = np.diff(np.log(usual[::-1]))  # from the output back
    return (float(np.exp(np.median(steps))) if np.mean(steps > 0) >= 0.8 else 0.0), len(steps)


def _flow(run: Run) -> list[str]:
    """The biases of the matrices where most have one, else the matrices themselves."""
    biases = [name.removesuffix("weight") + "bias" for name in run.matrices if name.endswith("weight")]
    found = [name for name in biases if name in run.sizes]
    return found if len(found) >= 0.8 * len(run.matrices) else list(run.matrices)


def _vanishing(run: Run) -> Iterator[Finding]:
    gradients, weights = run.kind(GRADIENTS), run.kind(WEIGHTS)
    assert gradients is not None and weights is not None
    names = [name for name in run.matrices if name in gradients.index and name in weights.index]
    if len(names) < 4 or run.loss.has_fallen is not False or run.loss.is_at_floor:
        return
    g = gradients.stat("rms")[[gradients.index[name] for name in names]]
    w = weights.stat("rms")[[weights.index[name] for name in names]]
    adaptive = run.is_adaptive()
    with np.errstate(all="ignore"):
        size = np.where((g > 0) & (w > 0), g / w, np.nan)
    known: Bools = np.all(np.isfinite(size), axis=0)
    known[: run.effective] = False
    limit = 1e-4 if adaptive else 1e-3
    first = _faint_since(size, known, limit)
    if first < 0 or not _is_flat(run, first):
        first = _faint_since(size, known, _HOPELESS * limit)  # the last layers learn a little: not the first
    if first < 0:
        return
    usual = typical(size[:, first:].T)
    faint = [name for name, one in zip(names, usual, strict=True) if one < 0.1 * usual[-1]]
    yield run.finding(
        "vanishing-gradients",
        "warning",
        f"gradients vanish on their way back: at {names[0]} they are {usual[0] / usual[-1]:.0e} of "
        f"those at "
        f"{names[-1]}",
        faint,
        first,
        evidence={
            "gradient/weight of the first matrix": float(usual[0]),
            "of the last": float(usual[-1]),
            "loss": run.loss.late(),
        },
        cause="Each layer multiplies the gradient by less than 1: saturated sigmoids or tanh, weights "
        "that are too "
        "small, or a deep network without residual connections or normalisation.",
        advice="Use ReLU-like activations with `torch.nn.init.kaiming_normal_`, residual connections, or a "
        "normalisation between the layers.",
        judged_by=f"vanishing-gradients: RMS of gradient over RMS of weight falls with depth (Spearman > "
        f"0.8), to under {limit:g} of the last matrix, 10 of 10 observations, and the loss neither fell nor "
        f"falls; or to under {_HOPELESS * limit:g}, and the loss has not fallen by 10 %",
        chart=run.chart(f"gradient / weight of {names[0]}", size[0], logarithmic=True),
        share=1.0,
    )


def _faint_since(size: Floats, known: Bools, limit: float) -> int:
    """The observation since which gradients fall with depth to under ``limit`` of the last matrix, for ten
    observations or more until the last one; -1: they do not.
    """
    weakest = np.zeros(len(known), bool)
    for at in np.flatnonzero(known):
        column = np.log(size[:, at])
        falls = np.corrcoef(np.arange(len(size)), np.argsort(np.argsort(column)))[0, 1] > 0.8
        weakest[at] = falls and size[: max(1, len(size) // 4), at].min() < limit * size[-1:, at].max()
    in_a_row, first = trailing(weakest, known)
    return first if in_a_row >= 10 else -1


def _is_flat(run: Run, first: int) -> bool:
    return run.loss.trend(int(run.steps[first])) in ("flat", "rising")


def _always_clipped(run: Run) -> Iterator[Finding]:
    norm = run.gradient_norm[np.isfinite(run.gradient_norm)]
    if len(norm) < 20 or not (norm > 0).all():
        return
    limit = float(np.median(norm))
    at_limit = np.abs(norm / limit - 1) < 1e-3
    if at_limit.mean() < 0.95:
        return
    before = _norm_before(run)
    far = before is not None and float(np.median(before)) >= 10 * limit
    yield run.finding(
        "always-clipped",
        "warning" if far and not run.is_adaptive() else "info",
        f"gradients are clipped to a norm of {limit:.3g} in {at_limit.mean():.0%} of the observations",
        [],
        0,
        evidence={
            "norm": limit,
            "observations": len(norm),
            **({"median norm before clipping": float(np.median(before))} if before is not None else {}),
        },
        cause="The limit lies under the usual norm: it sets the step's length, not only that of the "
        "outliers.",
        advice="Fine under Adam, whose steps do not depend on it. Under SGD raise the limit or the "
        "learning rate, "
        "knowing that the limit sets the step.",
        judged_by="always-clipped: one norm of all gradients (within 0.1 %) in 95 % of 20 observations or "
        "more; warning "
        "under SGD where the norm before, logged as grad_norm, is 10 times the limit",
        chart=run.chart("norm of all gradients", run.gradient_norm),
        share=1.0,
    )


def _norm_before(run: Run) -> Floats | None:
    for tag, (_, values) in run.history.scalars.items():
        if tag.startswith(("fastlog/", "grad_norm/")):
            continue
        found = set(words(tag))
        if "norm" in found and found & {"grad", "gradient", "gradients"} and np.isfinite(values).any():
            finite: Floats = values[np.isfinite(values)]
            return finite
    return None


GRADIENTS_ACCUMULATE = Rule(
    "gradients-accumulate",
    _gradients_accumulate,
    needs_kinds(GRADIENTS),
    "the old gradient is still there at the backward pass, 3 of 3; else norm rising 10 times, loss not "
    "falling",
    "exact where the watcher could probe it",
)


EXPLODING_GRADIENTS = Rule(
    "exploding-gradients",
    _exploding,
    both(needs_kinds(GRADIENTS), needs_loss),
    "global norm over 10 times the median of 50 observations, 3 of 5, or 3 times a layer; loss not falling",
    "planted: 3 to 4 times a layer in MLPs, and a growing RNN; healthy: at most 1.1, or no steady growth",
)


VANISHING_GRADIENTS = Rule(
    "vanishing-gradients",
    _vanishing,
    both(needs_kinds(GRADIENTS, WEIGHTS), needs_loss),
    "gradient/weight falls with depth to 1e-3 (adaptive optimizers: 1e-4) of the last matrix, 10 of 10; "
    "loss flat",
    "planted: 2e-9 to 2e-6, in deep sigmoid and tanh MLPs; healthy CNN, GPT, ViT, T5 and BERT: 5e-3 and over",
)


ALWAYS_CLIPPED = Rule(
    "always-clipped",
    _always_clipped,
    needs_kinds(GRADIENTS),
    "one global norm in 95 % of 20 observations or more",
    "clip_grad_norm_ is exact to 1e-6",
)
