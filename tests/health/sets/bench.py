"""A training on the bench: its seed, its log, and what the rules say of it afterwards."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastlog
from fastlog.health import files, rules
from fastlog.health.findings import Finding, RunHealth


class Bench:
    """What a run of the sets gets: a writer, and the way to watch with it.

    Attributes:
        seed: of this repetition; torch is seeded with it.
        told: findings that ``on_finding`` got.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.told: list[Finding] = []
        self.writer = fastlog.SummaryWriter(str(folder))

    def watch(self, model: nn.Module, optimizer: Any, every: int = 1, **options: Any) -> Any:
        """``fastlog.watch``, without histograms."""
        options = {"health": True, "histograms": False, "tensor_scalars": (), "scalars": ("norm",), **options}
        return fastlog.watch(
            model, self.writer, optimizer, every=every, on_finding=self.told.append, **options
        )

    def loss(self, step: int, value: torch.Tensor | float, tag: str = "loss") -> None:
        """Logs the loss."""
        self.writer.add_scalar(tag, float(value), step)

    def again(self) -> None:
        """Another process goes on in the same directory."""
        self.writer.close()
        self.writer = fastlog.SummaryWriter(str(self.folder))

    def fit(
        self,
        model: nn.Module,
        optimizer: Any,
        loss_of: Callable[[int], torch.Tensor],
        steps: int = 80,
        *,
        first: int = 0,
        after: Callable[[int], None] | None = None,
        before: Callable[[int], None] | None = None,
        scheduler: Any = None,
        **options: Any,
    ) -> None:
        """The usual loop, watched."""
        watcher = self.watch(model, optimizer, **options)
        for step in range(first, first + steps):
            if first:
                watcher.step(step)
            optimizer.zero_grad()
            loss = loss_of(step)
            loss.backward()
            if before is not None:
                before(step)
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            self.loss(step, loss)
            if after is not None:
                after(step)
        watcher.remove()


@dataclass(frozen=True)
class Case:
    """One kind of training.

    Attributes:
        run: trains.
        rule: what is planted: the id of the rule that has to say so; "": healthy.
        tensors: some of the tensors that the finding has to name; all that it may name if ``only``.
        first: the step since which it is so; None: not a matter of one step.
        also: rules that may say something besides: what the fault brings with it.
        severity: at least.
        quick: part of the default test suite.
    """

    name: str
    run: Callable[[Bench], None]
    rule: str = ""
    tensors: tuple[str, ...] = ()
    first: int | None = None
    only: bool = False
    also: tuple[str, ...] = ()
    severity: str = "warning"
    quick: bool = False

    @property
    def set(self) -> str:
        """The set that it belongs to, by the file that it stands in."""
        file = self.run.__module__.rpartition(".")[2]
        held_out = {"held_out_again": "held out again, "}.get(file, "held out, " if "held" in file else "")
        return held_out + ("planted" if self.rule else "healthy")


CASES: dict[str, Case] = {}
RESULTS = "results.json"


def case(rule: str = "", **options: Any) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Adds a run to the sets."""

    def add(run: Callable[[Bench], None]) -> Callable[[Bench], None]:
        name = run.__name__
        assert name not in CASES, name
        CASES[name] = Case(name, run, rule, **options)
        return run

    return add


@dataclass
class Result:
    """What the rules said of one repetition."""

    case: Case
    seed: int
    health: RunHealth
    live: tuple[Finding, ...] = ()
    missing: str = ""
    false_alarms: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As the command keeps it."""
        return {
            "set": self.case.set,
            "name": self.case.name,
            "rule": self.case.rule,
            "seed": self.seed,
            "missing": self.missing,
            "false_alarms": [
                f"{f.rule} ({f.severity}, step {f.first_step}): {f.title}" for f in self.false_alarms
            ],
            "said": [
                f"{f.rule} ({f.severity}, step {f.first_step}): {f.title}" for f in self.health.findings
            ],
            "findings": {f.rule: f.severity for f in reversed(self.health.findings)},
        }


def run_case(one: Case, folder: Path, seed: int) -> Result:
    """Trains, and judges from the files."""
    with _own_state(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Bench(folder, seed)
        try:
            one.run(bench)
        finally:
            bench.writer.close()
    return judge_files(one, folder, seed, tuple(bench.told))


def judge_files(one: Case, folder: Path, seed: int, live: tuple[Finding, ...] = ()) -> Result:
    """Judges a training from its files."""
    (history,) = [h for _, h in files.read(folder) if h.run == "."]
    return judge(one, seed, rules.run(history), live)


def result_of(name: str, seed: int, folder: Path, from_files: bool) -> dict[str, Any]:
    """Trains one run, unless it is to be judged again from its files, and says what was found."""
    if not from_files:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return run_case(CASES[name], folder, seed).to_json()
    return judge_files(CASES[name], folder, seed).to_json()


def judge(one: Case, seed: int, health: RunHealth, live: tuple[Finding, ...]) -> Result:
    """Holds findings against what was planted."""
    result = Result(one, seed, health, live)
    result.false_alarms = [
        f for f in health.findings if f.severity != "info" and f.rule != one.rule and f.rule not in one.also
    ]
    if one.rule:
        result.missing = _missing(one, [f for f in health.findings if f.rule == one.rule])
    return result


def _missing(one: Case, found: list[Finding]) -> str:
    if not found:
        return "not found"
    severities = ("info", "warning", "error")
    worst = max(found, key=lambda f: severities.index(f.severity))
    if severities.index(worst.severity) < severities.index(one.severity):
        return f"only {worst.severity}"
    named = {name for finding in found for name in finding.tensors}
    if absent := [name for name in one.tensors if name not in named]:
        return f"does not name {absent}"
    if one.only and (more := sorted(named - set(one.tensors))):
        return f"names {more[:3]}, too"
    if one.first is not None and not any(abs(f.first_step - one.first) <= 1 for f in found):
        return f"since step {found[0].first_step}, not {one.first}"
    return ""


@contextlib.contextmanager
def _own_state(seed: int) -> Iterator[None]:
    threads, default = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(default)
