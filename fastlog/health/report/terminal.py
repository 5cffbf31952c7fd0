"""Findings as text for a terminal: in colour where `rich` is installed and the terminal shows colours."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np

from fastlog.health.findings import Chart, Finding, RunHealth
from fastlog.health.report.axes import Axis
from fastlog.health.report.numbers import evidence_text, names, printable, short, steps
from fastlog.health.report.thinning import Columns
from fastlog.health.report.words import SIGNS, checks_run, reasons, sentence, tally, where

_BLOCKS = "▁▂▃▄▅▆▇█"
_NOT_FINITE = "×"
_CELLS = 32
_LABEL = 15  # columns
_WIDTH = 100  # where there is no terminal
_STYLES = {
    "error": "bold red",
    "warning": "bold yellow",
    "info": "bold blue",
    "ok": "bold green",
    "soft": "dim",
}


@dataclass(frozen=True)
class Row:
    """A line of two columns; long text goes on below itself. ``style`` is one of ``_STYLES`` or none."""

    label: str
    text: str
    style: str = ""


def show(runs: Sequence[RunHealth], file: TextIO) -> None:
    """Writes what was found in each run, the verdict first."""
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if file.isatty() else _WIDTH
    rows = [row for health in runs for row in [*_of_run(health), Row("", "")]]
    lines = [(line, row.style) for row in rows for line in _lines(row, width)]
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        file.writelines(f"{line}\n" for line, _ in lines)
        return
    console = Console(file=file, highlight=False, soft_wrap=True)
    for line, style in lines:
        console.print(Text(line, style=_STYLES.get(style, "")))


def spark(chart: Chart, cells: int = _CELLS) -> str:
    """The chart's line in blocks, ``×`` where a value is not finite."""
    at, values = np.array(chart.steps, np.int64), np.array(chart.values, float)
    if not len(at):
        return ""
    columns = Columns.over(at, cells)
    place = columns.of(at)
    up = Axis.around(values, 0, len(_BLOCKS) - 1, chart.logarithmic).place(values)
    drawn = []
    for column in np.unique(place).tolist():
        inside = up[place == column]
        finite = np.isfinite(values[place == column]).all()
        drawn.append(_BLOCKS[round(float(np.median(inside)))] if finite else _NOT_FINITE)
    return "".join(drawn)


def _of_run(health: RunHealth) -> Iterator[Row]:
    name = health.run or "run"
    what = "nothing wrong was found" if health.checked else "nothing could be checked"
    if health.findings:
        what = tally(health)
    yield Row(f"{SIGNS[health.verdict]} {health.verdict}", f"{name}: {what}", health.verdict)
    about = steps(health.first_step, health.last_step) if health.last_step >= 0 else "no logged steps"
    yield Row("", f"{about} · {checks_run(health)}", "soft")
    for finding in health.findings:
        yield Row("", "")
        yield from _of_finding(finding)
    yield Row("", "")
    if health.checked:
        yield Row("  checked", ", ".join(health.checked), "soft")
    label = "  not checked"
    for why, rules in reasons(health).items():
        yield Row(label, f"{', '.join(rules)}: {why}", "soft")
        label = ""


def _of_finding(finding: Finding) -> Iterator[Row]:
    yield Row(f"{SIGNS[finding.severity]} {finding.severity}", sentence(finding), finding.severity)
    yield Row("", where(finding), "soft")
    if finding.tensors:
        yield Row("  tensors", names(finding.tensors))
    if finding.chart is not None and finding.chart.steps:
        chart = finding.chart
        ends = f"{short(chart.values[0])} → {short(chart.values[-1])}"
        limit = f" (threshold {short(chart.threshold)})" if chart.threshold is not None else ""
        yield Row("  shown by", f"{chart.label}  {spark(chart)}  {ends}{limit}")
    if finding.evidence:
        pieces = (
            f"{key.replace('_', ' ')} {evidence_text(value)}" for key, value in finding.evidence.items()
        )
        yield Row("  evidence", " · ".join(pieces))
    for label, text in (("cause", finding.cause), ("do", finding.advice), ("judged by", finding.judged_by)):
        if text:
            yield Row(f"  {label}", text)
    yield Row("  to mute", finding.mute, "soft")


def _lines(row: Row, width: int) -> list[str]:
    label = printable(row.label)
    if not row.text:
        return [label]
    text = printable(row.text).replace("\n", " ")
    lines = textwrap.wrap(text, max(width - _LABEL, 20), break_long_words=False, break_on_hyphens=False)
    return [f"{label:<{_LABEL}}{lines[0]}" if lines else label, *(" " * _LABEL + line for line in lines[1:])]
