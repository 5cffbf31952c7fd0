"""From entries to sinks: runs jobs, sorts out what can never be written, knows what is not yet durable."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastlog.events.aside import ITEM, NUMBER, SINK, Entry
from fastlog.events.items import DONE, FAILED, HISTOGRAM, JOB, SCALAR, Item, Tags, tags_of
from fastlog.events.sinks.sink import InvalidItems, PartialWrite, Sink

Listener = Callable[[Sequence[Item]], None]

DROPPED_TAG = "fastlog/dropped"


@dataclass
class Outcome:
    """What became of entries: each is in exactly one list. ``error`` is why some are left."""

    written: list[Entry] = field(default_factory=list)
    invalid: list[Entry] = field(default_factory=list)
    left: list[Entry] = field(default_factory=list)
    error: BaseException | None = None
    why_invalid: list[BaseException] = field(default_factory=list)


class Delivery:
    """The sinks of one queue. Not thread-safe: one thread at a time delivers."""

    def __init__(self) -> None:
        self.unsynced: dict[Sink, None] = {}
        self._open: dict[Sink, None] = {}
        self._first: Sink | None = None
        self._last_step: int | None = None
        self._listeners: dict[Sink, tuple[Listener, ...]] = {}

    def listen(self, sink: Sink, listener: Listener) -> None:
        """See ``AsyncQueue.listen``."""
        self._listeners[sink] = (*self._listeners.get(sink, ()), listener)

    def attach(self, sink: Sink) -> None:
        """Makes ``close`` close this sink, whether or not anything is written to it before."""
        self._open[sink] = None
        if self._first is None:
            self._first = sink

    @property
    def is_open(self) -> bool:
        """Whether ``close`` has something to do."""
        return bool(self._open)

    def write(self, entries: Sequence[Entry]) -> Outcome:
        """Delivers a run of entries without jobs, or one job; each sink's own in order. Never raises."""
        outcome = Outcome()
        try:
            if entries[0][ITEM][0] == JOB:
                job = entries[0][ITEM]
                entries = [_with_item(entries[0], run_job(job, tags_of(job)))]
            for sink, its_entries in _by_sink(entries):
                self._write(sink, its_entries, outcome)
        except BaseException as error:  # out of memory in our own code: nothing after it was written
            settled = {id(entry) for entry in (*outcome.written, *outcome.invalid)}
            outcome.left = [entry for entry in entries if id(entry) not in settled]
            outcome.error = error
        return outcome

    def sync(self) -> None:
        """Flushes what was written to. Raises the last of the sinks' errors, after trying all."""
        failure: BaseException | None = None
        for sink in list(self.unsynced):
            try:
                sink.flush()
            except BaseException as error:
                failure = error
            else:
                self.unsynced.pop(sink, None)
        if failure is not None:
            raise failure

    def close(self) -> list[BaseException]:
        """Closes all sinks, whatever they raise; returns what they raised."""
        errors: list[BaseException] = []
        for sink in list(self._open):
            try:
                sink.close()
            except BaseException as error:
                errors.append(error)
            self._open.pop(sink, None)
            self.unsynced.pop(sink, None)
        return errors

    def report(self, tag: str, value: float) -> None:
        """Writes a scalar to the first sink, at the step written last. Raises what the sink raises."""
        if self._first is not None:
            self.attach(self._first)
            self._first.write([(SCALAR, tag, value, self._last_step, time.time())])
            self.unsynced[self._first] = None

    def _write(self, sink: Sink, entries: list[Entry], outcome: Outcome) -> None:
        if min([entry[ITEM][0] for entry in entries]) >= 0:  # kinds that a sink knows
            self._write_items(sink, entries, outcome)
            return
        parts = Outcome()
        self._write_items(sink, _part(entries, parts), parts)
        _join(entries, parts, outcome)

    def _write_items(self, sink: Sink, entries: list[Entry], outcome: Outcome) -> None:
        self.attach(sink)
        while entries:
            written = 0
            try:
                sink.write([entry[ITEM] for entry in entries])
                written = len(entries)
            except InvalidItems as error:
                invalid = set(error.indices)
                outcome.why_invalid.append(error.__cause__ or error)
                outcome.invalid += [entries[i] for i in sorted(invalid)]
                entries = [entry for i, entry in enumerate(entries) if i not in invalid]
                if invalid:
                    continue
                outcome.error = error
            except PartialWrite as error:
                written = error.written
                outcome.error = error.__cause__ or error
            except BaseException as error:
                outcome.error = error
            if written:
                self.unsynced[sink] = None
                last = entries[written - 1][ITEM]
                if last[0] in (SCALAR, HISTOGRAM) and last[3] is not None:
                    self._last_step = last[3]
                for listen in self._listeners.get(sink, ()):
                    listen([entry[ITEM] for entry in entries[:written]])
            outcome.written += entries[:written]
            outcome.left += entries[written:]
            return


class DropSeries:
    """The series that counts the events that were dropped, in the first sink of a delivery."""

    def __init__(self, delivery: Delivery, clock: Callable[[], float]) -> None:
        self._delivery = delivery
        self._clock = clock
        self._reported = 0
        self._reported_at = -math.inf

    def report(self, total: int, every: float) -> None:
        """Writes a new total where the last point is ``every`` seconds old. Raises what the sink raises."""
        now = self._clock()
        if total > self._reported and now >= self._reported_at + every:
            self._delivery.report(DROPPED_TAG, total)
            self._reported, self._reported_at = total, now


class JobError(RuntimeError):
    """A job that raised.

    Attributes:
        place: which one.
    """

    def __init__(self, place: str, error: BaseException) -> None:
        super().__init__(f"{place}: {type(error).__name__}: {error}")
        self.place = place


def run_job(job: Item, tags: Tags) -> Item:
    """Runs a job that may log under these tags; returns what takes its place. Never raises."""
    _, run, _, _, place, *_ = job
    try:
        return (DONE, list(run()), tags)
    except BaseException as error:
        return (FAILED, JobError(place, error), ())


def _with_item(entry: Entry, item: Item) -> Entry:
    number, sink, _, nbytes, since, first_to_go = entry
    return number, sink, item, nbytes, since, first_to_go


def _by_sink(entries: Sequence[Entry]) -> list[tuple[Sink, list[Entry]]]:
    sinks = {entry[SINK]: None for entry in entries}
    if len(sinks) == 1:
        return [(entries[0][SINK], list(entries))]
    groups: dict[Sink, list[Entry]] = {sink: [] for sink in sinks}
    for entry in entries:
        groups[entry[SINK]].append(entry)
    return list(groups.items())


def _part(entries: Sequence[Entry], outcome: Outcome) -> list[Entry]:
    """An entry for each single item; jobs that failed are invalid."""
    parts = []
    for entry in entries:
        item = entry[ITEM]
        if item[0] == FAILED:
            outcome.invalid.append(entry)
            outcome.why_invalid.append(item[1])
        else:
            parts += [_with_item(entry, one) for one in (item[1] if item[0] == DONE else [item])]
    return parts


def _join(entries: Sequence[Entry], parts: Outcome, outcome: Outcome) -> None:
    """Books entries by what became of their parts: one that has lost only some is written."""
    left = defaultdict(list)
    for part in parts.left:
        left[part[NUMBER]].append(part[ITEM])
    written = {part[NUMBER] for part in parts.written}
    invalid = {part[NUMBER] for part in parts.invalid}
    for entry in entries:
        number, item = entry[NUMBER], entry[ITEM]
        if number in left:
            rest = (DONE, left[number], item[2]) if item[0] == DONE else item
            outcome.left.append(_with_item(entry, rest))
        elif number in invalid and number not in written:
            outcome.invalid.append(entry)
        else:
            outcome.written.append(entry)
    outcome.error = parts.error or outcome.error
    outcome.why_invalid += parts.why_invalid
