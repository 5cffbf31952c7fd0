"""What the queue asks of a place where events go, and how such a place says that something went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastlog.events.items import Item


class Sink(Protocol):
    """A place where events go. Only one thread at a time calls ``write``, ``flush`` and ``close``.

    Any exception but the two below means that none of the items of that call was written; the queue keeps
    them and calls again after a pause, so a later call has to be able to succeed. A closed sink opens itself
    again at the next ``write``.
    """

    def write(self, items: Sequence[Item]) -> None:
        """Hands items (no jobs) to the operating system, in order.

        Raises:
            InvalidItems: some can never be written, and nothing was; the caller tries again without them.
            PartialWrite: only the first few were written.
        """

    def flush(self) -> None:
        """Makes durable what was written: fsync, or upload."""

    def close(self) -> None:
        """Flushes and gives back files and connections. Idempotent."""

    def get_logdir(self) -> str:
        """The directory or URL that the sink was made with."""


class InvalidItems(ValueError):
    """Items that no retry can write. ``indices``: which of those given, ascending."""

    def __init__(self, indices: Sequence[int], why: BaseException) -> None:
        super().__init__(str(why))
        self.indices = indices


class PartialWrite(OSError):
    """A write that stopped half way. ``written``: how many items, from the first on, are in the file."""

    def __init__(self, written: int, why: OSError) -> None:
        super().__init__(why.errno, why.strerror, why.filename)
        self.written = written
