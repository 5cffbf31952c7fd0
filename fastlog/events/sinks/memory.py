"""A sink that keeps its items: the double for tests, and for looking at what would be written."""

from __future__ import annotations

from collections.abc import Sequence

from fastlog.events.items import Item


class MemorySink:
    """Keeps everything in ``items``; ``flushed`` is how many of them were there at the last flush."""

    def __init__(self, logdir: str = "memory") -> None:
        self._logdir = logdir
        self.items: list[Item] = []
        self.flushed = 0
        self.closed = False

    def write(self, items: Sequence[Item]) -> None:
        """Appends."""
        self.items.extend(items)
        self.closed = False

    def flush(self) -> None:
        """Notes how many items there are."""
        self.flushed = len(self.items)

    def close(self) -> None:
        """Flushes; the items stay."""
        self.flush()
        self.closed = True

    def get_logdir(self) -> str:
        """The name given at construction."""
        return self._logdir
