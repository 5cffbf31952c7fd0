"""The life of a SummaryWriter: opening, the way into the queue, flushing, closing, pickling."""

from __future__ import annotations

import os
import shlex
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import tensorboardX
from tensorboardX.proto.event_pb2 import Event, SessionLog

from fastlog.common.cards import card
from fastlog.common.notices import is_library, outer_frame
from fastlog.distributed.directories import own_directory
from fastlog.events.items import ENCODER, JOB, RAW, Item, Tags
from fastlog.events.queue import AsyncQueue
from fastlog.events.sinks.event_files import EventFileSink
from fastlog.events.sinks.sink import Sink
from fastlog.summaries.cuda import devices
from fastlog.writer import arguments
from fastlog.writer.bad_values import BadValues, Guard
from fastlog.writer.encode.snapshots import Snapshot, as_int
from fastlog.writer.file_writer import FileWriter, NullFileWriter
from fastlog.writer.heard import Heard
from fastlog.writer.tags import CLEAN_TAGS, checked_tag, subdirectory

_COMET_OFF = {"disabled": True}
# What belongs to this process or to the files that it has open.
_UNPICKLED = (
    "file_writer",
    "all_writers",
    "_bad_values",
    "_closing",
    "_comet_logger",
    "_lock",
    "_queue",
    "_sink",
    "_listeners",
    "_closers",
)

_live: weakref.WeakSet[WriterBase] = weakref.WeakSet()


class WriterBase(Heard, tensorboardX.SummaryWriter):  # type: ignore[misc]
    purge_step: int | None
    _tags = CLEAN_TAGS
    _keeps_scalars = True  # of add_scalars, for export_scalars_to_json
    _as_torch = False  # encode values as torch.utils.tensorboard does where tensorboardX differs

    def __init__(
        self,
        logdir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: float = 120,
        filename_suffix: str = "",
        write_to_disk: bool = True,
        log_dir: str | os.PathLike[str] | None = None,
        comet_config: dict[str, Any] = _COMET_OFF,
        *,
        queue_events: int = 65_536,
        queue_bytes: int = 256 * 2**20,
        overflow: Literal["block", "drop_oldest", "drop_newest"] = "block",
        block_timeout: float | None = 10.0,
        on_error: Literal["warn", "raise"] = "warn",
        compact: bool = True,
        rank_dirs: bool = False,
        **kwargs: Any,
    ) -> None:
        """Opens an event file.

        Args:
            logdir: directory of the event file; default ``runs/DATE_HOST`` + ``comment``.
            comment: suffix of the default ``logdir``.
            purge_step: TensorBoard hides what earlier files of the directory logged at this step and after.
            max_queue: raises ``queue_events`` where it is larger.
            flush_secs: seconds between fsyncs; the operating system has what is logged within 0.2 s anyway.
            filename_suffix: suffix of the event file's name.
            write_to_disk: False logs nothing.
            log_dir: torch.utils.tensorboard's name of ``logdir``.
            comet_config: tensorboardX's arguments for Comet.
            queue_events: how many events may wait.
            queue_bytes: how many bytes may wait. What is larger (a long video) is encoded at the call.
            overflow: what happens when the queue is full: "block" waits (see ``block_timeout``),
                "drop_oldest" drops the oldest histogram or image, then the oldest scalar, "drop_newest"
                drops the new event.
            block_timeout: seconds that "block" waits for a worker that hangs; None: as long as it takes. It
                waits for one that works in any case.
            on_error: "warn" warns once of what cannot be logged; "raise" raises it, at the next call at the
                latest.
            compact: merge runs of empty buckets in histograms over the default bins, as TensorFlow's own
                writer does. TensorBoard shows the same. False writes each bucket, as tensorboardX does.
            rank_dirs: each rank of a job writes to a directory ``rank_K`` of its own below ``logdir``.

        Raises:
            TypeError: an unknown argument, or one of another type.
            ValueError: ``rank_dirs`` without ``logdir``: the default is another one on each rank.
        """
        if kwargs:
            raise TypeError(f"SummaryWriter got unexpected arguments: {', '.join(sorted(kwargs))}")
        logdir = arguments.checked_directory(logdir, "logdir")
        log_dir = arguments.checked_directory(log_dir, "log_dir")
        arguments.check_texts(comment=comment, filename_suffix=filename_suffix)
        purge_step = None if purge_step is None else as_int(purge_step, "SummaryWriter: purge_step")
        if rank_dirs:
            logdir, log_dir = own_directory(log_dir if logdir is None else logdir), None
        self._queue_options: dict[str, Any] = {
            "queue_events": max(queue_events, arguments.checked_max_queue(max_queue)),
            "queue_bytes": queue_bytes,
            "overflow": overflow,
            "block_timeout": block_timeout,
            "on_error": on_error,
            "flush_secs": flush_secs,
        }
        self._comet_on = comet_config.get("disabled") is not True
        self._compact = compact
        self._is_copy = False
        self._start()
        super().__init__(
            logdir,
            comment,
            purge_step,
            max_queue,
            flush_secs,
            filename_suffix,
            write_to_disk,
            log_dir,
            comet_config,
        )
        self.max_queue, self.flush_secs, self.filename_suffix = max_queue, flush_secs, filename_suffix
        arguments.tell_limit(self._bad_values, max_queue, queue_events)
        self._bad_values.warn()

    def _start(self) -> None:
        self._lock = threading.RLock()
        self._closed = False  # and not opened again
        self._bad_values = BadValues(self._queue_options["on_error"])
        self._queue: AsyncQueue | None = None
        self._sink: Sink | None = None
        self._comet_logger = None
        self._closing: dict[object, Callable[[], object]] = {}
        self._is_closed = False
        self.file_writer: FileWriter | NullFileWriter | None = None
        self.all_writers: dict[str, FileWriter | NullFileWriter] | None = None
        self._listeners: list[Callable[[Sequence[Item]], None]] = []
        self._closers: list[Callable[[], Sequence[Item]]] = []
        _live.add(self)

    @property
    def log_dir(self) -> str | os.PathLike[str]:
        """torch.utils.tensorboard's name of ``logdir``."""
        return self.logdir

    @log_dir.setter
    def log_dir(self, logdir: str | os.PathLike[str]) -> None:  # subclasses assign it, as they can in torch
        self.logdir = logdir

    def get_logdir(self) -> str | os.PathLike[str]:
        """The directory where event files are written."""
        return self.logdir

    def flush(self, timeout: float | None = None) -> None:
        """Returns when all that was logged before, by any thread, is in the file and fsynced.

        Raises:
            TimeoutError: not within ``timeout`` seconds; says how much is left.
        """
        for writer in self._foreign_writers():
            writer.flush()
        if self._queue is not None:
            self._queue.flush(timeout)
        self._bad_values.warn()

    def close(self, timeout: float | None = None) -> None:
        """Flushes and closes the files; safe to call twice. Logging afterwards opens a new file.

        Args:
            timeout: seconds; what the disk does not take in time is dropped, counted and warned about.
        """
        if self.all_writers is not None:
            for last_words in self._closers:
                self._put_job(last_words, "the last events of a writer")
        self.scalar_dict: dict[str, Any] = {}
        with self._lock:
            self._is_closed = True
            foreign_writers = self._foreign_writers()
            # A framework closes it between two phases of its own (Lightning: fit and test).
            self._closed |= self.file_writer is not None and not is_library(outer_frame())
            self.file_writer = self.all_writers = None
        for writer in foreign_writers:
            writer.close()
        if self._queue is not None:
            self._queue.close(timeout)
        self._bad_values.tell_total()
        self._bad_values.warn()
        if self._comet_on:
            self._get_comet_logger().end()
            self._comet_logger = None

    def stats(self) -> dict[str, object]:
        """What happened so far: the queue's counters (see ``AsyncQueue.stats``); ``bad_values``, how many
        values could not be logged; and ``cuda``, of all writers of the process together, what is in use on
        CUDA devices: ``launches``, calls ``refused`` for lack of pinned memory, ``in_flight``, and the bytes
        ``pinned_bytes``, of them ``in_flight_bytes``, and ``device_bytes`` (empty if no engine is in use)."""
        queue = self._queue
        return {
            **(queue.stats() if queue is not None else {}),
            "bad_values": self._bad_values.count,
            "cuda": devices.stats(),
        }

    def _repr_html_(self) -> str:
        """For notebooks: where the events are, and how many."""
        if not self._write_to_disk:
            return card(type(self).__name__, {"log directory": "none"})
        stats: dict[str, Any] = {} if self._queue is None else self._queue.stats()
        rows = {
            "log directory": self.logdir,
            "events written": f"{stats.get('written', 0):,} of {stats.get('accepted', 0):,}",
            "events dropped": sum(stats.get("dropped", {}).values()) or None,
            "values not logged": self._bad_values.count or None,
            "last error": stats.get("last_error"),
            "see them": f"tensorboard --logdir {shlex.quote(str(self.logdir))}",
        }
        return card(type(self).__name__, rows)

    def _before_close(self, callback: Callable[[], object]) -> Callable[[], object]:
        """Each ``close`` begins with the callback, until what is returned is called."""
        key = object()
        self._closing[key] = callback
        return lambda: self._closing.pop(key, None)

    def _begin_to_close(self) -> None:
        for callback in list(self._closing.values()):
            callback()

    def _foreign_writers(self) -> list[Any]:
        """What a subclass has put into ``all_writers``: tensorboardX's and torch's writers flush it too."""
        writers = list((self.all_writers or {}).values())
        return [writer for writer in writers if not isinstance(writer, (FileWriter, NullFileWriter))]

    def _get_file_writer(self) -> FileWriter | NullFileWriter:
        """The writer of the main file; opened again where it was closed."""
        file_writer = self.file_writer
        if file_writer is None:
            with self._lock:
                file_writer = self.file_writer
                if file_writer is None:
                    file_writer = self.file_writer = self._open()
        return file_writer

    def _open(self) -> FileWriter | NullFileWriter:
        self._is_closed = False
        if not self._write_to_disk:
            nothing = NullFileWriter(self.logdir)
            self.all_writers = {nothing.get_logdir(): nothing}
            return nothing
        if self._sink is None:
            self._sink = self._make_sink(self._directory())
        if self._queue is None:
            self._queue = self._make_queue()
            self._queue.attach(self._sink)
            for listener in self._listeners:
                self._queue.listen(self._sink, listener)
            weakref.finalize(self, _finish, self._queue, self._bad_values)
        alone = not isinstance(self._sink, EventFileSink) or self._sink.is_alone()
        arguments.tell_place(self._bad_values, self._directory(), self._closed, alone)
        self._closed = False
        file_writer = FileWriter(self._queue, self._sink, self._comet_on, self._compact)
        step, self.purge_step = self.purge_step, None  # once: a reopened writer must not hide its own events
        if step is not None:
            file_writer.add_event(Event(step=step, file_version="brain.Event:2"))
            file_writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))
        self.all_writers = {file_writer.get_logdir(): file_writer}
        return file_writer

    def _directory(self) -> str:
        """Where the main file is: for a copy beside the original's, see ``EventFileSink``."""
        return os.path.join(self.logdir, f"pid-{os.getpid()}") if self._is_copy else str(self.logdir)

    def _make_queue(self) -> AsyncQueue:
        return AsyncQueue(**self._queue_options)

    def _make_sink(self, logdir: str) -> Sink:
        return EventFileSink(logdir, self._filename_suffix, self._compact)

    def _sub_writer(self, logdir: str) -> FileWriter | NullFileWriter:
        """The writer of another directory's file, on the same queue."""
        main = self._get_file_writer()
        writers = self.all_writers or {}
        writer = writers.get(logdir)
        if writer is None:
            with self._lock:
                writer = writers.get(logdir)
                if writer is None:
                    on_disk = isinstance(main, FileWriter)
                    writer = main.beside(self._make_sink(logdir)) if on_disk else NullFileWriter(logdir)
                    writers[logdir] = writer
        return writer

    def _name(self, tag: str, method: str, argument: str = "tag") -> str:
        """The tag as it is written. Raises TypeError where it is no string."""
        return self._tags[checked_tag(tag, method, argument)]

    def _scalars_directory(self, logdir: str, main_tag: str, tag: str) -> str:
        """Where ``add_scalars`` writes."""
        return subdirectory(logdir, main_tag, tag)

    def _guarded(self, place: str) -> Guard:
        """A ``with`` block in which a bad value gives a warning, or an error, as ``on_error`` says."""
        return Guard(self._bad_values, place, self._refuse)

    def _stamp(self, place: str, global_step: Any, walltime: Any) -> tuple[int | None, float]:
        """Step and wall time of an event; warns once of a step that is no whole number."""
        step, wall_time = self._get_file_writer().stamp(global_step, walltime)
        if (
            type(global_step) is not int
            and global_step is not None
            and not arguments.is_whole(global_step, step)
        ):
            self._bad_values.tell(
                "global_step",
                f"{place}: global_step={global_step!r:.50} is logged as {step}; TensorBoard knows whole "
                "steps only, so count batches (said once)",
            )
        return step, wall_time

    def _patience(self) -> float | None:
        """Seconds to wait for pinned memory; see ``AsyncQueue.patience``."""
        return 0.0 if self._queue is None else self._queue.patience()

    def _refuse(self) -> None:
        """Counts what was dropped for lack of pinned memory."""
        if self._queue is not None:
            self._queue.refuse("the pinned memory of a CUDA device")

    def _enqueue_summary(
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
        step, wall_time = self._stamp(place, global_step, walltime)

        def run() -> list[Item]:
            summary = encode(*(part.array() for part in parts))
            return [(RAW, Event(step=step, wall_time=wall_time, summary=summary).SerializeToString())]

        self._enqueue_job(place, tags, parts, run, since, aside)

    def _enqueue_job(
        self,
        place: str,
        tags: Tags,
        parts: Sequence[Snapshot],
        run: Callable[[], Sequence[Item]],
        since: float,
        aside: str = ENCODER,
    ) -> None:
        def run_quietly() -> Sequence[Item]:
            with np.errstate(all="ignore"):  # NaN in an image, say
                return run()

        nbytes = sum(part.nbytes for part in parts)
        job = (JOB, run_quietly, nbytes, True, place, aside, tags)
        self._get_file_writer().put(job, nbytes, True, since)

    def _become_child(self) -> None:
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self._is_copy, self.purge_step = True, None
        self._sink = self.file_writer = self.all_writers = None
        self._closing.clear()

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a copy logs to a file of its own, opened at its first event."""
        state = {key: value for key, value in self.__dict__.items() if key not in _UNPICKLED}
        return {**state, "purge_step": None, "_is_copy": True}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _finish(queue: AsyncQueue, bad_values: BadValues) -> None:
    """For a writer that nobody holds any more, or that the program leaves open."""
    queue.close()
    bad_values.tell_total()
    bad_values.warn()


def _after_fork_in_child() -> None:
    for writer in list(_live):
        writer._become_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
