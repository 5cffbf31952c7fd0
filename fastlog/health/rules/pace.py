"""Whether the run goes on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastlog.health.findings import Finding
from fastlog.health.history import Floats
from fastlog.health.rules.base import Rule, Run, nothing

_TIMES, _SECONDS = 10.0, 1800.0


def limit_of(wall_times: Floats) -> float:
    """Seconds without an observation from which on a run counts as stalled."""
    usual = float(np.median(np.diff(wall_times))) if len(wall_times) > 1 else 0.0
    return max(_TIMES * usual, _SECONDS)


def _stalled(run: Run) -> Iterator[Finding]:
    now = run.history.now
    assert now is not None
    silent = now - float(run.history.wall_times[-1])
    if silent <= limit_of(run.history.wall_times):
        return
    yield run.finding(
        "stalled",
        "warning",
        f"no step of the optimizer has been seen for {silent / 60:.0f} minutes, since step "
        f"{int(run.steps[-1])}",
        [],
        run.count - 1,
        evidence={"minutes": silent / 60, "usual seconds": limit_of(run.history.wall_times) / _TIMES},
        cause="A data loader or a rank waits for ever, a GradScaler skips every step, or the optimizer "
        "steps without "
        "its hooks.",
        advice="`py-spy dump --pid ...` shows where it waits.",
        judged_by="stalled: no observation for 10 times the usual interval and 30 minutes",
        share=1.0,
    )


STALLED = Rule(
    "stalled",
    _stalled,
    lambda run: nothing(run) or ("" if run.history.now is not None else "only a run that goes on can stall"),
    "no observation for 10 times the usual interval, and 30 minutes",
    "a choice; not calibrated on runs",
)
