"""A comparison as text, as JSON and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from fastlog.comparing.parting import Comparison, Difference, Tensor
from fastlog.health.report.markup import Html, element, verbatim
from fastlog.health.report.numbers import plural, printable, short

VERSION = 1
_MOST = 12  # tensors that are named
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #8884 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.map td { padding: 0; width: .6rem; height: 1.1rem; border: 0 }
.map th { font-weight: normal; border: 0; white-space: nowrap }
.note { opacity: .75 }
"""


def as_text(found: Comparison) -> str:
    """For a terminal: the verdict first."""
    return "\n".join(printable(line) for line in _lines(found)) + "\n"


def as_json(found: Comparison) -> str:
    """For other programs; JSON has no NaN: such numbers are texts."""
    said = {
        "version": VERSION,
        "alike": found.alike,
        "paired": found.paired,
        "first_step": found.first_step,
        "verdict": found.verdict,
        "differing": [_plain(asdict(one)) for one in found.differing],
        "same": dict(found.same),
        "steps": found.steps.tolist(),
        "notes": list(found.notes),
    }
    return json.dumps(said, indent=2, allow_nan=False) + "\n"


def as_html(found: Comparison, title: str) -> str:
    """One page without script and network: the verdict, the tensors, and their distances over all steps."""
    rows = [
        element(
            "tr",
            *(element("td", text) for text in (f"{one.kind}/{one.name}", one.looks_like)),
            *map(_cell, _numbers(one)),
        )
        for one in found.differing[: 4 * _MOST]
    ]
    names = ("tensor", "looks like", "ratio of rms", "shift", "zeros", "KS", "W1 in bins")
    head = element("tr", *(element("th", name) for name in names))
    body = element(
        "body",
        element("h1", title),
        element("p", element("strong", found.verdict)),
        element("p", _kept(found)),
        element("table", head, *rows) if rows else None,
        element("h2", "Distance of each tensor over the steps"),
        _map(found),
        *(element("p", note, class_="note") for note in found.notes),
    )
    top = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        verbatim("style", _STYLE),
    )
    return f"<!DOCTYPE html>\n{element('html', top, body, lang='en')}\n"


def _lines(found: Comparison) -> Iterator[str]:
    yield found.verdict
    if found.differing:
        yield _kept(found)
        yield ""
        for one in found.differing[:_MOST]:
            yield f"  {one.kind}/{one.name}: {one.looks_like} (KS {short(one.ks)}, W1 {short(one.w1)} bins)"
        if len(found.differing) > _MOST:
            yield f"  … and {plural(len(found.differing) - _MOST, 'more tensor')}"
    if found.notes:
        yield ""
        yield from (f"note: {note}" for note in found.notes)


def _kept(found: Comparison) -> str:
    """What stays the same."""
    kept = [
        f"{plural(number, kind.replace('_', ' ').removesuffix('s'))}"
        for kind, number in found.same.items()
        if number
    ]
    if found.first_step is None or not kept:
        return "" if kept else "No tensor is the same there."
    return f"The same there: {', '.join(kept)}."


def _numbers(one: Difference) -> tuple[float, ...]:
    return one.factor, one.shift, one.zeros, one.ks, one.w1


def _cell(number: float) -> Html:
    return element("td", short(number), class_="n")


def _map(found: Comparison, columns: int = 60) -> Html:
    """A row for each tensor, a cell for each step (or some of them); the darker, the further apart."""
    at = np.unique(np.linspace(0, len(found.steps) - 1, min(columns, len(found.steps))).round().astype(int))
    rows = []
    for tensor, one in found.distances.items():
        cells = [_shade(float(one.size[i]), bool(one.same[i]), tensor, int(found.steps[i])) for i in at]
        rows.append(element("tr", element("th", "/".join(tensor)), *cells))
    return element("table", *rows, class_="map")


def _shade(size: float, same: bool, tensor: Tensor, step: int) -> Html:
    """From 1e-7 (rounding) to 1 on a logarithmic scale."""
    share = 0.0 if same else min(max((math.log10(max(size, 1e-12)) + 7) / 7, 0.08), 1.0)
    title = f"{'/'.join(tensor)}, step {step:,}: {'the same' if same else short(size)}"
    return element("td", title=title, bgcolor=_colour(share) if share else None)


def _colour(share: float) -> str:
    light, dark = (255, 237, 160), (189, 0, 38)
    mixed = [round(a + (b - a) * share) for a, b in zip(light, dark, strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
