"""add_histogram: what the calling thread pays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from inputs import make_input
from loggers import check_last_histogram, open_writers
from race import OURS, Entrant, Race

pytestmark = pytest.mark.benchmark(group="add_histogram")


def add_histograms(race: Race, directory: Path, size: int, calls: dict[str, int], seconds: float) -> None:
    given = make_input("gaussian", torch.float32, size)
    with open_writers(directory) as writers:

        def entrant(name: str) -> Entrant:
            writer = writers[name]

            def run() -> None:
                for step in range(calls[name]):
                    writer.add_histogram("weights", given.values, step)

            return Entrant(run, calls[name], before=given.warm, after=writer.flush)

        race(entrant(OURS), {name: entrant(name) for name in writers if name != OURS}, seconds=seconds)
    for name in writers:
        check_last_histogram(directory / name, given)


@pytest.mark.parametrize("threads", [1, 2], indirect=True, ids=["1thread", "2threads"])
def test_4M_values(race: Race, tmp_path: Path, threads: int, quick: bool) -> None:
    size = 2**18 if quick else 2**22
    calls = dict.fromkeys(("fastlog", "tensorboardX", "torch.utils.tensorboard"), 1)
    add_histograms(race, tmp_path, size, calls, seconds=6.0)
    race.note(case=f"{size:,} float32, {threads} thread{'s' * (threads > 1)}")
    race.target(
        f"4 M float32 Gaussian, {'one thread' if threads == 1 else 'two threads'}",
        race.ratio("tensorboardX"),
        "x faster than tensorboardX",
        at_least=100 if threads == 1 else 190,
        goal=150 if threads == 1 else 300,
        beside=f"{1e3 * race.median():.2f} ms against {1e3 * race.median('tensorboardX'):.0f} ms",
    )


def test_768_values(race: Race, tmp_path: Path) -> None:
    calls = {"fastlog": 1000, "tensorboardX": 30, "torch.utils.tensorboard": 15}
    add_histograms(race, tmp_path, 768, calls, seconds=3.0)
    race.note(case="768 float32")
    race.target(
        "768 values through `add_histogram`, on the calling thread",
        1e6 * race.median(),
        "µs",
        at_most=12.0,
        beside=f"tensorboardX {1e6 * race.median('tensorboardX'):.0f} µs",
    )
