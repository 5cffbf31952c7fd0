"""The thread that merges what the ranks log, and what happens when they cannot agree."""

from __future__ import annotations

import atexit
import hashlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from typing import Any

import torch.distributed as dist

from fastlog.common.notices import BackgroundThread, users_line, warn_at
from fastlog.distributed import parts
from fastlog.distributed.directories import rank_directory
from fastlog.distributed.exchange import AbsentRanks, Exchange, Head, Numbering, Round
from fastlog.distributed.parts import Merged, Record

MAX_WAITING_BYTES = 256 * 2**20
_EXIT_SECS = 10.0  # the end of a process waits no longer for the other ranks
_NO_STEP = -1

Numbers = dict[str, float]


@dataclass
class Contribution:
    """What one rank brings of something that all ranks log.

    Attributes:
        key: what it is; all ranks bring the same keys in the same order.
        step: of training; a smaller one goes first where the ranks do not bring the same.
        records: this rank's summaries.
        numbers: this rank's numbers.
        deliver: gets what is merged, and the numbers of all ranks by global rank; on the first rank only.
        alone: gets this rank's records where there is no merging any more.
    """

    key: str
    step: int | None
    records: Sequence[Record]
    deliver: Callable[[Merged, dict[int, Numbers]], None]
    alone: Callable[[Sequence[Record]], None]
    numbers: Numbers = field(default_factory=dict)

    def head(self, payload: bytes) -> Head:
        digest = hashlib.blake2s(self.key.encode(errors="replace"), digest_size=8).digest()
        step = _NO_STEP if self.step is None else self.step
        return Head(step, int.from_bytes(digest, "little", signed=True), len(payload))


class Merger:
    """Merges what the ranks of a job log, on a thread of its own; nothing here waits for other ranks.

    All ranks make their mergers in the same order and bring the same things in the same order. Where a rank
    brings something else (it has skipped a step), what not all have brought is lost, counted and said, and
    merging goes on. Where a rank brings nothing for ``timeout`` seconds, or dies, merging is over: from then
    on each rank has its own summaries (``alone``).

    Args:
        ranks: global ranks, ascending; the first one gets what is merged. This one is among them.
        tell: keeps a warning (cause, message) for the program to see. Thread-safe.
        timeout: seconds that a rank may be late.
        logdir: where the first rank logs; the others learn of it.

    Raises:
        RuntimeError: torch.distributed is not initialised.
        ValueError: this rank is not among ``ranks``.
    """

    def __init__(
        self, ranks: Sequence[int], tell: Callable[[str, str], None], timeout: float, logdir: str
    ) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("torch.distributed is not initialised (or already destroyed)")
        self.rank = dist.get_rank()
        if self.rank not in ranks:
            raise ValueError(
                f"this is rank {self.rank}, which is not among the ranks that log: {list(ranks)}"
            )
        self.is_first = self.rank == ranks[0]
        self.logdir = logdir
        self.made_at = users_line()
        self._ranks = list(ranks)
        self._timeout = timeout
        self._pid = os.getpid()
        self._lock = threading.Condition()
        self._waiting: deque[Contribution] = deque()
        self._waiting_bytes = 0
        self._busy = True  # until the thread waits for something to do
        self._ended = False
        self._counts = {"whole": 0, "lost": 0, "alone": 0, "dropped": 0, "differing": 0, "incomplete": 0}
        store = dist.distributed_c10d._get_default_store()
        numbering = _numberings.setdefault(store, {}).setdefault(tuple(ranks), Numbering())
        nth = numbering.next()
        self._tell: Callable[[str, str], None] = lambda cause, message: tell(
            f"{cause} {self._ranks} {nth}", message
        )
        self._thread = BackgroundThread(
            target=self._run, args=(store, numbering, nth), name="fastlog merger", daemon=True
        )
        if not _live:  # multiprocessing's children say nothing to atexit
            Finalize(None, _end_all, exitpriority=200)
        self._thread.start()
        _live.add(self)

    def submit(self, contribution: Contribution) -> None:
        """Takes what this rank brings. Never waits; beyond ``MAX_WAITING_BYTES`` it is dropped."""
        if os.getpid() != self._pid:
            return  # a forked child, which is no rank
        nbytes = _bytes_of(contribution)
        with self._lock:
            if self._waiting_bytes + nbytes > MAX_WAITING_BYTES:
                self._counts["dropped"] += 1
                self._tell(
                    "dropped", "fastlog: summaries that wait for other ranks fill the memory: dropping"
                )
                return
            self._waiting.append(contribution)
            self._waiting_bytes += nbytes
            self._lock.notify_all()

    def drain(self, timeout: float | None = None) -> bool:
        """Waits until all that was submitted before has been merged or is lost; False: not in time."""
        if os.getpid() != self._pid or threading.current_thread() is self._thread:
            return True
        with self._lock:
            return self._lock.wait_for(
                lambda: not (self._waiting or self._busy) or not self._thread.is_alive(), timeout
            )

    @property
    def waiting(self) -> int:
        """How many contributions are not merged yet."""
        return 0 if os.getpid() != self._pid else len(self._waiting)

    def end(self, timeout: float | None = 0.0) -> None:
        """Lets the thread end when all is merged, and waits so long for it."""
        if os.getpid() != self._pid:
            return  # a forked child, where the lock may be held for ever
        with self._lock:
            self._ended = True
            self._lock.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def stats(self) -> dict[str, int]:
        """How many contributions were merged ``whole``, ``lost`` because not all ranks had them, kept for
        this rank ``alone``, and ``dropped`` because memory was short; and how many tensors were found to be
        ``differing`` between ranks that should hold the same, or ``incomplete``, and so not logged.
        """
        with self._lock:
            return dict(self._counts)

    # ---- the thread

    def _run(self, store: Any, numbering: Numbering, nth: int) -> None:
        exchange: Exchange | None = None  # None: there is no merging any more
        try:
            try:
                exchange = Exchange(store, self._ranks, self.rank, numbering, nth)
            except Exception as error:
                self._give_up(None, error)
            while (contribution := self._next()) is not None:
                if exchange is not None:
                    try:
                        self._merge(exchange, contribution)
                        continue
                    except Exception as error:
                        self._give_up(exchange, error)
                        exchange = None
                self._keep_alone(contribution)
        finally:
            with self._lock:
                self._busy = False
                self._lock.notify_all()

    def _next(self) -> Contribution | None:
        """The oldest contribution, which stays in its place; None at the end."""
        with self._lock:
            self._busy = False
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._waiting or self._ended)
            self._busy = bool(self._waiting)
            return self._waiting[0] if self._waiting else None

    def _done(self, contribution: Contribution, as_: str) -> None:
        with self._lock:
            self._waiting.popleft()
            self._waiting_bytes -= _bytes_of(contribution)
            self._counts[as_] += 1

    def _merge(self, exchange: Exchange, mine: Contribution) -> None:
        """Takes part in rounds until this contribution has had its turn."""
        if not exchange.has_met:
            exchange.meet(self._timeout, self.logdir)
            self.logdir = exchange.greeting
        payload = parts.encode(mine.records, mine.numbers)
        head = mine.head(payload)
        while True:
            result = exchange.round(head, payload)
            # Alike on all ranks: whose turn it is, and whether all of it is there.
            turn = min(result.heads, key=lambda h: h.step)[:2]
            takes_part = [h[:2] == turn for h in result.heads]
            if not all(there for there, part in zip(result.arrived, takes_part, strict=True) if part):
                continue
            if all(takes_part):
                self._done(mine, "whole")
                if self.is_first:
                    self._deliver(mine, result)
                return
            with_it = [rank for rank, part in zip(self._ranks, takes_part, strict=True) if part]
            if self.rank in with_it:
                self._done(mine, "lost")
                self._tell(
                    "lost",
                    f"fastlog: step {mine.step} ({mine.key}) was logged by the ranks {with_it} of"
                    f" {self._ranks} only; it is lost. All ranks have to log the same things at the"
                    " same steps (this warning is shown once)",
                )
                return

    def _deliver(self, contribution: Contribution, result: Round) -> None:
        try:
            payloads = zip(self._ranks, result.payloads, strict=True)
            brought = {rank: parts.decode(payload) for rank, payload in payloads}
            merged = parts.merge({rank: found for rank, (found, _) in brought.items()})
            self._report(contribution, merged)
            contribution.deliver(merged, {rank: numbers for rank, (_, numbers) in brought.items()})
        except Exception as error:
            self._tell(
                "deliver", f"fastlog: merged summaries cannot be logged: {type(error).__name__}: {error}"
            )

    def _report(self, contribution: Contribution, merged: parts.Merged) -> None:
        with self._lock:
            self._counts["differing"] += len(merged.differing)
            self._counts["incomplete"] += len(merged.incomplete)
        for name, (one, other) in merged.differing.items():
            self._tell(
                "differing",
                f"fastlog: at step {contribution.step} {len(merged.differing)} tensors differ between ranks"
                f" that should hold the same, {name} on the ranks {one} and {other} among them (this"
                " warning is shown once)",
            )
        for name in merged.incomplete:
            self._tell(
                "incomplete",
                f"fastlog: at step {contribution.step} some ranks did not bring their parts of {name} (a"
                " gradient that is None, or another tensor of that name?); what is not whole is not logged"
                f" ({len(merged.incomplete)} tensors; this warning is shown once)",
            )

    def _keep_alone(self, contribution: Contribution) -> None:
        self._done(contribution, "alone")
        try:
            contribution.alone(contribution.records)
        except Exception as error:
            self._tell("alone", f"fastlog: summaries cannot be logged: {type(error).__name__}: {error}")

    def _give_up(self, exchange: Exchange | None, error: Exception) -> None:
        had_met = exchange is not None and exchange.has_met
        if exchange is not None:
            self.logdir = exchange.greeting or self.logdir
            exchange.leave()
        then = (
            f"Merging is over; rank {self.rank} goes on alone, with summaries of what it holds, in"
            f" {os.path.join(self.logdir, rank_directory(self.rank))}. Training goes on."
        )
        if isinstance(error, AbsentRanks):
            self._tell(
                "absent",
                f"fastlog: {error}. A tensor that is spread over the ranks {self._ranks} has to be logged, or"
                " its model watched, on all of them: not inside of `if rank == 0:`. " + then,
            )
            return
        why = f"the ranks {self._ranks} cannot log together"
        if exchange is not None and had_met:
            try:
                absent = ", ".join(map(str, exchange.absent()))
            except Exception:
                absent = ""  # the store is gone with the rank that had it
            why = f"rank {absent} died, or logs nothing any more" if absent else "a rank died"
        self._tell("over", f"fastlog: {why} ({error}). {then}")


def _bytes_of(contribution: Contribution) -> int:
    return sum(len(record.packed) for record in contribution.records) + 100 * len(contribution.records) + 500


def _end_all() -> None:
    give_up = time.monotonic() + _EXIT_SECS
    mergers = list(_live)
    for merger in mergers:
        merger.end(max(0.0, give_up - time.monotonic()))
    if left := sum(merger.waiting for merger in mergers):
        warn_at(
            mergers[0].made_at,
            f"fastlog: {left} logged steps waited for other ranks when the process ended; they are lost",
        )


# By store and ranks. A program that initialises torch.distributed anew has another store.
_numberings: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], Numbering]] = weakref.WeakKeyDictionary()
_live: weakref.WeakSet[Merger] = weakref.WeakSet()

atexit.register(_end_all)
