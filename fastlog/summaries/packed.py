"""The packed form of a summary (csrc/core/pack.h): what its head says, and its merging."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fastlog.common.native import core

COUNTERS: Final = core.COUNTERS
MOMENTS: Final = core.MOMENTS
HEAD: Final = np.dtype([(name, "<i8") for name in COUNTERS] + [(name, "<f8") for name in MOMENTS])
"""What a packed summary begins with: all fields of a summary but the counts of its bins."""

Heads: TypeAlias = npt.NDArray[Any]
"""The heads of several summaries: an array of ``HEAD``."""

_EXTREMES = {"min": np.minimum, "max": np.maximum, "abs_max": np.maximum}


def _reader(*names: str) -> struct.Struct:
    """What unpacks counters from a packed summary: those named, in the order of ``HEAD``."""
    layout, at = "<", 0
    for name in names:
        offset = HEAD.fields[name][1]  # type: ignore[index]
        layout += f"{offset - at}xq"
        at = offset + 8
    return struct.Struct(layout)


NONFINITE: Final = _reader("nan", "pos_inf", "neg_inf", "num")
"""``NONFINITE.unpack_from(packed)``: how many values are NaN, inf and -inf, and how many there are."""
_NUM: Final = _reader("num")


def heads_of(packed: Sequence[bytes]) -> Heads:
    """The heads of packed summaries."""
    return np.frombuffer(b"".join([one[: HEAD.itemsize] for one in packed]), HEAD)


def num_of(packed: bytes) -> int:
    """How many values were summarised."""
    (num,) = _NUM.unpack_from(packed)
    return int(num)


def merge_heads(heads: Heads, groups: Sequence[int], num_groups: int) -> Heads:
    """The head of each group's values together. ``groups``: to which group each of the heads belongs."""
    merged = np.zeros(num_groups, HEAD)
    merged["min"], merged["max"] = np.inf, -np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        for name in HEAD.names or ():
            _EXTREMES.get(name, np.add).at(merged[name], groups, heads[name])
    return merged


def merge_packed(parts: Sequence[bytes]) -> bytes:
    """The packed summary of all parts together, at least one: exact but for one rounding of each sum.

    ``sum`` is NaN where those of the parts are infinite with opposite signs.

    Raises:
        ValueError: other bytes.
    """
    if len(parts) == 1:
        return parts[0]
    words = np.frombuffer(b"".join(map(core.unpack, parts)), np.int64).reshape(len(parts), -1)
    numbers = words[:, -len(MOMENTS) :].view(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        moments = numbers.sum(axis=0)
    for i, name in enumerate(MOMENTS):
        if name in _EXTREMES:
            moments[i] = _EXTREMES[name].reduce(numbers[:, i])
    return core.pack(words[:, : -len(MOMENTS)].sum(axis=0).tobytes() + moments.tobytes())
