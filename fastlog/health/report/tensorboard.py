"""What makes TensorBoard readable: heatmaps as pictures, and a layout of the curves that matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from tensorboardX import summary as tbx
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from fastlog.health.findings import Finding
from fastlog.health.history import GRADIENTS, UPDATES, History
from fastlog.health.names import layer_of
from fastlog.health.report import font, png
from fastlog.health.report.axes import Axis
from fastlog.health.report.colours import LEVELS, NAN, NOTHING, PALETTE, ZERO, Indexes, Scale
from fastlog.health.report.heatmap import MOST_ROWS, pixels, row_labels
from fastlog.health.report.measures import Measure, measures
from fastlog.health.report.numbers import printable, tick
from fastlog.health.report.thinning import Columns
from fastlog.health.report.words import sentence

PICTURE_TAG: Final = "fastlog/health"
_PICTURED: Final = ("gradient-rms", "update-ratio")
_INK, _SOFT, _MARK = len(PALETTE), len(PALETTE) + 1, len(PALETTE) + 2
_COLOURS: Final = (*PALETTE, (32, 38, 46), (110, 120, 131), (214, 40, 40))
_SCALE = 2  # of letters
_LETTER, _LINE = font.WIDTH * _SCALE, font.HEIGHT * _SCALE + 4
_MARGIN, _TOP = 16, 64
_WIDE, _HIGH = 720, 480  # of the cells, about
_MOST_TITLES = 6
_FIRST_PICTURE = 10  # observations
_WAIT_FOR_LOSS = 3


class Overview:
    """The events that give a run its pictures and its layout, at few of its steps.

    Pictures come with the tenth observation, with every new finding, and whenever a fourth more has been
    observed: of TensorBoard's ten a few are early ones and one is the last.

    Args:
        with_layout: False where the user may have given a layout: TensorBoard shows the last one alone.
        prefix: of the tags.
    """

    def __init__(self, with_layout: bool = True, prefix: str = "") -> None:
        self._prefix = prefix
        self._next = _FIRST_PICTURE
        self._found: set[str] = set()
        self._laid_out = not with_layout

    def events(self, history: History, findings: Sequence[Finding], last: bool = False) -> list[bytes]:
        """Serialized events that are due now. ``last``: there will be no other chance."""
        observed = len(history.steps)
        events: list[bytes] = []
        known = history.loss_tag is not None or observed > _WAIT_FOR_LOSS or last
        if not self._laid_out and known and (page := layout(history)) is not None:
            self._laid_out = True
            events.append(_event(history, page))
        found = {finding.rule for finding in findings}
        if observed > 1 and (observed >= self._next or found - self._found or last):
            self._next = max(self._next, observed + 1 + observed // 4)
            events += [_event(history, drawn) for drawn in pictures(history, findings, self._prefix)]
        self._found |= found
        return events


def pictures(history: History, findings: Sequence[Finding], prefix: str = "") -> list[Summary]:
    """The heatmaps as images."""
    by_layer = any(len(kind.names) > MOST_ROWS for kind in history.kinds.values())
    summaries = []
    for measure in measures(history, by_layer):
        if measure.key in _PICTURED:
            drawn = picture(measure, history, findings)
            height, width = drawn.shape
            encoded = png.encode(drawn, _COLOURS)
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
            tag = f"{prefix}{PICTURE_TAG}/{measure.key}"
            summaries.append(Summary(value=[Summary.Value(tag=tag, image=image)]))
    return summaries


def layout(history: History) -> Summary | None:
    """A page for TensorBoard's Custom Scalars: loss, gradient norm, gradients and updates by layer.

    None where the history knows none of them.
    """
    charts: dict[str, list[object]] = {}
    losses = [tag for tag in (history.loss_tag, history.validation_tag) if tag is not None]
    if losses:
        charts["loss"] = ["Multiline", [_exactly(losses)]]
    if GRADIENTS in history.kinds:
        layers = list(dict.fromkeys(map(layer_of, history.kinds[GRADIENTS].names)))
        charts["gradient norm"] = ["Multiline", [r"^grad_norm/global$"]]
        charts["gradient norm by layer"] = ["Multiline", [_exactly(f"grad_norm/{layer}" for layer in layers)]]
        if UPDATES in history.kinds:
            ratios = _exactly(f"update_ratio/{layer}" for layer in layers)
            charts["update / weight by layer"] = ["Multiline", [ratios]]
    return tbx.custom_scalars({"fastlog": charts}) if charts else None


def picture(measure: Measure, history: History, findings: Sequence[Finding]) -> Indexes:
    """The heatmap with its names, steps, colours and findings, in numbers of ``_COLOURS``."""
    columns = Columns.over(history.steps, _WIDE)
    cells, scale = pixels(measure, history.steps, columns)
    across, down = max(1, _WIDE // columns.number), max(1, min(_LINE, _HIGH // len(measure.names)))
    labels = row_labels(measure.names, down, _LINE)
    left = 2 * _MARGIN + _LETTER * max(len(label.short) for label in labels)
    titles = [f"{i} step {f.first_step:,}: {sentence(f)}" for i, f in enumerate(findings[:_MOST_TITLES], 1)]
    height = _TOP + down * len(measure.names) + _LINE * (2 + len(titles)) + _MARGIN
    sheet = _Sheet(np.full((height, left + across * columns.number + _MARGIN), NOTHING, np.uint8))
    sheet.put(left, _TOP, cells.repeat(down, axis=0).repeat(across, axis=1))
    flagged = {tensor for finding in findings for tensor in finding.tensors}
    for label in labels:
        middle = _TOP + down * (label.first + label.last + 1) // 2
        own = {*measure.names[label.first : label.last + 1], label.name}
        colour = _MARK if own & flagged else _INK
        sheet.write(left - _MARGIN // 2, middle - _LINE // 2 + 3, label.short, colour, anchor=1)
    bottom = _TOP + down * len(measure.names)
    axis = Axis(*columns.span, left, left + across * columns.number)
    for step in axis.ticks(6):
        if step == round(step) and step >= 0:
            sheet.write(round(float(axis.place(np.array(step)))), bottom + 6, tick(step), _SOFT, anchor=0.5)
    for i, finding in enumerate(findings[:_MOST_TITLES], 1):
        x = round(float(axis.place(np.array(float(finding.first_step)))))
        sheet.write(x, _TOP - _LINE, str(i), _MARK, anchor=0.5)
        sheet.put(
            x - 1,
            _TOP,
            np.tile(np.array([[_MARK] * 2] * 4 + [[NOTHING] * 2] * 4, np.uint8), (999, 1))[: bottom - _TOP],
        )
    for i, title in enumerate(titles):
        sheet.write(_MARGIN, bottom + _LINE * (i + 2), title, _MARK)
    sheet.write(_MARGIN, _MARGIN - 4, measure.title, _INK)
    _draw_legend(sheet, left, scale, cells)
    return sheet.pixels


@dataclass
class _Sheet:
    """A picture in the making. What does not fit is cut."""

    pixels: Indexes

    def put(self, x: int, y: int, part: Indexes) -> None:
        """Lays a part over the picture, its upper left corner at x, y."""
        x, y = max(x, 0), max(y, 0)
        room = self.pixels[y : y + part.shape[0], x : x + part.shape[1]]
        room[:] = part[: room.shape[0], : room.shape[1]]

    def write(self, x: int, y: int, text: str, colour: int, anchor: float = 0.0) -> int:
        """Writes a line; ``anchor``: which share of it lies left of x. Returns where it ends."""
        points = font.draw(printable(text), _SCALE)
        x = max(0, round(x - anchor * points.shape[1]))
        room = self.pixels[y : y + points.shape[0], x : x + points.shape[1]]
        room[points[: room.shape[0], : room.shape[1]]] = colour
        return x + int(points.shape[1])


def _draw_legend(sheet: _Sheet, x: int, scale: Scale, cells: Indexes) -> None:
    y, tall = _MARGIN - 4, 7 * _SCALE
    low, high = scale.ends()
    x = sheet.write(x, y, low, _SOFT) + 4
    strip = np.linspace(0, LEVELS - 1, 160).round().astype(np.uint8)
    sheet.put(x, y, np.tile(strip, (tall, 1)))
    x = sheet.write(x + 170, y, high, _SOFT) + 2 * _MARGIN
    for colour, meaning in ((ZERO, "exactly 0, or None"), (NAN, "NaN or Inf")):
        if (cells == colour).any():
            sheet.put(x, y, np.full((tall, tall), colour, np.uint8))
            x = sheet.write(x + tall + 8, y, meaning, _SOFT) + _MARGIN


def _event(history: History, summary: Summary) -> bytes:
    step, wall_time = int(history.steps[-1]), float(history.wall_times[-1])
    return bytes(Event(step=step, wall_time=wall_time, summary=summary).SerializeToString())


def _exactly(tags: Iterable[str]) -> str:
    """A regular expression, as the layout wants it, of these tags and no others."""
    return f"^({'|'.join(map(re.escape, tags))})$"
