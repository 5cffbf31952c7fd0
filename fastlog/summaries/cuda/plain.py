"""Summaries of CUDA tensors in plain torch, where there is no engine. The calling thread does not wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from fastlog.summaries.reference import Partial, folded, partials
from fastlog.summaries.summary import EDGES

_edges: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


class PlainLaunch:
    """Summaries that a device still works on. Their memory is torch's."""

    __slots__ = ("_event", "_lock", "_parts", "_summaries", "nbytes")

    def __init__(self, parts: Sequence[list[Partial]], event: torch.cuda.Event) -> None:
        self._parts = parts
        self._event = event
        self._summaries: list[bytes] | None = None
        self._lock = threading.Lock()
        self.nbytes = sum(tensor.nbytes for part in parts for partial in part for tensor in partial)
        """Pinned bytes held until they have been read."""

    def packed(self) -> list[bytes]:
        """Waits for the device, asleep; the packed summaries in the order of the tensors.

        Raises:
            RuntimeError: the device failed (CUDA's own text).
        """
        with self._lock:
            if self._summaries is None:
                self._event.synchronize()
                self._summaries = [folded(part).to_packed() for part in self._parts]
                self._parts = []
            return self._summaries


def start_plain(tensors: Sequence[torch.Tensor], device: int) -> PlainLaunch:
    """Enqueues the summaries of dense tensors on the current stream of their device."""
    with torch.cuda.device(device):
        edges = _edges_on(device)
        parts = []
        for tensor in tensors:
            made = partials(tensor.detach().reshape(-1), edges)
            parts.append([(_to_host(integers), _to_host(moments)) for integers, moments in made])
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
    return PlainLaunch(parts, event)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Pinned memory that the values come to in stream order."""
    return tensor.to("cpu", non_blocking=True)


def _edges_on(device: int) -> torch.Tensor:
    """The edges in the memory of the current device; its first call waits for them."""
    if device not in _edges:
        pinned = torch.empty(len(EDGES), dtype=torch.float64, pin_memory=True)
        pinned.copy_(torch.from_numpy(EDGES.copy()))
        edges = torch.empty(len(EDGES), dtype=torch.float64, device=f"cuda:{device}")
        edges.copy_(pinned, non_blocking=True)
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        event.synchronize()
        _edges[device] = edges, pinned
    return _edges[device][0]


class PlainClock:
    """Timed events of a CUDA device by torch alone; used as a ``Runtime`` is for them."""

    def __init__(self, device: int) -> None:
        self._device = device

    def event(self, timed: bool) -> _TimedEvent:
        with torch.cuda.device(self._device):
            return _TimedEvent(self._device, torch.cuda.Event(enable_timing=timed))  # type: ignore[no-untyped-call]

    def stream(self) -> int:
        """The calling thread's current one, which the events take by themselves."""
        return 0


class _TimedEvent:
    def __init__(self, device: int, event: torch.cuda.Event) -> None:
        self._device = device
        self._event = event

    def record(self, stream: int) -> None:
        with torch.cuda.device(self._device):
            self._event.record()

    def done(self) -> bool:
        with torch.cuda.device(self._device):
            return bool(self._event.query())  # type: ignore[no-untyped-call]

    def seconds_since(self, earlier: _TimedEvent) -> float:
        with torch.cuda.device(self._device):
            return float(earlier._event.elapsed_time(self._event)) / 1e3
