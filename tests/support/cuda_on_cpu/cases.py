"""Tensors for the kernels, and what NumPy and `math.fsum` say of them."""

from __future__ import annotations

import math
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cuda_on_cpu import build

from fastlog.summaries.summary import EDGES, SUMMARY_DTYPE
from fastlog.summaries.tensors import CODES

CODES = CODES
DTYPES = list(CODES)


@dataclass
class Case:
    """One tensor as the kernels get it. ``multiplier`` is a float32 on the device."""

    tensor: torch.Tensor
    misalignment: int = 0
    implicit_zeros: int = 0
    multiplier: float | None = None

    def encoded(self) -> bytes:
        """As driver.cpp reads it."""
        tensor = self.tensor.contiguous().reshape(-1)
        scaled = self.multiplier is not None
        numbers = (CODES[tensor.dtype], tensor.numel(), self.misalignment, self.implicit_zeros, scaled)
        head = struct.pack("<5qd", *numbers, self.multiplier if self.multiplier is not None else 1.0)
        return head + (tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")

    def values(self) -> np.ndarray:
        """The values that are summarised, float64."""
        stored = self.tensor.reshape(-1)
        if stored.dtype.is_floating_point and stored.element_size() == 1:
            stored = stored.to(torch.float32)
        values = stored.numpy() if stored.dtype is torch.uint64 else stored.to(torch.float64).numpy()
        values = np.concatenate([values.astype(np.float64), np.zeros(self.implicit_zeros)])
        with np.errstate(invalid="ignore", over="ignore"):
            return values if self.multiplier is None else values * np.float64(np.float32(self.multiplier))


def check(case: Case, record: np.void, check_sums: bool = True) -> None:
    """Counts, counters and extremes bit for bit; sums within 1e-12 of the sum of magnitudes."""
    x = case.values()
    finite = x[np.isfinite(x)]
    inside = finite[(finite >= EDGES[0]) & (finite <= EDGES[-1])]
    magnitude = np.abs(finite)
    assert np.array_equal(record["counts"], np.histogram(inside, EDGES)[0])
    expected = {
        "underflow": (finite < EDGES[0]).sum(),
        "overflow": (finite > EDGES[-1]).sum(),
        "nan": np.isnan(x).sum(),
        "pos_inf": (x == np.inf).sum(),
        "neg_inf": (x == -np.inf).sum(),
        "zeros": (x == 0).sum(),
        "below_fp32": ((magnitude > 0) & (magnitude < 2.0**-126)).sum(),
        "below_fp16": ((magnitude > 0) & (magnitude < 2.0**-14)).sum(),
        "below_e4m3": ((magnitude > 0) & (magnitude < 2.0**-6)).sum(),
        "above_e4m3": (magnitude > 448).sum(),
        "above_e5m2": (magnitude > 57344).sum(),
        "above_fp16": (magnitude > 65504).sum(),
        "num": x.size,
        "num_finite": finite.size,
        "min": finite.min() + 0.0 if finite.size else np.inf,
        "max": finite.max() + 0.0 if finite.size else -np.inf,
        "abs_max": magnitude.max() if finite.size else 0.0,
    }
    found = {name: record[name].item() for name in expected}
    assert found == expected
    assert not np.signbit(record["abs_max"]) and not (record["min"] == 0 and np.signbit(record["min"]))
    if check_sums:
        with np.errstate(over="ignore"):
            _check_sum(record["sum"], finite)
            _check_sum(record["sum_squares"], finite * finite)


def _check_sum(got: np.float64, terms: np.ndarray) -> None:
    if np.isinf(terms).any():
        assert got == np.inf
        return
    # math.fsum refuses where a partial sum overflows; scaled by a power of two none does.
    scale = 2.0**-64 if np.abs(terms).max(initial=0) > 1e290 else 1.0
    total = math.fsum(terms * scale)
    if math.isinf(total / scale):
        assert got == total / scale
    else:
        assert abs(got * scale - total) <= 1e-12 * math.fsum(np.abs(terms * scale))


def run(
    cases: list[Case],
    *,
    mode: str = "plain",
    tuning: str = "little",
    grid: int = 3,
    seed: int = 0,
    resident: int = 2,
    csrc: Path = build.CSRC,
) -> np.ndarray:
    """The records that the kernels' own source gives, executed on the CPU."""
    program = build.program(build.HERE / "driver.cpp", mode, csrc)
    with tempfile.TemporaryDirectory() as folder:
        case_file, result_file = Path(folder, "case"), Path(folder, "result")
        case_file.write_bytes(struct.pack("<q", len(cases)) + b"".join(case.encoded() for case in cases))
        arguments = [case_file, result_file, tuning, grid, seed, resident]
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[:4000]
        return np.frombuffer(result_file.read_bytes(), SUMMARY_DTYPE)
