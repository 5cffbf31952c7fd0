"""What a watcher has to say to people."""

from __future__ import annotations

import itertools

from fastlog.common.notices import Notices

_numbers = itertools.count()


class Voice:
    """The warnings of one watcher, once per cause."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._number = next(_numbers)

    def tell(self, cause: str, message: str) -> None:
        """Keeps a warning, on any thread, until a thread of the program's own says it."""
        self._notices.tell(f"fastlog.watch {self._number} {cause}", f"fastlog.watch: {message}")

    def say(self, cause: str, message: str) -> None:
        """Issues a warning now, with those that were kept."""
        self.tell(cause, message)
        self._notices.warn()
