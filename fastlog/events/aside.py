"""Entries that others may overtake: jobs that run aside, and what has to wait for them."""

from __future__ import annotations

import math
from bisect import insort
from collections import defaultdict, deque
from operator import itemgetter
from typing import Final, TypeAlias

from fastlog.events.items import Item, Tags, aside_of, tags_of
from fastlog.events.sinks.sink import Sink

Entry: TypeAlias = tuple[int, Sink, Item, int, float, bool]
"""(number, sink, item, bytes held, clock when it came, whether it goes first)"""

NUMBER: Final = 0
SINK: Final = 1
ITEM: Final = 2
NBYTES: Final = 3
SINCE: Final = 4
FIRST_TO_GO: Final = 5

by_number = itemgetter(NUMBER)


class Line:
    """Entries by number. Those that are first to go (histograms, images) lie in a list of their own, so that
    dropping one takes the same time whatever waits."""

    def __init__(self) -> None:
        self.first_to_go: deque[Entry] = deque()
        self.others: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self.first_to_go) + len(self.others)

    def entries(self) -> list[Entry]:
        """All, in no order."""
        return [*self.first_to_go.copy(), *self.others.copy()]

    def list_for(self, entry: Entry) -> deque[Entry]:
        """Where this entry belongs."""
        return self.first_to_go if entry[FIRST_TO_GO] else self.others

    def oldest(self) -> deque[Entry] | None:
        """The list that begins with the oldest entry; None if there is none."""
        first_to_go, others = self.first_to_go, self.others
        if first_to_go and not (others and others[0][NUMBER] < first_to_go[0][NUMBER]):
            return first_to_go
        return others or None

    def remove(self, entry: Entry) -> bool:
        """False if it is gone: a signal handler may have dropped it."""
        try:
            self.list_for(entry).remove(entry)
        except ValueError:
            return False
        return True


class Aside:
    """The entries that have been overtaken, or may be: all that others must not overtake stands behind.

    Not thread-safe, and as wary of signal handlers as ``Backlog``, whose part it is.

    Attributes:
        bytes: what they hold.
        finished_since: when the first of the jobs came that have finished and that nobody has asked for yet.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.finished_since = math.inf
        self._jobs: defaultdict[str, Line] = defaultdict(Line)  # by the thread that has to run them
        self._running: dict[str, Entry] = {}
        self._held = Line()  # jobs that are done, and what waits for a job
        self._tags: dict[int, Tags] = {}  # by number

    def lines(self) -> list[Line]:
        """All but the jobs that run."""
        return [*self._jobs.values(), self._held]

    def in_order(self) -> deque[Entry]:
        """All, by number."""
        waiting = [entry for line in self.lines() for entry in line.entries()]
        return deque(sorted([*waiting, *self.running()], key=by_number))

    def add(self, entry: Entry, tags: Tags) -> None:
        """Takes in an entry that may be overtaken. It is newer than all that are there."""
        aside = aside_of(entry[ITEM])
        line = self._held if aside is None else self._jobs[aside]
        self._tags[entry[NUMBER]] = tags
        self.bytes += entry[NBYTES]
        line.list_for(entry).append(entry)

    def remove(self, entry: Entry) -> bool:
        """Gives back an entry that need not wait any more; False if it is gone."""
        if not self._held.remove(entry):
            return False
        self.forget(entry)
        return True

    def forget(self, entry: Entry) -> None:
        """For an entry that was taken out of one of ``lines``."""
        self._tags.pop(entry[NUMBER], None)
        self.bytes -= entry[NBYTES]

    def tags_of(self, entry: Entry) -> Tags:
        """What an entry may log."""
        number = entry[NUMBER]
        return self._tags[number] if number in self._tags else tags_of(entry[ITEM])

    def idle_threads(self) -> list[str]:
        """Those that have jobs to run, and run none."""
        return [aside for aside, jobs in self._jobs.items() if jobs and aside not in self._running]

    def running(self) -> list[Entry]:
        """The jobs that run."""
        return list(self._running.values())

    def begin(self, aside: str) -> Entry | None:
        """The next job for a thread. It counts as running until ``finish``."""
        waiting = self._jobs[aside].oldest()
        if waiting is None:
            return None
        entry = self._running[aside] = waiting.popleft()
        return entry

    def finish(self, aside: str, done: Item) -> None:
        """Puts what became of the job that runs into its place."""
        number, sink, _, nbytes, since, first_to_go = self._running.pop(aside)
        entry = number, sink, done, nbytes, since, first_to_go
        insort(self._held.list_for(entry), entry, key=by_number)
        self.finished_since = min(self.finished_since, since)


class Claims:
    """The tags that entries which wait may log under. None stands for all tags of a sink, one that ends in
    "/" for all that begin so."""

    def __init__(self) -> None:
        self._by_sink: dict[Sink, _Claimed] = {}

    def __bool__(self) -> bool:
        return bool(self._by_sink)

    def add(self, sink: Sink, tags: Tags) -> None:
        """Claims them."""
        claimed = self._by_sink.setdefault(sink, _Claimed())
        if tags is None:
            claimed.all = True
        else:
            claimed.tags.update(tags)
            claimed.heads.update(map(_head, tags))

    def meet(self, sink: Sink, tags: Tags) -> bool:
        """Whether one of them is claimed."""
        claimed = self._by_sink.get(sink)
        if claimed is None:
            return False
        if claimed.all or tags is None or not claimed.tags.isdisjoint(tags):
            return True
        return any(tag in claimed.heads if tag.endswith("/") else _head(tag) in claimed.tags for tag in tags)


class _Claimed:
    def __init__(self) -> None:
        self.all = False
        self.tags: set[str] = set()
        self.heads: set[str] = set()


def _head(tag: str) -> str:
    return tag.partition("/")[0] + "/"
