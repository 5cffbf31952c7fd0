"""Event files as tensorboardX makes them, in a local directory or a remote store."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
import weakref
from collections.abc import Sequence
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from fastlog.common import forks
from fastlog.common.native import core
from fastlog.events.items import RAW, Item
from fastlog.events.sinks.outputs import Output, is_remote, open_output
from fastlog.events.sinks.sink import InvalidItems, PartialWrite

_file_numbers = itertools.count()
_sinks: weakref.WeakSet[EventFileSink] = weakref.WeakSet()


class EventFileSink:
    """Writes events to a file of its own in ``logdir``, and goes on in a new one where it has to.

    That is after ``close``, after the file or its directory was deleted, after an error from which a file may
    not recover, and in a forked child or an unpickled copy. Files of one sink sort in the order they were
    begun, as TensorBoard reads them. A child or copy writes to ``logdir/pid-<pid>``: TensorBoard stops
    watching a file once a newer one appears beside it.

    Args:
        logdir: a directory, made where missing, or a URL (``s3://``, ``gs://``, a prefix registered with
            tensorboardX, or one that fsspec knows).
        filename_suffix: ends the file names.
        compact: merge runs of empty histogram buckets.

    Raises:
        OSError: the directory or file cannot be made. For URLs also what the store's client raises.
    """

    def __init__(self, logdir: str, filename_suffix: str = "", compact: bool = True) -> None:
        self._logdir = logdir
        self._suffix = filename_suffix
        self._compact = compact
        self._inherited = False
        self._output: Output | None = None
        self._fresh = False  # the file has no events yet
        self._last_second = 0
        _sinks.add(self)
        forks.register(self)
        self._open()

    def get_logdir(self) -> str:
        """``logdir`` as given."""
        return self._logdir

    def is_alone(self) -> bool:
        """Whether no other sink of this process has a file open in the same directory."""
        place = _absolute(self._directory())
        others = [sink for sink in list(_sinks) if sink is not self and sink._output is not None]
        return place not in [sink._place for sink in others]

    def write(self, items: Sequence[Item]) -> None:
        """Appends the items' records in one write; see :class:`fastlog.events.sinks.sink.Sink`."""
        records = _encode(items, self._compact)
        if self._output is not None and self._output.damaged:
            self._output.abandon(delete=self._fresh)
            self._output = None
        output = self._output or self._open()
        try:
            output.append(records)
        except PartialWrite as error:
            if error.errno == errno.EFBIG and self._fresh and error.written == 0:
                raise InvalidItems([0], error) from error  # a new file holds no more
            self._fresh = self._fresh and error.written == 0
            raise
        self._fresh = False

    def flush(self) -> None:
        """fsync, or upload, of the file. A large remote file is closed: uploads always send all of it."""
        if self._output is not None:
            if self._output.full:
                self.close()
            else:
                self._output.sync()

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._output is not None:
            self._output.close()
            self._output = None

    def _open(self) -> Output:
        directory = self._directory()
        self._place = _absolute(directory)
        # Never a name that sorts before our last one, whatever the clock does.
        self._last_second = max(self._last_second, int(time.time()))
        output = None
        while output is None:
            name = (
                f"events.out.tfevents.{self._last_second:010d}.{socket.gethostname()}"
                f".{next(_file_numbers):06d}.{os.getpid()}{self._suffix}"
            )
            self._file_name = os.path.join(directory, name)  # tensorboardX's name for it
            try:
                output = open_output(self._file_name)
            except FileExistsError as error:
                if not str(error.filename).endswith(name):
                    why = "a file is in the place of the log directory; choose another logdir"
                    raise FileExistsError(error.errno, why, error.filename) from None
        version = Event(wall_time=time.time(), file_version="brain.Event:2")
        try:
            output.append(core.encode_events([(RAW, version.SerializeToString())]))
        except BaseException:
            output.abandon(delete=True)
            raise
        self._output = output
        self._fresh = True
        return output

    def _directory(self) -> str:
        return os.path.join(self._logdir, f"pid-{os.getpid()}") if self._inherited else self._logdir

    def become_child(self) -> None:
        """After a fork, in the child: the file is the parent's."""
        if self._output is not None:
            self._output.abandon()
        self._output = None
        self._inherited = True

    def __getstate__(self) -> dict[str, Any]:
        return {"logdir": self._logdir, "suffix": self._suffix, "compact": self._compact}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._logdir = state["logdir"]
        self._suffix = state["suffix"]
        self._compact = state["compact"]
        self._inherited = True
        self._output = None
        self._fresh = False
        self._last_second = 0
        _sinks.add(self)
        forks.register(self)


def _absolute(directory: str) -> str:
    return directory if is_remote(directory) else os.path.abspath(directory)


def _encode(items: Sequence[Item], compact: bool) -> bytes:
    try:
        return core.encode_events(items, compact)
    except MemoryError:
        raise
    except Exception as error:
        invalid = [i for i, item in enumerate(items) if not _encodable(item)]
        raise InvalidItems(invalid, error) from error


def _encodable(item: Item) -> bool:
    try:
        core.encode_events([item])
    except Exception:
        return False
    return True
