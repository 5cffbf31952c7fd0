"""From entries to sinks: runs jobs, sorts out what can never be written, knows what is not yet durable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastlog.events.backlog import ITEM, SINK, Entry
from fastlog.events.items import HISTOGRAM, JOB, SCALAR, Item
from fastlog.events.sinks.sink import InvalidItems, PartialWrite, Sink


@dataclass
class Outcome:
    """What became of entries: each is in exactly one list. ``error`` is why some are left."""

    written: list[Entry] = field(default_factory=list)
    invalid: list[Entry] = field(default_factory=list)
    left: list[Entry] = field(default_factory=list)
    error: BaseException | None = None
    why_invalid: BaseException | None = None


class Delivery:
    """The sinks of one queue. Not thread-safe: one thread at a time delivers."""

    def __init__(self) -> None:
        self.unsynced: dict[Sink, None] = {}
        self._open: dict[Sink, None] = {}
        self._first: Sink | None = None
        self._last_step: int | None = None

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
                self._run_job(entries[0], outcome)
            else:
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

    def _run_job(self, job: Entry, outcome: Outcome) -> None:
        _, run, nbytes, droppable_first, label = job[ITEM]
        try:
            items = list(run())
        except BaseException as error:
            outcome.invalid.append(job)
            outcome.why_invalid = JobError(f"{label}: {type(error).__name__}: {error}")
            return
        parts = Outcome()
        self._write(job[SINK], [_with_item(job, item) for item in items], parts)
        outcome.error, outcome.why_invalid = parts.error, parts.why_invalid
        if parts.left:
            rest = [part[ITEM] for part in parts.left]
            again: Item = (JOB, lambda: rest, nbytes, droppable_first, label)
            outcome.left.append(_with_item(job, again))
        elif parts.invalid and not parts.written:
            outcome.invalid.append(job)
        else:
            outcome.written.append(job)

    def _write(self, sink: Sink, entries: list[Entry], outcome: Outcome) -> None:
        self.attach(sink)
        while entries:
            written = 0
            try:
                sink.write([entry[ITEM] for entry in entries])
                written = len(entries)
            except InvalidItems as error:
                invalid = set(error.indices)
                outcome.why_invalid = error.__cause__ or error
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
            outcome.written += entries[:written]
            outcome.left += entries[written:]
            return


class JobError(RuntimeError):
    """A job that raised: says which one."""


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
