"""What callers wait for: flushes and closes, by the number of the last event that they cover."""

from __future__ import annotations

import math


class Requests:
    """Guarded by the lock of the worker that answers them.

    Attributes:
        flushed_to: all events up to this one are in the files, and durable.
        close_to: the last event before a close that is not answered yet.
        close_by: the clock when what a sink in trouble does not take is dropped, for a close.
    """

    def __init__(self) -> None:
        self.flushed_to = 0
        self.close_to: int | None = None
        self.close_by = math.inf
        self._flush_to = 0
        self._closes_asked = self._closes_done = 0

    def ask_flush(self, number: int) -> None:
        """Asks for all events up to ``number``, again where they have been flushed: a file may need it."""
        self._flush_to = max(self._flush_to, number)
        self.flushed_to = min(self.flushed_to, number - 1)

    def ask_close(self, number: int, by: float) -> int:
        """Asks for a close after the event ``number``. Returns what ``is_closed`` wants to know."""
        self.close_to, self.close_by = number, by
        self._closes_asked += 1
        return self._closes_asked

    def is_closed(self, close: int) -> bool:
        """Whether the close is done for which ``ask_close`` returned this."""
        return self._closes_done >= close

    @property
    def newest_close(self) -> int:
        """The last one that was asked for."""
        return self._closes_asked

    @property
    def any_left(self) -> bool:
        """Whether somebody waits."""
        return self._flush_to > self.flushed_to or self.close_to is not None

    def is_flush_due(self, first: int) -> bool:
        """Whether all that a flush covers is written; ``first`` is the oldest event that is not."""
        return first > self._flush_to > self.flushed_to

    def is_close_due(self, first: int) -> bool:
        """Whether all that a close covers is written; ``first`` is the oldest event that is not."""
        return self.close_to is not None and first > self.close_to

    def answer_flush(self, number: int) -> None:
        """All events up to ``number`` are durable."""
        self.flushed_to = max(self.flushed_to, number)

    def answer_close(self, close: int) -> None:
        """The sinks are closed, for those who had asked when ``close`` was the newest."""
        self._closes_done = close
        if self._closes_asked == close:
            self.close_to = None
