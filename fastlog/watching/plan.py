"""What a watcher looks at."""

from __future__ import annotations

from dataclasses import dataclass

from fastlog.watching import selection, series


@dataclass(frozen=True)
class Plan:
    """What is looked at. See ``fastlog.watch`` for the fields."""

    log: frozenset[str]
    names: selection.Names
    modules: selection.Names | None
    frozen: bool
    snapshot_bytes: int
    options: series.SeriesOptions
