"""The way of events out of a writer: its files, its queue, and what is said of bad values."""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fastlog.common import forks
from fastlog.common.notices import is_library, outer_frame
from fastlog.events.items import DEVICE, ENCODER, HISTOGRAM, JOB, RAW, Item, Tags
from fastlog.events.queue import AsyncQueue
from fastlog.events.sinks.event_files import EventFileSink
from fastlog.events.sinks.sink import Sink
from fastlog.summaries.cuda import devices
from fastlog.summaries.engines import Packed
from fastlog.summaries.packed import NONFINITE
from fastlog.writer import arguments
from fastlog.writer.bad_values import BadValues, Guard
from fastlog.writer.encode.histograms import histogram_tags, nonfinite_items, pending_items
from fastlog.writer.encode.snapshots import MAX_INT, Snapshot, no_elements
from fastlog.writer.file_writer import FileWriter, NullFileWriter


@dataclasses.dataclass
class Settings:
    """What an outbox needs to know to open its files.

    Attributes:
        queue: arguments of ``AsyncQueue``.
        purge_step: written to the next file that is opened, once.
        observed: see ``FileWriter``.
        is_copy: the log directory is another outbox's: the file is in a directory of this process below it.
    """

    queue: dict[str, Any]
    logdir: str | os.PathLike[str] = ""
    purge_step: int | None = None
    filename_suffix: str = ""
    write_to_disk: bool = True
    compact: bool = True
    observed: bool = False
    is_copy: bool = False

    def copied(self, **changes: Any) -> Settings:
        """The settings of a copy, which opens files of its own at its first event."""
        return dataclasses.replace(self, **{"purge_step": None, "is_copy": True, **changes})


class Outbox:
    """What sharding, watching, health and frameworks may touch of a writer.

    Args:
        settings: changed in place where the log directory is.

    Attributes:
        file_writer: of the main file; None: it is not open.
        all_writers: of all open files, by directory.
        bad_values: counts what could not be logged, and keeps the warnings until the program's next call.
        is_closed: ``close`` was called, and nothing was logged since.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.file_writer: FileWriter | NullFileWriter | None = None
        self.all_writers: dict[str, FileWriter | NullFileWriter] | None = None
        self.bad_values = BadValues(settings.queue["on_error"])
        self.is_closed = False
        self._closed_by_user = False  # and not opened again
        self._lock = threading.RLock()
        self._queue: AsyncQueue | None = None
        self._sink: Sink | None = None
        self._before_close: dict[object, Callable[[], object]] = {}
        self._listeners: list[Callable[[Sequence[Item]], None]] = []
        self._last_words: list[tuple[Callable[[], Sequence[Item]], Callable[[], None]]] = []
        forks.register(self)

    # ---- files

    def main(self) -> FileWriter | NullFileWriter:
        """The writer of the main file; opened again where it was closed."""
        file_writer = self.file_writer
        if file_writer is None:
            with self._lock:
                file_writer = self.file_writer
                if file_writer is None:
                    file_writer = self.file_writer = self._open()
        return file_writer

    def beside(self, logdir: str) -> FileWriter | NullFileWriter:
        """The writer of another directory's file, on the same queue."""
        main = self.main()
        writers = self.all_writers or {}
        writer = writers.get(logdir)
        if writer is None:
            with self._lock:
                writer = writers.get(logdir)
                if writer is None:
                    on_disk = isinstance(main, FileWriter)
                    writer = main.beside(self.make_sink(logdir)) if on_disk else NullFileWriter(logdir)
                    writers[logdir] = writer
        return writer

    def _open(self) -> FileWriter | NullFileWriter:
        self.is_closed = False
        settings = self.settings
        if not settings.write_to_disk:
            nothing = NullFileWriter(settings.logdir)
            self.all_writers = {nothing.get_logdir(): nothing}
            return nothing
        if self._sink is None:
            self._sink = self.make_sink(self.directory())
        if self._queue is None:
            self._queue = self.make_queue()
            self._queue.attach(self._sink)
            for listener in self._listeners:
                self._queue.listen(self._sink, listener)
            weakref.finalize(self, _finish, self._queue, self.bad_values)
        alone = not isinstance(self._sink, EventFileSink) or self._sink.is_alone()
        arguments.tell_place(self.bad_values, self.directory(), self._closed_by_user, alone)
        self._closed_by_user = False
        file_writer = FileWriter(self._queue, self._sink, settings.observed, settings.compact)
        step, settings.purge_step = settings.purge_step, None  # a reopened file must not hide its own events
        if step is not None:
            file_writer.add_event(Event(step=step, file_version="brain.Event:2"))
            file_writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
        self.all_writers = {file_writer.get_logdir(): file_writer}
        return file_writer

    def directory(self) -> str:
        """Where the main file is: for a copy beside the original's, see ``EventFileSink``."""
        logdir = self.settings.logdir
        return os.path.join(logdir, f"pid-{os.getpid()}") if self.settings.is_copy else str(logdir)

    def make_queue(self) -> AsyncQueue:
        """The queue of all files."""
        return AsyncQueue(**self.settings.queue)

    def make_sink(self, logdir: str) -> Sink:
        """The file of a directory."""
        return EventFileSink(logdir, self.settings.filename_suffix, self.settings.compact)

    # ---- events

    def guarded(self, place: str) -> Guard:
        """A ``with`` block in which a bad value gives a warning, or an error, as ``on_error`` says."""
        return Guard(self.bad_values, place, self.refuse)

    def stamp(self, place: str, global_step: Any, walltime: Any) -> tuple[int | None, float]:
        """Step and wall time of an event; warns once of a step that is no whole number."""
        file_writer = self.main()
        if (
            type(global_step) is int
            and -MAX_INT <= global_step < MAX_INT
            and walltime is None
            and file_writer.direct is not None
        ):
            return global_step, time.time()
        step, wall_time = file_writer.stamp(global_step, walltime)
        if (
            type(global_step) is not int
            and global_step is not None
            and not arguments.is_whole(global_step, step)
        ):
            self.bad_values.tell(
                "global_step",
                f"{place}: global_step={global_step!r:.50} is logged as {step}; TensorBoard knows whole "
                "steps only, so count batches (this warning is shown once)",
            )
        return step, wall_time

    def wait_seconds(self) -> float | None:
        """Seconds to wait for pinned memory; see ``AsyncQueue.wait_seconds``."""
        return 0.0 if self._queue is None else self._queue.wait_seconds()

    def progress(self) -> tuple[int, float]:
        """See ``AsyncQueue.progress``."""
        return (0, 0.0) if self._queue is None else self._queue.progress()

    def refuse(self) -> None:
        """Counts what was dropped for lack of pinned memory."""
        if self._queue is not None:
            self._queue.refuse("the pinned memory of a CUDA device")

    def put_histogram(
        self,
        name: str,
        packed: Packed,
        step: int | None,
        wall_time: float,
        since: float | None = None,
    ) -> None:
        """Logs a summary of :mod:`fastlog.summaries`, beside it how many NaN and Inf there are.

        Raises:
            ValueError: a summary of no values; one that comes from a device must have some.
        """
        bad_values, put = self.bad_values, self.main().put
        if type(packed) is not bytes:
            run = functools.partial(pending_items, bad_values, name, packed, step, wall_time)
            place = f"add_histogram({name!r})"
            put((JOB, run, len(packed), True, place, DEVICE, histogram_tags(name)), len(packed), True, since)
            return
        nan, pos_inf, neg_inf, num = NONFINITE.unpack_from(packed)
        if not num:
            raise no_elements("values")
        put((HISTOGRAM, name, packed, step, wall_time), len(packed), True, since)
        if nan or pos_inf or neg_inf:
            for item in nonfinite_items(bad_values, name, num, nan, pos_inf + neg_inf, step, wall_time):
                put(item, 0)

    def put_summary(
        self,
        place: str,
        tags: Tags,
        parts: Sequence[Snapshot],
        encode: Callable[..., Any],
        global_step: Any,
        walltime: float | None,
        since: float,
        aside: str = ENCODER,
    ) -> None:
        """Logs the ``Summary``, under ``tags``, that ``encode`` makes of the snapshots' arrays, later."""
        step, wall_time = self.stamp(place, global_step, walltime)

        def run() -> list[Item]:
            summary = encode(*(part.array() for part in parts))
            return [(RAW, Event(step=step, wall_time=wall_time, summary=summary).SerializeToString())]

        self.put_job(place, tags, parts, run, since, aside)

    def put_job(
        self,
        place: str,
        tags: Tags,
        parts: Sequence[Snapshot],
        run: Callable[[], Sequence[Item]],
        since: float,
        aside: str = ENCODER,
    ) -> None:
        """Logs the items, under ``tags``, that ``run`` makes of the snapshots, later."""

        def run_quietly() -> Sequence[Item]:
            with np.errstate(all="ignore"):  # NaN in an image, say
                return run()

        nbytes = sum(part.nbytes for part in parts)
        job = (JOB, run_quietly, nbytes, True, place, aside, tags)
        self.main().put(job, nbytes, True, since)

    # ---- for observers

    @property
    def writes(self) -> bool:
        """Whether anything that is logged is written."""
        return self.settings.write_to_disk

    def on_items(self, listener: Callable[[Sequence[Item]], None]) -> None:
        """``listener`` gets all that is written to the main file, on the worker. Must not raise."""
        with self._lock:
            self._listeners.append(listener)
            if self._queue is not None and self._sink is not None:
                self._queue.listen(self._sink, listener)

    def on_close(self, last_words: Callable[[], Sequence[Item]], afterwards: Callable[[], None]) -> None:
        """What ``last_words`` makes on the worker is logged by ``close`` before anything is closed.
        ``afterwards`` is called when all is, on the thread that closes; what it raises, that thread gets.
        """
        self._last_words.append((last_words, afterwards))

    def before_close(self, callback: Callable[[], object]) -> Callable[[], object]:
        """Each ``close`` begins with the callback, until what is returned is called."""
        key = object()
        self._before_close[key] = callback
        return lambda: self._before_close.pop(key, None)

    # ---- life

    def flush(self, timeout: float | None = None) -> None:
        """See ``AsyncQueue.flush``."""
        for writer in self._foreign_writers():
            writer.flush()
        if self._queue is not None:
            self._queue.flush(timeout)
        self.bad_values.warn()

    def begin_to_close(self) -> None:
        """Calls those who want to log something more."""
        for callback in list(self._before_close.values()):
            callback()

    def close(self, timeout: float | None = None) -> None:
        """See ``AsyncQueue.close``. Logging afterwards opens a new file."""
        was_open = self.all_writers is not None
        if was_open:
            for last_words, _ in self._last_words:
                self.main().put((JOB, last_words, 0, True, "the last events of a writer"), 0, True)
        with self._lock:
            self.is_closed = True
            foreign_writers = self._foreign_writers()
            # A framework closes it between two phases of its own (Lightning: fit and test).
            self._closed_by_user |= self.file_writer is not None and not is_library(outer_frame())
            self.file_writer = self.all_writers = None
        for writer in foreign_writers:
            writer.close()
        if self._queue is not None:
            self._queue.close(timeout)
        self.bad_values.tell_total()
        self.bad_values.warn()
        if was_open:
            for _, afterwards in self._last_words:
                afterwards()

    def queue_stats(self) -> dict[str, Any]:
        """See ``AsyncQueue.stats``; empty before the first event."""
        return {} if self._queue is None else self._queue.stats()

    def stats(self) -> dict[str, object]:
        """See ``SummaryWriter.stats``."""
        return {**self.queue_stats(), "bad_values": self.bad_values.count, "cuda": devices.stats()}

    def become_child(self) -> None:
        """After a fork, in the child: nothing is open, and files go to a directory of their own."""
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self.settings = self.settings.copied()
        self._sink = self.file_writer = self.all_writers = None
        self._before_close.clear()

    def _foreign_writers(self) -> list[Any]:
        """What a subclass has put into ``all_writers``: tensorboardX's and torch's writers flush it too."""
        writers = list((self.all_writers or {}).values())
        return [writer for writer in writers if not isinstance(writer, (FileWriter, NullFileWriter))]


def _finish(queue: AsyncQueue, bad_values: BadValues) -> None:
    """For a writer that nobody holds any more, or that the program leaves open."""
    queue.close()
    bad_values.tell_total()
    bad_values.warn()
