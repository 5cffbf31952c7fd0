"""GlobalSummaryWriter: the processes of a program log to one file."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import tensorboardX

from fastlog.common.no_compile import no_compile_methods
from fastlog.events.items import JOB, Item
from fastlog.events.waiting import ProgressTimeout
from fastlog.writer import SummaryWriter
from fastlog.writer.bad_values import BadValues
from fastlog.writer.file_writer import FileWriter
from fastlog.writer.outbox import Outbox, Settings

_LOCK_SECS = 5.0  # a process that has the pipe for longer waits for a parent that is busy, or was killed
_HANG_SECS = (
    120.0  # without a timeout nobody waits any longer for a pipe or a queue that gets on with nothing
)

_writer: GlobalSummaryWriter | None = None


class ChildPipe:
    """A pipe from the children of a process to the process.

    Attributes:
        received: how many messages the process has taken from it.
    """

    def __init__(self) -> None:
        self.received = 0
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
            target=_listen, args=(self._pipe, weakref.ref(self)), name="fastlog-relay", daemon=True
        )
        listener.start()
        weakref.finalize(self, _stop, self._pipe, listener, self._home, weakref.ref(self.outbox))

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
        """Waits until the events in the pipe are in the queue; without a timeout as long as they come."""
        if os.getpid() == self._home:
            arrived = threading.Event()
            self._arrivals[id(arrived)] = arrived
            if self._pipe.send(id(arrived)):
                if timeout is None:
                    _wait(arrived.wait, self._pipe, weakref.ref(self.outbox))
                else:
                    arrived.wait(timeout)
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


def _listen(pipe: ChildPipe, writer_ref: weakref.ref[SharedWriter]) -> None:
    """Hands messages to the writer until one is None or all senders are gone."""
    with contextlib.suppress(EOFError, OSError):
        while (message := pipe.reader.recv()) is not None:
            writer = writer_ref()
            if writer is not None:
                writer._receive(message)
            del writer
            pipe.received += 1


def _stop(pipe: ChildPipe, listener: threading.Thread, home: int, outbox_ref: weakref.ref[Any]) -> None:
    """Ends the listener after what is in the pipe; not in a child, which has a copy of the writer."""

    def is_over(seconds: float) -> bool:
        listener.join(seconds)
        return not listener.is_alive()

    if os.getpid() == home and pipe.send(None) and listener is not threading.current_thread():
        _wait(is_over, pipe, outbox_ref)


def _wait(is_over: Callable[[float], bool], pipe: ChildPipe, outbox_ref: weakref.ref[Any]) -> None:
    """Waits as long as messages are taken from the pipe, or the queue that they go into gets on.

    Args:
        is_over: waits for some seconds and says whether there is nothing more to wait for.
    """

    def progress() -> tuple[int, float]:
        outbox = outbox_ref()
        finished, computed = (0, 0.0) if outbox is None else outbox.progress()
        return pipe.received + finished, computed

    patience = ProgressTimeout(_HANG_SECS, progress, time.monotonic)
    while (left := patience.left()) > 0 and not is_over(left):
        pass


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
