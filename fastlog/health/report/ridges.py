"""Histograms of a tensor at a few of its steps, one behind the other, over one axis of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastlog.health.report import png
from fastlog.health.report.axes import Axis
from fastlog.health.report.drawing import path, place_of, svg
from fastlog.health.report.markup import Html, element
from fastlog.health.report.numbers import number

BINS = 64
STEPS = 12
LEVELS = 255  # of a density
_CUT = 0.002  # share of the values that may lie beyond each end of the axis


class Histograms(Protocol):
    """A tensor's histograms as `fastlog.load` reads them: ``counts[t][i]`` values up to ``limits[t][i]``."""

    @property
    def steps(self) -> npt.NDArray[np.int64]: ...

    @property
    def limits(self) -> Sequence[npt.NDArray[np.float64]]: ...

    @property
    def counts(self) -> Sequence[npt.NDArray[np.float64]]: ...


@dataclass(frozen=True)
class Ridge:
    """``densities``: [steps, ``BINS``], the largest is ``LEVELS``; square roots, so that tails are seen."""

    steps: tuple[int, ...]
    low: float
    high: float
    densities: npt.NDArray[np.uint8]


def ridge(histograms: Histograms) -> Ridge | None:
    """At most ``STEPS`` histograms, the first and the last among them. None where there are no values."""
    filled = [i for i, counts in enumerate(histograms.counts) if counts.sum() > 0]
    if not filled:
        return None
    chosen = [filled[i] for i in np.unique(np.linspace(0, len(filled) - 1, STEPS).round().astype(int))]
    edges = [_edges(histograms.limits[i]) for i in chosen]
    below = [np.append(0, np.cumsum(histograms.counts[i])) / histograms.counts[i].sum() for i in chosen]
    ends = [np.interp((_CUT, 1 - _CUT), share, edge) for share, edge in zip(below, edges, strict=True)]
    low, high = min(float(a) for a, _ in ends), max(float(b) for _, b in ends)
    if not high > low:
        low, high = low - (abs(low) or 1), high + (abs(high) or 1)
    grid = np.linspace(low, high, BINS + 1)
    density = np.array(
        [np.diff(np.interp(grid, edge, share)) for share, edge in zip(below, edges, strict=True)]
    )
    height = np.sqrt(density / density.max()) * LEVELS
    steps = tuple(int(histograms.steps[i]) for i in chosen)
    return Ridge(steps, low, high, height.round().astype(np.uint8))


@dataclass(frozen=True)
class Atlas:
    """The ridges of all tensors of one kind, in one picture: ``STEPS`` rows a tensor, some of them empty."""

    kind: str
    ridges: Mapping[str, Ridge]

    def picture(self) -> Html:
        """Its densities, not to be seen: `page.js` reads them."""
        pixels = np.zeros((len(self.ridges) * STEPS, BINS), np.uint8)
        for i, shown in enumerate(self.ridges.values()):
            pixels[i * STEPS : i * STEPS + len(shown.steps)] = shown.densities
        address = png.data_uri(png.encode(pixels, [(i, i, i) for i in range(LEVELS + 1)]))
        return element("img", class_="atlas", data_kind=self.kind, src=address, alt="", hidden=True)

    def data(self) -> dict[str, Any]:
        """What the picture's rows mean."""
        return {
            "kind": self.kind,
            "names": list(self.ridges),
            "steps": [shown.steps for shown in self.ridges.values()],
            "low": [float(f"{shown.low:.4g}") for shown in self.ridges.values()],
            "high": [float(f"{shown.high:.4g}") for shown in self.ridges.values()],
        }


def atlases(histograms: Mapping[str, Histograms]) -> list[Atlas]:
    """By kind, the part of a tag before its first slash; the rest of it is the tensor's name."""
    kinds: dict[str, dict[str, Ridge]] = {}
    for tag, drawn in histograms.items():
        kind, _, name = tag.partition("/")
        if name and (made := ridge(drawn)) is not None:
            kinds.setdefault(kind, {})[name] = made
    return [Atlas(kind, ridges) for kind, ridges in kinds.items()]


def ridge_plot(shown: Ridge, description: str) -> Html:
    """The first step at the back. `page.js` draws the same."""
    width, gap, tall, left = 420, 16, 40, 54
    height = tall + gap * (len(shown.steps) - 1) + 22
    x = Axis(0, BINS - 1, left, width - 10).place(np.arange(BINS, dtype=float))
    rows = []
    for i, step in enumerate(shown.steps):
        base = tall + gap * i
        y = base - shown.densities[i] / LEVELS * (tall - 4)
        outline = f"{path(x, y)}L{place_of(x[-1])} {base}L{place_of(x[0])} {base}Z"
        rows.append(element("path", class_="ridge", d=outline))
        rows.append(element("text", f"{step:,}", class_="tick", x=left - 8, y=base, text_anchor="end"))
    ends = [
        element("text", number(value), class_="tick", x=place, y=height - 4, text_anchor=anchor)
        for value, place, anchor in ((shown.low, left, "start"), (shown.high, width - 10, "end"))
    ]
    return svg("ridges", description, width, height, rows, ends)


def _edges(limits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where the buckets begin and end. No limit tells where the first begins: it is as wide as the next."""
    finite = np.clip(limits, -1e30, 1e30)  # tensorboardX ends with the largest float
    first = finite[0] - (finite[1] - finite[0] if len(finite) > 1 else abs(finite[0]) or 1.0)
    return np.append(first, finite)
