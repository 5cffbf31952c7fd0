"""What the CUDA engine asks of a device: memory, streams and events from torch, launches from ``_cuda``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    import fastlog._cuda as _cuda

Row = tuple[int, int, int, int, int]
"""Address, count, dtype code, zeros that are not stored, address of a float32 to multiply by or 0."""


class Memory(Protocol):
    """Bytes that stay where they are for as long as this object lives."""

    def data_ptr(self) -> int: ...


class Event(Protocol):
    """A point in a stream."""

    def record(self, stream: int) -> None: ...
    def wait(self) -> None:
        """Until the device has passed it: asleep, without the GIL."""

    def done(self) -> bool: ...
    def seconds_since(self, earlier: Any) -> float:
        """Of the device, between two timed events that are done."""


class Runtime(Protocol):
    """A CUDA device. Only `Event.wait` and `upload` may wait for it."""

    def prepare(self) -> Any:
        """Loads the kernels; the device's limits."""

    def tables(self) -> bytes:
        """The constant tables that launches read from device memory."""

    def upload(self, data: bytes) -> Memory:
        """``data`` in device memory, for every stream."""

    def pinned(self, nbytes: int) -> Memory: ...
    def on_device(self, nbytes: int) -> Memory:
        """Device memory for the current stream, which may be let go while work there still uses it."""

    def launch(self, limits: Any, rows: Sequence[Row]) -> _cuda.Launch: ...
    def event(self, timed: bool = False) -> Event: ...
    def stream(self) -> int:
        """The calling thread's current stream."""

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the current stream is one that nobody's work waits in."""

    def capturing(self) -> bool:
        """Whether the current stream is being captured into a graph."""

    def enqueue(
        self, launch: _cuda.Launch, table: int, device_table: int, scratch: int, tables: int, stream: int
    ) -> None: ...


class CudaRuntime:
    """A CUDA device through torch's allocators and streams and the compiled ``fastlog._cuda``."""

    def __init__(self, module: Any, device: int) -> None:
        self._module = module
        self._device = device

    def prepare(self) -> _cuda.DeviceLimits:
        with torch.cuda.device(self._device):
            return self._module.prepare_device(self._device)  # type: ignore[no-any-return]

    def tables(self) -> bytes:
        return self._module.device_tables()  # type: ignore[no-any-return]

    def upload(self, data: bytes) -> torch.Tensor:
        event = self.event()
        with self.aside():
            host = self.pinned(len(data))
            host.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            memory = self.on_device(len(data))
            memory.copy_(host, non_blocking=True)
            event.record(self.stream())
            event.wait()
        return memory

    def pinned(self, nbytes: int) -> torch.Tensor:
        with torch.cuda.device(self._device):  # else torch makes a context on the first device
            memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            self._module.check_mapped(self._device, memory.data_ptr())
        return memory

    def on_device(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=f"cuda:{self._device}")

    def launch(self, limits: _cuda.DeviceLimits, rows: Sequence[Row]) -> _cuda.Launch:
        return self._module.Launch(limits, rows)  # type: ignore[no-any-return]

    def event(self, timed: bool = False) -> Event:
        with torch.cuda.device(self._device):
            return _DeviceEvent(self._device, self._module.Event(self._device, timed))

    def stream(self) -> int:
        return torch.cuda.current_stream(self._device).cuda_stream

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(self._device), torch.cuda.stream(stream):
            yield

    def capturing(self) -> bool:
        return is_capturing(self._device)

    def enqueue(
        self, launch: _cuda.Launch, table: int, device_table: int, scratch: int, tables: int, stream: int
    ) -> None:
        with torch.cuda.device(self._device):
            launch.enqueue(table, device_table, scratch, tables, stream)


class _DeviceEvent:
    """The compiled event with its device current: the worker must not make a context on another one."""

    def __init__(self, device: int, event: Event) -> None:
        self._device = device
        self._event = event

    def record(self, stream: int) -> None:
        with torch.cuda.device(self._device):
            self._event.record(stream)

    def wait(self) -> None:
        with torch.cuda.device(self._device):
            self._event.wait()

    def done(self) -> bool:
        with torch.cuda.device(self._device):
            return self._event.done()

    def seconds_since(self, earlier: _DeviceEvent) -> float:
        with torch.cuda.device(self._device):
            return self._event.seconds_since(earlier._event)


def is_capturing(device: int) -> bool:
    """Whether the calling thread's current stream of a CUDA device is captured into a graph."""
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()
