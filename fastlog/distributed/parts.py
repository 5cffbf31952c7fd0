"""Summaries by name, as they travel between ranks, and what they are together."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fastlog.summaries.engines import Packed
from fastlog.summaries.packed import merge_packed, num_of


class Record(NamedTuple):
    """The packed summary of one tensor, or of this rank's part of it.

    ``kind`` groups the tensors of a model (weights, gradients, …). ``part`` numbers the parts of the tensor;
    where several ranks have the same part, they have the same values, which count once. ``whole`` is how many
    values all parts have together; 0: not known.
    """

    kind: str
    name: str
    packed: Packed
    part: int = 0
    whole: int = 0


class Merged(NamedTuple):
    """The tensors of all ranks.

    Attributes:
        records: the tensors, whole, in the order in which the names come: so the first rank should name all
            that it knows of.
        differing: by name those of which two ranks hold the same part with other values, with the ranks.
        incomplete: names of those that are not among the ``records``, because not all parts came.
        alike: by name those of which two ranks hold different parts with the same values, with the ranks.
        compared: kinds of which some tensors, or parts, have come from several ranks.
        divided: kinds of which some tensors have parts on several ranks.
    """

    records: list[Record]
    differing: dict[str, tuple[int, int]]
    incomplete: list[str]
    alike: dict[str, tuple[int, int]]
    compared: frozenset[str] = frozenset()
    divided: frozenset[str] = frozenset()


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


def merge(by_rank: Mapping[int, Iterable[Record]]) -> Merged:
    """The parts of each kind and name, put together; each part once."""
    found: dict[tuple[str, str], _Parts] = {}
    differing: dict[str, tuple[int, int]] = {}
    compared: set[str] = set()
    for rank, records in by_rank.items():
        for kind, name, record, part, whole in records:
            packed = bytes(record)
            parts = found.setdefault((kind, name), _Parts(whole))
            if num_of(packed):
                holder, summaries = parts.held.setdefault(part, (rank, []))
                if holder == rank:
                    summaries.append(packed)
                    continue
                compared.add(kind)
                if packed not in summaries:
                    differing.setdefault(f"{kind}/{name}", (holder, rank))
    merged, incomplete = [], []
    alike: dict[str, tuple[int, int]] = {}
    for (kind, name), parts in found.items():
        if not parts.held:
            continue
        if twins := parts.alike():
            alike[f"{kind}/{name}"] = twins
        packed = merge_packed([packed for _, summaries in parts.held.values() for packed in summaries])
        if parts.whole in (0, num_of(packed)):
            merged.append(Record(kind, name, packed))
        else:
            incomplete.append(f"{kind}/{name}")
    divided = frozenset(kind for (kind, _), parts in found.items() if len(parts.held) > 1)
    return Merged(merged, differing, incomplete, alike, frozenset(compared), divided)


class _Parts:
    def __init__(self, whole: int) -> None:
        self.whole = whole
        self.held: dict[int, tuple[int, list[bytes]]] = {}

    def alike(self) -> tuple[int, int] | None:
        """The first two ranks that hold parts with the same values."""
        first: dict[tuple[bytes, ...], int] = {}
        for rank, summaries in self.held.values():
            if (other := first.setdefault(tuple(summaries), rank)) != rank:
                return other, rank
        return None
