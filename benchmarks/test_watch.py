"""`fastlog.watch` beside other ways to see a model in training: logged steps, steps between, the budget."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_bert import PACKAGED_MODEL, load_reviews, make_batches, model_path
from loggers import events, open_wandb, open_writers
from race import OURS, Entrant, Race
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import fastlog

pytestmark = pytest.mark.benchmark(group="watching a model")
PLAIN = "no logging"


def trained(
    model: Any, batch: dict[str, torch.Tensor], flush: Callable[[], object], optimizer: Any, then: Any
) -> Entrant:
    """One training step with its logging, and the wait until everything is written."""

    def run() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        then()
        flush()

    return Entrant(run)


def histograms_one_by_one(model: nn.Module, writer: Any) -> Callable[[], None]:
    """The loop that Lightning's users write (``on_after_backward``), for weights and gradients."""

    def log() -> None:
        for name, param in model.named_parameters():
            writer.add_histogram(f"weights/{name}", param, 0)
            writer.add_histogram(f"gradients/{name}", param.grad, 0)

    return log


def norms_one_by_one(model: nn.Module, optimizer: Any, writer: Any) -> Callable[[], None]:
    """What composer's OptimizerMonitor does: norms of gradients, weights and moments; no histograms."""

    def log() -> None:
        total = 0.0
        for name, param in model.named_parameters():
            norm = torch.linalg.vector_norm(param.grad).item()
            total += norm**2
            writer.add_scalar(f"l2_norm/grad/{name}", norm, 0)
            writer.add_scalar(f"l2_norm/param/{name}", torch.linalg.vector_norm(param).item(), 0)
            for key in ("exp_avg", "exp_avg_sq"):
                if key in optimizer.state[param]:
                    moment = torch.linalg.vector_norm(optimizer.state[param][key]).item()
                    writer.add_scalar(f"l2_norm/{key}/{name}", moment, 0)
        writer.add_scalar("l2_norm/grad/global", total**0.5, 0)

    return log


def nothing() -> None:
    pass


@pytest.mark.large
def test_logged_steps(race: Race, tmp_path: Path) -> None:
    path = model_path(PACKAGED_MODEL)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    (batch,) = make_batches(load_reviews(seed=0)[:32], 32, AutoTokenizer.from_pretrained(path), "cpu")
    with open_writers(tmp_path) as writers, open_wandb(tmp_path) as run:

        def entrant(writer: Any, setup: Callable[[Any, Any], Callable[[], None]]) -> Entrant:
            own = copy.deepcopy(model)
            optimizer = torch.optim.AdamW(own.parameters(), lr=5e-5)
            flush = nothing if writer is None else writer.flush
            return trained(own, batch, flush, optimizer, setup(own, optimizer))

        def watched(own: Any, optimizer: Any) -> Callable[[], None]:
            fastlog.watch(own, writers[OURS], optimizer, every=1)
            return nothing

        rivals = {PLAIN: entrant(None, lambda own, optimizer: nothing)}
        for name in ("tensorboardX", "torch.utils.tensorboard"):
            writer = writers[name]
            rivals[f"{name}, tensor by tensor"] = entrant(
                writer, lambda own, optimizer, writer=writer: histograms_one_by_one(own, writer)
            )
        rivals["OptimizerMonitor's norms, no histograms"] = entrant(
            None, lambda own, optimizer: norms_one_by_one(own, optimizer, writers["tensorboardX"])
        )
        if run is not None:

            def watched_by_wandb(own: Any, optimizer: Any) -> Callable[[], None]:
                run.watch(own, log="all", log_freq=1)
                return lambda: run.log({"loss": 0.0})

            rivals["wandb.watch, offline"] = entrant(None, watched_by_wandb)
        race(entrant(writers[OURS], watched), rivals, rounds=4)
    tags = {value.tag for event in events(tmp_path / OURS) for value in event.summary.value}
    assert sum(tag.startswith(("weights/", "gradients/")) for tag in tags) == 2 * len(
        list(model.parameters())
    )
    race.note(
        case="BERT, 22.7 M parameters: all weights and gradients, their norms, scalars of layers and model"
    )
    race.target(
        "fastlog.watch, every step of the example",
        100 * race.paired_overhead(PLAIN),
        "% over no logging",
        at_most=2.0,
    )


def test_steps_between(race: Race, tmp_path: Path) -> None:
    """The two hooks by themselves: the rest of an optimizer's step varies by more than they take."""
    calls = 20_000
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    args = (optimizer,)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        fastlog.watch(nn.Linear(1, 1), writer, optimizer, every=10**9).step(1)
        (before,) = optimizer._optimizer_step_pre_hooks.values()
        (after,) = optimizer._optimizer_step_post_hooks.values()

        def hooks() -> None:
            for _ in range(calls):
                before(optimizer, args, {})
                after(optimizer, args, {})

        race(Entrant(hooks, calls=calls), seconds=2.0)
        assert writer.stats().get("accepted", 0) == 0
    race.target("fastlog.watch, a step that is not logged", 1e6 * race.median(), "us", at_most=1.0)


@pytest.fixture
def llama() -> Iterator[Any]:
    """1.1 B parameters in float32: as many of its 22 layers as fit half of the free memory with gradients."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    layer, rest = 44e6 * 8, 131e6 * 8
    layers = max(1, min(22, int((free - rest) / layer)))
    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        vocab_size=32_000,
        use_cache=False,
    )
    yield LlamaForCausalLM(config)


@pytest.mark.large
def test_a_large_model(race: Race, tmp_path: Path, llama: Any) -> None:
    tokens = torch.arange(8)[None]
    optimizer = torch.optim.SGD(llama.parameters(), lr=1e-6)
    with open_writers(tmp_path) as writers:
        watcher = fastlog.watch(llama, writers[OURS], optimizer, every=10**9)

        def run() -> None:
            optimizer.zero_grad()
            llama(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            writers[OURS].flush()

        norms = norms_one_by_one(llama, optimizer, writers["tensorboardX"])
        race(
            Entrant(run, before=watcher.log_next),
            {
                PLAIN: Entrant(run),
                "OptimizerMonitor's norms, no histograms": Entrant(lambda: (run(), norms())),
            },
            rounds=3,
        )
    numbers = sum(param.numel() for param in llama.parameters())
    race.note(
        case=f"Llama of {llama.config.num_hidden_layers} layers, {numbers / 1e9:.2f} B parameters, 8 tokens",
        logging_seconds=race.median() - race.median(PLAIN),
    )


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_the_budget(race: Race, tmp_path: Path, threads: int, quick: bool) -> None:
    """Layers that are quick to compute with one row, and slow to count."""
    steps = 200 if quick else 1000
    model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    rows = torch.randn(64, 512)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        watcher = fastlog.watch(model, writer, optimizer, every=1, budget=0.01)
        seconds = 0.0

        def run() -> None:
            nonlocal seconds
            start = time.perf_counter()
            for _ in range(steps):
                optimizer.zero_grad()
                model(rows).square().mean().backward()
                optimizer.step()
            seconds += time.perf_counter() - start

        with pytest.warns(fastlog.FastlogWarning, match=r"fastlog\.watch"):
            race(Entrant(run, calls=steps), rounds=3)
        share = float(writer.stats()["caller_seconds"]) / seconds  # type: ignore[arg-type]
    race.note(case=f"{3 * steps} steps of an MLP", every=watcher.every)
    race.target("fastlog.watch with a budget of 1 %", 100 * share, "% of the time", at_most=1.05)
