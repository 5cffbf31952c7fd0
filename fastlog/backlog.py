"""What waits in the queue: a bounded first-in-first-out list that knows what to give up when it is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Final, TypeAlias

from fastlog.events import JOB, Item
from fastlog.sinks.base import Sink

Entry: TypeAlias = tuple[int, Sink, Item, int, float, bool]
"""(number, sink, item, bytes held, clock when it came, whether it goes first)"""

NUMBER: Final = 0
SINK: Final = 1
ITEM: Final = 2
NBYTES: Final = 3
SINCE: Final = 4
FIRST_TO_GO: Final = 5


class Backlog:
    """Entries waiting, those that the worker has taken, and the count of all that ever came.

    ``accepted == written + sum(dropped.values()) + depth`` at all times. Not thread-safe: whoever owns it
    locks. Entries that are first to go (histograms, images) lie in a list of their own, so that each step
    takes the same time whatever waits.

    Args:
        max_events, max_bytes: limits of ``depth`` and ``bytes``.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.depth = 0
        self.bytes = 0
        self.accepted = 0
        self.written = 0
        self.dropped: dict[str, int] = {}
        self._deepest = 0
        self._largest = 0
        self._first_to_go: deque[Entry] = deque()
        self._others: deque[Entry] = deque()
        self._taken_since: float | None = None

    def append(self, sink: Sink, item: Item, nbytes: int, since: float, first_to_go: bool) -> None:
        """Takes an entry in, whatever the limits."""
        number = self.accepted = self.accepted + 1
        self.depth += 1
        self.bytes += nbytes
        # Last: up to here a signal handler or KeyboardInterrupt finds nothing half done.
        (self._first_to_go if first_to_go else self._others).append(
            (number, sink, item, nbytes, since, first_to_go)
        )

    def refuse(self, reason: str) -> None:
        """Counts an entry that came and is dropped at once."""
        self.accepted += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def fits(self, nbytes: int) -> bool:
        """Whether one more entry keeps both limits."""
        return self.depth < self.max_events and self.bytes + nbytes <= self.max_bytes

    def make_room(self, nbytes: int, first_to_go: bool, oldest: bool, reason: str) -> bool:
        """Drops waiting entries until one more fits; False if the newcomer is the one to go.

        ``oldest``: drops the oldest that is first to go, then the oldest of the others. Else the newest that
        is first to go, and only for one that is not.
        """
        while not self.fits(nbytes):
            if self._first_to_go and (oldest or not first_to_go):
                entry = self._first_to_go.popleft() if oldest else self._first_to_go.pop()
            elif self._others and oldest and not first_to_go:
                entry = self._others.popleft()
            else:
                return False
            self.drop([entry], reason)
        return True

    def first_number(self) -> int:
        """Number of the oldest entry that waits; all before it are settled or taken."""
        return min((waiting[0][NUMBER] for waiting in self._waiting()), default=self.accepted + 1)

    def oldest_since(self) -> float | None:
        """When the oldest entry came that is not settled."""
        times = [waiting[0][SINCE] for waiting in self._waiting()]
        if self._taken_since is not None:
            times.append(self._taken_since)
        return min(times, default=None)

    def take(self, max_events: int, max_bytes: int) -> list[Entry]:
        """The oldest entries, in order: a run without jobs, or one job. Empty if nothing waits.

        They stay in ``depth`` and ``bytes`` until ``settle`` or ``drop``; ``put_back`` undoes it.
        """
        first_to_go, others = self._first_to_go, self._others
        taken: list[Entry] = []
        nbytes = 0
        while len(taken) < max_events and nbytes < max_bytes:
            if first_to_go and not (others and others[0][NUMBER] < first_to_go[0][NUMBER]):
                waiting = first_to_go
            elif others:
                waiting = others
            else:
                break
            if waiting[0][ITEM][0] == JOB:
                if not taken:
                    taken.append(waiting.popleft())
                break
            entry = waiting.popleft()
            nbytes += entry[NBYTES]
            taken.append(entry)
        self._taken_since = taken[0][SINCE] if taken else None
        return taken

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Returns taken entries to where they were."""
        for entry in sorted(entries, key=itemgetter(NUMBER), reverse=True):
            (self._first_to_go if entry[FIRST_TO_GO] else self._others).appendleft(entry)
        self._taken_since = None

    def settle(self, entries: Sequence[Entry]) -> None:
        """Counts entries as written."""
        self.written += len(entries)
        self._release(entries)

    def drop(self, entries: Sequence[Entry], reason: str) -> None:
        """Counts entries as dropped."""
        if entries:
            self.dropped[reason] = self.dropped.get(reason, 0) + len(entries)
            self._release(entries)

    def count_to(self, number: int) -> tuple[int, int]:
        """How many entries up to ``number`` are not settled, and how many bytes they hold."""
        later = [entry[NBYTES] for waiting in self._waiting() for entry in waiting if entry[NUMBER] > number]
        return self.depth - len(later), self.bytes - sum(later)

    def drop_waiting(self, reason: str) -> int:
        """Drops all that waits; what the worker has taken stays. Returns how many."""
        count = 0
        for waiting in self._waiting():
            count += len(waiting)
            self.drop(waiting, reason)
            waiting.clear()
        return count

    @property
    def total_dropped(self) -> int:
        """Dropped for any reason."""
        return sum(self.dropped.values())

    @property
    def deepest(self) -> int:
        """The largest ``depth`` so far."""
        return max(self._deepest, self.depth)

    @property
    def largest(self) -> int:
        """The largest ``bytes`` so far."""
        return max(self._largest, self.bytes)

    def _waiting(self) -> Iterator[deque[Entry]]:
        return (waiting for waiting in (self._first_to_go, self._others) if waiting)

    def _release(self, entries: Sequence[Entry]) -> None:
        # Depth and bytes only fall here, so this is where their maxima can be seen.
        self._deepest = self.deepest
        self._largest = self.largest
        self.depth -= len(entries)
        self.bytes -= sum(entry[NBYTES] for entry in entries)
