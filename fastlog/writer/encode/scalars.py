"""One number: its item for the queue, and one that is still on a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from fastlog.events.items import DEVICE, JOB, SCALAR, Item
from fastlog.summaries.engines import PendingSummary, PinnedMemoryFull, start
from fastlog.summaries.summary import TensorSummary
from fastlog.writer.encode.snapshots import Snapshot, as_float, take_one


class PendingNumber(Snapshot):
    """A tensor of one element as its summary, on its way with those of histograms."""

    __slots__ = ("_pending",)

    def __init__(self, pending: PendingSummary) -> None:
        self._pending = pending
        self.shape = ()
        self.nbytes = len(pending)

    def array(self) -> np.ndarray[Any, Any]:
        """The number, float64; waits for the device."""
        summary = TensorSummary.from_engine(bytes(self._pending))
        if summary.num_finite:
            return np.array(summary.min)
        return np.array(math.nan if summary.nan else math.inf if summary.pos_inf else -math.inf)


def take_number(value: torch.Tensor, argument: str) -> Snapshot:
    """The one element of a tensor that is not in host memory; a CUDA device is not waited for.

    Raises:
        TypeError: complex, quantised, without values.
        ValueError: not exactly one element.
        RuntimeError: a CUDA device refuses (graph capture, a failed launch, no memory).
    """
    if value.is_cuda and value.numel() == 1:
        try:
            pending = start(value, argument, lambda: 0.0)
        except PinnedMemoryFull:  # among those of histograms: a copy of its own takes little
            pending = None
        if pending is not None:
            return PendingNumber(pending)
    return take_one(value, argument)


def scalar_item(
    argument: str,
    name: str,
    value: Any,
    step: int | None,
    wall_time: float,
    place: str,
    record: list[Any] | None = None,
) -> tuple[Item, int, bool]:
    """What ``FileWriter.put`` takes to log one number, which is also appended to ``record``."""
    if not isinstance(value, torch.Tensor) or value.device.type == "cpu":
        number = as_float(value, argument)
        if record is not None:
            record.append(number)
        return (SCALAR, name, number, step, wall_time), 0, False
    part = take_number(value, argument)

    def run() -> list[Item]:
        number = float(part.array().reshape(()))
        if record is not None:
            record.append(number)
        return [(SCALAR, name, number, step, wall_time)]

    return (JOB, run, part.nbytes, False, place, DEVICE, [name]), part.nbytes, False
