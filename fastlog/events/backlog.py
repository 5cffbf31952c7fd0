"""What waits in the queue: a bounded first-in-first-out list that knows what to give up when it is full."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from operator import itemgetter
from typing import Final, TypeAlias

from fastlog.events.items import JOB, Item
from fastlog.events.sinks.sink import Sink

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
    locks. But a signal handler or finalizer may come back in, or an exception strike, wherever a call begins
    or ends; so no counter is read before a call and written after it. Entries that are first to go
    (histograms, images) lie in a list of their own, so that each step takes the same time whatever waits.

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
        self.dropped: defaultdict[str, int] = defaultdict(int)
        self._deepest = 0
        self._largest = 0
        self._first_to_go: deque[Entry] = deque()
        self._others: deque[Entry] = deque()
        self._taken: list[Entry] = []

    def append(self, sink: Sink, item: Item, nbytes: int, since: float, first_to_go: bool) -> None:
        """Takes an entry in, whatever the limits."""
        number = self.accepted = self.accepted + 1
        self.depth += 1
        self.bytes += nbytes
        # Last: the only call.
        (self._first_to_go if first_to_go else self._others).append(
            (number, sink, item, nbytes, since, first_to_go)
        )

    def refuse(self, reason: str) -> None:
        """Counts an entry that came and is dropped at once."""
        self.accepted += 1
        self.dropped[reason] += 1

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
                self._drop(self._first_to_go, 0 if oldest else -1, reason)
            elif self._others and oldest and not first_to_go:
                self._drop(self._others, 0, reason)
            else:
                return False
        return True

    def first_number(self) -> int:
        """Number of the oldest entry that waits; all before it are settled or taken."""
        return min((waiting[0][NUMBER] for waiting in self._waiting() if waiting), default=self.accepted + 1)

    def oldest_since(self) -> float | None:
        """When the oldest entry came that is not settled."""
        oldest = (entries[0][SINCE] for entries in (*self._waiting(), self._taken) if entries)
        return min(oldest, default=None)

    def take(self, max_events: int, max_bytes: int) -> list[Entry]:
        """The oldest entries, in order: a run without jobs, or one job. Empty if nothing waits.

        They stay in ``depth`` and ``bytes`` until ``settle``.
        """
        self.put_back()
        first_to_go, others, taken = self._first_to_go, self._others, self._taken
        nbytes = 0
        while len(taken) < max_events and nbytes < max_bytes:
            if first_to_go and not (others and others[0][NUMBER] < first_to_go[0][NUMBER]):
                waiting = first_to_go
            elif others:
                waiting = others
            else:
                break
            is_job = waiting[0][ITEM][0] == JOB
            if is_job and taken:
                break
            nbytes += waiting[0][NBYTES]
            taken.append(waiting.popleft())
            if is_job:
                break
        return taken.copy()

    def settle(self, written: Sequence[Entry], invalid: Sequence[Entry], left: Sequence[Entry]) -> None:
        """Counts what was taken as written, as dropped, and returns the rest to where it was."""
        left = sorted(left, key=itemgetter(NUMBER))
        num_written, num_invalid = len(written), len(invalid)
        nbytes = sum([entry[NBYTES] for entry in (*written, *invalid)])
        self._note_maxima()
        self.written += num_written
        if num_invalid:
            self.dropped["invalid"] += num_invalid
        self.depth -= num_written + num_invalid
        self.bytes -= nbytes
        self._taken[:] = left
        self.put_back()

    def put_back(self) -> None:
        """Returns all that was taken and not settled to where it was."""
        taken = self._taken
        while taken:
            (self._first_to_go if taken[-1][FIRST_TO_GO] else self._others).appendleft(taken.pop())

    def count_to(self, number: int) -> tuple[int, int]:
        """How many entries up to ``number`` are not settled, and how many bytes they hold."""
        waiting = [entry for entries in self._waiting() for entry in entries.copy()]
        later = [entry[NBYTES] for entry in waiting if entry[NUMBER] > number]
        return self.depth - len(later), self.bytes - sum(later)

    def drop_to(self, number: int, reason: str) -> None:
        """Drops what waits up to ``number``; what the worker has taken stays."""
        for waiting in self._waiting():
            while waiting and waiting[0][NUMBER] <= number:
                self._drop(waiting, 0, reason)

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

    def _waiting(self) -> tuple[deque[Entry], deque[Entry]]:
        return self._first_to_go, self._others

    def _drop(self, waiting: deque[Entry], index: int, reason: str) -> None:
        self._note_maxima()
        if waiting:  # still
            self.dropped[reason] += 1
            self.depth -= 1
            self.bytes -= waiting[index][NBYTES]
            del waiting[index]

    def _note_maxima(self) -> None:
        # Called where depth and bytes are about to fall, which is often enough.
        self._deepest = self.deepest
        self._largest = self.largest
