"""What gets through to the file, and what the worker takes from a main loop in pure Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from inputs import make_input
from loggers import check_last_histogram, open_writers, raw_events
from race import OURS, Entrant, Race

pytestmark = pytest.mark.benchmark(group="worker")
HISTOGRAMS_PER_STEP = 200


def sustained(
    race: Race, directory: Path, log: Callable[[Any, int], object], calls: dict[str, int], seconds: float
) -> None:
    """Times ``log(writer, step)`` until all of it is in the file, and counts the records there."""
    with open_writers(directory) as writers:

        def entrant(name: str) -> Entrant:
            writer = writers[name]

            def run() -> None:
                for step in range(calls[name]):
                    log(writer, step)
                writer.flush()

            return Entrant(run, calls[name])

        race(entrant(OURS), {name: entrant(name) for name in writers if name != OURS}, seconds=seconds)
        assert not writers[OURS].stats()["dropped"]
    for name in writers:
        assert sum(1 for _ in raw_events(directory / name)) == race.laps * calls[name] + 1  # the version


def test_sustained_scalars(race: Race, tmp_path: Path, quick: bool) -> None:
    calls = {OURS: 10_000 if quick else 200_000, "tensorboardX": 2000, "torch.utils.tensorboard": 2000}
    sustained(
        race, tmp_path, lambda writer, step: writer.add_scalar("loss/train", 0.25, step), calls, seconds=6.0
    )
    race.note(case="scalars, through to the file")
    race.target(
        "sustained scalars through to the file",
        1e-3 / race.median(),
        "thousand/s",
        at_least=200.0,
        beside=f"tensorboardX {1e-3 / race.median('tensorboardX'):.0f} thousand/s",
    )


def test_sustained_histograms(race: Race, tmp_path: Path, quick: bool) -> None:
    given = make_input("gaussian", torch.float32, 768)
    calls = {OURS: 1000 if quick else 20_000, "tensorboardX": 200, "torch.utils.tensorboard": 100}
    sustained(
        race,
        tmp_path,
        lambda writer, step: writer.add_histogram("weights", given.values, step),
        calls,
        seconds=6.0,
    )
    check_last_histogram(tmp_path / OURS, given)
    race.note(case="histograms of 768 values, through to the file")
    race.target(
        "sustained histograms through to the file",
        1e-3 / race.median(),
        "thousand/s",
        at_least=15.0,
        beside=f"tensorboardX {1e-3 / race.median('tensorboardX'):.1f} thousand/s",
    )


def pure_python_step() -> int:
    """About 0.1 s of byte code, which needs the interpreter's lock all the time."""
    total = 0
    for i in range(4_000_000):
        total += i & 3
    return total


def test_slow_down_of_a_python_loop(race: Race, tmp_path: Path) -> None:
    given = make_input("gaussian", torch.float32, 10_000)
    with open_writers(tmp_path) as writers:
        writer = writers[OURS]

        def log() -> None:
            for i in range(HISTOGRAMS_PER_STEP):
                writer.add_histogram(f"weights/{i}", given.values, 0)

        race(
            Entrant(pure_python_step, before=log, after=writer.flush),
            {"no logging": Entrant(pure_python_step)},
            seconds=6.0,
        )
    assert sum(1 for _ in raw_events(tmp_path / OURS)) == race.laps * HISTOGRAMS_PER_STEP + 1
    check_last_histogram(tmp_path / OURS, given)
    race.note(case=f"a Python loop of 0.1 s while {HISTOGRAMS_PER_STEP} histograms are written")
    race.target(
        "slow-down of a pure-Python main loop while the worker writes 200 histograms a step",
        100 * race.paired_overhead("no logging"),
        "%",
        at_most=5.0,
    )
