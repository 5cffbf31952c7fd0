"""What a summary has to be: NumPy's histogram in float64, and sums without intermediate rounding."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fastlog import TensorSummary

FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
]
INTEGERS = [
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]

# Sizes at which the engine changes its ways, and their neighbours: 16 lanes, blocks of 2048, chunks of 65536,
# several threads and whole 16-bit patterns from 131072.
SIZES = [0, 1, 3, 15, 16, 17, 33, 2047, 2048, 2049, 4099, 65535, 65536, 65537, 131071, 131072, 131073, 200003]


def _default_edges() -> np.ndarray:
    """tensorboardX's loop, which `test_edges_are_those_of_tensorboardx` holds against tensorboardX itself."""
    positive = []
    v = 1e-12
    while v < 1e20:
        positive.append(v)
        v *= 1.1
    return np.array([-edge for edge in positive[::-1]] + [0.0] + positive)


EDGES = _default_edges()


def to_float64(values: Any) -> np.ndarray:
    """All values, one after another, as float64: by NumPy where it has the dtype, else through float32."""
    if isinstance(values, torch.Tensor):
        tensor = values.detach()
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        tensor = tensor.resolve_neg()
        if tensor.dtype in FLOATS[3:]:
            tensor = tensor.to(torch.float32)
        values = tensor.numpy()
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaN; longdouble
        return np.asarray(values).astype(np.float64).reshape(-1)


def exact_fields(values: np.ndarray) -> dict[str, Any]:
    """Every field of the summary of float64 values that has to be exact."""
    finite = values[np.isfinite(values)]
    magnitude = np.abs(finite)
    nonzero = magnitude[magnitude > 0]
    return {
        "counts": np.histogram(finite, EDGES)[0],
        "underflow": (finite < EDGES[0]).sum(),
        "overflow": (finite > EDGES[-1]).sum(),
        "nan": np.isnan(values).sum(),
        "pos_inf": (values == np.inf).sum(),
        "neg_inf": (values == -np.inf).sum(),
        "zeros": (values == 0).sum(),
        "below_fp32": (nonzero < 2.0**-126).sum(),
        "below_fp16": (nonzero < 2.0**-14).sum(),
        "below_e4m3": (nonzero < 2.0**-6).sum(),
        "above_e4m3": (magnitude > 448).sum(),
        "above_e5m2": (magnitude > 57344).sum(),
        "above_fp16": (magnitude > 65504).sum(),
        "num": values.size,
        "num_finite": finite.size,
        "min": finite.min() if finite.size else np.nan,
        "max": finite.max() if finite.size else np.nan,
        "abs_max": magnitude.max() if finite.size else np.nan,
    }


def assert_exact(summary: TensorSummary, values: Any) -> None:
    """Counts, counters and extremes equal the oracle's."""
    expected = exact_fields(to_float64(values))
    got = {name: getattr(summary, name) for name in expected}
    different = [bin for bin in np.flatnonzero(got.pop("counts") != expected.pop("counts"))]
    assert not different, f"counts differ in bins {different[:20]}"
    wrong = {name: got[name] for name in got if not np.array_equal(got[name], expected[name], equal_nan=True)}
    assert not wrong, f"{wrong}, expected { {name: expected[name] for name in wrong} }"


def assert_sums(summary: TensorSummary, values: Any) -> None:
    """`sum` and `sum_squares` are within 1e-12 of the sum of magnitudes, infinite only if that is right."""
    finite = to_float64(values)
    finite = finite[np.isfinite(finite)]
    with np.errstate(over="ignore", under="ignore"):
        assert_sum(summary.sum, finite)
        assert_sum(summary.sum_squares, finite * finite)


def assert_sum(got: float, terms: np.ndarray) -> None:
    if np.isinf(terms).any():  # of squares
        assert got == np.inf
        return
    # math.fsum refuses where a partial sum overflows; scaled by a power of two none does.
    scale = 2.0**-64 if np.abs(terms).max(initial=0) > 1e290 else 1.0
    scaled = terms * scale
    total = math.fsum(scaled)
    magnitude = total if (scaled >= 0).all() else math.fsum(np.abs(scaled))
    if math.isinf(total / scale):
        assert got == total / scale
    else:
        assert abs(got * scale - total) <= 1e-12 * magnitude, f"{got}, expected {total / scale}"


def assert_summary(summary: TensorSummary, values: Any) -> None:
    """The summary is that of `values`: a tensor, an array or a list."""
    assert_exact(summary, values)
    assert_sums(summary, values)


def around_edges(dtype: type[np.floating[Any]]) -> np.ndarray:
    """Every edge in `dtype` and the two neighbours of each, which are not edges where the edge is one."""
    nearest = EDGES.astype(dtype)
    infinity = dtype(np.inf)
    with np.errstate(under="ignore"):
        return np.concatenate([np.nextafter(nearest, -infinity), nearest, np.nextafter(nearest, infinity)])


def landmarks() -> np.ndarray:
    """Values at which a counter or a bin changes, and what is special in some dtype; float64, both signs."""
    powers = [2.0**-126, 2.0**-14, 2.0**-6]
    largest = [448.0, 57344.0, 65504.0, 3.4028234663852886e38, 1.7976931348623157e308]
    smallest = [5e-324, 2.0**-149, 2.0**-133, 2.0**-127, 2.0**-24, 2.2250738585072014e-308]
    plain = [0.0, 1.0, 2.0**53 + 2, 1e-13, 1e-12, EDGES[-1], 1e20, 1e25, 1e300, np.inf, np.nan]
    values = np.array([*powers, *largest, *smallest, *plain])
    with np.errstate(over="ignore", under="ignore"):
        values = np.concatenate([values, np.nextafter(values, 0), np.nextafter(values, np.inf)])
    return np.concatenate([values, -values])


def random_tensor(dtype: torch.dtype, content: str, size: int, seed: int) -> torch.Tensor:
    """`size` values of `content`: one of `CONTENTS`."""
    rng = np.random.default_rng(seed)
    if size == 0:
        return torch.empty(0, dtype=dtype)
    if content == "bits" or dtype == torch.bool:
        patterns = rng.integers(0, 256, size * dtype.itemsize, dtype=np.uint8)
        if dtype == torch.bool:
            return torch.from_numpy(patterns % 2 == 1)
        return torch.from_numpy(patterns).view(dtype)
    if content == "normal":
        values = rng.normal(rng.normal(), 1.0, size) * 10.0 ** rng.uniform(-15, 22)
    elif content == "zeros":
        values = np.where(rng.random(size) < 0.95, 0.0, rng.normal(0, 100, size))
    elif content == "constant":
        values = np.full(size, rng.choice(landmarks()))
    else:
        values = rng.choice(np.concatenate([around_edges(np.float64), landmarks()]), size)
    return cast(values, dtype)


CONTENTS = ["bits", "normal", "zeros", "constant", "edges"]


def cast(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """float64 values in `dtype`; integers saturate, and NaN becomes zero in them."""
    if dtype.is_floating_point:
        tensor = torch.from_numpy(values)
        return (tensor.to(torch.float32) if dtype.itemsize == 1 else tensor).to(dtype)
    limits = torch.iinfo(dtype)
    # float64 rounds the largest 64-bit integers up, out of range.
    highest = min(float(limits.max), np.nextafter(float(limits.max), 0) if limits.bits == 64 else np.inf)
    whole = np.clip(np.nan_to_num(values, nan=0.0), limits.min, highest)
    return torch.from_numpy(whole.astype(str(dtype).removeprefix("torch.")))


def coo(indices: list[list[int]], stored: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    places = torch.tensor(indices, dtype=torch.int64)
    return torch.sparse_coo_tensor(places, stored, shape, check_invariants=True)


def quietly(make: Callable[[], Any]) -> Any:
    """Calls what makes torch warn of a beta or of a deprecation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()
