"""Values close together are counted within a window (csrc/cpu/window.h): the same bytes on every path."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlog.common.native import core

Floats = npt.NDArray[np.float32]
CHUNK = 1 << 16  # values; a window is chosen for each chunk
FLOAT32 = 1  # csrc/core/dtype.h


def edges() -> npt.NDArray[np.float64]:
    """The positive edges, as tensorboardX makes them."""
    made, edge = [], 1e-12
    while edge < 1e20:
        made.append(edge)
        edge *= 1.1
    return np.array(made)


def packed_on(path: str, values: Floats) -> bytes:
    chosen = core.cpu_path()
    try:
        core.choose_cpu_path(path)
        return core.summarize_one(values.ctypes.data, values.size, FLOAT32, 0, 1)
    finally:
        core.choose_cpu_path(chosen)


def assert_same_on_every_path(values: Floats) -> None:
    expected = packed_on("baseline", values)
    for path in core.cpu_paths()[1:]:
        assert packed_on(path, values) == expected, path


CONTENTS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "all zero": lambda rng, n: np.zeros(n),
    "zeros of both signs": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, -0.0),
    "one zero in thirty": lambda rng, n: np.where(rng.random(n) < 1 / 30, 0.0, rng.standard_normal(n)),
    "mostly zero": lambda rng, n: np.where(rng.random(n) < 0.99, 0.0, rng.standard_normal(n)),
    "constant": lambda rng, n: np.full(n, rng.standard_normal()),
    "two values": lambda rng, n: np.where(rng.random(n) < 0.5, 0.3, -7.0),
    "sorted": lambda rng, n: np.sort(rng.standard_normal(n)),
    "squares": lambda rng, n: rng.standard_normal(n) ** 2,
    "many scales": lambda rng, n: rng.standard_normal(n) * np.exp(8 * rng.standard_normal(n)),
    "a window's ends": lambda rng, n: (
        np.exp2(rng.integers(-4, 5, n)) * (1 + rng.integers(-1, 2, n) * 2.0**-23)
    ),
    "outside of a window that a sample suggests": lambda rng, n: np.where(
        np.arange(n) % (n // 64) == 0, 1.0, 1e-9
    ),
    "every pattern": lambda rng, n: rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32),
    "subnormal": lambda rng, n: rng.integers(-(2**22), 2**22, n) * 2.0**-149,
}


@pytest.mark.parametrize("count", [CHUNK, 8192, 8191, 3 * CHUNK + 12_345])
@pytest.mark.parametrize("content", CONTENTS)
def test_contents_give_the_same_bytes_on_every_path(content: str, count: int) -> None:
    rng = np.random.default_rng(count)
    with np.errstate(all="ignore"):
        assert_same_on_every_path(CONTENTS[content](rng, count).astype(np.float32))


@pytest.mark.parametrize("sign", [1, -1])
def test_neighbours_of_every_edge_and_power_of_two_are_counted_exactly(sign: int) -> None:
    of_interest = np.concatenate([edges(), np.exp2(np.arange(-126, 127))]).astype(np.float32)
    nearby = of_interest.view(np.int32)[:, None] + np.arange(-4, 5, dtype=np.int32)
    every = np.ascontiguousarray(sign * nearby.view(np.float32))
    for first in range(0, len(every), 40):  # forty boundaries or so lie in one window
        values = np.resize(every[first : first + 40].ravel(), 8192)
        assert_same_on_every_path(values)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(8192, 3 * CHUNK),
    scale=st.integers(-44, 38),
    spread=st.floats(0, 12),
    zeros=st.floats(0, 1),
    odd=st.lists(st.floats(width=32), max_size=8),
    misaligned=st.integers(0, 15),
)
@settings(deadline=None, max_examples=60)
def test_any_mixture_gives_the_same_bytes_on_every_path(
    seed: int, count: int, scale: int, spread: float, zeros: float, odd: list[float], misaligned: int
) -> None:
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        values = rng.standard_normal(count) * np.exp(spread * rng.standard_normal(count)) * 10.0**scale
        values[rng.random(count) < zeros] = 0
        values[rng.integers(0, count, len(odd))] = odd
        assert_same_on_every_path(values.astype(np.float32)[misaligned:])


def test_a_slot_holds_more_values_than_sixteen_bits_count() -> None:
    assert_same_on_every_path(np.full(40 * CHUNK, 0.7, np.float32))
    assert_same_on_every_path(np.resize(np.array([1, 1e-9], np.float32), 40 * CHUNK))
