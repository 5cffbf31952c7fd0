"""One event file: what is in it, and its payloads where they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fastlog.common.native import core

# Kinds of rows, as csrc/events/scan.h numbers them.
SCALAR: Final = 0
HISTOGRAM: Final = 1
IMAGE: Final = 2
AUDIO: Final = 3
TENSOR: Final = 4
SESSION_START: Final = 8

_MOST_BUCKETS = 2**20

Rows = npt.NDArray[Any]
"""Structured: ``wall_time``, ``value`` (of scalars), ``step``, ``offset`` and ``size`` of the payload in the
file, ``tag`` (index into ``tags``; -1: none), ``kind``."""


class Tag(NamedTuple):
    """A tag, and what its first value says of itself: the plugin that shows it, and the plugin's own data."""

    name: str
    plugin: str
    content: bytes


class EventFile:
    """An event file, read as far as whole records go; ``update`` reads on.

    Args:
        path: a local file, or a URL that fsspec knows.
        strict: raise at a corrupt record; False: go on at the next whole one.

    Raises:
        OSError: the file cannot be read.
        ImportError: a URL, and fsspec or its client for that store is not installed.
        ValueError: ``strict``, and a record is corrupt; says the file and the offset.
    """

    def __init__(self, path: str, strict: bool = True) -> None:
        self.path = path
        self._scan = core.EventScan(strict)
        self._is_remote = is_url(path)
        self._contents = b""  # of a remote file
        self.update()

    def update(self) -> None:
        """Reads what the file has gained."""
        try:
            if self._is_remote:
                self._contents = _download(self.path)
                self._scan.read_bytes(self._contents)
            else:
                self._scan.read_file(self.path)
        except core.CorruptRecord as error:
            what, offset = error.args
            raise ValueError(
                f"{self.path}: {what}, at byte {offset}; strict=False reads on behind it"
            ) from error

    @property
    def rows(self) -> Rows:
        """A row for each value, in the order of the file."""
        return self._scan.rows()

    @property
    def tags(self) -> list[Tag]:
        """Tags by number."""
        return [Tag(*tag) for tag in self._scan.tags()]

    @property
    def torn_bytes(self) -> int:
        """Bytes behind the last whole record: a record that was being written, or was cut off."""
        return self._scan.torn_bytes

    @property
    def skipped_bytes(self) -> int:
        """Bytes of corrupt records that were passed over."""
        return self._scan.skipped_bytes

    @property
    def skipped_events(self) -> int:
        """Whole records that hold no event."""
        return self._scan.skipped_events

    def payloads(self, rows: Rows) -> list[bytes]:
        """The bytes that ``offset`` and ``size`` of the rows name."""
        if self._is_remote:
            extents = zip(rows["offset"].tolist(), rows["size"].tolist(), strict=True)
            return [self._contents[offset : offset + size] for offset, size in extents]
        made = []
        with open(self.path, "rb") as file:
            for offset, size in zip(rows["offset"].tolist(), rows["size"].tolist(), strict=True):
                file.seek(offset)
                made.append(file.read(size))
        return made

    def histograms(self, rows: Rows) -> tuple[npt.NDArray[Any], ...]:
        """Moments (min, max, num, sum, sum_squares); all limits; all counts; where each histogram's end.

        Rows of one kind: ``HISTOGRAM``, or ``TENSOR`` as TensorFlow 2 writes them.
        """
        try:
            if len(rows) and rows["kind"][0] == TENSOR:
                return _histograms_of_tensors(self.payloads(rows))
            if self._is_remote:
                return core.decode_histograms(self.payloads(rows))
            return core.decode_histograms_of_file(self.path, rows["offset"], rows["size"])
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error


def _histograms_of_tensors(payloads: Sequence[bytes]) -> tuple[npt.NDArray[Any], ...]:
    """Tensors of left, right and count of each bucket. Moments: as if values lay in the middles."""
    moments: list[tuple[float, ...]] = []
    buckets = [_buckets(payload) for payload in payloads]
    for left, right, counts in buckets:
        full = counts > 0
        low, high = (left[full].min(), right[full].max()) if full.any() else (0.0, 0.0)
        middle = np.clip((left + right) / 2, low, high)
        of_values = counts.sum(), (middle * counts).sum(), (middle * middle * counts).sum()
        moments.append((low, high, *of_values))
    limits = [right for _, right, _ in buckets]
    return (
        np.array(moments, np.float64).reshape(-1, 5),
        np.concatenate([np.empty(0), *limits]),
        np.concatenate([np.empty(0), *(counts for *_, counts in buckets)]),
        np.cumsum([len(right) for right in limits], dtype=np.int64),
    )


def _buckets(payload: bytes) -> npt.NDArray[np.float64]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboardX.proto.tensor_pb2 import TensorProto

    try:
        tensor = TensorProto.FromString(payload)
        dtype, numbers = {1: ("<f4", tensor.float_val), 2: ("<f8", tensor.double_val)}[tensor.dtype]
        content = tensor.tensor_content
        flat = np.frombuffer(content, dtype) if content else np.array(numbers, dtype)
        size = int(np.prod([dim.size for dim in tensor.tensor_shape.dim], dtype=np.int64))
        if len(flat) == 1 and 1 < size <= 3 * _MOST_BUCKETS:  # TensorFlow writes a value that repeats once
            flat = flat.repeat(size)
        buckets: npt.NDArray[np.float64] = flat.reshape(-1, 3).astype(np.float64).T
        return buckets
    except (DecodeError, KeyError, ValueError) as error:
        raise ValueError("a histogram is malformed") from error


def is_url(path: str) -> bool:
    """Whether a path names a store that is not the local file system."""
    return "://" in path


def find_event_files(directory: str) -> dict[str, list[str]]:
    """Event files below a directory by the directory that holds them, as TensorBoard finds runs.

    Keys are relative to ``directory``, "." for itself; files are in the order in which they were begun.
    """
    found = {}
    for folder, files in _walk(directory):
        events = sorted(file for file in files if "tfevents" in file and not file.endswith(".profile-empty"))
        if events:
            parts = [directory.rstrip("/")] if folder == "." else [directory.rstrip("/"), folder]
            found[folder] = ["/".join([*parts, file]) for file in events]
    return dict(sorted(found.items()))


def _walk(directory: str) -> list[tuple[str, list[str]]]:
    if is_url(directory):
        filesystem, root = _filesystem(directory)
        walked = filesystem.walk(root)
        return [(os.path.relpath(folder, root), list(files)) for folder, _, files in walked]
    return [
        (os.path.relpath(folder, directory), files)
        for folder, _, files in os.walk(directory, followlinks=True)
    ]


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise ImportError(f"{url}: reading from a URL needs fsspec (pip install fsspec)") from error
    return url_to_fs(url)  # type: ignore[no-any-return]


def _download(url: str) -> bytes:
    filesystem, path = _filesystem(url)
    return bytes(filesystem.cat_file(path))
