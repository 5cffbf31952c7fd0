"""The files that event records go to: local ones, and those of a remote store."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import resource
import struct
from collections.abc import Iterator
from typing import Any, Protocol

from tensorboardX.record_writer import (
    REGISTERED_FACTORIES,
    GCSRecordWriter,
    GCSRecordWriterFactory,
    S3RecordWriter,
    S3RecordWriterFactory,
)

from fastlog.events.sinks.sink import PartialWrite

_PART_BYTES = 32 << 20
_FRAME = 16  # bytes around an event in its record
_HEADER = 12  # of them in front


class Output(Protocol):
    """A file that grows by whole records. ``damaged``: it takes no more, a new one has to be begun."""

    damaged: bool

    def append(self, records: bytes) -> None:
        """Adds framed records. PartialWrite: how many were added; other exceptions: none."""

    def sync(self) -> None:
        """Makes durable what was appended."""

    def close(self) -> None:
        """Makes durable, then closes."""

    def abandon(self, delete: bool = False) -> None:
        """Lets go without writing another byte, or deletes the file. Never raises."""

    @property
    def full(self) -> bool:
        """True where ``close`` and a new file would be better than another ``sync``."""


def is_remote(directory: str) -> bool:
    """Whether tensorboardX has a factory for this path's prefix, or it is a URL."""
    prefix, colon, rest = directory.partition(":")
    return bool(colon) and (prefix in REGISTERED_FACTORIES or rest.startswith("//"))


def open_output(path: str) -> Output:
    """Begins the file at ``path`` in a new or existing directory.

    Raises:
        FileExistsError: a local file of this name is there already.
        ValueError: a URL that nothing can be written to.
        OSError, ImportError or what the remote store raises: cannot be opened.
    """
    if is_remote(path):
        return RemoteOutput(_open_remote(path))
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return LocalOutput(path)


def send(path: str, content: bytes) -> None:
    """Writes a whole file to a remote store. Raises what the store raises."""
    output = RemoteOutput(_open_remote(path))
    try:
        output.append(content)
        output.close()
    finally:
        output.abandon()


def fetch(path: str) -> bytes | None:
    """The content of a file in a remote store; None if there is none, or the store cannot be read."""
    if path.partition(":")[0] in REGISTERED_FACTORIES:
        return None
    return FsspecWriter(path).fetch()


def _open_remote(path: str) -> Any:
    scheme, directory = path.partition(":")[0], os.path.dirname(path)
    factory = REGISTERED_FACTORIES.get(scheme)
    if factory is None:
        if scheme in ("http", "https"):
            raise ValueError(
                f"{directory}: nothing can be logged over {scheme}, nor can TensorBoard read there; pass "
                "a local directory, or the URL of a store (s3://, gs://, or what fsspec knows)"
            )
        return FsspecWriter(path)
    factory.directory_check(directory)
    kind = {S3RecordWriterFactory: S3RecordWriter, GCSRecordWriterFactory: GCSRecordWriter}.get(type(factory))
    if kind is None:
        return factory.open(path)
    # As factory.open does; but where __init__ raises, __del__ would print errors of its own.
    writer = kind.__new__(kind)
    writer.closed, writer.flush = True, lambda: None
    writer.__init__(path)
    del writer.flush
    return writer


class LocalOutput:
    """A local file, unbuffered: a killed process leaves whole records, a forked one writes none of ours.

    A write that fails is taken back to the last whole record. The file may be moved with its directory; one
    that was deleted takes no more. Where the process has used up half of the descriptors that it may have,
    the file is open only while something is written: there may be thousands, and training needs some too.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._stays_open = limit == resource.RLIM_INFINITY or self._fd < limit // 2
        self._identity = _identity(self._fd)
        self._size = 0
        self.damaged = False
        self._entry_synced = False

    def append(self, records: bytes) -> None:
        """Adds framed records, in as few writes as the system allows."""
        with self._opened():
            if not self._exists():
                self.damaged = True
                raise FileNotFoundError(errno.ENOENT, "the event file was deleted", self._path)
            left = memoryview(records)
            at = self._size
            try:
                while left:
                    done = os.pwrite(self._fd, left, at)
                    left, at = left[done:], at + done
            except OSError as error:
                written, size = _whole_records(records, at - self._size)
                self._take_back(self._size + size)
                # Space comes back; of any other failure this file may never recover.
                self.damaged |= error.errno not in (errno.ENOSPC, errno.EDQUOT)
                raise PartialWrite(written, error) from error
            self._size = at

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """Opens the file where it does not stay open. One that was deleted stays closed."""
        if self._fd < 0:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
                if _identity(fd) == self._identity:
                    self._fd = fd
                else:
                    os.close(fd)
        try:
            yield
        finally:
            if not self._stays_open:
                self._close()

    def _exists(self) -> bool:
        try:
            return _identity(self._fd) == self._identity and os.fstat(self._fd).st_nlink > 0
        except OSError:
            return False

    def _take_back(self, size: int) -> None:
        self._size = size
        try:
            os.ftruncate(self._fd, size)
        except OSError:
            self.damaged = True  # a torn record hides what follows it: nothing may follow

    def sync(self) -> None:
        """fsync, the first time of the directory entry too."""
        with self._opened():
            if self._fd < 0:
                return
            try:
                os.fsync(self._fd)
            except OSError:
                self.damaged = True  # the system may have thrown the unwritten pages away
                raise
        if not self._entry_synced:
            self._entry_synced = True
            with contextlib.suppress(OSError):
                directory = os.open(os.path.dirname(self._path) or ".", os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)

    def close(self) -> None:
        """fsync and close."""
        try:
            self.sync()
        finally:
            self.abandon()

    def abandon(self, delete: bool = False) -> None:
        """Closes without fsync."""
        self._close()
        if delete:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        with contextlib.suppress(OSError):
            if _identity(fd) == self._identity:
                os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_identity"):
            self.abandon()

    @property
    def full(self) -> bool:
        """Never: appending costs the same at any size."""
        return False


class RemoteOutput:
    """A file object of a remote store: ``write`` keeps, ``flush`` sends all, ``close`` sends all and ends."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._size = 0
        self._unsent = 0
        self.damaged = False

    def append(self, records: bytes) -> None:
        """Hands the records to the file object, which is not used again where that raises."""
        try:
            self._writer.write(records)
        except BaseException:
            self.damaged = True
            raise
        self._size += len(records)
        self._unsent += len(records)

    def sync(self) -> None:
        """Sends, unless there is nothing new."""
        if self._unsent:
            self._writer.flush()
            if hasattr(self._writer, "fileno"):
                os.fsync(self._writer.fileno())
            self._unsent = 0

    def close(self) -> None:
        """Sends and closes; may be called again after a failure."""
        # To close one of these is to send all of it, new or not.
        if self._unsent or not isinstance(self._writer, (S3RecordWriter, GCSRecordWriter, FsspecWriter)):
            self._writer.close()
        self.abandon()

    def abandon(self, delete: bool = False) -> None:
        """Keeps the file object from sending once more when it is collected, over what is there by then."""
        with contextlib.suppress(Exception):
            self._writer.flush = self._writer.close = lambda: None
        with contextlib.suppress(Exception):
            self._writer.closed = True

    @property
    def full(self) -> bool:
        """As large as a file should be that is sent whole at each flush."""
        return self._size >= _PART_BYTES


class FsspecWriter:
    """Collects a file and sends it whole: what every fsspec file system can do.

    Raises:
        ImportError: fsspec, or what it needs for this URL, is not installed.
        ValueError: fsspec does not know the URL's protocol.
    """

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ImportError(f"logging to {url} needs fsspec: pip install fsspec") from error
        self._fs, self._path = url_to_fs(url)
        self._content = io.BytesIO()

    def write(self, data: bytes) -> None:
        """Keeps."""
        self._content.write(data)

    def flush(self) -> None:
        """Sends everything."""
        self._fs.makedirs(self._fs._parent(self._path), exist_ok=True)
        self._fs.pipe_file(self._path, self._content.getvalue())

    def close(self) -> None:
        """Sends everything."""
        self.flush()

    def fetch(self) -> bytes | None:
        """What is there now; None if nothing is."""
        try:
            return bytes(self._fs.cat_file(self._path))
        except FileNotFoundError:
            return None


def _identity(fd: int) -> tuple[int, int]:
    # A program that closes descriptors it did not open (daemons do) may give our number to another file.
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _whole_records(records: bytes, size: int) -> tuple[int, int]:
    """How many whole records lie in the first ``size`` bytes, and where the last of them ends."""
    count = end = 0
    while end + _HEADER <= size:
        (length,) = struct.unpack_from("<Q", records, end)
        if end + length + _FRAME > size:
            break
        end += length + _FRAME
        count += 1
    return count, end
