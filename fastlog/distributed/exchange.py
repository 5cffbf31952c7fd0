"""The one collective: every rank learns what every rank brings, the first one gets it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

_NEWS_SECS = 1.0  # until all ranks know that a round has failed
_LONGEST_PAUSE_SECS = 0.05  # between two looks whether a round is over
_BLOCK = 4096  # rooms are multiples of so many bytes


class Head(NamedTuple):
    """What a rank brings: int64 each. ``step`` and ``key`` say what it belongs to."""

    step: int
    key: int
    nbytes: int


_HEAD_BYTES = 8 * len(Head._fields)


class Round(NamedTuple):
    """What a round brought: by rank, the same on all ranks but for ``payloads``, which only the first has.

    A payload has not ``arrived`` where there was no room for it; in the next round there is.
    """

    heads: list[Head]
    arrived: list[bool]
    payloads: list[memoryview]


class AbsentRanks(TimeoutError):
    """Ranks that did not come to where the others are.

    Attributes:
        ranks: their global ranks.
    """

    def __init__(self, ranks: Sequence[int], timeout: float) -> None:
        super().__init__(f"nothing came from rank {', '.join(map(str, ranks))} within {timeout:g} s")
        self.ranks = list(ranks)


class Numbering:
    """Numbers the exchanges of the same ranks alike on all of them, without asking them.

    Each rank counts what it makes. What it has made alone (``if rank == 0:``) ends marked in the store, and
    the others, which come there later, pass over it: then they count alike again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = 0
        self._numbers: list[int] = []

    def next(self) -> int:
        """Which of this rank's exchanges the new one is."""
        with self._lock:
            self._made += 1
            return self._made - 1

    def number(self, nth: int, store: Any) -> int:
        """The number of this rank's nth exchange. Asks the store."""
        with self._lock:
            while len(self._numbers) <= nth:
                number = self._numbers[-1] + 1 if self._numbers else 0
                while store.check([f"over/{number}"]):
                    number += 1
                self._numbers.append(number)
            return self._numbers[nth]


class Exchange:
    """A gloo group of its own over the ranks, next to the program's groups.

    It is not registered with torch.distributed: the program's groups, their names and their streams know
    nothing of it, and where some rank does not take part, only this group ends.

    Each round is one all-to-all. Every rank sends its ``Head`` to every rank, and its payload to the first
    rank, in a room whose size all ranks know: as large as that rank has ever needed, and a quarter more. A
    payload that is larger than its room stays behind; the next round has room for it.

    Args:
        store: of the program, shared by the ranks.
        ranks: global ranks, ascending.
        rank: this one, among them.
        numbering: of these ranks and this store.
        nth: its ``next``, from the thread that makes exchanges in the same order on all ranks.

    Attributes:
        greeting: what the first rank has called ``meet`` with; "" before, and where it is absent.

    Raises:
        RuntimeError: there is no gloo, or torch is older than 2.8; or the store is gone.
    """

    def __init__(self, store: Any, ranks: Sequence[int], rank: int, numbering: Numbering, nth: int) -> None:
        if not (hasattr(store, "clone") and dist.is_gloo_available()):
            raise RuntimeError("this needs torch 2.8 or newer, with gloo")
        self._ranks = ranks
        self._me = ranks.index(rank)
        self._room = [0] * len(ranks)
        self.greeting = ""
        name = hashlib.blake2s("-".join(map(str, ranks)).encode(), digest_size=8).hexdigest()
        # A connection of its own: who waits in a store keeps the process's other threads from it.
        self._shared: Any = _under(f"fastlog/{name}", store.clone())
        self._number = numbering.number(nth, self._shared)
        self._store: Any = _under(str(self._number), self._shared)
        self._group: Any = None

    @property
    def has_met(self) -> bool:
        """Whether all ranks were here."""
        return self._group is not None

    def meet(self, timeout: float, greeting: str) -> None:
        """Waits until all ranks are here.

        Args:
            timeout: seconds until a rank counts as absent; of each round, too.
            greeting: the first rank's is for all.

        Raises:
            AbsentRanks: not all ranks have come in time.
            RuntimeError: the others have given up waiting for this rank, or do not connect.
        """
        keys = [f"here/{i}" for i in range(len(self._ranks))]
        self._store.set(keys[self._me], greeting)
        if self._shared.check([f"over/{self._number}"]):
            raise RuntimeError("the others have not waited for this rank")
        present = keys
        try:
            self._store.wait(keys, timedelta(seconds=timeout))
        except dist.DistStoreError:
            present = [key for key in keys if self._store.check([key])]
        if keys[0] in present:
            self.greeting = self._store.get(keys[0]).decode()
        if len(present) < len(keys):
            self._shared.set(f"over/{self._number}", "")
            absent = [rank for rank, key in zip(self._ranks, keys, strict=True) if key not in present]
            raise AbsentRanks(absent, timeout)
        self._group = dist.ProcessGroupGloo(
            _under("gloo", self._store), self._me, len(self._ranks), timedelta(seconds=timeout)
        )

    def round(self, head: Head, payload: bytes) -> Round:
        """Takes part in the next round; waits until all ranks do.

        Raises:
            RuntimeError: a rank did not come in time, or died. The group is finished then.
        """
        size, me, room = len(self._ranks), self._me, list(self._room)
        heads = torch.tensor([head] * size, dtype=torch.int64).view(torch.uint8)
        own_room = torch.zeros(room[me], dtype=torch.uint8)
        if 0 < len(payload) <= room[me]:
            own_room[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        sent = torch.cat([heads[0], own_room, heads[1:].flatten()])
        sent_sizes = [_HEAD_BYTES] * size
        sent_sizes[0] += room[me]
        got_sizes = [_HEAD_BYTES + (room[i] if me == 0 else 0) for i in range(size)]
        got = torch.empty(sum(got_sizes), dtype=torch.uint8)
        _finish(self._group.alltoall_base(got, sent, got_sizes, sent_sizes, dist.AllToAllOptions()))

        parts = torch.split(got, got_sizes)
        found = [Head(*part[:_HEAD_BYTES].clone().view(torch.int64).tolist()) for part in parts]
        needed = [0] + [head.nbytes for head in found[1:]]
        for i, nbytes in enumerate(needed):
            if nbytes > room[i]:
                self._room[i] = -(-nbytes * 5 // (4 * _BLOCK)) * _BLOCK
        arrived = [nbytes <= room[i] for i, nbytes in enumerate(needed)]
        payloads = [
            part.numpy().data[_HEAD_BYTES:][: nbytes if me == 0 and there else 0]
            for part, nbytes, there in zip(parts, needed, arrived, strict=True)
        ]
        payloads[0] = memoryview(payload if me == 0 else b"")
        return Round(found, arrived, payloads)

    def leave(self) -> None:
        """Ends the group, for the others, too: those that wait in a round are told at once."""
        self._group = None

    def absent(self) -> list[int]:
        """After a round that failed: the ranks for which it has not failed, because they are not there."""
        self._store.set(f"left/{self._me}", "")
        time.sleep(_NEWS_SECS)
        return [rank for i, rank in enumerate(self._ranks) if not self._store.check([f"left/{i}"])]


def _finish(work: Any) -> None:
    """Waits in Python: a thread that the end of the process meets inside of gloo would abort it."""
    pause = 0.0002
    while not work.is_completed():
        time.sleep(pause)
        pause = min(1.3 * pause, _LONGEST_PAUSE_SECS)
    work.wait()  # raises what went wrong


def _under(prefix: str, store: Any) -> Any:
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
