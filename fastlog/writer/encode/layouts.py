"""Layouts of TensorBoard's Custom Scalars page, in the names under which scalars are logged."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any


def checked(layout: Any, name: Callable[[str], str]) -> dict[str, dict[str, list[Any]]]:
    """A layout as ``tensorboardX.summary.custom_scalars`` takes it.

    Args:
        layout: {category: {title: [kind, tags]}}.
        name: the tag as it is written.

    Raises:
        TypeError: no such dict of dicts, or a tag that is no string.
        ValueError: an unknown kind, or a margin without its three tags.
    """
    if not isinstance(layout, dict) or not all(isinstance(charts, dict) for charts in layout.values()):
        raise TypeError("layout must be a dict of dicts: {category: {title: [kind, tags]}}")
    return {
        category: {
            title: _chart(f"layout[{category!r}][{title!r}]", chart, name) for title, chart in charts.items()
        }
        for category, charts in layout.items()
    }


def _chart(argument: str, chart: Any, name: Callable[[str], str]) -> list[Any]:
    kind, tags = chart if isinstance(chart, (list, tuple)) and len(chart) == 2 else (None, None)
    if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, str) for tag in tags):
        raise TypeError(f"{argument} must be [kind, tags] with a list of strings, not {chart!r:.100}")
    kind = str(kind).capitalize()
    if kind not in ("Multiline", "Margin"):
        raise ValueError(f"{argument} is of the kind {kind!r:.50}; expected 'Multiline' or 'Margin'")
    if kind == "Margin" and len(tags) != 3:
        raise ValueError(
            f"{argument} has {len(tags)} tags; a margin needs three: value, lower and upper bound"
        )
    as_written = name if kind == "Margin" else lambda tag: _pattern(tag, name(tag))
    return [kind, [as_written(tag) for tag in tags]]


def _pattern(tag: str, written: str) -> str:
    """The regular expression that TensorBoard takes for a line: ``tag``, and also the series of this name."""
    try:
        if re.match(tag, written):
            return tag
    except re.error:
        return re.escape(written)
    return f"{tag}|{re.escape(written)}"
