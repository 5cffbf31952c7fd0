"""Heatmaps of layers over steps: a picture of indexed colours inside of SVG that names its rows and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from fastlog.health.names import layer_of
from fastlog.health.report import colours, png
from fastlog.health.report.axes import Axis
from fastlog.health.report.colours import LEVELS, NAN, NAN_COLOUR, NOTHING, PALETTE, ZERO, ZERO_COLOUR, Scale
from fastlog.health.report.drawing import GUTTER, WIDTH, Mark, mark_line, place_of, step_axis, svg
from fastlog.health.report.markup import Html, element
from fastlog.health.report.measures import Measure
from fastlog.health.report.thinning import Columns, Steps, matrix

MOST_ROWS = 320  # tensors; more are shown by layer
_HEIGHT = 560  # of the rows together, about
_TOP = 18
_LABEL = 19  # characters


def pixels(measure: Measure, steps: Steps, columns: Columns) -> tuple[colours.Indexes, Scale]:
    """The numbers of the colours [rows, columns], and what they mean."""
    values, there = matrix(measure.values, measure.present, steps, columns)
    scale = Scale.of(values[there], measure.logarithmic)
    return scale.colours(values, there), scale


def heatmap(
    measure: Measure,
    picture: colours.Indexes,
    columns: Columns,
    span: tuple[float, float],
    marks: Sequence[Mark],
    flagged: Mapping[str, str],
) -> Html:
    """The picture with the names of its layers, the findings' steps, and flags beside the rows that findings
    name (``flagged``: severity by name). ``span``: ends of the axis of steps.
    """
    rows = len(measure.names)
    size = min(16.0, max(2.0, _HEIGHT / rows))
    bottom = _TOP + size * rows
    across = Axis(*span, GUTTER, WIDTH - 12)
    left, right = across.place(np.array(columns.span)).tolist()
    box = {"width": place_of(right - left), "height": place_of(size * rows), "x": place_of(left - GUTTER)}
    address = png.data_uri(png.encode(picture, PALETTE, transparent=NOTHING))
    cells = element(
        "svg",
        element("rect", class_="nothing", **box),
        element("image", href=address, preserveAspectRatio="none", **box),
        class_="cells",
        x=GUTTER,
        y=_TOP,
        width=place_of(across.end - across.start),
        height=place_of(size * rows),
    )
    return svg(
        "heatmap",
        f"{measure.title} of {rows} rows, steps {columns.first} to {columns.last}",
        WIDTH,
        round(bottom + 24),
        cells,
        _labels(measure.names, size, flagged),
        _flags(measure.names, size, flagged),
        step_axis(across, bottom),
        [mark_line(mark, across, _TOP, bottom) for mark in marks],
    )


def legend(scale: Scale, picture: colours.Indexes) -> Html:
    """What the colours mean; those that occur."""
    strip = png.data_uri(png.encode(np.arange(LEVELS, dtype=np.uint8)[None, :], PALETTE))
    low, high = scale.ends()
    own = [
        (ZERO, png.encode(np.zeros((1, 1), np.uint8), [ZERO_COLOUR]), "exactly 0, or None"),
        (NAN, png.encode(np.zeros((1, 1), np.uint8), [NAN_COLOUR]), "NaN or Inf"),
    ]
    return element(
        "p",
        element("span", low, class_="number"),
        element("img", class_="strip", src=strip, alt="colours from low to high"),
        element("span", high, class_="number"),
        [
            element("span", element("img", class_="swatch", src=png.data_uri(swatch), alt=""), label)
            for index, swatch, label in own
            if (picture == index).any()
        ],
        element("span", element("i", class_="swatch nothing"), "not logged")
        if (picture == NOTHING).any()
        else None,
        class_="legend",
    )


def short_names(names: Sequence[str], most: int = _LABEL) -> list[str]:
    """Names without the beginning that all of them share, and of long ones the end alone."""
    parts = [name.split(".") for name in names]
    common = 0
    while len({tuple(part[: common + 1]) for part in parts}) == 1 and all(
        len(part) > common + 1 for part in parts
    ):
        common += 1
    return [_shortened(part[common:], most) for part in parts]


def _shortened(parts: Sequence[str], most: int) -> str:
    if len(name := ".".join(parts)) <= most:
        return name
    ends = (".".join(parts[i:]) for i in range(1, len(parts)))
    return "…" + next((end for end in ends if len(end) < most), name[1 - most :])


@dataclass(frozen=True)
class RowLabel:
    """The name of a layer, or of a row, beside the rows ``first`` to ``last``."""

    name: str
    short: str
    first: int
    last: int


def row_labels(names: Sequence[str], size: float, room: float) -> list[RowLabel]:
    """Names of the rows where each has ``room``, else of layers, as many as there is room for."""
    groups = [(layer, len(list(rows))) for layer, rows in groupby(names, layer_of)]
    if len(groups) == len(names) or size >= room:
        groups = [(name, 1) for name in names]
    labels, first, free = [], 0, 0.0
    for short, (name, rows) in zip(short_names([name for name, _ in groups]), groups, strict=True):
        middle = size * (first + rows / 2)
        if middle >= free:
            labels.append(RowLabel(name, short, first, first + rows - 1))
            free = middle + room
        first += rows
    return labels


def _labels(names: Sequence[str], size: float, flagged: Mapping[str, str]) -> list[Html]:
    drawn = []
    for label in row_labels(names, size, 12):
        y = _TOP + size * label.first
        severity = next((flagged[n] for n in names[label.first : label.last + 1] if n in flagged), "")
        if label.first:
            drawn.append(element("path", class_="edge", d=f"M{GUTTER - 4} {place_of(y)}H{GUTTER}"))
        text = element(
            "text",
            element("title", label.name),
            label.short,
            class_=f"row {severity}".rstrip(),
            x=GUTTER - 8,
            y=place_of(y + size * (label.last + 1 - label.first) / 2),
            dy="0.35em",
            text_anchor="end",
        )
        drawn.append(text)
    return drawn


def _flags(names: Sequence[str], size: float, flagged: Mapping[str, str]) -> list[Html]:
    return [
        element(
            "rect",
            class_=f"flag {flagged[name]}",
            x=WIDTH - 9,
            y=place_of(_TOP + size * i),
            width=4,
            height=place_of(max(size - 0.5, 1.5)),
        )
        for i, name in enumerate(names)
        if name in flagged
    ]
