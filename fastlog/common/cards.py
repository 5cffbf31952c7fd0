"""What objects show of themselves in a notebook (``_repr_html_``): small, escaped, without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 240, 48  # of a picture, in pixels
_CELL = "text-align:left;font-weight:normal;padding:0 1em 0 0"


def card(title: str, rows: Mapping[str, object], picture: str = "") -> str:
    """A table with a title, as HTML. What is None is left out.

    Args:
        picture: an element, such as :func:`bars`; as it is.
    """
    lines = "".join(
        f'<tr><th style="{_CELL}">{escape(name)}</th><td style="{_CELL}">{escape(str(value))}</td></tr>'
        for name, value in rows.items()
        if value is not None
    )
    return f"<div><strong>{escape(title)}</strong><div>{picture}</div><table>{lines}</table></div>"


def bars(heights: Sequence[float]) -> str:
    """Bars from left to right, the highest as high as the picture, as an SVG element."""
    width, highest = _WIDTH / len(heights), max(heights)
    shown = "".join(
        f'<rect x="{i * width:.2f}" y="{_HEIGHT - tall:.2f}" width="{width:.2f}" height="{tall:.2f}"/>'
        for i, height in enumerate(heights)
        if (tall := _HEIGHT * height / highest) > 0
    )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" fill="currentColor" role="img">{shown}</svg>'
