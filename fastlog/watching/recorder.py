"""From tensors to summaries in the queue of a writer, whatever is wrong with one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch

from fastlog.common.notices import FastlogWarning, SinkError
from fastlog.distributed.parts import Merged, Record
from fastlog.events.items import DEVICE, JOB
from fastlog.summaries.engines import PinnedMemoryFull, pack_many
from fastlog.summaries.tensors import view_of
from fastlog.watching import series
from fastlog.watching.budget import Budget
from fastlog.watching.observers import Observers
from fastlog.watching.ranks import Ranks
from fastlog.watching.reading import Moment, Reading
from fastlog.watching.series import SeriesOptions
from fastlog.watching.voice import Voice
from fastlog.writer import SummaryWriter, arguments
from fastlog.writer.bad_values import kind_of
from fastlog.writer.outbox import Outbox

_RECORD_BYTES = 250  # of Python objects around a packed summary that waits


class Recorder:
    """Summarises tensors for one writer, and reports what cannot be.

    Args:
        budget: gets the time that all this takes on the training's thread.
        ranks: who counts what, where the model is spread over ranks.
    """

    def __init__(self, writer: SummaryWriter, budget: Budget, ranks: Ranks | None) -> None:
        self._outbox = writer.outbox
        self._budget = budget
        self._ranks = ranks
        self._is_inside = False
        self._failed: dict[tuple[str, str], list[tuple[str, Exception]]] = {}
        self.voice = Voice(writer.outbox.bad_values)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """A ``with`` block whose time counts as logging, and whose errors training does not see."""
        is_outermost, self._is_inside = not self._is_inside, True
        try:
            with self._budget.spending() if is_outermost else contextlib.nullcontext():
                yield
        except (SinkError, FastlogWarning):  # a warning that a filter turns into an error
            raise
        except Exception as error:
            self.report("fastlog.watch", error)
        finally:
            self._is_inside = not is_outermost
            if is_outermost:
                self._say_what_failed()

    def report(self, place: str, error: Exception) -> None:
        """Takes note of what cannot be logged, to be counted and said at the end of the guarded block: once
        for all tensors of a kind that have the same cause.
        """
        if error.args and isinstance(error.args[0], str):
            error.args = (error.args[0].removeprefix(f"{place}: "), *error.args[1:])
        cause = f"fastlog.watch {place.partition('/')[0]}", kind_of(error)
        self._failed.setdefault(cause, []).append((place, error))

    def _say_what_failed(self) -> None:
        failed, self._failed = self._failed, {}
        for (cause, _), places in failed.items():
            place, error = places[0]
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            self._outbox.bad_values.report(place + more, error, len(places), cause)

    def look_at(self, tensors: Iterable[torch.Tensor]) -> None:
        """What is logged of these takes time on their devices."""
        self._budget.on_devices.look_at(tensors)

    def records(self, readings: Sequence[Reading], scale: torch.Tensor | None = None) -> list[Record]:
        """The summaries of all tensors that can be read, divided by ``scale``; the others are reported."""
        readings = (
            self._with_values(readings) if self._ranks is None else self._ranks.own(readings, self.report)
        )
        try:
            return self._pack(readings, scale)
        except Exception:
            readable = [reading for reading in readings if self._is_readable(reading)]
            if len(readable) == len(readings):
                raise
            return self._pack(readable, scale)

    def _with_values(self, readings: Sequence[Reading]) -> list[Reading]:
        found = []
        for reading in readings:
            try:
                if reading.tensor.numel():
                    found.append(reading)
            except Exception as error:
                self.report(reading.place, error)
        return found

    def _pack(self, readings: Sequence[Reading], scale: torch.Tensor | None) -> list[Record]:
        names = [reading.place for reading in readings]
        try:
            packed = pack_many([r.tensor for r in readings], names, self._outbox.wait_seconds, scale)
        except PinnedMemoryFull:
            self._outbox.refuse()
            return []
        return [Record(r.kind, r.name, p, r.part, r.whole) for r, p in zip(readings, packed, strict=True)]

    def _is_readable(self, reading: Reading) -> bool:
        try:
            view_of(reading.tensor, reading.place)
        except Exception as error:
            self.report(reading.place, error)
            return False
        return True

    def log(
        self, moment: Moment, scalars: dict[str, float], options: SeriesOptions, observers: Observers
    ) -> None:
        """Puts a logged step into the queue; where ranks log together, once it is merged."""
        if self._outbox.is_closed:
            self._outbox.bad_values.tell(
                arguments.REOPENED,
                f"fastlog.watch: the writer was closed before step {moment.step}, which opens a new file. "
                "Call remove() of the watcher first, or close the writer later (this warning is shown once)",
            )
        step, wall_time = self._outbox.main().stamp(moment.step, None)
        began = time.monotonic() - self._budget.cost
        quiet = frozenset({series.GRADIENTS}) if moment.is_scaled else frozenset()

        def put(merged: Merged, outbox: Outbox, of_ranks: dict[str, float]) -> None:
            run = partial(
                series.items,
                merged.records,
                scalars | of_ranks,
                step,
                wall_time,
                options,
                observers.of_step(moment.step, wall_time, moment.noted, merged),
                partial(self._tell_nonfinite, quiet),
            )
            nbytes = sum(len(record.packed) + _RECORD_BYTES for record in merged.records)
            on_device = any(type(record.packed) is not bytes for record in merged.records)
            tags = partial(series.tags, merged.records, options)
            job = (JOB, run, nbytes, True, "fastlog.watch", DEVICE if on_device else None, tags)
            outbox.main().put(job, nbytes, True, began)

        if self._ranks is None:
            put(Merged(moment.records, {}, [], {}), self._outbox, {})
        else:
            self._ranks.log(moment.records, step, put)
        self._outbox.bad_values.warn()

    def _tell_nonfinite(self, quiet: frozenset[str], kind: str, text: str) -> None:
        if kind not in quiet:
            self.voice.tell(f"nonfinite {kind}", text)
