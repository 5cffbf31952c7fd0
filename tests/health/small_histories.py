"""Histories of a few tensors and numbers, to hold rules against at their boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastlog.health import rules
from fastlog.health.findings import Finding
from fastlog.health.history import History, Inventory, Kind, Parameter, Table
from fastlog.health.rules.base import Run
from fastlog.summaries.packed import HEAD

WIDTH = 64
MATRICES = ("0.weight", "1.weight", "2.weight", "3.weight")


def heads_of(rms: np.ndarray, numel: int, zeros: float = 0.0) -> np.ndarray:
    """Heads of a tensor of ``numel`` values, by their root mean squares."""
    made = np.zeros(len(rms), HEAD)
    made["num"] = made["num_finite"] = numel
    made["zeros"] = np.where(rms == 0, numel, round(zeros * numel))
    made["sum_squares"] = rms**2 * numel
    made["abs_max"], made["max"], made["min"] = 3 * rms, 3 * rms, -3 * rms
    return made


def kind(rows: Mapping[str, Any], count: int, numel: int = WIDTH * WIDTH, zeros: float = 0.0) -> Kind:
    """Summaries with these root mean squares: a number for all observations, or one each."""
    values = [np.broadcast_to(np.asarray(row, float), (count,)) for row in rows.values()]
    heads = np.stack([heads_of(row, numel, zeros) for row in values])
    return Kind(tuple(rows), heads, np.ones(heads.shape, bool))


def history(
    count: int = 60,
    *,
    loss: Sequence[float] | np.ndarray | None = None,
    lr: Any = 1e-3,
    kinds: Mapping[str, Mapping[str, Any]] | None = None,
    parameters: Sequence[Parameter] | None = None,
    measures: Mapping[str, Mapping[str, Any]] | None = None,
    optimizer: str = "AdamW",
    **options: Any,
) -> History:
    """A run of four square matrices, observed at every step: ``kinds`` gives root mean squares by name.

    Weights, gradients and updates that are not given are those of a healthy run.
    """
    if parameters is None:
        parameters = [Parameter(name, (WIDTH, WIDTH)) for name in MATRICES]
    names = [parameter.name for parameter in parameters]
    noise = 1 + 0.05 * np.sin(np.arange(count))
    rms = {
        "weights": {name: 0.1 * (1 + 0.01 * np.arange(count) / count) for name in names},
        "gradients": {name: 1e-3 * noise for name in names},
        "updates": {name: 1e-4 * noise for name in names},
    }
    for name, rows in (kinds or {}).items():
        rms[name] = {**rms.get(name, {}), **rows}
    steps = np.arange(count)
    if loss is None:
        loss = np.exp(-np.arange(count) / count)
    made = {name: kind(rows, count) for name, rows in rms.items()}
    tables = {
        name: Table(
            tuple(rows), np.stack([np.broadcast_to(np.asarray(r, float), (count,)) for r in rows.values()])
        )
        for name, rows in (measures or {}).items()
    }
    group = {"optimizer": optimizer, "weight_decay": 0.0, "eps": 1e-8, **options}
    return History(
        ".",
        steps,
        steps.astype(float),
        made,
        (Inventory(0, {parameter.name: parameter for parameter in parameters}, (group,)),),
        np.broadcast_to(np.asarray(lr, float), (1, count)).copy(),
        np.full(count, np.nan),
        steps + 1.0,
        tables,
        {"loss": (steps, np.asarray(loss, float))},
        loss_tag="loss",
    )


def why_not(rule: str, made: History) -> str:
    """What a run lacks to be asked; "" for nothing."""
    (asked,) = [one for one in rules.RULES if one.id == rule]
    return asked.needs(Run(made, {}))


def found(rule: str, made: History) -> list[Finding]:
    """What one rule says by itself; an error where it cannot be asked."""
    assert why_not(rule, made) == ""
    (asked,) = [one for one in rules.RULES if one.id == rule]
    return list(asked.judge(Run(made, {})))
