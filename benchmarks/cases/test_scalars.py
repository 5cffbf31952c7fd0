"""add_scalar: what the calling thread pays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loggers import events, open_lightning, open_wandb, open_writers
from race import OURS, Entrant, Race

pytestmark = pytest.mark.benchmark(group="add_scalar")
OUR_CALLS, THEIR_CALLS = 2000, 500
LAST = 0.25


def repeated(
    log: Callable[[str, Any, int], object], value: Any, calls: int, flush: Callable[[], object] = lambda: None
) -> Entrant:
    """Logs ``value`` at ``calls`` steps that go on from lap to lap, then waits for the file, untimed."""
    first = 0

    def run() -> None:
        nonlocal first
        for step in range(first, first + calls):
            log("loss/train", value, step)
        first += calls

    return Entrant(run, calls=calls, after=flush)


@pytest.mark.parametrize("kind", ["float", "0-d tensor"])
def test_add_scalar(race: Race, tmp_path: Path, kind: str) -> None:
    value = LAST if kind == "float" else torch.tensor(LAST)
    with (
        open_writers(tmp_path) as writers,
        open_lightning(tmp_path) as lightning,
        open_wandb(tmp_path) as run,
    ):
        others = {
            name: repeated(writer.add_scalar, value, THEIR_CALLS, writer.flush)
            for name, writer in writers.items()
            if name != OURS
        }
        if lightning is not None:
            others["Lightning's TensorBoardLogger"] = repeated(
                lambda tag, value, step: lightning.log_metrics({tag: value}, step),
                value,
                THEIR_CALLS,
                lightning.save,
            )
        if run is not None:
            others["wandb, offline"] = repeated(
                lambda tag, value, step: run.log({tag: value}, step=step), value, THEIR_CALLS
            )
        ours = repeated(writers[OURS].add_scalar, value, OUR_CALLS, writers[OURS].flush)
        race(ours, others, seconds=5.0)
    for name in writers:
        written = [event.summary.value[0].simple_value for event in events(tmp_path / name)]
        assert len(written) == race.laps * (OUR_CALLS if name == OURS else THEIR_CALLS)
        assert np.all(np.array(written) == LAST)
    race.note(case=kind)
    if kind == "float":
        race.target(
            "`add_scalar` of a Python float, on the calling thread",
            1e6 * race.median(),
            "µs",
            at_most=2.0,
            beside=f"tensorboardX {1e6 * race.median('tensorboardX'):.1f} µs",
        )
