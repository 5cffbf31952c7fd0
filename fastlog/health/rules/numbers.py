"""NaN and infinities: where they were first, and whether anybody handles them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastlog.health.findings import Finding, Severity
from fastlog.health.history import ACTIVATION_GRADIENTS, ACTIVATIONS, GRADIENTS, UPDATE_SAMPLES, UPDATES
from fastlog.health.rules.base import Rule, Run, nothing, subject

_PASSING = (GRADIENTS, ACTIVATIONS, ACTIVATION_GRADIENTS, UPDATES, UPDATE_SAMPLES)
_IN_A_ROW = 3


def _bad(run: Run, kind: str) -> tuple[tuple[str, ...], Any] | None:
    found = run.kind(kind)
    if found is None:
        return None
    if kind == ACTIVATIONS:  # infinities of masks are meant
        bad = found.present & (found.heads["nan"] > 0)
    else:
        bad = found.present & (found.heads["num_finite"] < found.heads["num"])
    parameters = run.history.parameters
    frozen = [name in parameters and not parameters[name].trainable for name in found.names]
    bad[frozen] = False
    return (found.names, bad) if bad.any() else None


def _loss_steps(run: Run) -> Any:
    steps, values = run.history.scalars.get(run.loss.tag or "", (np.empty(0, np.int64), np.empty(0)))
    return steps, ~np.isfinite(values)


def _judge(run: Run) -> Iterator[Finding]:
    kinds = {kind: bad for kind in run.history.kinds if (bad := _bad(run, kind)) is not None}
    loss_steps, loss_bad = _loss_steps(run)
    lasting = [kind for kind in kinds if kind not in _PASSING]
    scaled = bool(np.isfinite(run.history.loss_scale).any())
    collapsed = scaled and bool(run.history.loss_scale[-1] < 1)
    needed = _IN_A_ROW if scaled and not lasting and not collapsed else 1
    passing = [
        k for k in kinds if k in (GRADIENTS, ACTIVATIONS) and _longest(kinds[k][1].any(axis=0)) >= needed
    ]
    loss_goes = bool(len(loss_bad)) and _longest(loss_bad) >= needed
    if not lasting and not passing and not loss_goes:
        return
    firsts = {kind: int(np.argmax(bad.any(axis=0))) for kind, (_, bad) in kinds.items()}
    if loss_goes:
        step = loss_steps[np.argmax(loss_bad)]
        firsts["loss"] = min(int(np.searchsorted(run.steps, step)), max(run.count - 1, 0))
    order = [ACTIVATIONS, "loss", ACTIVATION_GRADIENTS, GRADIENTS]
    origin = min(firsts, key=lambda kind: (firsts[kind], order.index(kind) if kind in order else len(order)))
    first = firsts[origin]
    ends_bad = bool(lasting) or (loss_goes and bool(loss_bad[-1]))
    ends_bad |= any(kinds[kind][1][:, -1].any() for kind in passing)
    tensors, place = _place(origin, kinds, first)
    named = {name for kind in (*lasting, *passing) for name in _names_at(kinds[kind], first)}
    tensors += [name for name in dict.fromkeys(run.sizes) if name in named and name not in tensors]
    if not run.count:
        return
    what = "the loss" if origin == "loss" else f"the {origin.replace('_', ' ')}"
    severity: Severity = "error" if ends_bad or len(passing) + loss_goes > 1 else "warning"
    yield run.finding(
        "nonfinite",
        severity,
        f"NaN or Inf in {what}{place} at step {int(run.steps[first])}"
        + ("" if ends_bad else ", and gone again later"),
        tensors,
        first,
        evidence={
            "first seen in": origin,
            "tensors with NaN or Inf then": len(tensors),
            "last clean step": int(run.steps[first - 1]) if first else "none",
            **_ratio_before(run, first),
        },
        cause=_cause(run, first),
        advice="Run one step under `torch.autograd.set_detect_anomaly(True)`, and look at the batch of that "
        "step: `torch.isfinite(batch).all()`. Clip gradients where they grew before: "
        "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`."
        + ("" if ACTIVATIONS in run.history.kinds else ' `log=` with "activations" names the first module.'),
        judged_by=f"nonfinite: any NaN or Inf in weights and optimizer state; {needed} observation(s) in "
        f"a row in "
        "gradients, activations (NaN only) and loss",
        share=1.0 if not tensors else None,
    )


def _names_at(found: tuple[tuple[str, ...], Any], at: int) -> list[str]:
    names, bad = found
    return [names[i] for i in np.flatnonzero(bad[:, at : at + 2].any(axis=1))]


def _place(origin: str, kinds: dict[str, Any], first: int) -> tuple[list[str], str]:
    """The tensor in which it began, and the words that say so."""
    if origin == "loss":
        return [], ""
    names, bad = kinds[origin]
    rows = np.flatnonzero(bad[:, first])
    if origin in (GRADIENTS, ACTIVATION_GRADIENTS):  # backward: what is last in the model is first
        at = int(rows[-1])
        clean = names[at + 1] if at + 1 < len(names) else None
        words = f" from {names[at]} back" if len(rows) > 1 else f" of {names[at]}"
        if len(rows) == len(names):
            words = f" of {subject(names, len(names))}"
    else:
        at = int(rows[0])
        clean = names[at - 1] if at else None
        words = f" from {names[at]} on" if len(rows) > 1 else f" of {names[at]}"
        if len(rows) == len(names) and origin != ACTIVATIONS:
            words = f" of {subject(names, len(names))}"
    found = [names[at], *(names[i] for i in rows if i != at)]
    return found, words + (f" (the last clean one is {clean})" if clean is not None and len(rows) > 1 else "")


def _longest(flags: Any) -> int:
    longest = current = 0
    for flag in flags:
        current = current + 1 if flag else 0
        longest = max(longest, current)
    return longest


def _ratio_before(run: Run, first: int) -> dict[str, float]:
    ratios = run.update_ratios
    if ratios is None or not len(ratios.names) or first == 0:
        return {}
    before = ratios.values[:, max(0, first - 5) : first]
    before = before[np.isfinite(before)]
    return {"update/weight before": float(np.median(before))} if len(before) else {}


def _cause(run: Run, first: int) -> str:
    causes = []
    if _ratio_before(run, first).get("update/weight before", 0) > 0.1:
        causes.append("the steps before were very large: the learning rate is too high")
    dtypes = {p.dtype for p in run.history.parameters.values()}
    if "float16" in dtypes:
        causes.append("float16 overflows beyond 65504")
    causes.append("a division by zero, a logarithm or root of 0, or an overflow of exp")
    causes.append("NaN or Inf in the data")
    return "It may be that " + "; or ".join(causes[:3]) + "."


NONFINITE = Rule(
    "nonfinite",
    _judge,
    nothing,
    "any NaN or Inf in weights or optimizer state; in gradients, activations (NaN only) or loss 1 "
    "observation "
    "(3 in a row where a GradScaler is in use)",
    "exact; no threshold",
)
