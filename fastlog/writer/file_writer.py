"""Event writers in the shape of tensorboardX's, whose events go to an asynchronous queue."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorboardX
from tensorboardX.event_file_writer import EventFileWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.writer import DummyFileWriter

from fastlog.common.native import core
from fastlog.events.items import EVENT_BYTES, JOB, RAW, Item
from fastlog.events.queue import AsyncQueue
from fastlog.events.sinks.sink import Sink
from fastlog.writer.encode.snapshots import as_float, as_int

_RECORD_HEADER, _RECORD_FOOTER = 12, 4  # bytes around an event

# Where other tools (ClearML, tests with mocks) put themselves between tensorboardX and the file.
_HOOKABLE = (
    (tensorboardX.FileWriter, "add_summary"),
    (tensorboardX.FileWriter, "add_event"),
    (EventFileWriter, "add_event"),
)


def _hooked() -> bool:
    # not by comparison with what was there at our import: a tool may have been earlier
    return any(
        getattr(getattr(owner, name), "__globals__", None) is not vars(sys.modules[owner.__module__])
        for owner, name in _HOOKABLE
    )


def stamp(step: Any, walltime: Any) -> tuple[int | None, float]:
    """Step and wall time of an event; None stands for no step and for now.

    Raises:
        TypeError, ValueError: not numbers, a step beyond 64 bits, or a time that is not finite.
    """
    seconds = time.time() if walltime is None else as_float(walltime, "walltime")
    if not math.isfinite(seconds):
        raise ValueError(f"walltime must be seconds since the epoch, not {seconds}")
    return None if step is None else as_int(step, "global_step"), seconds


class EventQueue:
    """Where tensorboardX's ``EventFileWriter.add_event`` puts events."""

    def __init__(self, queue: AsyncQueue, sink: Sink) -> None:
        self._queue = queue
        self._sink = sink

    def put(self, event: Any) -> None:
        """Enqueues an event proto (tensorboardX's or TensorBoard's), serialized now.

        Raises:
            TypeError: no event proto.
        """
        if not hasattr(event, "SerializeToString"):
            raise TypeError(f"event must be an Event proto, not {type(event).__name__}")
        data = event.SerializeToString()
        self._queue.put(self._sink, (RAW, data), len(data) + EVENT_BYTES)


class EventWriter(EventFileWriter):  # type: ignore[misc]
    """tensorboardX's ``EventFileWriter``, but fed through a queue.

    Args:
        logdir: the sink's directory.
        queue: where events wait; shared by the writers of one ``SummaryWriter``.
        sink: the file.
    """

    _closed = False

    def __init__(self, logdir: str, queue: AsyncQueue, sink: Sink) -> None:
        self._queue = queue
        self._ev_writer = sink
        self._event_queue = EventQueue(queue, sink)

    def get_logdir(self) -> str:
        """The directory of the event file."""
        return self._ev_writer.get_logdir()

    def put(self, item: Item, nbytes: int, first_to_go: bool = False, since: float | None = None) -> None:
        """Enqueues an item that holds ``nbytes`` besides its own objects; see ``AsyncQueue.put``."""
        self._queue.put(self._ev_writer, item, nbytes + EVENT_BYTES, first_to_go, since)

    def flush(self, timeout: float | None = None) -> None:
        """Returns when all events logged before are in the file and fsynced; see ``AsyncQueue.flush``."""
        self._queue.flush(timeout)

    def close(self) -> None:
        """Flushes and closes the queue and all its files."""
        self._queue.close()

    def reopen(self) -> None:
        """Does nothing: a closed writer opens a new file at its next event."""


class FileWriter(tensorboardX.FileWriter):  # type: ignore[misc]
    """tensorboardX's ``FileWriter`` on top of a queue.

    Args:
        queue: where events wait; shared by the writers of one ``SummaryWriter``.
        sink: the file.
        observed: someone besides the file wants to see every call (Comet): there is no ``direct`` way then.
        compact: see ``SummaryWriter``; for events that another tool gets to see.

    Attributes:
        direct: ``(queue.put, sink)`` where an event needs nothing but its arguments, else None (inside
            ``use_metadata``).
    """

    def __init__(self, queue: AsyncQueue, sink: Sink, observed: bool, compact: bool) -> None:
        # wandb's sync_tensorboard learns of log directories from a subclass that it leaves in this place.
        patched = tensorboardX.writer.EventFileWriter
        kind = EventWriter if patched is EventFileWriter else type("EventWriter", (patched, EventWriter), {})
        self.event_writer: EventWriter = kind(sink.get_logdir(), queue, sink)
        self._default_metadata: dict[str, Any] = {}
        self._observed = observed
        self._compact = compact
        self._hooked = _hooked()
        self._shortcut = None if observed or self._hooked else (queue.put, sink)
        self.direct: tuple[Callable[..., None], Sink] | None = self._shortcut

    def beside(self, sink: Sink) -> FileWriter:
        """A writer of another file on the same queue."""
        return FileWriter(self.event_writer._queue, sink, self._observed, self._compact)

    def retire(self) -> None:
        """Closes the file when all that was logged to it is written. A later event opens a new one."""
        sink = self.event_writer._ev_writer

        def run() -> list[Item]:
            sink.close()
            return []

        self.event_writer.put((JOB, run, 0, False, f"closing the file in {sink.get_logdir()}"), 0)

    def stamp(self, step: Any, walltime: Any) -> tuple[int | None, float]:
        """Step and wall time of an event: the arguments, else ``use_metadata``'s, else None and now."""
        default = self._default_metadata
        if step is None and default:
            step = default["global_step"]
        if walltime is None and default:
            walltime = default["walltime"]
        return stamp(step, walltime)

    def put(self, item: Item, nbytes: int, first_to_go: bool = False, since: float | None = None) -> None:
        """Enqueues an item of :mod:`fastlog.events.items`; see ``EventWriter.put``.

        Where another tool has replaced one of tensorboardX's methods, the events go through these, at once.
        """
        if not self._hooked:
            self.event_writer.put(item, nbytes, first_to_go, since)
            return
        for ready in item[1]() if item[0] == JOB else [item]:
            record = core.encode_events([ready], self._compact)
            event = Event.FromString(record[_RECORD_HEADER:-_RECORD_FOOTER])
            if event.HasField("summary"):
                self.add_summary(event.summary, event.step, event.wall_time)
            else:
                self.add_event(event, event.step, event.wall_time)

    def add_event(self, event: Any, step: Any = None, walltime: float | None = None) -> None:
        """Logs an ``Event`` proto; its own step stays if neither ``step`` nor ``use_metadata`` gives one."""
        super().add_event(event, *self.stamp(step, walltime))

    def add_summary(self, summary: Any, global_step: Any = None, walltime: float | None = None) -> None:
        """Logs a ``Summary`` proto, tensorboardX's or TensorBoard's."""
        if not isinstance(summary, Summary):
            summary = Summary.FromString(summary.SerializeToString())
        super().add_summary(summary, global_step, walltime)

    @contextlib.contextmanager
    def use_metadata(self, *, global_step: Any = None, walltime: float | None = None) -> Iterator[FileWriter]:
        """Default step and wall time of the events logged inside the ``with`` block."""
        if global_step is None and walltime is None:
            raise AssertionError("At least one of `global_step` or `walltime` must be provided.")
        if self._default_metadata:
            raise AssertionError("Default metadata is already set.")
        self._default_metadata = {"global_step": global_step, "walltime": walltime}
        self.direct = None
        try:
            yield self
        finally:
            self._default_metadata = {}
            self.direct = self._shortcut


class NullFileWriter(DummyFileWriter):  # type: ignore[misc]
    """The file writer of ``write_to_disk=False``: takes everything, keeps nothing."""

    direct = None

    def stamp(self, step: Any, walltime: Any) -> tuple[int | None, float]:
        """Step and wall time, checked as where they are written."""
        return stamp(step, walltime)

    def retire(self) -> None:
        """Does nothing."""

    def put(self, item: Item, nbytes: int, first_to_go: bool = False, since: float | None = None) -> None:
        """Does nothing."""

    def add_openvino_graph(self, graph: Any, walltime: float | None = None) -> None:
        """Does nothing."""
