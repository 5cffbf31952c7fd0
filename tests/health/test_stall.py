"""A training that logs no more: told once where it is stuck, never where it moves or is over."""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from watch_oracle import read, texts

import fastlog
from fastlog.health import stall
from fastlog.health.findings import Finding
from fastlog.health.rules import pace
from fastlog.health.stall import Sight, Stall, look_at, loop_here

HOUR = 3600.0


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def after(hours: float, look: Callable[..., Sight | None], seconds_a_step: float = 1.0) -> list[str]:
    """Where a training is said to be stuck when it has logged no step for some hours."""
    clock, told = Clock(), []
    watched = Stall(lambda now, where: told.append(where), clock, look)
    watched._thread = threading.current_thread()  # the test looks itself
    for _ in range(20):
        clock.now += seconds_a_step
        watched.step_seen()
    clock.now += hours * HOUR
    for _ in range(3):
        watched.look()
        clock.now += 60
    return told


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "_BETWEEN", 0.0)


def stuck(loop: object) -> Sight:
    return Sight((1, 2, 3), "train.py:7")


def test_it_is_told_once_when_half_an_hour_and_ten_usual_intervals_are_over() -> None:
    assert after(0.6, stuck) == ["train.py:7"]
    assert after(0.4, stuck) == []
    assert after(2.0, stuck, seconds_a_step=1000.0) == []
    assert after(3.0, stuck, seconds_a_step=1000.0) == ["train.py:7"]


def test_an_evaluation_that_moves_is_not_stuck_however_long_it_takes() -> None:
    number = itertools.count()
    assert after(9.0, lambda loop: Sight((next(number),), "evaluate.py:3")) == []


def test_a_wait_that_looks_up_now_and_then_is_stuck() -> None:
    number = itertools.count()
    assert after(1.0, lambda loop: Sight((next(number) % 10 == 0,), "loader.py:9")) == ["loader.py:9"]


def test_a_program_that_has_left_its_loop_is_not_stuck() -> None:
    assert after(9.0, lambda loop: None) == []


def test_it_may_be_told_again_when_steps_have_come_in_between() -> None:
    clock, told = Clock(), []
    watched = Stall(lambda now, where: told.append(where), clock, stuck)
    watched._thread = threading.current_thread()
    for _ in range(2):
        for _ in range(10):
            clock.now += 1.0
            watched.step_seen()
        assert watched.until_look() == pytest.approx(HOUR / 2)
        clock.now += HOUR
        watched.look()
        watched.look()
    assert told == ["train.py:7"] * 2


def test_a_thread_that_waits_looks_the_same_and_one_that_works_does_not() -> None:
    loops: dict[str, stall.Loop] = {}
    begun, ends = threading.Barrier(3), threading.Event()

    def one_step(name: str) -> None:
        loops[name] = loop_here()

    def waits() -> None:
        one_step("waits")
        begun.wait()
        ends.wait()

    def works() -> None:
        one_step("works")
        begun.wait()
        batch = torch.ones(3)
        while not ends.is_set():
            batch = batch + 1

    threads = [threading.Thread(target=target) for target in (waits, works)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.1)
    sights = {name: [] for name in loops}
    for _ in range(20):
        for name, loop in loops.items():
            sights[name].append(look_at(loop))
        time.sleep(0.005)
    ends.set()
    for thread in threads:
        thread.join()
    assert len(set(sights["waits"])) == 1 and len(set(sights["works"])) > 4
    assert sights["waits"][0].where == f"test_stall.py:{waits.__code__.co_firstlineno + 3}"
    assert [look_at(loop) for loop in loops.values()] == [None, None]


def test_a_training_that_hangs_is_told_while_it_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_SECONDS", 0.2)
    monkeypatch.setattr(pace, "_TIMES", 1e-6)
    goes_on, found = threading.Event(), []
    before = set(threading.enumerate())
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def on_finding(finding: Finding) -> None:
        found.append(finding)

    def train() -> None:
        for step in range(8):
            if step == 6:
                goes_on.wait(30)
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()

    with warnings.catch_warnings(record=True) as caught, fastlog.SummaryWriter(str(tmp_path)) as writer:
        warnings.simplefilter("always")
        watcher = fastlog.watch(model, writer, optimizer, every=1, health=True, on_finding=on_finding)
        training = threading.Thread(target=train)
        training.start()
        for _ in range(600):
            if said := [str(w.message) for w in caught if "stalled" in str(w.message)]:
                break
            time.sleep(0.05)
        goes_on.set()
        training.join()
        watcher.remove()
    line = train.__code__.co_firstlineno + 3
    assert len(said) == 1 and f"It waits in test_stall.py:{line};" in said[0] and "since step 5" in said[0]
    assert [(one.rule, one.first_step) for one in found] == [("stalled", 5)]
    assert found[0].evidence["waits in"] == f"test_stall.py:{line}"
    assert "stalled" in texts(tmp_path, "fastlog/health/text_summary")[0][1]
    series = [(e.step, e.value) for e in read(tmp_path).Scalars("fastlog/health/stalled")]
    assert series[0] == (5, 1.0) and {value for step, value in series if step > 5} == {0.0}
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
