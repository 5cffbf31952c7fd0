"""What waits in the queue: bounded, in order, and it knows what to give up when it is full."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence

from fastlog.events.aside import ITEM, NBYTES, NUMBER, SINCE, SINK, Aside, Claims, Entry, Line, by_number
from fastlog.events.items import JOB, Item, Tags, aside_of, tags_of
from fastlog.events.sinks.sink import Sink


class Backlog:
    """Entries waiting, those that the worker has taken, and the count of all that ever came.

    Of each tag of a sink entries leave in the order in which they came. Jobs that run aside, and what has to
    wait for them, are overtaken by all else.

    ``accepted == written + sum(dropped.values()) + depth`` at all times. Not thread-safe: whoever owns it
    locks. But a signal handler or finalizer may come back in, or an exception strike, wherever a call begins
    or ends; so no counter is read before a call and written after it.

    Args:
        max_events, max_bytes: limits of ``depth`` and ``bytes``. One entry larger than ``max_bytes`` may wait
            beside the others.

    Attributes:
        event_mark, byte_mark: while ``depth`` and ``bytes`` are below both, a put has nothing to do but
            ``append``. The worker sets them.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.event_mark = self.byte_mark = 0
        self.depth = 0
        self.bytes = 0
        self._oversize = 0  # the bytes of an entry larger than max_bytes
        self.accepted = 0
        self.written = 0
        self.dropped: defaultdict[str, int] = defaultdict(int)
        self.aside = Aside()
        self._deepest = 0
        self._largest = 0
        self._arrived = Line()
        self._first_to_go, self._others = self._arrived.first_to_go, self._arrived.others  # quicker
        self._taken: list[Entry] = []

    def append(self, sink: Sink, item: Item, nbytes: int, since: float, first_to_go: bool) -> None:
        """Takes an entry in, whatever the limits, but no larger than ``max_bytes``."""
        number = self.accepted = self.accepted + 1
        self.depth += 1
        self.bytes += nbytes
        # Last: the only call.
        (self._first_to_go if first_to_go else self._others).append(
            (number, sink, item, nbytes, since, first_to_go)
        )

    def append_oversize(self, sink: Sink, item: Item, nbytes: int, since: float, first_to_go: bool) -> None:
        """Takes in an entry that is larger than ``max_bytes``."""
        self._oversize = nbytes
        self.append(sink, item, nbytes, since, first_to_go)

    def refuse(self, reason: str) -> None:
        """Counts an entry that came and is dropped at once."""
        self.accepted += 1
        self.dropped[reason] += 1

    def fits(self, nbytes: int) -> bool:
        """Whether one more entry keeps both limits, or is the only one that is larger than one."""
        if self.depth >= self.max_events:
            return False
        if nbytes > self.max_bytes:
            return not self._oversize
        return self.bytes - self._oversize + nbytes <= self.max_bytes

    def make_room(self, nbytes: int, first_to_go: bool, oldest: bool, reason: str) -> bool:
        """Drops waiting entries until one more fits; False if the newcomer is the one to go.

        ``oldest``: drops the oldest that is first to go, then the oldest of the others. Else the newest that
        is first to go, and only for one that is not.
        """
        while not self.fits(nbytes):
            if nbytes > self.max_bytes and self._oversize:
                return False
            waiting = None
            if oldest or not first_to_go:
                waiting = _outermost([line.first_to_go for line in self._lines()], oldest)
            if waiting is None and oldest and not first_to_go:
                waiting = _outermost([line.others for line in self._lines()], oldest)
            if waiting is None:
                return False
            self._drop(waiting, 0 if oldest else -1, reason)
        return True

    # ---- what is next

    @property
    def arrived(self) -> tuple[int, int]:
        """Events and bytes that no take has looked at yet."""
        return len(self._arrived), self.bytes - self.aside.bytes

    def first_arrived(self) -> float:
        """Number of the oldest entry that no take has looked at yet."""
        waiting = self._arrived.oldest()
        return waiting[0][NUMBER] if waiting else math.inf

    def first_number(self) -> int:
        """Number of the oldest entry that waits or runs; all before it are settled or taken."""
        oldest = [waiting[0][NUMBER] for line in self._lines() if (waiting := line.oldest())]
        return min([*oldest, *map(by_number, self.aside.running())], default=self.accepted + 1)

    def oldest_since(self) -> float | None:
        """When the oldest entry came that is not settled."""
        oldest = [waiting[0][SINCE] for line in self._lines() if (waiting := line.oldest())]
        rest = [entry[SINCE] for entry in (*self.aside.running(), *self._taken[:1])]
        return min([*oldest, *rest], default=None)

    def due_since(self) -> float:
        """When the oldest entry came that could be taken now; infinity: there is none."""
        waiting = self._arrived.oldest()
        return min(self.aside.finished_since, waiting[0][SINCE] if waiting else math.inf)

    def take(self, max_events: int, max_bytes: int, last: float = math.inf) -> list[Entry]:
        """The oldest entries that need not wait, in order: a run without jobs, or one job for the worker.

        They stay in ``depth`` and ``bytes`` until ``settle``. Entries after number ``last`` are not looked
        at, nor more than ``max_events`` that have arrived: so there may be more where this is empty.
        """
        self.put_back()
        self.aside.finished_since = math.inf
        overtaken, claims = self.aside.in_order(), Claims()
        taken, moved = self._taken, 0
        nbytes = 0 if overtaken else self._take_until_job(max_events, max_bytes, last)
        while len(taken) + moved < max_events and nbytes < max_bytes:
            waiting = self._arrived.oldest()
            if overtaken and (waiting is None or overtaken[0][NUMBER] < waiting[0][NUMBER]):
                waiting, entry = None, overtaken.popleft()
                if _has_to_wait(entry, self.aside.tags_of(entry), claims):
                    continue
            elif waiting is None or waiting[0][NUMBER] > last:
                break
            else:
                entry = waiting[0]
            is_job = entry[ITEM][0] == JOB
            if waiting is not None and (claims or (is_job and aside_of(entry[ITEM]) is not None)):
                tags = tags_of(entry[ITEM])
                if _has_to_wait(entry, tags, claims):
                    self.aside.add(waiting.popleft(), tags)
                    moved += 1
                    continue
            if is_job and taken:
                break
            if waiting is not None:
                taken.append(waiting.popleft())
            elif self.aside.remove(entry):
                taken.append(entry)
            nbytes += entry[NBYTES]
            if is_job:
                break
        return taken.copy()

    def _take_until_job(self, max_events: int, max_bytes: int, last: float) -> int:
        """Takes what has arrived, where nothing has been overtaken; returns the bytes."""
        first_to_go, others, taken, nbytes = self._first_to_go, self._others, self._taken, 0
        while len(taken) < max_events and nbytes < max_bytes:
            if first_to_go and not (others and others[0][NUMBER] < first_to_go[0][NUMBER]):
                waiting = first_to_go
            else:
                waiting = others
            if not waiting or waiting[0][NUMBER] > last or waiting[0][ITEM][0] == JOB:
                break
            nbytes += waiting[0][NBYTES]
            taken.append(waiting.popleft())
        return nbytes

    def settle(self, written: Sequence[Entry], invalid: Sequence[Entry], left: Sequence[Entry]) -> None:
        """Counts what was taken as written, as dropped, and returns the rest to where it was."""
        left = sorted(left, key=by_number)
        num_written, num_invalid = len(written), len(invalid)
        sizes = [entry[NBYTES] for entry in (*written, *invalid)]
        nbytes, largest = sum(sizes), max(sizes, default=0)
        self._note_maxima()
        if largest > self.max_bytes:
            self._oversize = 0
        self.written += num_written
        if num_invalid:
            self.dropped["invalid"] += num_invalid
        self.depth -= num_written + num_invalid
        self.bytes -= nbytes
        self._taken[:] = left
        self.put_back()

    def put_back(self) -> None:
        """Returns all that was taken and not settled: it is older than all that has arrived."""
        taken = self._taken
        while taken:
            self._arrived.list_for(taken[-1]).appendleft(taken.pop())

    # ---- counting and dropping

    def count_to(self, number: int) -> tuple[int, int]:
        """How many entries up to ``number`` are not settled, and how many bytes they hold."""
        waiting = [entry for line in self._lines() for entry in line.entries()] + self.aside.running()
        later = [entry[NBYTES] for entry in waiting if entry[NUMBER] > number]
        return self.depth - len(later), self.bytes - sum(later)

    def drop_to(self, number: int, reason: str) -> None:
        """Drops what waits up to ``number``; what the worker has taken, and what runs, stays."""
        for line in self._lines():
            for waiting in (line.first_to_go, line.others):
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

    def _lines(self) -> tuple[Line, ...]:
        return (*self.aside.lines(), self._arrived)

    def _drop(self, waiting: deque[Entry], index: int, reason: str) -> None:
        self._note_maxima()
        if waiting:  # still
            entry = waiting[index]
            self.dropped[reason] += 1
            self.depth -= 1
            self.bytes -= entry[NBYTES]
            if entry[NBYTES] > self.max_bytes:
                self._oversize = 0
            del waiting[index]
            if waiting is not self._arrived.list_for(entry):
                self.aside.forget(entry)

    def _note_maxima(self) -> None:
        # Called where depth and bytes are about to fall, which is often enough.
        self._deepest = self.deepest
        self._largest = self.largest


def _has_to_wait(entry: Entry, tags: Tags, claims: Claims) -> bool:
    """Whether an entry cannot be taken yet; its tags are claimed then."""
    if aside_of(entry[ITEM]) is None and not claims.meet(entry[SINK], tags):
        return False
    claims.add(entry[SINK], tags)
    return True


def _outermost(lists: Sequence[deque[Entry]], oldest: bool) -> deque[Entry] | None:
    """The one that begins with the oldest entry, or that ends with the newest; None if all are empty."""
    waiting = [each for each in lists if each]
    if len(waiting) < 2:
        return waiting[0] if waiting else None
    if oldest:
        return min(waiting, key=lambda each: each[0][NUMBER] if each else math.inf)
    return max(waiting, key=lambda each: each[-1][NUMBER] if each else -math.inf)
