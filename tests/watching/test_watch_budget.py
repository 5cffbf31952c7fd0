"""What `fastlog.watch` costs: its budget, its steps between, its calls of the engine."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_net import Net, train
from torch import nn
from watch_oracle import read, steps

import fastlog.watching.moment
import fastlog.watching.recorder
from fastlog.common.native import core
from fastlog.common.notices import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


class FakeTime:
    """A training step takes 1 s, summarising takes ``cost``; no other time passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
        self.now, self.cost, self.logged = 100.0, cost, 0.0
        pack_many = fastlog.watching.recorder.pack_many

        def slow(*args: Any) -> Any:
            self.now += self.cost / 2  # twice a step: before it and after it
            self.logged += self.cost / 2
            return pack_many(*args)

        monkeypatch.setattr(fastlog.watching.recorder, "pack_many", slow)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("every", [1, 7])
def test_the_budget_is_kept(
    tmp_path: Path, writer: SummaryWriter, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """Logging that would cost 30 % of each step settles at 1 %, and pays back what it took before."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clock = FakeTime(monkeypatch, cost=0.3)
    watcher = watch(model, writer, optimizer, every=every, budget=0.01, clock=clock, histograms=False)
    with pytest.warns(FastlogWarning, match=r"fastlog\.watch: .*stay within 1\.0%") as caught:
        for step in range(1000):
            clock.now += 1.0
            optimizer.zero_grad()
            model(torch.ones(2)).sum().backward()
            optimizer.step()
            if step == 499:
                share_so_far = clock.logged / 500
                assert watcher.every == -(-30 // every) * every
    assert len(caught) == 1, "one warning"
    assert share_so_far <= 0.0105
    assert clock.logged / 1000 <= 0.01 + 0.3 / 1000
    writer.close()
    events = read(tmp_path)
    overheads = [event.value for event in events.Scalars("fastlog/overhead")]
    assert overheads[0] == pytest.approx(0.3 / every) and overheads[-1] <= 0.01 + 1e-9
    assert [event.value for event in events.Scalars("fastlog/every")][-1] == watcher.every
    assert all(step % every == 0 for step in steps(tmp_path))


def test_the_budget_ignores_pauses_and_follows_changes(
    tmp_path: Path, writer: SummaryWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clock = FakeTime(monkeypatch, cost=0.1)
    watcher = watch(model, writer, optimizer, every=5, budget=0.01, clock=clock, histograms=False)

    def run(count: int, pause: float = 0.0) -> None:
        for step in range(count):
            clock.now += 1.0 + (pause if step % 90 == 0 else 0.0)
            optimizer.zero_grad()
            model(torch.ones(2)).sum().backward()
            optimizer.step()

    with pytest.warns(FastlogWarning, match="stay within"):
        run(200)
    assert watcher.every == 10
    run(300, pause=60.0)
    assert watcher.every == 10, "evaluation does not make room for more logging"
    clock.cost = 0.4
    run(800)
    assert watcher.every == 40
    clock.cost = 0.01
    run(800)
    assert watcher.every == 5, "never more often than asked"


@pytest.mark.parametrize(("every", "count", "cost"), [(10, 100, 0.06), (2, 8, 0.2)])
def test_a_short_training_keeps_its_points(
    tmp_path: Path,
    writer: SummaryWriter,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    count: int,
    cost: float,
) -> None:
    """As a tutorial's and a fine-tuning's of a few steps: all of its logging takes less than a second."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clock = FakeTime(monkeypatch, cost)
    watch(model, writer, optimizer, every=every, budget=0.01, clock=clock, histograms=False)
    for step in range(count):
        clock.now += 1e-3
        clock.cost = 0.3 if step == 0 else cost  # the first look is cold
        optimizer.zero_grad()
        model(torch.ones(2)).sum().backward()
        optimizer.step()
    writer.close()
    assert steps(tmp_path) == list(range(0, count, every))


def test_without_a_budget_nothing_is_said_of_it(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    train(model, optimizer, 3)
    writer.close()
    assert not [tag for tag in read(tmp_path).Tags()["scalars"] if tag.startswith("fastlog/")]


def test_off_steps_do_nothing_but_count(writer: SummaryWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ticks = 0

    def clock() -> float:
        nonlocal ticks
        ticks += 1
        return float(ticks)

    watch(model, writer, optimizer, every=1000, budget=0.01, clock=clock)
    train(model, optimizer, 1)
    after_first = ticks
    monkeypatch.setattr(fastlog.watching.recorder, "pack_many", None)
    monkeypatch.setattr(fastlog.watching.moment, "selection", None)
    train(model, optimizer, 50)
    assert ticks == after_first
    writer.flush()
    assert writer.stats()["accepted"] == 1


@pytest.mark.parametrize(
    ("log", "tensors"),
    [
        ("gradients", [11]),
        ("optimizer_state", [2 * 11]),
        (("weights", "gradients", "updates", "optimizer_state"), [11, 4 * 11]),
    ],
)
def test_one_engine_call_at_each_moment(
    writer: SummaryWriter, monkeypatch: pytest.MonkeyPatch, log: Any, tensors: list[int]
) -> None:
    """Gradients before the step; weights, updates and two moments together after it."""
    calls: list[int] = []

    class Engine:
        @staticmethod
        def summarize(views: Sequence[Any], threads: int) -> list[bytes]:
            calls.append(len(views))
            return core.summarize(views, threads)

    monkeypatch.setattr(importlib.import_module("fastlog.summaries.engines"), "core", Engine)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=2, log=log)
    train(model, optimizer, 4)
    assert calls == 2 * tensors
