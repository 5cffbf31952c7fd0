"""Event files as TensorBoard writes them: the values in them, one after another, up to where a file is torn.

The only place that knows the format on disk; a faster reader can stand in its place.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboardX.proto.event_pb2 import Event

_LENGTH = struct.Struct("<QI")
_MOST_BYTES = 2**31


class Value(NamedTuple):
    """A value of a summary, with the step and time of its event. ``proto`` is tensorboardX's."""

    step: int
    wall_time: float
    tag: str
    plugin: str
    proto: Any


def runs_of(logdir: str | os.PathLike[str]) -> dict[str, list[Path]]:
    """The event files of each run below a directory, the files of a run in the order they were begun."""
    root = Path(logdir)
    if root.is_file():
        return {root.parent.name or ".": [root]}
    runs: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*tfevents*")):
        if path.is_file():
            runs.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    return dict(sorted(runs.items()))


def values(path: Path) -> Iterator[Value]:
    """All values of a file, up to its end or to where it is torn; what cannot be parsed is passed over."""
    plugins: dict[str, str] = {}
    for data in _records(path):
        try:
            event = Event.FromString(data)
        except DecodeError:
            continue
        for value in event.summary.value:
            name = value.metadata.plugin_data.plugin_name or plugins.get(value.tag, "")
            plugins[value.tag] = name  # written with the first value of a tag only
            yield Value(event.step, event.wall_time, value.tag, name, value)


def _records(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            (length, _) = _LENGTH.unpack(head)
            if length > _MOST_BYTES:
                return
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                return
            yield data


def number_of(value: Value) -> float | None:
    """The value of a scalar, in any of the ways in which they are written; None: it is none."""
    proto = value.proto
    if proto.HasField("simple_value"):
        return float(proto.simple_value)
    if value.plugin == "scalars" and proto.HasField("tensor"):
        array = _array(proto.tensor)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
    return None


def buckets_of(value: Value) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Left, right and count of the buckets of a histogram, float64 [k, 3]; None: it is none."""
    proto = value.proto
    if proto.HasField("histo"):
        limits, counts = np.array(proto.histo.bucket_limit), np.array(proto.histo.bucket)
        if not len(limits) or len(limits) != len(counts):
            return np.empty((0, 3))
        lefts = np.concatenate([[min(proto.histo.min, limits[0])], limits[:-1]])
        return np.stack([lefts, limits, counts], axis=1)
    if value.plugin == "histograms" and proto.HasField("tensor"):
        array = _array(proto.tensor)
        return array.reshape(-1, 3).astype(np.float64) if array is not None and array.size % 3 == 0 else None
    return None


def _array(tensor: Any) -> np.ndarray[Any, Any] | None:
    dtypes: dict[int, tuple[str, Any]] = {1: ("<f4", tensor.float_val), 2: ("<f8", tensor.double_val)}
    if tensor.dtype not in dtypes:
        return None
    dtype, numbers = dtypes[tensor.dtype]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype)
    array = np.array(numbers, dtype)
    size = int(np.prod([dim.size for dim in tensor.tensor_shape.dim], dtype=np.int64))
    return np.repeat(array, size) if len(array) == 1 and size > 1 else array
