"""Histograms of tensors that are spread over the ranks of a job, and where a rank logs when it is alone."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from fastlog.common import forks
from fastlog.distributed.directories import rank_directory
from fastlog.distributed.merger import Contribution, Merger
from fastlog.distributed.parts import Merged, Record
from fastlog.distributed.shards import mesh_ranks, own_part
from fastlog.summaries.engines import pack_one
from fastlog.writer.outbox import Outbox


class Sharding:
    """The part of a writer that merges summaries with those of other ranks.

    Args:
        outbox: of the writer. What is merged is logged there.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lock = threading.RLock()
        self._mergers: dict[object, Merger] = {}
        self._alone: Outbox | None = None
        forks.register(self)

    def add_histogram(
        self, name: str, values: Any, step: int | None, wall_time: float, timeout: float
    ) -> None:
        """Merges the parts of a DTensor; the writer of the first rank of its mesh logs the whole."""
        part, number = own_part(values, "values")
        ranks = mesh_ranks(values)
        merger = self._mergers.get(ranks)
        if merger is None:
            with self._lock:
                merger = self._mergers.get(ranks) or self.merge_over(ranks, ranks, timeout)
        outbox, sharding = self._outbox, self

        def put(outbox: Outbox, records: Sequence[Record]) -> None:
            for record in records:
                with outbox.guarded(f"add_histogram({name!r})"):
                    outbox.put_histogram(name, bytes(record.packed), step, wall_time)

        def deliver(merged: Merged, numbers: object) -> None:
            put(outbox, merged.records)

        def alone(own: Sequence[Record]) -> None:
            put(sharding.alone(merger), own)

        records = (
            [Record("", name, pack_one(part, name, outbox.wait_seconds), number)] if part.numel() else []
        )
        merger.submit(Contribution(name, step, records, deliver, alone))

    def merge_over(self, ranks: Sequence[int], owner: object, timeout: float) -> Merger:
        """A new merger, for which ``flush`` and ``close`` wait. See ``Merger``."""
        given = str(self._outbox.settings.logdir)
        logdir = given if "://" in given else os.path.abspath(given)
        merger = self._mergers[owner] = Merger(ranks, self._outbox.bad_values.tell, timeout, logdir)
        weakref.finalize(self, merger.end)
        return merger

    def alone(self, merger: Merger) -> Outbox:
        """Where this rank logs when it is alone."""
        with self._lock:
            if self._alone is None:
                logdir = os.path.join(merger.logdir, rank_directory(merger.rank))
                settings = self._outbox.settings.copied(logdir=logdir, is_copy=False, write_to_disk=True)
                self._alone = Outbox(settings)
            return self._alone

    def drain(self, timeout: float | None) -> bool:
        """Waits for other ranks, no longer than they may be late. False: not within ``timeout`` seconds, for
        one of the mergers."""
        return all([merger.drain(timeout) for merger in list(self._mergers.values())])

    def flush(self, timeout: float | None) -> None:
        """Flushes what this rank has logged alone."""
        if self._alone is not None:
            self._alone.flush(timeout)

    def close(self, timeout: float | None) -> None:
        """Closes what this rank has logged alone."""
        with self._lock:
            alone, self._alone = self._alone, None
        if alone is not None:
            alone.close(timeout)

    def stats(self) -> dict[str, object]:
        """``merged``, where ranks log together: see ``Merger.stats``."""
        counts = [merger.stats() for merger in list(self._mergers.values())]
        return {"merged": {key: sum(count[key] for count in counts) for key in counts[0]}} if counts else {}

    def become_child(self) -> None:
        """After a fork, in the child: it is no rank."""
        self._lock = threading.RLock()
        self._mergers = {}
        self._alone = None
