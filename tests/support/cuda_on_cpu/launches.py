"""Launches on the late device: of random tensors, read as the worker does, compared with the CPU engine."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from cuda_on_cpu.device import LateRuntime

import fastlog
from fastlog.summaries.cuda.transfers import PendingLaunch, Row, Transfers
from fastlog.summaries.summary import TensorSummary
from fastlog.summaries.tensors import view_of


def transfers_on(runtime: LateRuntime, **settings: int) -> Transfers:
    return Transfers(runtime, **{"max_tensors": runtime.module.MAX_TENSORS, **settings})


# A device's memory is freed in stream order, a host tensor's at once: what was handed over stays.
_alive: list[torch.Tensor] = []


def rows_of(tensors: list[torch.Tensor]) -> list[Row]:
    _alive.extend(tensors)
    return [(v[0], v[1], v[2], v[3], 0) for v in map(view_of, tensors)]


def tensors_of(seed: int, count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = np.random.default_rng(seed).integers(0, 3000, count)
    kinds = (torch.float32, torch.bfloat16, torch.float8_e5m2, torch.int64, torch.float64)
    scaled = [torch.randn(int(size), generator=generator) * 100 for size in sizes]
    return [values.to(kinds[i % len(kinds)]) for i, values in enumerate(scaled)]


def read(pending: PendingLaunch | None) -> list[bytes]:
    """Reads as the worker does: on a thread that may wait."""
    assert pending is not None
    result: list[list[bytes] | BaseException] = []

    def wait() -> None:
        try:
            result.append(pending.packed())
        except BaseException as error:
            result.append(error)

    worker = threading.Thread(target=wait)
    worker.start()
    worker.join(timeout=60)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def assert_summaries(packed: list[bytes], tensors: list[torch.Tensor]) -> None:
    expected = fastlog.summarize(tensors)
    for one, other in zip(map(TensorSummary.from_packed, packed), expected, strict=True):
        for name in one._record.dtype.names:
            if name in ("sum", "sum_squares"):
                assert one._record[name] == pytest.approx(other._record[name], rel=1e-11, abs=1e-9)
            else:
                assert np.array_equal(one._record[name], other._record[name]), name
