"""Histograms of tensors that are spread over the ranks of a job, and what a rank logs when it is alone."""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Sequence
from typing import Any

from fastlog.distributed.directories import rank_directory
from fastlog.distributed.merger import Contribution, Merger
from fastlog.distributed.parts import Merged, Record
from fastlog.distributed.shards import is_whole, mesh_ranks, own_part
from fastlog.summaries.engines import Packed, pack_one
from fastlog.summaries.summary import TensorSummary
from fastlog.writer.pages import PageWriter


class ShardedWriter(PageWriter):
    """What ``SummaryWriter`` does with a DTensor.

    Attributes:
        merge_timeout: seconds that a rank may be late before the others go on without it.
    """

    merge_timeout = 120.0

    def _start(self) -> None:
        super()._start()
        self._mergers: dict[object, Merger] = {}
        self._alone: ShardedWriter | None = None

    def _add_sharded(self, name: str, values: Any, step: int | None, wall_time: float) -> None:
        """Merges the parts of a DTensor; the writer of the first rank of its mesh logs the whole."""
        part, number = own_part(values, "values")
        if is_whole(values):
            if part.numel():
                self.add_histogram(name, part, step, walltime=wall_time)
            return
        ranks = mesh_ranks(values)
        merger = self._mergers.get(ranks)
        if merger is None:
            with self._lock:
                merger = self._mergers.get(ranks) or self._merge_over(ranks, ranks, self.merge_timeout)

        def deliver(merged: Merged, numbers: object) -> None:
            for record in merged.records:
                self._add_summary(name, record.packed, step, wall_time)

        def alone(own: Sequence[Record]) -> None:
            for record in own:
                self._rank_writer(merger)._add_summary(name, record.packed, step, wall_time)

        records = [Record("", name, pack_one(part, name, self._patience), number)] if part.numel() else []
        merger.submit(Contribution(name, step, records, deliver, alone))

    def _add_summary(self, name: str, packed: Packed, step: int | None, wall_time: float) -> None:
        self.add_histogram(name, TensorSummary.from_engine(bytes(packed)), step, walltime=wall_time)

    def _merge_over(self, ranks: Sequence[int], owner: object, timeout: float) -> Merger:
        """A new merger, for which ``flush`` and ``close`` wait. See ``Merger``."""
        logdir = os.path.abspath(self.logdir) if "://" not in str(self.logdir) else str(self.logdir)
        merger = self._mergers[owner] = Merger(ranks, self._bad_values.tell, timeout, logdir)
        weakref.finalize(self, merger.end)
        return merger

    def _rank_writer(self, merger: Merger) -> ShardedWriter:
        """Where this rank logs when it is alone."""
        with self._lock:
            if self._alone is None:
                self._alone = copy.copy(self)  # the same settings, and nothing open
                self._alone.logdir = os.path.join(merger.logdir, rank_directory(merger.rank))
                self._alone._is_copy, self._alone._write_to_disk = False, True
            return self._alone

    def flush(self, timeout: float | None = None) -> None:
        """Returns when all that was logged before, by any thread, is in the file and fsynced.

        Waits for other ranks, too, where they have a part in it; no longer than they may be late.

        Raises:
            TimeoutError: not within ``timeout`` seconds; says how much is left.
        """
        for merger in list(self._mergers.values()):
            if not merger.drain(timeout):
                raise TimeoutError(f"flush: other ranks have not brought their parts; waited {timeout} s")
        super().flush(timeout)
        if self._alone is not None:
            self._alone.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flushes and closes the files; safe to call twice. Logging afterwards opens a new file.

        Args:
            timeout: seconds; what the disk does not take in time is dropped, counted and warned about.
        """
        self._begin_to_close()
        for merger in list(self._mergers.values()):
            merger.drain(timeout)
        super().close(timeout)
        with self._lock:
            alone, self._alone = self._alone, None
        if alone is not None:
            alone.close(timeout)

    def stats(self) -> dict[str, object]:
        """As ``WriterBase.stats``; in a job of several ranks also ``merged``: see ``Merger.stats``."""
        stats = super().stats()
        counts = [merger.stats() for merger in list(self._mergers.values())]
        if counts:
            stats["merged"] = {key: sum(count[key] for count in counts) for key in counts[0]}
        return stats

    def _become_child(self) -> None:
        super()._become_child()
        self._mergers = {}
        self._alone = None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {key: value for key, value in state.items() if key not in ("_mergers", "_alone")}
