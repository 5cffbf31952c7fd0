"""What a watcher has to say to people."""

from __future__ import annotations

import itertools

from fastlog.common.notices import Relay

_numbers = itertools.count()


class Voice:
    """The warnings of one watcher, once per topic."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._number = next(_numbers)

    def tell(self, topic: str, message: str) -> None:
        """Keeps a warning, on any thread, until a thread of the program's own says it."""
        self._relay.tell(f"fastlog.watch {self._number} {topic}", f"fastlog.watch: {message}")

    def say(self, topic: str, message: str) -> None:
        """Issues a warning now, with those that were kept."""
        self.tell(topic, message)
        self._relay.warn()
