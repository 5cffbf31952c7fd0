"""What a watcher looks at."""

from __future__ import annotations

from dataclasses import dataclass

from fastlog.watching import select, series


@dataclass(frozen=True)
class Plan:
    """What is looked at. See ``fastlog.watch`` for the fields."""

    log: frozenset[str]
    names: select.Names
    modules: select.Names | None
    frozen: bool
    snapshot_bytes: int
    shape: series.Shape
