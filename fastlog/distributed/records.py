"""Summaries by name, as they travel between ranks, and what they are together."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fastlog.summarize import Packed
from fastlog.summary import COUNTERS, merge_packed

_NUM = 8 * COUNTERS.index("num")  # a packed summary begins with the counters (csrc/core/pack.h)


class Record(NamedTuple):
    """The packed summary of one tensor, or of this rank's part of it.

    ``kind`` groups the tensors of a model (weights, gradients, …). ``part`` numbers the parts of the tensor;
    where several ranks have the same part, they have the same values, which count once.
    """

    kind: str
    name: str
    packed: Packed
    part: int = 0


def encode(records: Sequence[Record], numbers: dict[str, float]) -> bytes:
    """Records and numbers by name as bytes for the ranks of one job; none for nothing. Waits for devices."""
    if not records and not numbers:
        return b""
    plain = str.__str__  # marshal knows no subclasses
    rows = [(plain(kind), plain(name), bytes(packed), *rest) for kind, name, packed, *rest in records]
    return marshal.dumps((rows, numbers))


def decode(data: bytes | memoryview) -> tuple[list[Record], dict[str, float]]:
    """What ``encode`` got."""
    if not data:
        return [], {}
    records, numbers = marshal.loads(data)
    return [Record(*record) for record in records], numbers


def merge(by_rank: Mapping[int, Iterable[Record]]) -> tuple[list[Record], dict[str, tuple[int, int]]]:
    """The tensors of all ranks, whole: the parts of one kind and name are merged, each once.

    Returns:
        The tensors in the order in which the names come, so the first rank should name all that it knows of;
        and by name those of which two ranks hold the same part with other values, with the ranks.
    """
    found: dict[tuple[str, str], dict[int, tuple[int, list[bytes]]]] = {}
    differing: dict[str, tuple[int, int]] = {}
    for rank, records in by_rank.items():
        for kind, name, record, part in records:
            packed = bytes(record)
            parts = found.setdefault((kind, name), {})
            if not is_empty(packed):
                holder, summaries = parts.setdefault(part, (rank, []))
                if holder == rank:
                    summaries.append(packed)
                elif packed not in summaries:
                    differing.setdefault(f"{kind}/{name}", (holder, rank))
    merged = [
        Record(kind, name, merge_packed([packed for _, summaries in parts.values() for packed in summaries]))
        for (kind, name), parts in found.items()
        if parts
    ]
    return merged, differing


def is_empty(packed: bytes) -> bool:
    """Whether it is the summary of no values."""
    return packed[_NUM : _NUM + 8] == bytes(8)
