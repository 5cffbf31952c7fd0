"""What every family of methods stands on: how a SummaryWriter is opened, flushed, closed and copied."""

from __future__ import annotations

import os
import shlex
from typing import Any, Literal

import tensorboardX

from fastlog.common.cards import card
from fastlog.common.notices import users_line
from fastlog.distributed.directories import own_directory
from fastlog.writer import arguments
from fastlog.writer.encode import media
from fastlog.writer.encode.snapshots import as_int
from fastlog.writer.file_writer import FileWriter, NullFileWriter
from fastlog.writer.outbox import Outbox, Settings
from fastlog.writer.sharding import Sharding
from fastlog.writer.tags import CLEAN_TAGS, TagBook, check_string, subdirectory

_COMET_OFF = {"disabled": True}
# What belongs to this process or to the files that it has open.
_UNPICKLED = ("outbox", "sharding", "_tag_book", "_scalar_tags", "_comet_logger")


class WriterBase(tensorboardX.SummaryWriter):  # type: ignore[misc]
    """
    Attributes:
        outbox: the way of events to the files, for those that log beside the user: watching, frameworks.
        sharding: the part that merges histograms of several ranks.
        merge_timeout: seconds that a rank may be late before the others go on without it.
    """

    merge_timeout = 120.0
    _clean_tags = CLEAN_TAGS
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
        self._settings = Settings(
            {
                "queue_events": max(queue_events, arguments.checked_max_queue(max_queue)),
                "queue_bytes": queue_bytes,
                "overflow": overflow,
                "block_timeout": block_timeout,
                "on_error": on_error,
                "flush_secs": flush_secs,
            },
            purge_step=purge_step,
            filename_suffix=filename_suffix,
            write_to_disk=write_to_disk,
            compact=compact,
            observed=comet_config.get("disabled") is not True,
        )
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
        arguments.tell_limit(self.outbox.bad_values, max_queue, queue_events)
        self.outbox.bad_values.warn()

    def _start(self) -> None:
        self.outbox = self._make_outbox(self._settings)
        self.sharding = Sharding(self.outbox)
        self._tag_book = TagBook(self._clean_tags, self.outbox.bad_values)
        self._scalar_tags = self._tag_book.names("add_scalar")
        self._comet_logger = None

    def _make_outbox(self, settings: Settings) -> Outbox:
        return Outbox(settings)

    @property
    def logdir(self) -> str | os.PathLike[str]:
        """The directory where event files are written."""
        return self._logdir

    @logdir.setter
    def logdir(self, logdir: str | os.PathLike[str]) -> None:
        self._logdir = logdir
        if "outbox" in self.__dict__:  # a subclass may set it before our __init__
            self.outbox.settings.logdir = logdir

    @property
    def file_writer(self) -> FileWriter | NullFileWriter | None:
        """tensorboardX's name of the main file's writer; None: the file is not open."""
        return self.outbox.file_writer

    @file_writer.setter
    def file_writer(self, file_writer: FileWriter | NullFileWriter | None) -> None:
        self.outbox.file_writer = file_writer

    @property
    def all_writers(self) -> dict[str, FileWriter | NullFileWriter] | None:
        """tensorboardX's name of the writers of all open files, by directory."""
        return self.outbox.all_writers

    @all_writers.setter
    def all_writers(self, writers: dict[str, FileWriter | NullFileWriter] | None) -> None:
        self.outbox.all_writers = writers

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

        Waits for other ranks, too, where they have a part in it; no longer than they may be late.

        Raises:
            TimeoutError: not within ``timeout`` seconds; says how much is left.
        """
        if not self.sharding.drain(timeout):
            raise TimeoutError(f"flush: other ranks have not brought their parts; waited {timeout} s")
        self.outbox.flush(timeout)
        self.sharding.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flushes and closes the files; safe to call twice. Logging afterwards opens a new file.

        Args:
            timeout: seconds; what the disk does not take in time is dropped, counted and warned about.
        """
        self.outbox.begin_to_close()
        self.sharding.drain(timeout)
        self.scalar_dict: dict[str, Any] = {}
        self.outbox.close(timeout)
        if self._comet_on:
            self._get_comet_logger().end()
            self._comet_logger = None
        self.sharding.close(timeout)

    def stats(self) -> dict[str, object]:
        """What happened so far: the queue's counters (see ``AsyncQueue.stats``); ``bad_values``, how many
        values could not be logged; and ``cuda``, of all writers of the process together, what is in use on
        CUDA devices: ``launches``, calls ``refused`` for lack of pinned memory, ``in_flight``, and the bytes
        ``pinned_bytes``, of them ``in_flight_bytes``, and ``device_bytes`` (empty if no engine is in use). In
        a job of several ranks also ``merged``: see ``Merger.stats``."""
        return {**self.outbox.stats(), **self.sharding.stats()}

    def _repr_html_(self) -> str:
        """For notebooks: where the events are, and how many."""
        if not self.outbox.writes:
            return card(type(self).__name__, {"log directory": "none"})
        stats = self.outbox.queue_stats()
        rows = {
            "log directory": self.logdir,
            "events written": f"{stats.get('written', 0):,} of {stats.get('accepted', 0):,}",
            "events dropped": sum(stats.get("dropped", {}).values()) or None,
            "values not logged": self.outbox.bad_values.count or None,
            "last error": stats.get("last_error"),
            "see them": f"tensorboard --logdir {shlex.quote(str(self.logdir))}",
        }
        return card(type(self).__name__, rows)

    @property
    def _comet_on(self) -> bool:
        return self._settings.observed

    def _get_file_writer(
        self,
    ) -> FileWriter | NullFileWriter:  # tensorboardX's methods and subclasses call it
        return self.outbox.main()

    def _name(self, tag: str, method: str, argument: str = "tag") -> str:
        """The tag as it is written by a method. Raises TypeError where it is no string."""
        check_string(tag, method, argument)
        return self._tag_book.names(method)[tag]

    def _scalars_directory(self, logdir: str, main_tag: str, tag: str) -> str:
        """Where ``add_scalars`` writes."""
        return subdirectory(logdir, main_tag, tag)

    def _encoding(self, place: str) -> media.Encoding:
        """How the values of one call are encoded; what is cut is one warning for each method."""
        cause, tell, line = f"{place.partition('(')[0]} cut", self.outbox.bad_values.tell, users_line()

        def tell_cut(words: str) -> None:
            tell(cause, f"{place}: {words} (this warning is shown once)", line)

        return media.Encoding(self._as_torch, tell_cut)

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a copy logs to a file of its own, opened at its first event."""
        state = {key: value for key, value in self.__dict__.items() if key not in _UNPICKLED}
        return {**state, "purge_step": None, "_settings": self.outbox.settings.copied()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()
