"""Times fastlog and its rivals side by side: one round times each of them once, in an order that rotates.

A machine that slows down or speeds up does so for all of them, so the ratios of their medians hold where
absolute times do not. pytest-benchmark times fastlog's part of each round; the rivals' parts are timed while
it sets the round up. Medians, quartiles, ratios and targets go into ``extra_info``, and so into the JSON.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

OURS = "fastlog"


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Entrant:
    """One who takes part.

    Attributes:
        run: what is timed.
        calls: how many calls one ``run`` makes; times are stored per call.
        before: what comes before each ``run``, untimed (to give everyone the same cache, say).
        after: what comes after it, untimed (to wait for a worker that would else run in the next one's time).
    """

    run: Callable[[], object]
    calls: int = 1
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing

    def lap(self) -> float:
        """Runs once; seconds per call."""
        self.before()
        start = time.perf_counter()
        self.run()
        seconds = time.perf_counter() - start
        self.after()
        return seconds / self.calls


@dataclass
class Race:
    """What the ``race`` fixture gives to a benchmark; call it once.

    Attributes:
        quick: fewer rounds, for trying things out.
        targets: the targets of all benchmarks so far, for the table at the end.
        times: after the race, seconds per call of each entrant in each round.
        laps: how often each of them ran, warming up included.
    """

    benchmark: BenchmarkFixture
    quick: bool
    targets: list[dict[str, Any]]
    times: dict[str, list[float]] = field(default_factory=dict)
    laps: int = 0

    def __call__(
        self,
        ours: Entrant,
        rivals: Mapping[str, Entrant] | None = None,
        *,
        seconds: float = 1.0,
        rounds: int | None = None,
        warm_up: bool = True,
    ) -> None:
        """Runs everyone once to warm up, then ``rounds`` times for the record.

        ``rounds=None``: as many as ``seconds`` hold, 5 to 50. If ``quick``, 3 to 10 in any case.
        """
        rivals = dict(rivals or {})
        start = time.perf_counter()
        if warm_up:
            self.laps = 1
            for entrant in (ours, *rivals.values()):
                entrant.lap()
        round_seconds = time.perf_counter() - start
        if self.quick:
            rounds = min(max(int(0.2 * seconds / round_seconds), 3), 10)
        elif rounds is None:
            rounds = min(max(int(seconds / round_seconds), 5), 50)
        self.times = {OURS: [], **{name: [] for name in rivals}}

        def rivals_then_our_before() -> None:
            turn = len(self.times[OURS]) % max(len(rivals), 1)
            names = list(rivals)
            for name in names[turn:] + names[:turn]:
                self.times[name].append(rivals[name].lap())
            ours.before()

        def our_lap() -> None:
            start = time.perf_counter()
            ours.run()
            self.times[OURS].append((time.perf_counter() - start) / ours.calls)

        self.benchmark.pedantic(our_lap, setup=rivals_then_our_before, teardown=ours.after, rounds=rounds)
        self.laps += len(self.times[OURS])
        self.benchmark.extra_info |= {
            "calls": ours.calls,
            "median_seconds": {name: statistics.median(times) for name, times in self.times.items()},
            "quartiles_seconds": {name: _quartiles(times) for name, times in self.times.items()},
            "ratio_to_fastlog": {name: self.median(name) / self.median(OURS) for name in rivals},
        }

    def median(self, name: str = OURS) -> float:
        """Seconds per call."""
        return statistics.median(self.times[name])

    def ratio(self, name: str, to: str = OURS) -> float:
        """How many times longer ``name`` took than ``to``."""
        return self.median(name) / self.median(to)

    def paired_overhead(self, name: str, of: str = OURS) -> float:
        """By how much ``of`` took longer than ``name``, as a share: the median over the rounds."""
        pairs = zip(self.times[of], self.times[name], strict=True)
        return statistics.median(longer / shorter - 1 for longer, shorter in pairs)

    def overheads(self, name: str) -> dict[str, float]:
        """The ``paired_overhead`` over ``name`` of everyone else."""
        return {of: self.paired_overhead(name, of) for of in self.times if of != name}

    def note(self, **facts: Any) -> None:
        """Stores facts beside the times (sizes, dtypes: what the plots need)."""
        self.benchmark.extra_info |= facts

    def target(
        self,
        case: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        goal: float | None = None,
        beside: str = "",
    ) -> None:
        """Notes what was to be reached and what was; nothing fails.

        Args:
            case: what it is about. Where several benchmarks share a case, the report shows the worst of them.
            unit: printed after value and target: "x", "%", "us", ...
            goal: better than the target: good to have.
            beside: a second figure to show with it.
        """
        assert (at_least is None) != (at_most is None)
        target = {
            "case": case,
            "benchmark": self.benchmark.name,
            "value": value,
            "unit": unit,
            "at_least": at_least,
            "at_most": at_most,
            "goal": goal,
            "beside": beside,
        }
        self.benchmark.extra_info.setdefault("targets", []).append(target)
        self.targets.append(target)


def _quartiles(times: list[float]) -> list[float]:
    if len(times) < 2:
        return times * 2
    first, _, third = statistics.quantiles(times, n=4, method="inclusive")
    return [first, third]
