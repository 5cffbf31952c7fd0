"""How time and memory grow: with the number of values, of tensors, and with the dtype."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from contenders import FASTLOG, TENSORBOARDX, TORCH_TENSORBOARD
from inputs import make_input
from race import Entrant, Race

import fastlog

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
    *("int8", "uint8", "int16", "int32", "int64", "bool"),
)


def available_bytes() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


@pytest.mark.benchmark(group="growth: number of values")
@pytest.mark.parametrize(
    "exponent", [2, 3, 4, 5, 6, *(pytest.param(e, marks=pytest.mark.large) for e in (7, 8, 9))]
)
def test_number_of_values(race: Race, exponent: int) -> None:
    size = 10**exponent
    if 2 * 4 * size > available_bytes():
        pytest.skip(f"{size:,} float32 values do not fit the memory")
    given = make_input("gaussian", torch.float32, size)
    FASTLOG.check(given.values, given.expected)
    calls = max(1, 10**4 // size)

    def repeated(run: Callable[[torch.Tensor], object]) -> Entrant:
        def laps() -> None:
            for _ in range(calls):
                run(given.values)

        return Entrant(laps, calls, before=given.warm)

    slow = (TENSORBOARDX, TORCH_TENSORBOARD) if size <= 10**7 else ()
    rivals = {counter.name: repeated(counter.run) for counter in slow}
    race(repeated(FASTLOG.run), {"x.sum()": repeated(torch.sum), **rivals}, seconds=2.0)
    race.note(values=size, case=f"{size:,}")


@pytest.mark.benchmark(group="growth: number of tensors")
@pytest.mark.parametrize("tensors", [1, 10, 100, 1000, 10_000])
def test_number_of_tensors(race: Race, tensors: int, quick: bool) -> None:
    given = make_input("gaussian", torch.float32, 10**6 if quick else 2 * 10**7)
    parts = list(given.values.chunk(tensors))
    assert len(parts) == tensors
    counts = sum(summary.counts for summary in fastlog.summarize(parts))
    np.testing.assert_array_equal(counts, given.expected())
    race(
        Entrant(lambda: fastlog.summarize(parts), before=given.warm),
        {"fastlog, one tensor": Entrant(lambda: fastlog.summarize(given.values), before=given.warm)},
    )
    race.note(tensors=tensors, values=given.values.numel(), case=f"{tensors:,}")


@pytest.mark.benchmark(group="growth: dtype")
@pytest.mark.parametrize("name", DTYPES)
def test_dtype(race: Race, name: str, quick: bool) -> None:
    given = make_input("gaussian", getattr(torch, name), 2**20 if quick else 2**24)
    FASTLOG.check(given.values, given.expected)
    race(Entrant(lambda: fastlog.summarize(given.values), before=given.warm), seconds=0.3)
    race.note(dtype=name, values=given.values.numel(), case=name)


# In a process of its own: memory that an earlier test has freed would hide growth.
_MEASURE_MEMORY = """
import sys, torch, fastlog

def kib(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))

x = torch.ones(int(sys.argv[1]) // 4)
fastlog.summarize(x[:1_000_000])  # starts the threads
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak starts again from here
before = kib("VmRSS")
summary = fastlog.summarize(x)
assert summary.num == len(x)
print(1024 * (kib("VmHWM") - before))
"""


@pytest.mark.benchmark(group="memory")
def test_memory_of_one_summarize(race: Race, quick: bool) -> None:
    nbytes = 2**26 if quick else 10**9
    command = [sys.executable, "-c", _MEASURE_MEMORY, str(nbytes)]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    values = torch.ones(nbytes // 4)
    race(Entrant(lambda: fastlog.summarize(values)), rounds=5)
    race.note(values=values.numel(), peak_growth_bytes=grown, case=f"{nbytes / 1e9:g} GB float32")
    race.target(
        "peak memory growth of one `summarize` of 1 GB",
        grown / 2**20,
        "MB",
        at_most=4.0,
    )
