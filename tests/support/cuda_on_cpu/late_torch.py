"""Stands in for torch.cuda and ``fastlog._cuda`` on a machine without a GPU, so that all of fastlog runs.

`FakeCuda.patch` replaces what fastlog asks of torch.cuda. Its tensors (`LateTensor`) say that they are on
a CUDA device; each operation on them, be it training's or the engine's, is put into the current stream of
a `LateDevice` and runs there late, on another thread, in any legal order. Their memory is overwritten, in
stream order, when they are gone. The engine's kernels run on the fiber runtime. Whatever waits for the device
on a training thread fails the test.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from cuda_on_cpu.device import LateEvent
from cuda_on_cpu.late_tensor import LateTensor, Ordinal, poison
from torch.utils._pytree import tree_map

import fastlog.summaries.cuda.devices
import fastlog.summaries.tensors
import fastlog.writer.encode.snapshots
from fastlog.common.notices import Notices


class _Launch:
    """``_cuda.Launch``, whose kernels run when the device gets to them."""

    def __init__(self, fake: FakeCuda, limits: Any, rows: Sequence[Any]) -> None:
        self._fake, self._ordinal = fake, fake.ordinals[limits.device]
        self._real = fake.module.Launch(limits, rows)
        fake.calls.append(len(rows))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def enqueue(self, table: int, device_table: int, scratch: int, tables: int, stream: int) -> None:
        self._fake.check_device(self._ordinal.number)
        if self._fake.refuse_launch:
            error, self._fake.refuse_launch = self._fake.refuse_launch, None
            raise error

        def run() -> None:
            self._ordinal.device.seconds += self._fake.launch_seconds
            if self._ordinal.failure is None:
                self._real.enqueue(table, device_table, scratch, tables, stream)

        self._ordinal.device.put(stream, run)


class _Event(LateEvent):
    """``_cuda.Event``: only with its device current, and only the worker waits."""

    def __init__(self, ordinal: Ordinal) -> None:
        super().__init__(ordinal)  # type: ignore[arg-type]
        self._ordinal = ordinal

    def record(self, stream: int = 0) -> None:
        self._ordinal.fake.check_device(self._ordinal.number)
        super().record(stream)

    def wait(self) -> None:
        self._ordinal.fake.check_device(self._ordinal.number)
        if threading.current_thread() in self._ordinal.training_threads:
            self._ordinal.fake.violations.append("Event.wait")
        super().wait()

    def done(self) -> bool:
        self._ordinal.fake.check_device(self._ordinal.number)
        return super().done()


class FakeCuda:
    """CUDA devices that are none.

    Attributes:
        training_threads: threads that must not wait for a device.
        violations: what waited there.
        calls: rows of each launch.
        refuse_prepare, refuse_launch: raised by the next of these calls.
        launch_seconds: how long each launch takes on its device's clock.
        capturing: whether every stream is being captured.
        allocated: shapes of the tensors that were made on devices.
        recorded: operations that the capture has seen, which each replay would repeat.
    """

    def __init__(self, module: ModuleType, devices: int = 2, seed: int = 0) -> None:
        self.module = module
        self.training_threads: set[threading.Thread] = set()
        self.violations: list[str] = []
        self.calls: list[int] = []
        self.refuse_prepare: Exception | None = None
        self.refuse_launch: Exception | None = None
        self.capturing = False
        self.launch_seconds = 0.0
        self.recorded: list[str] = []
        self.allocated: list[tuple[int, ...]] = []
        self.ordinals = [Ordinal(self, number, seed + number) for number in range(devices)]
        self._current = threading.local()
        self._streams = 100

    def tensor(self, host: torch.Tensor, device: int = 0) -> LateTensor:
        """The values of a host tensor on a device."""
        return self.ordinals[device].wrap(host.detach().clone(memory_format=torch.preserve_format))

    def close(self) -> None:
        for ordinal in self.ordinals:
            ordinal.device.close()

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """No device does anything inside, and this thread must not wait for one."""
        for ordinal in self.ordinals:
            ordinal.device.gate.clear()
        self.training_threads.add(threading.current_thread())
        try:
            yield
        finally:
            self.training_threads.discard(threading.current_thread())
            for ordinal in self.ordinals:
                ordinal.device.gate.set()

    # ---- torch.cuda

    def check_device(self, number: int) -> None:
        if self.device_now() != number:
            self.violations.append(f"device {number} used while {self.device_now()} is current")

    def device_now(self) -> int:
        return getattr(self._current, "device", 0)

    def stream_of(self, device: int) -> int:
        return getattr(self._current, "streams", {}).get(device, 0)

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        number = device if isinstance(device, int) else device.index
        before, self._current.device = self.device_now(), number
        yield
        self._current.device = before

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        streams = getattr(self._current, "streams", {})
        self._current.streams = {**streams, stream.device_index: stream.cuda_stream}
        yield
        self._current.streams = streams

    def new_stream(self, device: int) -> Any:
        self._streams += 1
        return SimpleNamespace(device_index=device, cuda_stream=self._streams)

    def new_event(self, blocking: bool = False, enable_timing: bool = False) -> Any:
        assert blocking or enable_timing  # others spin where they are waited for
        ordinal = self.ordinals[self.device_now()]
        event = _Event(ordinal)

        def synchronize() -> None:
            with self.device(ordinal.number):
                event.wait()

        return SimpleNamespace(
            late=event,
            record=lambda: event.record(self.stream_of(ordinal.number)),
            query=event.done,
            elapsed_time=lambda later: later.late.seconds_since(event) * 1e3,
            synchronize=synchronize,
        )

    def empty(self, *size: Any, **how: Any) -> torch.Tensor:
        if how.pop("pin_memory", False):
            memory = _empty(*size, **how)
            poison(memory)
            weakref.finalize(memory, poison, memory.view(torch.uint8)).atexit = False  # at once
            return memory
        device = torch.device(how.get("device") or "cpu")
        if device.type != "cuda":
            return _empty(*size, **how)
        del how["device"]
        return self.ordinals[device.index].allocate(_empty(*size, **how))

    # ---- fastlog._cuda

    @property
    def as_module(self) -> Any:
        def prepare_device(device: int) -> Any:
            self.check_device(device)
            if self.refuse_prepare:
                raise self.refuse_prepare
            return self.module.prepare_device(device)

        def event(device: int, timed: bool) -> _Event:
            self.check_device(device)
            return _Event(self.ordinals[device])

        return SimpleNamespace(
            MAX_TENSORS=self.module.MAX_TENSORS,
            CHUNK_VALUES=500,  # of the self-check's tensors: fibers are slow
            CudaError=self.module.CudaError,
            prepare_device=prepare_device,
            check_mapped=self.module.check_mapped,
            device_tables=self.module.device_tables,
            Launch=lambda limits, rows: _Launch(self, limits, rows),
            Event=event,
        )

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Makes fastlog see these devices, and none that it has seen before."""
        monkeypatch.delenv("FASTLOG_CUDA", raising=False)
        monkeypatch.setattr(fastlog.summaries.cuda.devices, "_module", lambda: self.as_module)
        monkeypatch.setattr(fastlog.summaries.cuda.devices, "_engines", {})
        monkeypatch.setattr(fastlog.summaries.cuda.devices, "_SAMPLE_BYTES", 500)  # fibers are slow
        monkeypatch.setattr(fastlog.summaries.cuda.devices, "_said", Notices("warn"))
        plain = (*fastlog.summaries.tensors._PLAIN_TYPES, LateTensor)
        monkeypatch.setattr(fastlog.summaries.tensors, "_PLAIN_TYPES", plain)
        monkeypatch.setattr(fastlog.summaries.cuda.plain, "_edges", {})
        monkeypatch.setattr(torch, "empty", self.empty)
        stand_ins = {
            "device": self.device,
            "stream": self.stream,
            "Stream": self.new_stream,
            "Event": self.new_event,
            "current_stream": lambda device: SimpleNamespace(cuda_stream=self.stream_of(device)),
            "is_current_stream_capturing": lambda: self.capturing,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)


_empty = torch.empty


def on_device(fake: FakeCuda, module: torch.nn.Module, device: int = 0) -> torch.nn.Module:
    """Moves a module's parameters to a device."""
    for child in module.modules():
        for name, param in list(child.named_parameters(recurse=False)):
            setattr(child, name, torch.nn.Parameter(fake.tensor(param, device)))
    return module


def to_host(tree: Any) -> Any:
    """The values of late tensors, once their device is done."""
    return tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, LateTensor) else leaf, tree)


def limit_pinned_memory(nbytes: int) -> None:
    """Of each device."""
    for engine in fastlog.summaries.cuda.devices._engines.values():
        assert engine.transfers is not None
        engine.transfers._max_bytes = nbytes
