"""Observers of a watcher: what they see of a logged step, when, and on which thread."""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import fastlog
from fastlog.events.items import SCALAR, Item
from fastlog.watching.observers import LoggedStep


class Notes:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.wants_next = False
        self.model = nn.Linear(3, 2)
        self.said: list[tuple[Any, ...]] = []
        self.logged: list[LoggedStep] = []
        self.threads: set[threading.Thread] = set()

    def _weight(self) -> torch.Tensor:
        return self.model.weight.detach().clone()

    def announce(self) -> None:
        self.said.append(("announce",))

    def end(self) -> None:
        self.said.append(("end",))

    def before_step(self, step: int, params: Any) -> None:
        self.said.append(("before", step, [name for name, _ in params], self._weight()))

    def after_step(self, step: int, params: Any, stepped: Collection[torch.optim.Optimizer]) -> Any:
        self.said.append(("after", step, len(stepped), self._weight()))
        return f"note {step}"

    def observe(self, logged: LoggedStep) -> list[Item]:
        self.threads.add(threading.current_thread())
        self.logged.append(logged)
        return [(SCALAR, "mine", 7.0, logged.step, logged.wall_time)]


def train(notes: Notes, tmp_path: Path, steps: int, every: int) -> None:
    optimizer = torch.optim.SGD(notes.model.parameters(), lr=0.1)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        watcher = fastlog.watch(notes.model, writer, optimizer, every=every)
        watcher.on_moment(notes)
        for step in range(steps):
            optimizer.zero_grad()
            notes.model(torch.ones(4, 3)).square().mean().backward()
            notes.wants_next = step == 3
            optimizer.step()


def test_an_observer_sees_weights_before_and_after_and_the_summaries_on_the_worker(tmp_path: Path) -> None:
    notes = Notes()
    train(notes, tmp_path, 5, every=2)
    assert notes.said.count(("announce",)) == 3 and notes.said[0] == ("announce",)
    said = [one for one in notes.said if one != ("announce",)]
    assert [one[:2] for one in said] == [(w, s) for s in (0, 2, 4) for w in ("before", "after")]
    assert said[0][2] == ["weight", "bias"]
    assert said[1][2] == 1
    assert [logged.step for logged in notes.logged] == [0, 2, 4]
    assert [logged.noted for logged in notes.logged] == ["note 0", "note 2", "note 4"]
    assert threading.current_thread() not in notes.threads
    for one, logged in zip(said[1::2], notes.logged, strict=True):
        names, heads, packed = logged.kinds["weights"]
        assert names == ["weight", "bias"]
        expected = fastlog.summarize(one[3])
        assert fastlog.TensorSummary.from_packed(packed[0]) == expected
        assert (heads["sum"][0], heads["min"][0], heads["num"][0]) == (expected.sum, expected.min, 6)
        assert logged.kinds["gradients"].names == ["weight", "bias"]
    assert not np.array_equal(said[0][3], said[1][3])


def test_what_an_observer_returns_is_logged(tmp_path: Path) -> None:
    train(Notes(), tmp_path, 3, every=2)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("mine")
    assert [(event.step, event.value) for event in events] == [(0, 7.0), (2, 7.0)]


def test_a_step_is_logged_where_an_observer_wants_the_next(tmp_path: Path) -> None:
    notes = Notes()
    train(notes, tmp_path, 12, every=3)
    assert [logged.step for logged in notes.logged] == [0, 3, 4, 6, 9]


def test_hurry_from_another_thread_logs_the_next_step(tmp_path: Path) -> None:
    notes = Notes()
    optimizer = torch.optim.SGD(notes.model.parameters(), lr=0.1)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        watcher = fastlog.watch(notes.model, writer, optimizer, every=100)
        watcher.on_moment(notes)
        for step in range(6):
            optimizer.zero_grad()
            notes.model(torch.ones(4, 3)).square().mean().backward()
            if step == 4:
                thread = threading.Thread(target=watcher.hurry)
                thread.start()
                thread.join()
            optimizer.step()
    assert [logged.step for logged in notes.logged] == [0, 4]
