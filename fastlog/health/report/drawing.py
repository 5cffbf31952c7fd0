"""Lines, charts and histograms as SVG that needs no script. The page's style gives the colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastlog.health.report.axes import Axis
from fastlog.health.report.markup import Html, element
from fastlog.health.report.numbers import short, tick

Values = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

WIDTH = 1000  # of pictures that share the axis of steps
GUTTER = 168  # of it for names, at the left


@dataclass(frozen=True)
class Mark:
    """A step at which something begins: ``label`` is short, ``severity`` gives the colour."""

    step: int
    label: str
    severity: str


def sparkline(
    steps: Steps, values: Values, description: str, logarithmic: bool, width: int = 92, height: int = 22
) -> Html:
    """One line, its last value as a dot, values that are not finite as ticks at the bottom."""
    across = Axis.around(steps.astype(float), 2, width - 3, False)
    up = Axis.around(values, height - 3, 3, logarithmic)
    x, y = across.place(steps.astype(float)), up.place(values)
    finite = np.flatnonzero(np.isfinite(values))
    dot = None
    if len(finite):
        dot = element("circle", class_="end", cx=place_of(x[finite[-1]]), cy=place_of(y[finite[-1]]), r=2)
    return svg(
        "spark",
        description,
        width,
        height,
        element("path", class_="line", d=path(x, y)),
        _bad(x, values, height),
        dot,
    )


@dataclass(frozen=True)
class Line:
    """Values over steps. ``kind`` is a class of the page's style."""

    steps: Steps
    values: Values
    kind: str = "line"


def chart(
    lines: Sequence[Line],
    description: str,
    *,
    height: int,
    width: int = WIDTH,
    left: float = GUTTER,
    threshold: float | None = None,
    marks: Sequence[Mark] = (),
    logarithmic: bool | None = None,
    span: tuple[float, float] | None = None,
    since: int | None = None,
) -> Html:
    """Lines with their axes; the threshold dashed and labelled, marks as vertical lines.

    ``span``: ends of the axis of steps, where they are not those of the lines. ``since``: what comes after
    this step is shaded.
    """
    right, top, bottom = width - 12, 18, height - 20
    all_steps = np.concatenate([line.steps for line in lines])
    first, last = span or ((int(all_steps.min()), int(all_steps.max())) if len(all_steps) else (0, 1))
    across = Axis(first, max(last, first + 1), left, right)
    shown = np.concatenate([line.values for line in lines])
    if threshold is not None:
        shown = np.append(shown, threshold)
        logarithmic = logarithmic and threshold > 0
    up = Axis.around(shown, bottom, top, logarithmic)
    return svg(
        "chart",
        description,
        width,
        height,
        _shade(since, across, top, bottom),
        _grid(up, left, right),
        step_axis(across, bottom),
        _threshold(threshold, lines, up, left, right),
        [_drawn(line, across, up, bottom) for line in lines],
        [mark_line(mark, across, top, bottom) for mark in marks],
    )


def _shade(since: int | None, across: Axis, top: float, bottom: float) -> Html | None:
    if since is None:
        return None
    x = float(across.place(np.array(float(since))))
    width = max(across.end - x, 2)
    return element(
        "rect",
        class_="since",
        x=place_of(x),
        y=place_of(top),
        width=place_of(width),
        height=place_of(bottom - top),
    )


def _drawn(line: Line, across: Axis, up: Axis, bottom: float) -> list[Html | None]:
    x, y = across.place(line.steps.astype(float)), up.place(line.values)
    return [element("path", class_=line.kind, d=path(x, y)), *_single(x, y), _bad(x, line.values, bottom)]


def path(x: Values, y: Values) -> str:
    """A line through the points, broken where one is not finite."""
    parts, drawing = [], False
    for i, there in enumerate(np.isfinite(x) & np.isfinite(y)):
        if there:
            parts.append(f"{'L' if drawing else 'M'}{place_of(x[i])} {place_of(y[i])}")
        drawing = bool(there)
    return "".join(parts)


def svg(kind: str, description: str, width: int, height: int, *contents: object) -> Html:
    return element(
        "svg",
        element("title", description),
        contents,  # type: ignore[arg-type]
        class_=kind,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )


def place_of(place: float) -> str:
    return f"{place:.1f}".removesuffix(".0")


def _single(x: Values, y: Values) -> list[Html]:
    """Dots for points that have no finite neighbour: a line does not show them."""
    there = np.isfinite(y)
    before, after = np.append(False, there[:-1]), np.append(there[1:], False)
    alone = np.flatnonzero(there & ~before & ~after)
    return [element("circle", class_="end", cx=place_of(x[i]), cy=place_of(y[i]), r=2) for i in alone]


def _bad(x: Values, values: Values, bottom: float) -> Html | None:
    bad = np.flatnonzero(~np.isfinite(values))
    if not len(bad):
        return None
    return element("path", class_="bad", d="".join(f"M{place_of(x[i])} {place_of(bottom)}v-6" for i in bad))


def _grid(up: Axis, left: float, right: float) -> list[Html]:
    lines = []
    for value in up.ticks(4):
        y = place_of(float(up.place(np.array(value))))
        lines.append(element("path", class_="grid", d=f"M{place_of(left)} {y}H{place_of(right)}"))
        lines.append(
            element(
                "text", tick(value), class_="tick", x=place_of(left - 6), y=y, dy="0.32em", text_anchor="end"
            )
        )
    return lines


def step_axis(across: Axis, bottom: float) -> list[Html]:
    """The line at the bottom with its steps."""
    labels = []
    for step in across.ticks(6):
        if step == round(step) and step >= 0:
            x = float(across.place(np.array(step)))
            anchor = "end" if x > across.end - 20 else "middle"
            label = f"{step:,.0f}"
            labels.append(
                element(
                    "text", label, class_="tick", x=place_of(x), y=place_of(bottom + 15), text_anchor=anchor
                )
            )
    base = f"M{place_of(across.start)} {place_of(bottom)}H{place_of(across.end)}"
    return [element("path", class_="axis", d=base), element("g", labels, class_="steps")]


def _threshold(value: float | None, lines: Sequence[Line], up: Axis, left: float, right: float) -> list[Html]:
    if value is None:
        return []
    y = float(up.place(np.array(value)))
    below = y < min(up.start, up.end) + 14
    finite = lines[0].values[np.isfinite(lines[0].values)]
    late = len(finite) > 0 and abs(float(up.place(finite[-1:])[0]) - y) > abs(
        float(up.place(finite[:1])[0]) - y
    )
    label = element(
        "text",
        f"threshold {short(value)}",
        class_="threshold-label",
        x=place_of(right if late else left + 4),
        y=place_of(y + 12 if below else y - 4),
        text_anchor="end" if late else None,
    )
    return [
        element("path", class_="threshold", d=f"M{place_of(left)} {place_of(y)}H{place_of(right)}"),
        label,
    ]


def mark_line(mark: Mark, across: Axis, top: float, bottom: float) -> Html:
    """A step at which something begins."""
    x = place_of(float(across.place(np.array(float(mark.step)))))
    return element(
        "g",
        element("path", d=f"M{x} {place_of(top - 1)}V{place_of(bottom)}"),
        element("circle", cx=x, cy=place_of(top - 8), r=7.5),
        element("text", mark.label, x=x, y=place_of(top - 4.4), text_anchor="middle"),
        class_=f"mark {mark.severity}",
        data_step=str(mark.step),
    )
