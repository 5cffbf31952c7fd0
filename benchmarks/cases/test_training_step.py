"""A whole fine-tuning step of a pretrained BERT with everything logged, beside the same step without logging.

Each logger has a training of its own: the same initial weights, batches and dropout masks. A lap ends with
``flush()``, so it pays for all that it started, the worker's share of the cores included.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contenders import proto_counts
from finetune_bert import PACKAGED_MODEL, load_reviews, log_step, make_batches, model_path
from inputs import Input
from loggers import events, open_wandb, open_writers
from race import OURS, Entrant, Race
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytestmark = [pytest.mark.benchmark(group="training step"), pytest.mark.large]
BATCH_SIZE = 32
BATCHES = 20


@dataclass
class Training:
    """Trains and logs; ``log(model, step, loss)`` is called at every ``log_every``-th step."""

    model: Any
    batches: list[dict[str, torch.Tensor]]
    log: Callable[[Any, int, float], object] = lambda model, step, loss: None
    flush: Callable[[], object] = lambda: None
    log_every: int = 1
    steps_done: int = 0
    logging_seconds: float = 0.0  # on the calling thread
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-5)

    def run(self, steps: int) -> None:
        for step in range(self.steps_done, self.steps_done + steps):
            torch.manual_seed(step)  # the same dropout masks in every training
            self.optimizer.zero_grad()
            output = self.model(**self.batches[step % len(self.batches)])
            output.loss.backward()
            self.optimizer.step()
            loss = output.loss.item()
            if step % self.log_every == 0:
                start = time.perf_counter()
                self.log(self.model, step, loss)
                self.logging_seconds += time.perf_counter() - start
        self.steps_done += steps
        self.flush()

    def entrant(self, steps: int) -> Entrant:
        return Entrant(lambda: self.run(steps), calls=steps)


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    tokenizer = AutoTokenizer.from_pretrained(model_path(PACKAGED_MODEL))
    return make_batches(load_reviews(seed=0)[: BATCHES * BATCH_SIZE], BATCH_SIZE, tokenizer, "cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(model_path(PACKAGED_MODEL), num_labels=2)


@pytest.fixture
def train(model: Any, batches: list[dict[str, torch.Tensor]]) -> Iterator[Callable[..., Training]]:
    """Makes a training that starts from a copy of the model and logs with the example's own lines."""

    def train(writer: Any = None, **options: Any) -> Training:
        if writer is not None:
            options |= {
                "log": lambda model, step, loss: log_step(writer, model, step, loss, 0.0, 5e-5),
                "flush": writer.flush,
            }
        return Training(copy.deepcopy(model), batches, **options)

    yield train


def check_ours(directory: Path, training: Training) -> None:
    """Asserts that the last histogram of every weight and gradient counts what the model holds now."""
    last = {e.summary.value[0].tag: e.summary.value[0].histo for e in events(directory / OURS)}
    for name, param in training.model.named_parameters():
        for tag, tensor in ((f"weights/{name}", param.detach()), (f"gradients/{name}", param.grad)):
            np.testing.assert_array_equal(proto_counts(last[tag]), Input(tensor, tensor, 1).expected(), tag)


def same_weights(a: Training, b: Training) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_every_step(race: Race, tmp_path: Path, train: Callable[..., Training]) -> None:
    steps = 3
    with open_writers(tmp_path) as writers:
        ours, plain = train(writers[OURS]), train()
        race(ours.entrant(steps), {"no logging": plain.entrant(steps)}, rounds=16)
        stats = writers[OURS].stats()
    assert same_weights(ours, plain)
    check_ours(tmp_path, ours)
    accounted = (ours.logging_seconds + stats["worker_cpu_seconds"]) / ours.steps_done
    race.note(
        case="BERT, 22.7 M parameters: all weights and gradients, every step",
        accounted_seconds=accounted,
    )
    race.target(
        "the example's step, all weights and gradients, every step",
        100 * race.paired_overhead("no logging"),
        "% over no logging",
        at_most=2.0,
        goal=1.0,
        beside=f"calling thread + worker CPU: {accounted / race.median('no logging'):.2%}",
    )


def test_every_ten_steps(race: Race, tmp_path: Path, train: Callable[..., Training]) -> None:
    steps = 10
    with open_writers(tmp_path) as writers:
        ours, plain = train(writers[OURS], log_every=10), train()
        race(ours.entrant(steps), {"no logging": plain.entrant(steps)}, rounds=3)
        stats = writers[OURS].stats()
    assert same_weights(ours, plain)
    accounted = (ours.logging_seconds + stats["worker_cpu_seconds"]) / ours.steps_done
    race.note(
        case="BERT, 22.7 M parameters: all weights and gradients, every 10 steps",
        accounted_seconds=accounted,
    )
    race.target(
        "the same every 10 steps",
        100 * accounted / race.median("no logging"),
        "% (seconds on the calling thread + CPU seconds of the worker) / step",
        at_most=0.2,
        beside=f"wall clock {race.paired_overhead('no logging'):+.2%}",
    )


def test_beside_others(race: Race, tmp_path: Path, train: Callable[..., Training]) -> None:
    with open_writers(tmp_path) as writers, open_wandb(tmp_path) as run:
        trainings = {name: train(writer) for name, writer in writers.items()}
        trainings["no logging"] = train()
        if run is not None:
            watched = trainings["wandb.watch, offline"] = train(
                log=lambda model, step, loss: run.log({"loss/train": loss}, step=step)
            )
            run.watch(watched.model, log="all", log_freq=1)
        entrants = {name: training.entrant(1) for name, training in trainings.items()}
        race(entrants.pop(OURS), entrants, rounds=8)
    assert all(same_weights(training, trainings["no logging"]) for training in trainings.values())
    check_ours(tmp_path, trainings[OURS])
    race.note(
        case="BERT, 22.7 M parameters: all weights and gradients, every step, 1 step between flushes",
        overheads=race.overheads("no logging"),
    )
