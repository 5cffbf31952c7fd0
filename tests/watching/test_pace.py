"""The time that a rank takes by itself before it trains on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastlog.watching import pace
from fastlog.watching.pace import BEFORE_FORWARD, Pace


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def test_it_is_the_time_until_the_first_forward_pass_of_the_training(clock: Clock) -> None:
    model, noted = nn.Sequential(nn.Linear(2, 2)), []
    watched = Pace(model, noted.append)
    for seconds in (2.0, 0.5):
        watched.begin()
        clock.now += seconds / 2
        model.eval()
        with torch.no_grad():
            model(torch.ones(1, 2))
        model.train()
        clock.now += seconds / 2
        model(torch.ones(1, 2))
        clock.now += 9.0
        model(torch.ones(1, 2))  # accumulates
    assert noted == [{BEFORE_FORWARD: 2.0}, {BEFORE_FORWARD: 0.5}]


def test_nothing_of_it_stays_in_the_model_and_a_compiled_one_is_left_alone(clock: Clock) -> None:
    model, noted = nn.Linear(2, 2), []
    untouched = set(vars(model))
    watched = Pace(model, noted.append)
    watched.begin()
    assert set(vars(model)) != untouched
    model(torch.ones(1, 2))
    assert set(vars(model)) == untouched
    watched.begin()
    watched.end()
    assert set(vars(model)) == untouched
    model.compile(backend="eager")
    compiled = model._compiled_call_impl
    watched.begin()
    assert model._compiled_call_impl is compiled
