"""The table of layers: where each was early, where it is now, and which of its tensors is the worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastlog.health.history import Floats, History
from fastlog.health.names import layer_of
from fastlog.health.report.drawing import sparkline
from fastlog.health.report.markup import Html, element
from fastlog.health.report.measures import Measure, measures
from fastlog.health.report.numbers import count, factor, number, share
from fastlog.health.report.thinning import line

_SPARK_POINTS = 60
_SHOWN = ("update-ratio", "gradient-rms")


@dataclass(frozen=True)
class Change:
    """A measure of one row: the median of its first observations and of its last ones."""

    early: float
    now: float

    @classmethod
    def of(cls, values: Floats) -> Change:
        """Of the observations of one row: a tenth at each end, at least one, at most ten; the very first does
        not count where there are others. ``now`` is NaN where the last observation is not finite.
        """
        if not len(values):
            return cls(math.nan, math.nan)
        piece = int(np.clip(len(values) // 10, 1, 10))
        early = values[1 : 1 + piece] if len(values) > 1 else values
        now = values[-piece:]
        return cls(_middle(early), _middle(now) if np.isfinite(values[-1]) else math.nan)

    @property
    def ratio(self) -> float:
        """How often ``early`` is in ``now``; NaN where one of them is not known."""
        return self.now / self.early if self.early else math.nan

    @property
    def strength(self) -> float:
        """By how much it has changed, up or down; infinite where it has gone to zero or is not finite."""
        if not math.isfinite(self.now) or self.ratio == 0:
            return math.inf
        return abs(math.log(self.ratio)) if math.isfinite(self.ratio) else 0.0


def layer_table(history: History, flagged: Mapping[str, str]) -> Html | None:
    """A row a layer, in the order of the model."""
    by_layer = {measure.key: measure for measure in measures(history, layers=True)}
    if not by_layer:
        return None
    tensors = dict.fromkeys(
        [*history.sizes(), *(name for kind in history.kinds.values() for name in kind.names)]
    )
    known = {name for measure in by_layer.values() for name in measure.names}
    names = [layer for layer in dict.fromkeys(map(layer_of, tensors)) if layer in known]
    shown = [by_layer[key] for key in _SHOWN if key in by_layer] or [next(iter(by_layer.values()))]
    worst = _worst(history, shown[-1].key, flagged)
    sizes: dict[str, int] = {}
    for name, size in history.sizes().items():
        sizes[layer_of(name)] = sizes.get(layer_of(name), 0) + size
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", count(sizes[name]) if name in sizes else "", class_="number"),
            [_cells(measure, name, history) for measure in shown],
            _zeros(by_layer["zeros"], name) if "zeros" in by_layer else None,
            _worst_cell(worst.get(name), flagged),
            data_layer=name,
        )
        for name in names
    ]
    return element(
        "div",
        element(
            "table",
            element("thead", _head(shown, "zeros" in by_layer)),
            element("tbody", rows),
            class_="layers",
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label="Layers",
    )


def _head(shown: Sequence[Measure], zeros: bool) -> Html:
    numbers = [_number_head(text) for text in ("early", "now", "change")]
    return element(
        "tr",
        element("th", "Layer", scope="col"),
        _number_head("Values"),
        [(element("th", measure.title, scope="col", class_="measure"), *numbers) for measure in shown],
        _number_head("zeros") if zeros else None,
        element("th", "Worst tensor", scope="col"),
    )


def _number_head(text: str) -> Html:
    return element("th", text, scope="col", class_="number")


def _cells(measure: Measure, name: str, history: History) -> list[Html]:
    if name not in measure.names:
        return [element("td"), *(element("td", "–", class_="number") for _ in range(3))]
    row = measure.names.index(name)
    there = measure.present[row]
    steps, values = history.steps[there], measure.values[row][there]
    change = Change.of(values)
    description = f"{measure.title} of {name}, steps {history.steps[0]} to {history.steps[-1]}"
    spark = sparkline(*line(steps, values, _SPARK_POINTS), description, measure.logarithmic)
    known = len(values) > 0
    return [
        element("td", spark if known else None, class_="measure"),
        _number_cell(number(change.early, 2) if known else "–"),
        _number_cell(number(change.now, 2) if known else "–", bad=known and not math.isfinite(change.now)),
        _number_cell(factor(change.ratio)),
    ]


def _number_cell(text: str, bad: bool = False) -> Html:
    return element("td", text, class_="number bad" if bad else "number")


def _zeros(measure: Measure, name: str) -> Html:
    if name not in measure.names:
        return _number_cell("–")
    row = measure.names.index(name)
    values = measure.values[row][measure.present[row]]
    return _number_cell(share(float(values[-1])) if len(values) and np.isfinite(values[-1]) else "–")


def _worst(history: History, key: str, flagged: Mapping[str, str]) -> dict[str, str]:
    """For each layer the tensor that a finding names first, else the one that has changed most."""
    measure = next(measure for measure in measures(history) if measure.key == key)
    order = {name: -i for i, name in enumerate(flagged)}
    changes = (Change.of(row[there]) for row, there in zip(measure.values, measure.present, strict=True))
    rank = {
        name: (order.get(name, -math.inf), change.strength)
        for name, change in zip(measure.names, changes, strict=True)
    }
    worst: dict[str, str] = {}
    for name in measure.names:
        layer = layer_of(name)
        if layer not in worst or rank[name] > rank[worst[layer]]:
            worst[layer] = name
    return worst


def _worst_cell(name: str | None, flagged: Mapping[str, str]) -> Html:
    if name is None:
        return element("td", "–")
    inside = name.removeprefix(layer_of(name)).removeprefix(".") or name
    return element(
        "td",
        element("code", inside, class_="tensor", title=name, data_tensor=name),
        class_=f"worst {flagged.get(name, '')}".rstrip(),
    )


def _middle(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else math.nan
