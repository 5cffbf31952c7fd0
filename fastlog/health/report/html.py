"""The report: one page that needs no network, no script and no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from fastlog.health.findings import SEVERITIES, RunHealth
from fastlog.health.history import History
from fastlog.health.names import layer_of
from fastlog.health.report import cards
from fastlog.health.report.curves import Curve, training_curves
from fastlog.health.report.drawing import Line, Mark, chart
from fastlog.health.report.heatmap import MOST_ROWS, heatmap, legend, pixels
from fastlog.health.report.layers import layer_table
from fastlog.health.report.markup import Html, element, json_data, verbatim
from fastlog.health.report.measures import measures
from fastlog.health.report.numbers import count, short, steps
from fastlog.health.report.ridges import Atlas, Histograms, atlases
from fastlog.health.report.thinning import Columns, Values
from fastlog.health.report.thinning import line as thinned
from fastlog.health.report.words import SIGNS, headline

_COLUMNS = 400
_CHART_POINTS = 600
_MARKS = 9

# Which heatmap is open first, where it is not that of the updates: the one that shows the worst finding.
_MEASURE_OF = {
    **dict.fromkeys(("dead-units", "never-hit", "gradient-underflow"), "zeros"),
    **dict.fromkeys(
        (
            *("nonfinite", "no-gradient", "vanishing-gradients", "exploding-gradients"),
            *("saturated-activations", "gradients-accumulate", "constant-init", "always-clipped"),
        ),
        "gradient-rms",
    ),
    **dict.fromkeys(("weight-outlier", "weights-collapse", "near-overflow"), "weight-rms"),
}


@dataclass(frozen=True)
class Shown:
    """A run as the page shows it. ``histograms``: by tag, where they were logged."""

    history: History
    health: RunHealth
    histograms: Mapping[str, Histograms] = field(default_factory=dict)


def page(runs: Sequence[Shown], title: str, refresh: int | None = None) -> str:
    """The whole document. ``refresh``: seconds after which browsers are to load it again."""
    style = _asset("uPlot.min.css") + _asset("page.css")
    script = _asset("uPlot.min.js") + _asset("page.js")
    sections, data = [], []
    for i, shown in enumerate(runs):
        section, numbers = _run(shown, f"run{i}", len(runs))
        sections.append(section)
        data.append(numbers)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", http_equiv="refresh", content=str(refresh)) if refresh else None,
        element("title", title),
        verbatim("style", style),
    )
    body = element(
        "body",
        element("a", "Skip to the findings", href="#findings", class_="skip"),
        element(
            "header", element("p", "fastlog report", class_="brand"), element("p", title, class_="title")
        ),
        element("main", _overview(runs) if len(runs) > 1 else None, sections, id="findings"),
        element("div", id="tip", role="status", hidden=True),
        json_data("data", data),
        verbatim("script", script),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _run(shown: Shown, anchor: str, runs: int) -> tuple[Html, dict[str, Any]]:
    history, health = shown.history, shown.health
    marks = [
        Mark(finding.first_step, str(place), finding.severity)
        for place, finding in enumerate(health.findings[:_MARKS], 1)
    ]
    curves = training_curves(history)
    columns = Columns.over(history.steps, max(60, _COLUMNS // runs))
    span = _span(curves, columns if len(history.steps) else None)
    charts, chart_data = _charts(curves, span, marks)
    heatmaps, heatmap_data = _heatmaps(history, health, columns, span, marks, anchor)
    atlas = atlases(shown.histograms)
    table = layer_table(history, flagged(health)) if len(history.steps) else None
    section = element(
        "section",
        element("h1", health.run or "run", class_="run-name"),
        element("p", _facts(history, health), class_="facts"),
        cards.verdict(health),
        [
            cards.card(finding, place, f"{anchor}-finding{place}", atlas)
            for place, finding in enumerate(health.findings, 1)
        ],
        cards.checks(health),
        element("section", element("h2", "Training"), charts, class_="charts") if charts else None,
        heatmaps,
        _histograms(atlas),
        element("section", element("h2", "Layers"), table) if table else None,
        class_="run",
        id=anchor,
        data_run=health.run,
    )
    numbers = [{"step": mark.step, "label": mark.label, "severity": mark.severity} for mark in marks]
    return section, {
        "anchor": anchor,
        "span": span,
        "charts": chart_data,
        "heatmaps": heatmap_data,
        "atlases": [kind.data() for kind in atlas],
        "marks": numbers,
    }


def flagged(health: RunHealth, layers: bool = False) -> dict[str, str]:
    """The worst severity of the findings that name a tensor (or a layer's tensor); the worst first."""
    severities: dict[str, str] = {}
    for finding in sorted(health.findings, key=lambda finding: SEVERITIES.index(finding.severity)):
        for tensor in finding.tensors:
            severities.setdefault(layer_of(tensor) if layers else tensor, finding.severity)
    return severities


def _histograms(atlas: Sequence[Atlas]) -> Html | None:
    """Where scripts show the histograms of the tensor that is chosen."""
    if not atlas:
        return None
    return element(
        "section",
        element("h2", "Histograms"),
        element("p", "Choose a row of the heatmap, or a tensor's name.", class_="label chosen"),
        element("div", class_="plots"),
        [kind.picture() for kind in atlas],
        class_="histograms",
        aria_live="polite",
        hidden=True,
    )


def _overview(runs: Sequence[Shown]) -> Html:
    items = [
        element(
            "li",
            element("span", SIGNS[run.health.verdict], class_="sign", aria_hidden="true"),
            element("a", run.health.run or "run", href=f"#run{i}"),
            element("span", headline(run.health), class_="headline"),
            class_=f"verdict {run.health.verdict}",
        )
        for i, run in enumerate(runs)
    ]
    return element(
        "nav", element("h2", f"{len(runs)} runs"), element("ul", items), class_="overview", aria_label="Runs"
    )


def _facts(history: History, health: RunHealth) -> str:
    facts = [steps(health.first_step, health.last_step)] if health.last_step >= 0 else []
    facts.append(
        f"{len(history.steps):,} of them logged" if len(history.steps) else "no step of a watched model"
    )
    sizes = history.sizes()
    if sizes:
        facts.append(f"{len(sizes):,} tensors, {count(sum(sizes.values()))} values")
    if history.source == "other":
        facts.append("read from another logger's histograms, which know less")
    return " · ".join(facts)


def _span(curves: Sequence[Curve], columns: Columns | None) -> tuple[float, float]:
    """Ends of the axis of steps that all pictures of a run share."""
    ends = [
        float(step)
        for curve in curves
        for line in curve.lines
        for step in (line.steps.min(), line.steps.max())
    ]
    ends += columns.span if columns else ()
    return (min(ends), max(ends)) if ends and max(ends) > min(ends) else (0.0, 1.0)


def _charts(
    curves: Sequence[Curve], span: tuple[float, float], marks: Sequence[Mark]
) -> tuple[list[Html], list[dict[str, Any]]]:
    figures, data = [], []
    for i, curve in enumerate(curves):
        thin = [Line(*thinned(line.steps, line.values, _CHART_POINTS), line.kind) for line in curve.lines]
        picture = chart(
            thin,
            f"{curve.title} over steps",
            height=168 if i == 0 else 120,
            marks=marks,
            logarithmic=curve.logarithmic,
            span=span,
        )
        caption = element(
            "figcaption",
            element("b", curve.title),
            element("span", curve.note),
            element("span", short(float(curve.lines[0].values[-1])), class_="now"),
        )
        figures.append(element("figure", caption, picture, class_="panel", data_chart=str(i)))
        lines = [
            {"kind": line.kind, "steps": line.steps.tolist(), "values": _numbers(line.values)}
            for line in thin
        ]
        data.append({"title": curve.title, "log": curve.logarithmic, "lines": lines})
    return figures, data


def _heatmaps(
    history: History,
    health: RunHealth,
    columns: Columns,
    span: tuple[float, float],
    marks: Sequence[Mark],
    anchor: str,
) -> tuple[Html | None, list[dict[str, Any]]]:
    by_layer = any(len(kind.names) > MOST_ROWS for kind in history.kinds.values())
    shown = measures(history, by_layer) if len(history.steps) else []
    if not shown:
        return None, []
    first = _first_measure(health, [measure.key for measure in shown])
    flags = flagged(health, by_layer)
    tabs, panels, data = [], [], []
    for i, measure in enumerate(shown):
        picture, scale = pixels(measure, history.steps, columns)
        name = f"{anchor}-{measure.key}"
        tabs += [
            element(
                "input",
                type="radio",
                name=f"{anchor}-measure",
                id=name,
                class_=f"tab tab{i}",
                checked=measure.key == first,
            ),
            element("label", measure.title, for_=name),
        ]
        panels.append(
            element(
                "figure",
                element("figcaption", measure.meaning),
                legend(scale, picture),
                element("div", heatmap(measure, picture, columns, span, marks, flags), class_="scroll"),
                class_=f"panel panel{i}",
                data_measure=measure.key,
            )
        )
        data.append(
            {
                "key": measure.key,
                "title": measure.title,
                "names": measure.names,
                "low": scale.low,
                "high": scale.high,
                "log": scale.logarithmic,
                "columns": [columns.first, columns.last, columns.number],
            }
        )
    title = "Layers over steps" if by_layer else "Tensors over steps"
    return element("section", element("h2", title), tabs, panels, class_="heatmaps"), data


def _first_measure(health: RunHealth, keys: Sequence[str]) -> str:
    """The one that shows the worst finding best."""
    wanted = _MEASURE_OF.get(health.findings[0].rule, "") if health.findings else ""
    return wanted if wanted in keys else keys[0]


def _numbers(values: Values) -> list[float | None]:
    """Five digits; None for what is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


@cache
def _asset(name: str) -> str:
    return (files("fastlog.health.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
