"""Summaries that a CUDA device still makes: who may use which pinned memory, and when it can be read.

The calling thread only enqueues work on its current stream. The worker, which reads a `PendingLaunch`, waits.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastlog.summaries.cuda.runtime import Event, Memory, Row, Runtime

if TYPE_CHECKING:
    import fastlog._cuda as _cuda

_SMALLEST = 1 << 14
_LOOK_AGAIN = 0.002  # seconds between looks at the device, while a caller waits for pinned memory
_MAX_STREAMS = 16  # that keep their device memory; those used longest ago give it back, in stream order
_AT_A_TIME = 16  # launches that it finds finished, or unfinished, before it stops looking

# Pinned memory that a device may still use outlives everything else, even the object that it was taken for.
_used_by_devices: set[_Slot] = set()

CAPTURED = "cannot summarise tensors while their stream is captured into a CUDA graph; log after its replay"


@dataclass(eq=False)
class _Slot:
    """Pinned memory of one call: for each of its launches the records, and behind them the table."""

    nbytes: int
    memory: Memory
    event: Event


@dataclass
class _Workspace:
    """Device memory that the launches of one stream use one after the other."""

    table: Memory
    table_bytes: int
    scratch: Memory
    scratch_bytes: int

    @property
    def nbytes(self) -> int:
        return self.table_bytes + self.scratch_bytes


@dataclass
class _Ledger:
    launches: int = 0
    refused: int = 0
    device_bytes: int = 0
    free: dict[int, list[_Slot]] = field(default_factory=dict)  # by size
    pinned_bytes: int = 0
    in_flight: int = 0
    in_flight_bytes: int = 0


class PendingLaunch:
    """Summaries that a device still works on; let go unread, it gives its memory back."""

    __slots__ = ("__weakref__", "_error", "_launches", "_lock", "_slot", "_summaries", "_transfers", "nbytes")

    def __init__(self, transfers: Transfers, launches: list[_cuda.Launch], slot: _Slot) -> None:
        self._transfers = transfers
        self._launches = launches
        self._slot: _Slot | None = slot
        self._summaries: list[bytes] = []
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self.nbytes = slot.nbytes
        """Pinned bytes held until they have been read."""

    @property
    def is_collected(self) -> bool:
        """Whether the pinned memory is given back."""
        return self._slot is None

    def packed(self) -> list[bytes]:
        """Waits for the device (asleep, without the GIL); the packed summaries in the order of the rows.

        Raises:
            RuntimeError: a kernel, or whatever ran before it on the device, failed (CUDA's own text).
        """
        with self._lock:
            if self._slot is not None:
                self._collect(self._slot, wait=True)
        if self._error is not None:
            raise self._error
        return self._summaries

    def collect(self) -> bool:
        """Gives the pinned memory back if the device has finished; never waits."""
        if not self._lock.acquire(blocking=False):  # somebody waits for it in `packed`
            return False
        try:
            return self._slot is None or self._collect(self._slot, wait=False)
        finally:
            self._lock.release()

    def _collect(self, slot: _Slot, wait: bool) -> bool:
        try:
            if wait:
                slot.event.wait()
            elif not slot.event.done():
                return False
            records = slot.memory.data_ptr()
            summaries: list[bytes] = []
            for launch in self._launches:
                summaries += launch.read(records)
                records += launch.records_bytes + launch.table_bytes
            self._summaries = summaries
        except Exception as error:
            self._slot, self._error = None, error
            self._transfers._retire(slot)
        else:
            self._slot = None
            self._transfers._release(slot)
        return True

    def __del__(self) -> None:
        if self._slot is not None:
            self._transfers._drop_unread(self._slot)


class Transfers:
    """The launches on one device and the pinned memory that their results come through.

    Args:
        runtime: the device.
        max_tensors: of one launch; a call with more makes several.
        max_bytes: of pinned memory in flight. One call may exceed it when nothing else is in flight.

    Raises:
        RuntimeError: the device or its driver cannot run the kernels; with CUDA's own text.
    """

    def __init__(self, runtime: Runtime, *, max_tensors: int, max_bytes: int = 256 << 20) -> None:
        self.runtime = runtime
        self._max_tensors = max_tensors
        self._max_bytes = max_bytes
        self._limits = runtime.prepare()
        self._tables = runtime.upload(runtime.tables())
        self._workspaces: dict[int, _Workspace] = {}
        self._ledger = _Ledger()
        self._pending: deque[weakref.ref[PendingLaunch]] = deque()  # oldest first, collected ones among them
        # Code that gives memory back takes no lock. A finaliser may run it on the thread that holds the lock.
        # The worker may run it while a signal handler on the thread that holds the lock waits for the worker.
        self._returned: deque[_Slot] = deque()
        self._retired: deque[_Slot] = deque()
        self._unread: deque[_Slot] = deque()
        self._lock = threading.Lock()
        self._enqueueing = threading.Lock()  # a stream's launches share its workspace: one at a time

    def start(self, rows: Sequence[Row], timeout: float | None = None) -> PendingLaunch | None:
        """Enqueues the summaries of ``rows`` on the current stream and returns at once.

        The memory behind the rows is read in stream order, as by any torch operation on that stream.

        Args:
            rows: dense device memory. Addresses are multiples of the element size.
            timeout: seconds to wait for pinned memory when too much is in flight, even after what the device
                has finished is read; None: as long as it takes, 0: not at all.

        Returns:
            None if there was no room within ``timeout``.

        Raises:
            RuntimeError: the stream is being captured into a CUDA graph, or CUDA refused the launch.
            ValueError: rows that no launch can take.
        """
        if self.runtime.capturing():
            raise RuntimeError(CAPTURED)
        size = self._max_tensors
        groups = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        launches = [self.runtime.launch(self._limits, group) for group in groups]
        slot = self._acquire(sum(launch.records_bytes + launch.table_bytes for launch in launches), timeout)
        if slot is None:
            return None
        _used_by_devices.add(slot)
        try:
            with self._enqueueing:
                self._enqueue(launches, slot)
        except BaseException:
            self._give_up(slot)
            raise
        pending = PendingLaunch(self, launches, slot)
        with self._lock:
            self._pending.append(weakref.ref(pending))
        return pending

    def stats(self) -> dict[str, int]:
        """Launches, calls refused for lack of room, and bytes: pinned, of them in flight, on the device."""
        with self._lock:
            self._book_returned()
            ledger = self._ledger
            return {
                "launches": ledger.launches,
                "refused": ledger.refused,
                "in_flight": ledger.in_flight,
                "in_flight_bytes": ledger.in_flight_bytes,
                "pinned_bytes": ledger.pinned_bytes,
                "device_bytes": ledger.device_bytes,
            }

    def _enqueue(self, launches: list[_cuda.Launch], slot: _Slot) -> None:
        stream = self.runtime.stream()
        records = slot.memory.data_ptr()
        for launch in launches:
            workspace = self._workspace(stream, launch)
            table = records + launch.records_bytes
            launch.pack(table, records)
            self.runtime.enqueue(
                launch,
                table,
                workspace.table.data_ptr(),
                workspace.scratch.data_ptr(),
                self._tables.data_ptr(),
                stream,
            )
            records = table + launch.table_bytes
        slot.event.record(stream)
        with self._lock:
            self._ledger.launches += len(launches)

    def _workspace(self, stream: int, launch: _cuda.Launch) -> _Workspace:
        now = self._workspaces.pop(stream, None)
        table_bytes, scratch_bytes = _rounded(launch.table_bytes), _rounded(launch.scratch_bytes)
        if now is None or now.table_bytes < table_bytes or now.scratch_bytes < scratch_bytes:
            if now is not None:
                table_bytes = max(table_bytes, now.table_bytes)
                scratch_bytes = max(scratch_bytes, now.scratch_bytes)
                self._ledger.device_bytes -= now.nbytes
            allocate = self.runtime.on_device
            now = _Workspace(allocate(table_bytes), table_bytes, allocate(scratch_bytes), scratch_bytes)
            self._ledger.device_bytes += now.nbytes
        self._workspaces[stream] = now  # the last: used latest
        if len(self._workspaces) > _MAX_STREAMS:
            self._ledger.device_bytes -= self._workspaces.pop(next(iter(self._workspaces))).nbytes
        return now

    def _acquire(self, nbytes: int, timeout: float | None) -> _Slot | None:
        nbytes = _rounded(nbytes)
        deadline = None if timeout is None else time.monotonic() + timeout
        ledger = self._ledger
        while True:
            with self._lock:
                self._book_returned()
                self._forget_collected()
                if not ledger.in_flight or ledger.in_flight_bytes + nbytes <= self._max_bytes:
                    ledger.in_flight += 1
                    ledger.in_flight_bytes += nbytes
                    if ledger.free.get(nbytes):
                        return ledger.free[nbytes].pop()
                    if ledger.pinned_bytes + nbytes > self._max_bytes:
                        for slots in ledger.free.values():
                            ledger.pinned_bytes -= sum(slot.nbytes for slot in slots)
                            slots.clear()
                    ledger.pinned_bytes += nbytes
                    break
            if self._collect_finished():
                continue
            left = _LOOK_AGAIN if deadline is None else min(_LOOK_AGAIN, deadline - time.monotonic())
            if left <= 0:
                with self._lock:
                    ledger.refused += 1
                return None
            time.sleep(left)
        try:
            return _Slot(nbytes, self.runtime.pinned(nbytes), self.runtime.event())
        except BaseException:
            with self._lock:
                ledger.pinned_bytes -= nbytes
                self._book(nbytes)
            raise

    def _collect_finished(self) -> bool:
        """Reads what the device has finished, so that its memory serves the next; False: there is none.

        The calling thread may hold unread launches that are in no queue yet, or the queue's worker may be
        held up. Without this the calling thread would wait for memory that only it can give back.
        """
        with self._lock:
            launches = [pending for reference in self._pending if (pending := reference()) is not None]
        collected = unfinished = 0
        for pending in launches:
            if not pending.is_collected:
                finished = pending.collect()
                collected += finished
                unfinished += not finished
            if max(collected, unfinished) == _AT_A_TIME:
                break
        return collected > 0

    def _forget_collected(self) -> None:
        while self._pending:
            pending = self._pending[0]()
            if pending is not None and not pending.is_collected:
                return
            self._pending.popleft()

    def _release(self, slot: _Slot) -> None:
        self._returned.append(slot)

    def _retire(self, slot: _Slot) -> None:
        """Never uses memory again of which nobody knows whether the device has done with it."""
        self._retired.append(slot)

    def _drop_unread(self, slot: _Slot) -> None:
        self._unread.append(slot)

    def _give_up(self, slot: _Slot) -> None:
        """For a launch that failed: the device may have begun with it."""
        try:
            slot.event.record(self.runtime.stream())
        except Exception:
            self._retire(slot)
        else:
            self._drop_unread(slot)

    def _book_returned(self) -> None:
        """Books what was given back."""
        for _ in range(len(self._unread)):
            slot = self._unread.popleft()
            try:
                (self._returned if slot.event.done() else self._unread).append(slot)
            except Exception:  # the device is broken, which whoever waits for it learns
                self._retire(slot)
        while self._retired:
            self._book(self._retired.popleft().nbytes)
        while self._returned:
            slot = self._returned.popleft()
            _used_by_devices.discard(slot)
            self._ledger.free.setdefault(slot.nbytes, []).append(slot)
            self._book(slot.nbytes)

    def _book(self, nbytes: int) -> None:
        self._ledger.in_flight -= 1
        self._ledger.in_flight_bytes -= nbytes


def _rounded(nbytes: int) -> int:
    """Up to a power of two, so that few sizes serve all calls."""
    return max(_SMALLEST, 1 << (nbytes - 1).bit_length())
