"""Summaries on their way from a CUDA device: who may use which pinned memory, and when it can be read.

The calling thread only enqueues work on its current stream; whoever reads a `Flight` (the worker) waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from fastlog import _cuda

Row = tuple[int, int, int, int, int]
"""Address, count, dtype code, zeros that are not stored, address of a float32 to multiply by or 0."""

_SMALLEST = 1 << 14

# Pinned memory that a device may still use outlives everything else, even the object that it was taken for.
_used_by_devices: set[_Slot] = set()


class Memory(Protocol):
    """Bytes that stay where they are for as long as this object lives."""

    def data_ptr(self) -> int: ...


class Event(Protocol):
    """A point in a stream."""

    def record(self, stream: int) -> None: ...
    def wait(self) -> None: ...
    def done(self) -> bool: ...


class Runtime(Protocol):
    """What is asked of a CUDA device. Only `Event.wait`, and `prepare` once, may wait for it."""

    def prepare(self) -> tuple[Any, Memory]:
        """Loads the kernels; the device's limits, and its constant tables in device memory."""

    def pinned(self, nbytes: int) -> Memory: ...
    def on_device(self, nbytes: int) -> Memory:
        """Device memory for the current stream, which may be let go while work there still uses it."""

    def launch(self, limits: Any, rows: Sequence[Row]) -> _cuda.Launch: ...
    def event(self) -> Event: ...
    def stream(self) -> int:
        """The calling thread's current stream."""

    def capturing(self) -> bool:
        """Whether that stream is being captured into a graph."""

    def enqueue(
        self, launch: _cuda.Launch, table: int, device_table: int, scratch: int, tables: int, stream: int
    ) -> None: ...


class CudaRuntime:
    """A CUDA device through torch's allocators and streams and the compiled ``fastlog._cuda``."""

    def __init__(self, module: Any, device: int) -> None:
        self._module = module
        self._device = device

    def prepare(self) -> tuple[_cuda.DeviceLimits, torch.Tensor]:
        with torch.cuda.device(self._device):
            limits = self._module.prepare_device(self._device)
            tables = torch.frombuffer(bytearray(self._module.device_tables()), dtype=torch.uint8)
            return limits, tables.to(f"cuda:{self._device}")

    def pinned(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def on_device(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=f"cuda:{self._device}")

    def launch(self, limits: _cuda.DeviceLimits, rows: Sequence[Row]) -> _cuda.Launch:
        return self._module.Launch(limits, rows)  # type: ignore[no-any-return]

    def event(self) -> Event:
        with torch.cuda.device(self._device):
            return self._module.Event(self._device)  # type: ignore[no-any-return]

    def stream(self) -> int:
        return torch.cuda.current_stream(self._device).cuda_stream

    def capturing(self) -> bool:
        with torch.cuda.device(self._device):
            return torch.cuda.is_current_stream_capturing()

    def enqueue(
        self, launch: _cuda.Launch, table: int, device_table: int, scratch: int, tables: int, stream: int
    ) -> None:
        with torch.cuda.device(self._device):
            launch.enqueue(table, device_table, scratch, tables, stream)


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


@dataclass
class _Ledger:
    launches: int = 0
    refused: int = 0
    device_bytes: int = 0
    free: dict[int, list[_Slot]] = field(default_factory=dict)  # by size
    pinned_bytes: int = 0
    in_flight: int = 0
    in_flight_bytes: int = 0


class Flight:
    """Summaries that a device still works on. To be read once; let go unread, it gives its memory back."""

    __slots__ = ("_launches", "_slot", "_transfers", "nbytes")

    def __init__(self, transfers: Transfers, launches: list[_cuda.Launch], slot: _Slot) -> None:
        self._transfers = transfers
        self._launches = launches
        self._slot: _Slot | None = slot
        self.nbytes = slot.nbytes
        """Pinned bytes held until then."""

    def packed(self) -> list[bytes]:
        """Waits for the device (asleep, without the GIL); the packed summaries in the order of the rows.

        Raises:
            RuntimeError: a kernel, or whatever ran before it on the device, failed (CUDA's own text); the
                flight has been read before.
        """
        slot, self._slot = self._slot, None
        if slot is None:
            raise RuntimeError("this flight has been read")
        summaries: list[bytes] = []
        try:
            slot.event.wait()
            records = slot.memory.data_ptr()
            for launch in self._launches:
                summaries += launch.read(records)
                records += launch.records_bytes + launch.table_bytes
        except BaseException:
            self._transfers._lose(slot)
            raise
        self._transfers._release(slot)
        return summaries

    def __del__(self) -> None:
        if self._slot is not None:
            self._transfers._abandon(self._slot)


class Transfers:
    """The launches on one device and the pinned memory that their results come through.

    Args:
        runtime: the device.
        max_tensors: of one launch; a call with more makes several.
        max_bytes: of pinned memory in flight. One call may exceed it when nothing else is in flight.
    """

    def __init__(self, runtime: Runtime, *, max_tensors: int, max_bytes: int = 64 << 20) -> None:
        self._runtime = runtime
        self._max_tensors = max_tensors
        self._max_bytes = max_bytes
        self._limits, self._tables = runtime.prepare()
        self._workspaces: dict[int, _Workspace] = {}
        self._ledger = _Ledger()
        self._abandoned: deque[_Slot] = deque()
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)
        self._enqueueing = threading.Lock()  # a stream's launches share its workspace: one at a time

    def start(self, rows: Sequence[Row], timeout: float | None = None) -> Flight | None:
        """Enqueues the summaries of ``rows`` on the current stream and returns at once.

        The memory behind the rows is read in stream order, as by any torch operation on that stream.

        Args:
            rows: dense device memory. Addresses are multiples of the element size.
            timeout: seconds to wait for pinned memory when too much is in flight; None: as long as it takes,
                0: not at all.

        Returns:
            None if there was no room within ``timeout``.

        Raises:
            RuntimeError: the stream is being captured into a CUDA graph, or CUDA refused the launch.
            ValueError: rows that no launch can take.
        """
        if self._runtime.capturing():
            raise RuntimeError(
                "cannot summarise tensors while their stream is captured into a CUDA graph; "
                "log after its replay"
            )
        size = self._max_tensors
        groups = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        launches = [self._runtime.launch(self._limits, group) for group in groups]
        slot = self._acquire(sum(launch.records_bytes + launch.table_bytes for launch in launches), timeout)
        if slot is None:
            return None
        _used_by_devices.add(slot)
        try:
            with self._enqueueing:
                self._enqueue(launches, slot)
        except BaseException:
            self._leave_behind(slot)
            raise
        return Flight(self, launches, slot)

    def stats(self) -> dict[str, int]:
        """Launches, calls refused for lack of room, and bytes: pinned, of them in flight, on the device."""
        with self._lock:
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
        stream = self._runtime.stream()
        records = slot.memory.data_ptr()
        for launch in launches:
            workspace = self._workspace(stream, launch)
            table = records + launch.records_bytes
            launch.pack(table, records)
            self._runtime.enqueue(
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
        now = self._workspaces.get(stream)
        table_bytes, scratch_bytes = _rounded(launch.table_bytes), _rounded(launch.scratch_bytes)
        if now is not None:
            if now.table_bytes >= table_bytes and now.scratch_bytes >= scratch_bytes:
                return now
            table_bytes = max(table_bytes, now.table_bytes)
            scratch_bytes = max(scratch_bytes, now.scratch_bytes)
            self._ledger.device_bytes -= now.table_bytes + now.scratch_bytes
        allocate = self._runtime.on_device
        grown = _Workspace(allocate(table_bytes), table_bytes, allocate(scratch_bytes), scratch_bytes)
        self._ledger.device_bytes += table_bytes + scratch_bytes
        self._workspaces[stream] = grown
        return grown

    def _acquire(self, nbytes: int, timeout: float | None) -> _Slot | None:
        nbytes = _rounded(nbytes)
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            ledger = self._ledger
            self._collect_abandoned()
            while ledger.in_flight and ledger.in_flight_bytes + nbytes > self._max_bytes:
                left = 0.05 if deadline is None else min(0.05, deadline - time.monotonic())
                if left <= 0:
                    ledger.refused += 1
                    return None
                self._returned.wait(left)  # what was abandoned comes back without a notice: look again
                self._collect_abandoned()
            ledger.in_flight += 1
            ledger.in_flight_bytes += nbytes
            if ledger.free.get(nbytes):
                return ledger.free[nbytes].pop()
            if ledger.pinned_bytes + nbytes > self._max_bytes:
                for slots in ledger.free.values():
                    ledger.pinned_bytes -= sum(slot.nbytes for slot in slots)
                    slots.clear()
            ledger.pinned_bytes += nbytes
        try:
            return _Slot(nbytes, self._runtime.pinned(nbytes), self._runtime.event())
        except BaseException:
            with self._lock:
                ledger.pinned_bytes -= nbytes
                self._land(nbytes)
            raise

    def _release(self, slot: _Slot) -> None:
        with self._lock:
            self._make_free(slot)

    def _leave_behind(self, slot: _Slot) -> None:
        """For a launch that failed: the device may have begun with it."""
        try:
            slot.event.record(self._runtime.stream())
        except Exception:
            self._lose(slot)
        else:
            self._abandon(slot)

    def _lose(self, slot: _Slot) -> None:
        """Never uses memory again of which nobody knows whether the device has done with it."""
        with self._lock:
            self._land(slot.nbytes)

    def _make_free(self, slot: _Slot) -> None:
        _used_by_devices.discard(slot)
        self._land(slot.nbytes)
        self._ledger.free.setdefault(slot.nbytes, []).append(slot)

    def _land(self, nbytes: int) -> None:
        self._ledger.in_flight -= 1
        self._ledger.in_flight_bytes -= nbytes
        self._returned.notify_all()

    def _abandon(self, slot: _Slot) -> None:
        self._abandoned.append(slot)  # no lock: finalisers run anywhere

    def _collect_abandoned(self) -> None:
        for _ in range(len(self._abandoned)):
            slot = self._abandoned.popleft()
            try:
                done = slot.event.done()
            except Exception:  # the device is broken, which whoever waits for it learns
                self._land(slot.nbytes)
                continue
            if done:
                self._make_free(slot)
            else:
                self._abandoned.append(slot)


def _rounded(nbytes: int) -> int:
    """Up to a power of two, so that few sizes serve all calls."""
    return max(_SMALLEST, 1 << (nbytes - 1).bit_length())


_transfers: dict[int, Transfers] = {}
_preparing = threading.Lock()


def transfers_of(module: Any, device: int) -> Transfers:
    """The process's transfers from a CUDA device. The first call loads the kernels, and waits for that.

    Args:
        module: the compiled ``fastlog._cuda``.
        device: CUDA's ordinal.

    Raises:
        RuntimeError: the device or its driver cannot run the kernels; with CUDA's own text.
    """
    found = _transfers.get(device)
    if found is None:
        with _preparing:
            found = _transfers.get(device)
            if found is None:
                found = Transfers(CudaRuntime(module, device), max_tensors=module.MAX_TENSORS)
                _transfers[device] = found
    return found
