"""What logging costs on CUDA devices: work that the calling thread only enqueues, and that delays a step."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import torch

from fastlog.summaries.cuda.devices import runtime_of
from fastlog.summaries.cuda.plain import PlainClock
from fastlog.summaries.cuda.runtime import Runtime, is_capturing

_Clock: TypeAlias = Runtime | PlainClock


class _Timer(NamedTuple):
    """Two points in a device's current stream."""

    runtime: _Clock
    begun: Any
    ended: Any


class DeviceTime:
    """Takes the time between ``begin`` and ``end`` in the current streams of devices.

    Nothing here waits: a time is known some steps later.
    """

    def __init__(self) -> None:
        self._runtimes: dict[int, _Clock] = {}
        self._free: dict[_Clock, list[_Timer]] = {}
        self._running: list[_Timer] = []
        self._ended: deque[tuple[list[_Timer], float]] = deque()

    def look_at(self, tensors: Iterable[torch.Tensor]) -> None:
        """The devices of the tensors are timed from now on."""
        for device in {tensor.get_device() for tensor in tensors if tensor.is_cuda} - self._runtimes.keys():
            self._runtimes[device] = runtime_of(device) or PlainClock(device)

    def begin(self) -> None:
        """Never raises, as all that follows."""
        with self._unless_broken():
            for device, runtime in self._runtimes.items():
                if not is_capturing(device):
                    timer = free.pop() if (free := self._free.get(runtime)) else _new(runtime)
                    timer.begun.record(runtime.stream())
                    self._running.append(timer)

    def end(self, host_seconds: float) -> None:
        """``host_seconds``: what the calling thread took meanwhile."""
        running, self._running = self._running, []
        with self._unless_broken():
            for timer in running:
                timer.ended.record(timer.runtime.stream())
            if running:
                self._ended.append((running, host_seconds))

    def beyond_host(self) -> float:
        """Seconds by which devices took longer than the calling thread, as far as they have become known."""
        total = 0.0
        with self._unless_broken():
            while self._ended and all(timer.ended.done() for timer in self._ended[0][0]):
                timers, host_seconds = self._ended.popleft()
                device_seconds = max(timer.ended.seconds_since(timer.begun) for timer in timers)
                total += max(0.0, device_seconds - host_seconds)
                for timer in timers:
                    self._free.setdefault(timer.runtime, []).append(timer)
        return total

    @contextlib.contextmanager
    def _unless_broken(self) -> Iterator[None]:
        """Gives up on devices that fail: whoever reads their summaries hears of it."""
        try:
            yield
        except RuntimeError:
            self._runtimes.clear()
            self._running.clear()
            self._ended.clear()


def _new(runtime: _Clock) -> _Timer:
    return _Timer(runtime, runtime.event(timed=True), runtime.event(timed=True))
