"""A device whose memory is host memory and whose streams run late, on another thread, in any legal order.

It stands in for `fastlog.summaries.cuda.runtime.CudaRuntime`. What the code under test may not do shows at
once: memory that was let go is overwritten (device memory in stream order, pinned memory at once), nothing
runs before the device's thread gets to it, and waiting on a thread that must not wait raises.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from cuda_on_cpu import build

_POISON = 0xDD


def load_module() -> ModuleType:
    """``fastlog._cuda`` from its own sources, on the fiber runtime instead of CUDA."""
    path = build.extension(
        "_cuda", [build.CSRC / "python" / "cuda_module.cpp", build.CSRC / "cuda" / "launch.cu"]
    )
    spec = importlib.util.spec_from_file_location("_cuda", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class HostMemory:
    """Bytes of the stand-in device, full of garbage at first."""

    def __init__(self, array: np.ndarray) -> None:
        self._address = array.ctypes.data

    def data_ptr(self) -> int:
        return self._address


class LateDevice:
    """Runs the work of its streams, each in order, on a thread of its own; ``gate`` holds it back."""

    def __init__(self, seed: int) -> None:
        self.seconds = 0.0  # on the device's own clock, which those turn who use it
        self.gate = threading.Event()
        self.gate.set()
        self._random = random.Random(seed)
        self._streams: dict[int, deque[Callable[[], None]]] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._crash: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, stream: int, work: Callable[[], None]) -> None:
        with self._changed:
            self._streams.setdefault(stream, deque()).append(work)
            self._changed.notify_all()

    def synchronize(self) -> None:
        """Until all that was put has run. For tests alone."""
        with self._changed:
            self._changed.wait_for(lambda: not any(self._streams.values()))

    def close(self) -> None:
        self.gate.set()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        if self._crash:
            raise self._crash

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or any(self._streams.values()))
                if self._closing and not any(self._streams.values()):
                    return
            self.gate.wait()
            stream = self._random.choice([s for s, work in self._streams.items() if work])
            try:
                self._streams[stream][0]()
            except Exception as error:  # a mistake of the double itself: `close` says so
                self._crash = self._crash or error
            with self._changed:
                self._streams[stream].popleft()
                self._changed.notify_all()


class LateEvent:
    def __init__(self, runtime: LateRuntime) -> None:
        self._runtime = runtime
        self._reached = threading.Event()
        self._reached_at = 0.0
        self._error: Exception | None = None

    def record(self, stream: int) -> None:
        self._reached = reached = threading.Event()

        def reach() -> None:
            self._reached_at = self._runtime.device.seconds
            self._error = self._runtime.failure
            reached.set()

        self._runtime.device.put(stream, reach)

    def wait(self) -> None:
        if threading.current_thread() in self._runtime.training_threads:
            raise AssertionError("a training thread waits for the device")
        self._reached.wait()
        if self._error:
            raise self._error

    def done(self) -> bool:
        if self._reached.is_set() and self._error:
            raise self._error
        return self._reached.is_set()

    def seconds_since(self, earlier: LateEvent) -> float:
        assert self._reached.is_set() and earlier._reached.is_set()
        return self._reached_at - earlier._reached_at


class LateRuntime:
    """A `Runtime` on a `LateDevice`. ``failure``: what the device's work meets from now on."""

    def __init__(self, module: ModuleType, seed: int = 0) -> None:
        self.module = module
        self.device = LateDevice(seed)
        self.training_threads: set[threading.Thread] = set()
        self.failure: Exception | None = None
        self.refuse_launch: Exception | None = None
        self.refuse_pinned: Exception | None = None
        self.is_capturing = False
        self._streams = threading.local()
        self._kept: list[np.ndarray] = []  # never freed, so that a wild write shows as a wrong result

    def use_stream(self, stream: int) -> None:
        """Makes it the calling thread's current stream."""
        self._streams.current = stream

    def prepare(self) -> Any:
        return self.module.prepare_device(0)

    def tables(self) -> bytes:
        return self.module.device_tables()

    def upload(self, data: bytes) -> HostMemory:
        memory, array = self._allocate(len(data))
        array[:] = np.frombuffer(data, np.uint8)
        return memory

    def pinned(self, nbytes: int) -> HostMemory:
        if self.refuse_pinned:
            raise self.refuse_pinned
        memory, array = self._allocate(nbytes)
        weakref.finalize(memory, array.fill, _POISON).atexit = False
        return memory

    def on_device(self, nbytes: int) -> HostMemory:
        memory, array = self._allocate(nbytes)
        let_go = weakref.finalize(memory, self.device.put, self.stream(), lambda: array.fill(_POISON))
        let_go.atexit = False
        return memory

    def launch(self, limits: Any, rows: Sequence[tuple[int, int, int, int, int]]) -> Any:
        return self.module.Launch(limits, rows)

    def event(self, timed: bool = False) -> LateEvent:
        return LateEvent(self)

    def stream(self) -> int:
        return getattr(self._streams, "current", 0)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        before = self.stream()
        self.use_stream(99)
        yield
        self.use_stream(before)

    def capturing(self) -> bool:
        return self.is_capturing

    def enqueue(
        self, launch: Any, table: int, device_table: int, scratch: int, tables: int, stream: int
    ) -> None:
        if self.refuse_launch:
            error, self.refuse_launch = self.refuse_launch, None
            raise error

        def run() -> None:
            if self.failure is None:
                launch.enqueue(table, device_table, scratch, tables, stream)

        self.device.put(stream, run)

    def _allocate(self, nbytes: int) -> tuple[HostMemory, np.ndarray]:
        array = np.full(nbytes + 256, _POISON, np.uint8)
        start = -array.ctypes.data % 256  # as CUDA's allocators align
        array = array[start : start + nbytes]
        self._kept.append(array)
        return HostMemory(array), array
