"""`fastlog.watch` beside other ways to see a model in training: logged steps, steps between, the budget."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contenders import proto_counts
from finetune_bert import PACKAGED_MODEL, load_reviews, make_batches, model_path
from inputs import Input
from loggers import events, open_lightning, open_wandb, open_writers
from race import OURS, Entrant, Race
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
)

import fastlog

PLAIN = "no logging"
EVERYTHING = "fastlog, updates and moments too"
NEVER = 10**9  # steps
CHECKED_VALUES = 10_000_000  # NumPy's histogram takes 0.1 s for a million


@dataclass
class Trained:
    """A model that is trained on one batch, over and over."""

    name: str
    model: Any
    batch: dict[str, torch.Tensor]
    rounds: int

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(**self.batch).loss.backward()
        self.optimizer.step()

    def entrant(self, then: Callable[[], object], **around: Callable[[], object]) -> Entrant:
        """A step, and what logs it."""

        def run() -> None:
            self.step()
            then()

        return Entrant(run, **around)


def bert() -> Trained:
    path = model_path(PACKAGED_MODEL)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    (batch,) = make_batches(load_reviews(seed=0)[:32], 32, AutoTokenizer.from_pretrained(path), "cpu")
    return Trained("BERT, 22.7 M parameters in fp32, batch of 32", model, batch, rounds=6)


def llama() -> Trained:
    """A TinyLlama: as many of its 22 layers as fit half of the free memory, with gradients and moments."""
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert available
    room = int(available[1]) * 1024 / 2 / (4 * torch.bfloat16.itemsize)
    layers = max(1, min(22, int((room - 131e6) / 44e6)))
    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32_000,
        use_cache=False,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tokens = torch.arange(8)[None]
    numbers = sum(param.numel() for param in model.parameters())
    name = f"Llama of {layers} layers, {numbers / 1e9:.2f} B parameters in bf16, 8 tokens"
    return Trained(name, model, {"input_ids": tokens, "labels": tokens}, rounds=2)


@pytest.fixture(params=[bert, llama])
def trained(request: pytest.FixtureRequest) -> Iterator[Trained]:
    torch.manual_seed(0)
    yield request.param()


def histograms_one_by_one(model: nn.Module, writer: Any) -> Callable[[], None]:
    """The loop that Lightning's users write, for weights and gradients."""

    def log() -> None:
        for name, param in model.named_parameters():
            writer.add_histogram(f"weights/{name}", param.detach().float(), 0)
            writer.add_histogram(f"gradients/{name}", param.grad.float(), 0)
        writer.flush()

    return log


def norms_one_by_one(model: nn.Module, optimizer: Any, writer: Any) -> Callable[[], None]:
    """What composer's OptimizerMonitor logs: norms of gradients, weights, first moments and updates."""

    def log() -> None:
        norms: dict[str, Any] = {}
        for name, param in model.named_parameters():
            state, group = optimizer.state[param], optimizer.param_groups[0]
            step, (beta, beta2) = state["step"].item(), group["betas"]
            root = (state["exp_avg_sq"].sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
            update = group["lr"] / (1 - beta**step) * state["exp_avg"].div(root)
            update.add_(param.detach(), alpha=-group["lr"] * group["weight_decay"])
            parts = {
                "grad": param.grad,
                "param": param.detach(),
                "moment": state["exp_avg"],
                "update": update,
            }
            for kind, tensor in parts.items():
                norms[f"l2_norm/{kind}/{name}"] = torch.linalg.vector_norm(tensor)
        total = sum(norm**2 for key, norm in norms.items() if "/grad/" in key) ** 0.5
        for key, norm in {**norms, "l2_norm/grad/global": total}.items():
            writer.add_scalar(key, norm.item(), 0)

    return log


def gradient_norms(model: nn.Module, writer: Any) -> Callable[[], None]:
    """Lightning's own ``grad_norm``, as its documentation logs it: norms of the gradients alone."""
    from pytorch_lightning.utilities import grad_norm

    def log() -> None:
        for key, norm in grad_norm(model, norm_type=2).items():
            writer.add_scalar(key, norm.item(), 0)

    return log


def check(trained: Trained, directory: Path) -> None:
    """Asserts that the last histograms (of a large model, some of them) count what the model holds."""
    last = {value.tag: value for event in events(directory) for value in event.summary.value}
    left = CHECKED_VALUES
    for name, param in trained.model.named_parameters():
        assert f"grad_norm/{name}" in last
        for tag, tensor in ((f"weights/{name}", param.detach()), (f"gradients/{name}", param.grad)):
            histogram = last[tag].histo
            assert histogram.num == tensor.numel()
            if tensor.numel() <= left:
                left -= tensor.numel()
                counts = Input(tensor, tensor, 1).expected()
                np.testing.assert_array_equal(proto_counts(histogram), counts, tag)


@pytest.mark.large
@pytest.mark.benchmark(group="watching a model")
def test_logged_steps(race: Race, tmp_path: Path, trained: Trained) -> None:
    model, optimizer = trained.model, trained.optimizer
    with (
        open_writers(tmp_path) as writers,
        open_wandb(tmp_path) as run,
        open_lightning(tmp_path) as lightning,
    ):
        flush = writers[OURS].flush
        watcher = fastlog.watch(model, writers[OURS], optimizer, every=NEVER)
        of_all = fastlog.SummaryWriter(str(tmp_path / EVERYTHING))
        watches_all = fastlog.watch(
            model,
            of_all,
            optimizer,
            every=NEVER,
            log=("weights", "gradients", "updates", "optimizer_state"),
        )
        rivals = {
            PLAIN: trained.entrant(lambda: None),
            EVERYTHING: trained.entrant(of_all.flush, before=watches_all.log_next),
            "OptimizerMonitor's norms, no histograms": trained.entrant(
                norms_one_by_one(model, optimizer, writers["tensorboardX"])
            ),
        }
        if lightning is not None:
            to = lightning.experiment
            rivals["Lightning's `grad_norm`, no histograms"] = trained.entrant(gradient_norms(model, to))
            rivals["Lightning's logger, `add_histogram` in a loop"] = trained.entrant(
                histograms_one_by_one(model, to)
            )
        if run is not None:
            rivals["wandb.watch, offline"] = trained.entrant(
                lambda: run.log({"loss": 0.0}),
                before=lambda: run.watch(model, log="all", log_freq=1),
                after=lambda: run.unwatch(model),
            )
        trained.step()  # the optimizer's state, the first step of both watchers
        race(
            trained.entrant(flush, before=watcher.log_next),
            rivals,
            rounds=trained.rounds,
            warm_up=trained.rounds > 2,
        )
        stats = writers[OURS].stats()
        watches_all.remove()
        watcher.log_next()
        trained.step()
        of_all.close()
    check(trained, tmp_path / OURS)
    share = race.paired_overhead(PLAIN)
    race.note(case=trained.name, overheads=race.overheads(PLAIN))
    if trained.rounds > 2:
        accounted = (float(stats["caller_seconds"]) + float(stats["worker_cpu_seconds"])) / race.laps
        race.target(
            "fastlog.watch, every step of the example",
            100 * share,
            "% over no logging",
            at_most=2.0,
            beside=f"calling thread + worker CPU: {accounted / race.median(PLAIN):.2%}",
        )


@pytest.mark.parametrize("tensors", [105, 201])
@pytest.mark.benchmark(group="watching a model: steps between")
def test_steps_between(race: Race, tmp_path: Path, tensors: int) -> None:
    """The hooks by themselves: the rest of a training step varies by more than they take."""
    calls = 20_000
    model = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(tensors))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fastlog.SummaryWriter(str(tmp_path)) as writer, open_wandb(tmp_path) as run:
        fastlog.watch(model, writer, optimizer, every=NEVER).step(1)
        (before,) = optimizer._optimizer_step_pre_hooks.values()
        (after,) = optimizer._optimizer_step_post_hooks.values()
        args = (optimizer,)

        def hooks() -> None:
            for _ in range(calls):
                before(optimizer, args, {})
                after(optimizer, args, {})

        rivals = {}
        if run is not None:
            run.watch(model, log="all", log_freq=NEVER)
            of_gradients = [hook for param in model for hook in param._backward_hooks.values()]
            (of_model,) = model._forward_hooks.values()
            assert len(of_gradients) == tensors
            gradient = torch.zeros(1)

            def wandb_hooks() -> None:
                for _ in range(calls // 100):
                    of_model(model, (), None)
                    for hook in of_gradients:
                        hook(gradient)

            rivals["wandb.watch, offline"] = Entrant(wandb_hooks, calls=calls // 100)
        race(Entrant(hooks, calls=calls), rivals, seconds=2.0)
        if run is not None:
            run.unwatch(model)
        assert writer.stats().get("accepted", 0) == 0
    race.note(case=f"{tensors} tensors")
    race.target("fastlog.watch, a step that is not logged", 1e6 * race.median(), "us", at_most=1.0)


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.benchmark(group="watching a model: a budget")
def test_the_budget(race: Race, tmp_path: Path, threads: int, quick: bool) -> None:
    """Layers that are quick to compute with few rows, and slow to count."""
    steps = 100 if quick else 500
    first = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4)))
    rows = torch.randn(64, 512)

    def trained(writer: fastlog.SummaryWriter | None, **options: Any) -> tuple[Entrant, Any]:
        model = copy.deepcopy(first)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        watcher = writer and fastlog.watch(model, writer, optimizer, every=1, **options)

        def run() -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                model(rows).square().mean().backward()
                optimizer.step()

        return Entrant(run, calls=steps), watcher

    unbounded = "fastlog.watch without a budget, every step"
    with (
        fastlog.SummaryWriter(str(tmp_path / "with")) as writer,
        fastlog.SummaryWriter(str(tmp_path / "without")) as other,
        pytest.warns(fastlog.FastlogWarning, match=r"fastlog\.watch"),
    ):
        ours, watcher = trained(writer, budget=0.01)
        settling = 0.0

        def settled() -> None:
            nonlocal settling
            settling = settling or float(writer.stats()["caller_seconds"])

        race(
            Entrant(ours.run, calls=steps, after=settled),  # the lap that warms up
            {PLAIN: trained(None)[0], unbounded: trained(other)[0]},
            rounds=10,
        )
        spent = float(writer.stats()["caller_seconds"]) - settling
    share = spent / (steps * sum(race.times[OURS]))
    race.note(
        case=f"after {steps} steps of an MLP; fastlog: budget=0.01, now every {watcher.every} steps",
        overheads=race.overheads(PLAIN),
        every=watcher.every,
    )
    race.target(
        f"fastlog.watch with a budget of 1 %, after the first {steps} steps",
        100 * share,
        "% of the time",
        at_most=1.05,
        beside=f"wall clock {race.paired_overhead(PLAIN):+.2%}; at every step "
        f"{race.overheads(PLAIN)[unbounded]:+.0%}",
    )
