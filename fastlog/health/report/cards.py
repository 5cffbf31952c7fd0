"""Findings and checks as HTML: what is wrong, what shows it, what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastlog.health.findings import Finding, RunHealth
from fastlog.health.report.drawing import Line, chart
from fastlog.health.report.markup import Content, Html, element
from fastlog.health.report.numbers import evidence_text, plural
from fastlog.health.report.ridges import Atlas, ridge_plot
from fastlog.health.report.thinning import line
from fastlog.health.report.words import SIGNS, checks_run, headline, reasons, sentence, tally, where

_CHART_POINTS = 240
_NAMES = 3
_MOST_NAMES = 200


def verdict(health: RunHealth) -> Html:
    """The run in one line: the worst finding, or that there is none."""
    worst = health.findings[0] if health.verdict != "ok" else None
    return element(
        "div",
        element("span", SIGNS[health.verdict], class_="sign", aria_hidden="true"),
        element(
            "div",
            element("p", headline(health), class_="headline"),
            element("p", f"{tally(health)} · {checks_run(health)}", class_="tally"),
        ),
        class_=f"verdict {health.verdict}",
        data_rule=worst.rule if worst else None,
    )


def card(finding: Finding, place: int, anchor: str, atlas: Sequence[Atlas] = ()) -> Html:
    """One finding. ``place`` is its number on the page and in the charts."""
    return element(
        "article",
        element(
            "div",
            element(
                "p",
                element("span", f"{place}", class_="place"),
                element("span", finding.severity, class_="severity"),
                element("span", where(finding), class_="where"),
                class_="meta",
            ),
            element("h3", sentence(finding)),
            _tensors(finding),
            element(
                "dl",
                _entry("Likely cause", finding.cause),
                _entry("What to do", finding.advice),
                class_="advice",
            ),
            class_="text",
        ),
        element("div", _chart(finding), _evidence(finding.evidence), class_="proof"),
        _histograms(finding, atlas),
        element(
            "details",
            element("summary", "How this was judged, and how to mute it"),
            element("p", prose(finding.judged_by)),
            element("p", "If it is meant to be so: ", element("code", finding.mute)),
        ),
        class_=f"finding {finding.severity}",
        id=anchor,
        data_rule=finding.rule,
    )


def checks(health: RunHealth) -> Html:
    """Which checks ran, and why the others could not."""
    found = {finding.rule: finding.severity for finding in reversed(health.findings)}
    ran = [
        element("li", rule, class_=f"check {found.get(rule, 'ok')}", data_rule=rule)
        for rule in health.checked
    ]
    why_not = reasons(health)
    return element(
        "section",
        element("h2", "Checks"),
        element("p", f"{plural(len(ran), 'check')} ran", class_="label"),
        element("ul", ran, class_="checks") if ran else None,
        [
            element("p", f"{plural(len(health.not_checked), 'check')} did not run", class_="label"),
            element(
                "dl",
                [
                    (element("dt", prose(why)), element("dd", ", ".join(names)))
                    for why, names in why_not.items()
                ],
                class_="reasons",
            ),
        ]
        if why_not
        else None,
        class_="checks-section",
    )


def prose(text: str) -> list[Html | str]:
    """Text whose `parts between backticks` are code."""
    parts = re.split(r"`([^`]+)`", text)
    return [element("code", part) if i % 2 else part for i, part in enumerate(parts)]


def _entry(term: str, text: str) -> list[Html] | None:
    return [element("dt", term), element("dd", prose(text))] if text else None


def _tensors(finding: Finding) -> Html | None:
    if not finding.tensors:
        return None
    shown = [element("code", name, class_="tensor", data_tensor=name) for name in finding.tensors[:_NAMES]]
    rest = finding.tensors[_NAMES:_MOST_NAMES]
    left = len(finding.tensors) - _MOST_NAMES
    more: Content = None
    if rest:
        more = element(
            "details",
            element("summary", f"and {len(finding.tensors) - _NAMES:,} more"),
            element("ul", [element("li", element("code", name, data_tensor=name)) for name in rest]),
            element("p", f"… and {left:,} more") if left > 0 else None,
        )
    return element("div", shown, more, class_="tensors")


def _chart(finding: Finding) -> Html | None:
    drawn = finding.chart
    if drawn is None or not drawn.steps:
        return None
    steps, values = line(np.array(drawn.steps), np.array(drawn.values, float), _CHART_POINTS)
    picture = chart(
        [Line(steps, values)],
        f"{drawn.label}, steps {drawn.steps[0]} to {drawn.steps[-1]}",
        width=400,
        height=132,
        left=56,
        threshold=drawn.threshold,
        logarithmic=drawn.logarithmic or None,
        since=finding.first_step,
    )
    return element("figure", element("figcaption", drawn.label), picture)


def _histograms(finding: Finding, atlas: Sequence[Atlas]) -> Html | None:
    """Those of the worst tensor."""
    name = finding.tensors[0] if finding.tensors else ""
    plots = [
        element(
            "figure",
            element("figcaption", kind.kind),
            ridge_plot(kind.ridges[name], f"{kind.kind} of {name}"),
        )
        for kind in atlas
        if name in kind.ridges
    ]
    if not plots:
        return None
    summary = element("summary", "Histograms of ", element("code", name))
    return element("details", summary, element("div", plots, class_="plots"))


def _evidence(evidence: Mapping[str, Any]) -> Html | None:
    rows: Sequence[Html] = [
        element(
            "tr",
            element("th", key.replace("_", " "), scope="row"),
            element("td", evidence_text(value), data_evidence=key),
        )
        for key, value in evidence.items()
    ]
    return element("table", element("tbody", rows), class_="evidence") if rows else None
