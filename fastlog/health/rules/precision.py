"""What narrow dtypes lose: steps under the last place, gradients under the smallest number, overflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastlog.health.findings import Finding, Severity
from fastlog.health.history import ACTIVATIONS, GRADIENTS, WEIGHTS, Bools, Floats, Kind
from fastlog.health.rules.base import (
    Rule,
    Run,
    both,
    by_onset,
    middle,
    needs_exact,
    needs_inventory,
    needs_kinds,
    needs_updates,
    subject,
    trailing,
    typical,
)

_IN_A_ROW = 5
_NARROW = ("bfloat16", "float16")
_LOST, _SPARSE = 0.9, 0.1
_SUBNORMAL, _ZEROS = 0.5, 0.3
_OVERFLOW = 65504 / 4
_EPS_SHARE = 0.02
_QUANTUM = 2.0**24  # float16 has no fraction finer than 2**-24
_FEWEST_VALUES = 256


# ---- lost-updates


def _lost_updates(run: Run) -> Iterator[Finding]:
    updates, gradients = run.updates, run.kind(GRADIENTS)
    assert updates is not None and gradients is not None
    narrow = [n for n, p in run.history.parameters.items() if p.dtype in _NARROW and p.trainable]
    starts, lost = {}, {}
    for name in narrow:
        if name not in updates.index or name not in gradients.index or run.is_muted("lost-updates", name):
            continue
        zeros = updates.stat("zeros")[updates.index[name]]
        dense = gradients.stat("zeros")[gradients.index[name]] <= _SPARSE
        lr = run.lr_of(name)
        known = np.isfinite(zeros) & ~(lr == 0)
        known[: run.effective] = False
        in_a_row, first = trailing((zeros >= _LOST) & dense, known)
        if in_a_row >= _IN_A_ROW:
            starts[name], lost[name] = first, float(np.median(zeros[first:][known[first:]]))
    for first, tensors in by_onset(starts):
        share = float(np.median([lost[name] for name in tensors]))
        learns = run.loss.has_fallen is True and run.loss.trend(int(run.steps[first])) != "rising"
        dtype = run.history.parameters[tensors[0]].dtype
        severity: Severity = "info" if learns or run.loss.is_signed else "warning"
        yield run.finding(
            "lost-updates",
            severity,
            f"{share:.0%} of the values of {subject(tensors, len(narrow), f'{dtype} tensors')} do not "
            f"move in a step: "
            "the step is lost to rounding",
            sorted(tensors, key=lambda name: -lost[name]),
            first,
            evidence={
                "share of updates that are zero": share,
                "share of gradients that are zero": middle(
                    gradients.stat("zeros")[[gradients.index[name] for name in tensors], -1]
                ),
                "learning rate": float(run.lr_of(tensors[0])[-1]),
                "dtype": dtype,
            },
            cause=f"The weights are {dtype} themselves: a step smaller than half a unit in the last place "
            f"({'1/256' if dtype == 'bfloat16' else '1/2048'} of the weight) rounds to nothing."
            + (" The loss falls all the same." if learns else ""),
            advice="Keep the weights in float32 and compute in "
            f"{dtype}: `with torch.autocast(device_type, dtype=torch.{dtype}):`. Or use an optimizer with "
            f"float32 "
            "master weights or stochastic rounding.",
            judged_by=f"lost-updates: {_LOST:.0%} of an update zero where at most {_SPARSE:.0%} of the "
            f"gradient is, "
            "5 of 5 observations, own dtype bfloat16 or float16; info where the loss has fallen by 10 % "
            "all the same, "
            "or takes both signs",
            chart=run.chart(
                "share of values that do not move", updates.stat("zeros")[updates.index[tensors[0]]], _LOST
            ),
        )


# ---- gradient-underflow


def holds_float16(kind: Kind, row: int, scale: Floats) -> Bools:
    """Where a tensor holds nothing but float16 values, whatever its dtype: their exact sum is a multiple of
    the smallest of them. A ``GradScaler`` has divided them by ``scale``. [T]
    """
    heads = kind.heads[row]
    with np.errstate(all="ignore"):
        total = heads["sum"] * _QUANTUM * np.where(np.isfinite(scale), scale, 1.0)
        whole = (total == np.rint(total)) & (np.abs(total) < 2.0**52)
    enough = (heads["num"] - heads["zeros"] >= _FEWEST_VALUES) & (heads["num_finite"] == heads["num"])
    found: Bools = whole & enough & kind.present[row]
    return found


def _gradient_underflow(run: Run) -> Iterator[Finding]:
    gradients = run.kind(GRADIENTS)
    assert gradients is not None
    scale = _scale(run)
    starts: dict[str, int] = {}
    subnormal: dict[str, Floats] = {}
    for row, name in enumerate(gradients.names):
        if run.is_muted("gradient-underflow", name):
            continue
        parameter = run.parameter(name)
        heads, present = gradients.heads[row], gradients.present[row]
        of_float16 = parameter is not None and parameter.dtype == "float16"
        narrow = present if of_float16 else holds_float16(gradients, row, scale)
        if narrow.sum() < max(1, 0.5 * present.sum()):
            continue
        nonzero = heads["num"] - heads["zeros"]
        with np.errstate(all="ignore"):
            zeros = heads["zeros"] / heads["num"]
            tiny = heads["below_fp16"] / nonzero
        early = middle(np.where(present, zeros, np.nan)[: run.armed + 1])
        known = narrow & (nonzero > 0) & ~(scale > 1)
        rising = (zeros >= _ZEROS) & (zeros >= 1.5 * early) & (tiny >= _SUBNORMAL / 2)
        in_a_row, first = trailing((tiny >= _SUBNORMAL) | rising, known)
        if in_a_row >= _IN_A_ROW:
            starts[name], subnormal[name] = first, np.where(known, tiny, np.nan)
    for first, tensors in by_onset(starts):
        yield run.finding(
            "gradient-underflow",
            "warning",
            f"the float16 gradients of {subject(tensors, len(gradients.names))} underflow",
            tensors,
            first,
            evidence={
                "share of nonzero values under 2**-14": middle(np.array([subnormal[n][-1] for n in tensors])),
                "share of zeros": middle(gradients.stat("zeros")[[gradients.index[n] for n in tensors], -1]),
            },
            cause="float16 keeps fewer and fewer digits under 2**-14 = 6e-5, and none under 6e-8; nothing "
            "scales the "
            "loss up.",
            advice="`scaler = torch.amp.GradScaler()`: `scaler.scale(loss).backward(); "
            "scaler.step(optimizer); "
            "scaler.update()`. Or compute in bfloat16.",
            judged_by="gradient-underflow: gradients that hold float16 values only, half of the nonzero "
            "ones under "
            "2**-14, or 30 % zeros and rising, 5 of 5 observations, no loss scale above 1",
            chart=run.chart("share of nonzero values under 2**-14", subnormal[tensors[0]], _SUBNORMAL),
        )


def _scale(run: Run) -> Floats:
    scale = run.history.loss_scale
    return scale if len(scale) == run.count else np.full(run.count, np.nan)


# ---- near-overflow


def _near_overflow(run: Run) -> Iterator[Finding]:
    none = np.full(run.count, np.nan)
    for kind_name in (WEIGHTS, ACTIVATIONS):
        kind = run.kind(kind_name)
        if kind is None:
            continue
        starts: dict[str, int] = {}
        for row, name in enumerate(kind.names):
            parameter = run.parameter(name)
            of_float16 = kind_name == WEIGHTS and parameter is not None and parameter.dtype == "float16"
            narrow = kind.present[row] if of_float16 else holds_float16(kind, row, none)
            if kind_name == WEIGHTS and not of_float16:
                continue
            largest = kind.stat("abs_max")[row]
            early = middle(largest[: run.armed + 1])
            in_a_row, first = trailing((largest >= _OVERFLOW) & (largest > 1.2 * early), narrow)
            if in_a_row >= _IN_A_ROW and not run.is_muted("near-overflow", name):
                starts[name] = first
        for first, names in by_onset(starts):
            values = kind.stat("abs_max")[kind.index[names[0]]]
            yield run.finding(
                "near-overflow",
                "warning",
                f"{kind_name} of {subject(names, len(kind.names))} are within a factor of 4 of float16's "
                f"largest "
                "number, and grow",
                names,
                first,
                evidence={"largest magnitude": float(values[-1]), "limit": 65504.0},
                cause="The values grow with training: no normalisation, a residual stream that adds up, "
                "or logits "
                "without bound.",
                advice="Compute this part in float32 or bfloat16: `torch.autocast(device_type, "
                "dtype=torch.bfloat16)`.",
                judged_by="near-overflow: largest magnitude over 16376 and over 1.2 times the early one, "
                "5 of 5",
                chart=run.chart(f"largest magnitude of {names[0]}", values, 65504.0, logarithmic=True),
            )


# ---- adam-eps-dominates


def _adam_eps(run: Run) -> Iterator[Finding]:
    updates, weights, gradients = run.updates, run.kind(WEIGHTS), run.kind(GRADIENTS)
    assert updates is not None and weights is not None and gradients is not None
    names = [
        n
        for n in run.matrices
        if n in updates.index and n in weights.index and n in gradients.index and _has_eps(run, n)
    ]
    if not names or run.loss.is_at_floor:
        return
    steps = np.full((len(names), run.count), np.nan)
    under = np.zeros((len(names), run.count), bool)
    for i, name in enumerate(names):
        lr = run.lr_of(name)
        u, w = updates.stat("rms")[updates.index[name]], weights.stat("rms")[weights.index[name]]
        g = gradients.stat("rms")[gradients.index[name]]
        decay = run.option(name, "weight_decay") if "adamw" in _optimizer(run, name).lower() else 0.0
        with np.errstate(all="ignore"):
            steps[i] = np.where(lr > 0, np.sqrt(np.maximum(u**2 - (lr * decay * w) ** 2, 0)) / lr, np.nan)
        highest = np.fmax.accumulate(np.where(np.isfinite(g), g, 0))
        under[i] = highest < 10 * run.option(name, "eps", 1e-8)
    usual = typical(steps)
    starts: dict[str, int] = {}
    for i, name in enumerate(names):
        known_here = np.isfinite(steps[i])
        known_here[:1] = False
        in_a_row, first = trailing((steps[i] < _EPS_SHARE) & under[i], known_here)
        if in_a_row >= _IN_A_ROW and not run.is_muted("adam-eps-dominates", name):
            starts[name] = first
    if 2 * len(starts) < len(names):
        return
    first = min(starts.values())
    eps = run.option(names[0], "eps", 1e-8)
    tensors = sorted(starts, key=names.index)
    yield run.finding(
        "adam-eps-dominates",
        "warning",
        f"{_optimizer(run, names[0])}'s epsilon of {eps:g} outweighs the gradients of "
        f"{subject(tensors, len(names), 'matrices')}: steps are {middle(usual[first:]):.1g} of "
        f"the learning rate",
        tensors,
        first,
        evidence={
            "RMS of the step / learning rate": middle(usual[first:]),
            "usual": "0.2 to 0.4",
            "epsilon": eps,
            "RMS of the gradient": middle(gradients.stat("rms")[[gradients.index[n] for n in tensors], -1]),
        },
        cause="The gradients are about as small as epsilon or smaller (a loss that is divided by much, or "
        "summed in a "
        "small unit), or epsilon is set high: then steps shrink with the gradient.",
        advice="Lower it, `torch.optim.AdamW(..., eps=1e-15)`, or scale the loss up: Adam's steps do not "
        "depend on "
        "its scale otherwise.",
        judged_by="adam-eps-dominates: RMS of the update without decay under 0.02 of the learning rate, "
        "and the "
        "gradient's highest RMS so far under 10 epsilon, in half of the matrices, 5 of 5 observations",
        chart=run.chart("RMS of the step / learning rate", usual, _EPS_SHARE, logarithmic=True),
    )


def _optimizer(run: Run, name: str) -> str:
    parameter = run.parameter(name)
    group = parameter.group if parameter is not None else None
    groups = run.history.groups
    return str(groups[group].get("optimizer", "")) if group is not None and group < len(groups) else ""


def _has_eps(run: Run, name: str) -> bool:
    return "adam" in _optimizer(run, name).lower() and run.option(name, "eps", -1) >= 0


def _needs_narrow(dtypes: Sequence[str]) -> Any:
    def needs(run: Run) -> str:
        found = {parameter.dtype for parameter in run.history.parameters.values()}
        return "" if found & set(dtypes) else f"no parameter is {' or '.join(dtypes)}"

    return needs


def _needs_adam(run: Run) -> str:
    found = any("adam" in str(group.get("optimizer", "")).lower() for group in run.history.groups)
    return "" if found else "the optimizer is no Adam"


LOST_UPDATES = Rule(
    "lost-updates",
    _lost_updates,
    both(needs_exact, needs_kinds(GRADIENTS), needs_updates, _needs_narrow(_NARROW)),
    "90 % of an update zero where at most 10 % of the gradient is, 5 of 5 observations",
    "planted: GPT, MLP and ViT in bfloat16 at rates of 1e-6 and 2e-6; quiet: MLP with SGD at 0.2",
)

GRADIENT_UNDERFLOW = Rule(
    "gradient-underflow",
    _gradient_underflow,
    both(needs_exact, needs_kinds(GRADIENTS)),
    "float16 gradients, half of the nonzero values under 2**-14, or 30 % zeros and rising, 5 of 5 "
    "observations",
    "planted: MLP and switch transformer without GradScaler; quiet: CNN with one",
)

NEAR_OVERFLOW = Rule(
    "near-overflow",
    _near_overflow,
    both(needs_exact, lambda run: "" if run.kind(ACTIVATIONS) or run.kind(WEIGHTS) else "nothing is logged"),
    "largest magnitude of float16 values over 16376 and growing, 5 of 5 observations",
    "the format's own limit; planted: one MLP",
)

ADAM_EPS_DOMINATES = Rule(
    "adam-eps-dominates",
    _adam_eps,
    both(needs_exact, needs_inventory, needs_kinds(WEIGHTS, GRADIENTS), needs_updates, _needs_adam),
    "RMS of the step under 0.02 of the learning rate and gradients under 10 epsilon, 5 of 5 observations",
    "planted: MLP, GPT and CNN, by epsilon and by the scale of the loss",
)
