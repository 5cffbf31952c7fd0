"""One tensor to its histogram: dtypes, sizes, contents, threads, and everyone else who can count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from contenders import FASTLOG, TENSORBOARDX, TORCH_TENSORBOARD, everyone_else
from inputs import CONTENTS, Input, make_input
from race import Entrant, Race

import fastlog

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.int32,
)
DTYPE_IDS = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
SIZES = (
    10**2,
    10**3,
    10**4,
    10**5,
    10**6,
    2**22,
    pytest.param(10**7, marks=pytest.mark.large),
    pytest.param(10**8, marks=pytest.mark.large),
)
both_thread_counts = pytest.mark.parametrize("threads", [1, 2], indirect=True, ids=["1thread", "2threads"])


def entrant(run: Callable[[torch.Tensor], object], given: Input) -> Entrant:
    return Entrant(lambda: run(given.values), before=given.warm)


def check_ours(given: Input) -> None:
    np.testing.assert_array_equal(fastlog.summarize(given.values).counts, given.expected())


@pytest.mark.benchmark(group="one tensor: dtypes and sizes")
@both_thread_counts
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_dtypes_and_sizes(race: Race, dtype: torch.dtype, size: int, threads: int) -> None:
    given = make_input("gaussian", dtype, size)
    check_ours(given)
    calls = max(1, 10**4 // size)

    def run() -> None:
        for _ in range(calls):
            fastlog.summarize(given.values)

    race(Entrant(run, calls=calls, before=given.warm), seconds=0.2)
    race.note(dtype=str(dtype).removeprefix("torch."), values=size, threads=threads)


@pytest.mark.benchmark(group="one tensor: contents")
@both_thread_counts
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_contents(race: Race, dtype: torch.dtype, content: str, threads: int, quick: bool) -> None:
    size = 2**20 if quick else 2**22
    gaussian, given = make_input("gaussian", dtype, size), make_input(content, dtype, size)
    check_ours(given)
    race(
        entrant(fastlog.summarize, given),
        {"fastlog, Gaussian": entrant(fastlog.summarize, gaussian)},
        seconds=0.5,
    )
    race.note(
        dtype=str(dtype).removeprefix("torch."),
        values=size,
        threads=threads,
        content=content,
        case=f"{content}, {str(dtype).removeprefix('torch.')}, {threads} thread{'s' * (threads > 1)}",
    )
    if content != "gaussian":
        race.target(
            "zeros-heavy, constant, two-valued, heavy-tailed or sorted, against Gaussian, all dtypes",
            race.ratio("fastlog", to="fastlog, Gaussian"),
            "x the time",
            at_most=1.5,
        )


@pytest.mark.benchmark(group="one tensor: everyone")
@both_thread_counts
@pytest.mark.parametrize("size", [100, 10_000, 2**22], ids=["100", "10k", "4M"])
def test_everyone(race: Race, size: int, threads: int, quick: bool) -> None:
    if quick:
        size = min(size, 2**18)
    given = make_input("gaussian", torch.float32, size)
    counters = everyone_else(threads)
    for counter in (FASTLOG, *counters.values()):
        counter.check(given.values, given.expected)
    race(
        entrant(FASTLOG.run, given),
        {name: entrant(counter.run, given) for name, counter in counters.items()},
        seconds=8.0 if size > 10_000 else 1.0,
    )
    race.note(values=size, threads=threads, case=f"{size:,} values, {threads} thread{'s' * (threads > 1)}")


@pytest.mark.benchmark(group="one tensor: contents, beside the others")
@pytest.mark.parametrize("content", CONTENTS)
def test_contents_beside_others(race: Race, content: str, quick: bool) -> None:
    given = make_input(content, torch.float32, 2**18 if quick else 2**20)
    counters = (TENSORBOARDX, TORCH_TENSORBOARD)
    for counter in (FASTLOG, *counters):
        counter.check(given.values, given.expected)
    race(
        entrant(FASTLOG.run, given),
        {counter.name: entrant(counter.run, given) for counter in counters},
        seconds=1.5,
    )
    race.note(case=f"{content}, float32, {given.values.numel():,} values")


@pytest.mark.benchmark(group="out of cache")
@pytest.mark.parametrize("threads", [2], indirect=True, ids=["2threads"])
def test_one_read_pass(race: Race, threads: int, quick: bool) -> None:
    size = 2**22 if quick else 2**26
    given = make_input("gaussian", torch.float32, size)
    check_ours(given)
    race(entrant(fastlog.summarize, given), {"x.sum()": entrant(torch.sum, given)}, seconds=5.0)
    race.note(case=f"{size * 4 / 2**20:.0f} MB float32, {threads} threads")
    race.target(
        "256 MB float32 (out of cache), two threads",
        race.ratio("fastlog", to="x.sum()"),
        "x one read pass",
        at_most=4.0,
    )


@pytest.mark.benchmark(group="out of cache")
@pytest.mark.parametrize("threads", [2], indirect=True, ids=["2threads"])
def test_bfloat16_beside_float32(race: Race, threads: int, quick: bool) -> None:
    size = 2**20 if quick else 2**26
    singles = Input(torch.randn(size, generator=torch.Generator().manual_seed(0)), torch.empty(0), 1)
    halves = Input(singles.values.bfloat16(), torch.empty(0), 1)
    part = halves.values[: 2**20]
    np.testing.assert_array_equal(fastlog.summarize(part).counts, Input(part, part, 1).expected())
    race(
        entrant(fastlog.summarize, halves),
        {"fastlog, float32": entrant(fastlog.summarize, singles)},
        seconds=5.0,
    )
    race.note(case=f"{size / 2**20:.0f} M bf16, {threads} threads")
    rates = [size / race.median(name) / 1e9 for name in ("fastlog", "fastlog, float32")]
    race.target(
        "64 M bf16, two threads",
        race.ratio("fastlog, float32"),
        "x the float32 rate",
        at_least=4 / 2.5,
        beside=f"{rates[0]:.2f} G values/s where float32 reaches {rates[1]:.2f}",
    )
