"""GlobalSummaryWriter: the processes of a program log to one file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import weakref
from typing import Any

import tensorboardX

from fastlog.common.no_compile import no_compile_methods
from fastlog.events.items import JOB, Item
from fastlog.writer import SummaryWriter
from fastlog.writer.bad_values import BadValues
from fastlog.writer.file_writer import FileWriter
from fastlog.writer.outbox import Outbox, Settings

_LOCK_SECS = 5.0  # a process that has the pipe for longer waits for a parent that is busy, or was killed
_DRAIN_SECS = 60.0

_writer: GlobalSummaryWriter | None = None


class ChildPipe:
    """A pipe from the children of a process to the process."""

    def __init__(self) -> None:
        self.reader, self._writer = multiprocessing.Pipe(duplex=False)
        self._lock = multiprocessing.Lock()
        self._stuck = False

    def send(self, message: Any) -> bool:
        """Writes a message to the pipe; False if that cannot be done, now or ever."""
        if not self._lock.acquire(timeout=0 if self._stuck else _LOCK_SECS):
            self._stuck = True
            return False
        self._stuck = False
        try:
            self._writer.send(message)
        except OSError:
            return False
        finally:
            self._lock.release()
        return True


class ChildQueue:
    """What a child process has instead of an ``AsyncQueue``: each event is in the pipe when ``put`` returns.

    Jobs run at the call, because their results are what can be sent.
    """

    def __init__(self, pipe: ChildPipe, bad_values: BadValues) -> None:
        self._pipe = pipe
        self._bad_values = bad_values

    def attach(self, sink: ParentFile) -> None:
        """Does nothing."""

    def listen(self, sink: ParentFile, listener: object) -> None:
        """Does nothing: nothing is written here."""

    def put(
        self, sink: ParentFile, item: Item, nbytes: int, first_to_go: bool = False, since: float | None = None
    ) -> None:
        """Sends an item for the file of a directory."""
        for ready in item[1]() if item[0] == JOB else [item]:
            if not self._pipe.send((sink.get_logdir(), ready, nbytes, first_to_go)):
                self._bad_values.tell(
                    "relay", "GlobalSummaryWriter: the parent does not take events; some are lost"
                )
                self._bad_values.warn()

    def wait_seconds(self) -> None:
        """As long as it takes: nothing of a child's stays in flight on a device."""

    def refuse(self, memory: str) -> None:
        """Does nothing: who waits as long as it takes is not refused."""

    def flush(self, timeout: float | None = None) -> None:
        """Does nothing: the parent's ``flush`` covers what is in the pipe."""

    def close(self, timeout: float | None = None) -> None:
        """Does nothing: the file is the parent's."""

    def stats(self) -> dict[str, object]:
        """Nothing: the parent counts."""
        return {}


class ParentFile:
    """A directory that another process writes to."""

    def __init__(self, logdir: str) -> None:
        self._logdir = logdir

    def get_logdir(self) -> str:
        """The directory."""
        return self._logdir


class SharedOutbox(Outbox):
    """The outbox of a process and of its children: these send their events to the files of the first one.

    Args:
        home: the process whose files they are.
    """

    def __init__(self, settings: Settings, pipe: ChildPipe, home: int) -> None:
        super().__init__(settings)
        self._pipe = pipe
        self._home = home

    def directory(self) -> str:
        """The log directory: there are no copies."""
        return str(self.settings.logdir)

    def make_queue(self) -> Any:
        """In a child the way to the parent."""
        if os.getpid() == self._home:
            return super().make_queue()
        return ChildQueue(self._pipe, self.bad_values)

    def make_sink(self, logdir: str) -> Any:
        """In a child the name of a file of the parent."""
        return super().make_sink(logdir) if os.getpid() == self._home else ParentFile(logdir)

    def become_child(self) -> None:
        """After a fork, in the child: its events go to the parent."""
        super().become_child()
        self._pipe.reader.close()  # so that a write fails, and does not wait, when the parent is gone
        self._queue = None


class SharedWriter(SummaryWriter):
    """A ``SummaryWriter`` whose copies in other processes, forked or spawned, write to the file of the first.

    Takes ``SummaryWriter``'s arguments.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pipe = ChildPipe()
        self._home = os.getpid()
        super().__init__(*args, **kwargs)
        listener = threading.Thread(
            target=_listen, args=(self._pipe.reader, weakref.ref(self)), name="fastlog-relay", daemon=True
        )
        listener.start()
        weakref.finalize(self, _stop, self._pipe, listener, self._home)

    def flush(self, timeout: float | None = None) -> None:
        """As in ``SummaryWriter``, and for what other processes have logged."""
        self._drain(timeout)
        super().flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """As in ``SummaryWriter``, and for what other processes have logged."""
        if self.all_writers is not None:
            self._drain(timeout)
        super().close(timeout)

    def _drain(self, timeout: float | None) -> None:
        """Waits until the events in the pipe are in the queue."""
        if os.getpid() == self._home:
            arrived = threading.Event()
            self._arrivals[id(arrived)] = arrived
            if self._pipe.send(id(arrived)):
                arrived.wait(_DRAIN_SECS if timeout is None else timeout)
            self._arrivals.pop(id(arrived), None)

    def _receive(self, message: Any) -> None:
        if isinstance(message, int):
            arrived = self._arrivals.get(message)
            if arrived is not None:
                arrived.set()
        else:
            logdir, item, nbytes, first_to_go = message
            with self.outbox.guarded("GlobalSummaryWriter"):
                writer = self.outbox.beside(logdir)
                if isinstance(writer, FileWriter):  # past what hooks the events: the child was hooked as well
                    writer.event_writer.put(item, nbytes, first_to_go)

    def _start(self) -> None:
        super()._start()
        self._arrivals: dict[int, threading.Event] = {}

    def _make_outbox(self, settings: Settings) -> Outbox:
        return SharedOutbox(settings, self._pipe, self._home)


def _listen(reader: Any, writer_ref: weakref.ref[SharedWriter]) -> None:
    """Hands messages to the writer until one is None or all senders are gone."""
    with contextlib.suppress(EOFError, OSError):
        while (message := reader.recv()) is not None:
            writer = writer_ref()
            if writer is not None:
                writer._receive(message)
            del writer


def _stop(pipe: ChildPipe, listener: threading.Thread, home: int) -> None:
    """Ends the listener after what is in the pipe; not in a child, which has a copy of the writer."""
    if os.getpid() == home and pipe.send(None) and listener is not threading.current_thread():
        listener.join(_DRAIN_SECS)


@no_compile_methods
class GlobalSummaryWriter(tensorboardX.GlobalSummaryWriter):  # type: ignore[misc]
    """tensorboardX's ``GlobalSummaryWriter``: counts the steps itself, for all processes that have it.

    A process that has it by fork, or as an argument of a spawned process, logs to the file of the one that
    made it. Child processes must be done with logging before that one closes it. A child killed while it
    sends costs the events of the others; training goes on.
    """

    __module__ = "fastlog"

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
        coalesce_process: bool = True,
        **kwargs: Any,
    ) -> None:
        """Opens an event file and starts a process that keeps the steps.

        Args:
            coalesce_process: ignored, as in tensorboardX.
            kwargs: more arguments of ``SummaryWriter``, which also explains the others.
        """
        self.smw = SharedWriter(
            logdir,
            comment,
            purge_step,
            max_queue,
            flush_secs,
            filename_suffix,
            write_to_disk,
            log_dir,
            **kwargs,
        )
        self.lock = multiprocessing.Lock()
        self._manager = multiprocessing.Manager()
        self.scalar_tag_to_step = self._manager.dict()
        self.image_tag_to_step = self._manager.dict()
        self.histogram_tag_to_step = self._manager.dict()
        self.text_tag_to_step = self._manager.dict()
        self.audio_tag_to_step = self._manager.dict()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_manager"}

    @staticmethod
    def getSummaryWriter() -> GlobalSummaryWriter:
        """The program's writer, made at the first call."""
        global _writer
        if _writer is None:
            _writer = GlobalSummaryWriter()
        print("Using the global logger in:", _writer.file_writer.get_logdir())
        return _writer
