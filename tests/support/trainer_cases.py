"""Tiny trainings with transformers' `Trainer`, and a witness of what happens in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from watch_oracle import Expected, read

from fastlog.health.names import layer_of


class Witness(Trainer):
    """Keeps losses of micro-batches, gradients before and weights after each step, by the step's number."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.losses: dict[int, list[float]] = defaultdict(list)
        self.norms: dict[int, float] = {}  # of all gradients, before they are clipped
        self.gradients: dict[int, dict[str, torch.Tensor]] = {}
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        number = self.state.global_step + 1
        self.losses[number].append(float(loss))
        self.norms[number] = total_norm(param.grad for param in self.model.parameters())
        return loss

    def create_optimizer(self, *args: Any) -> Any:
        optimizer = super().create_optimizer(*args)
        step = optimizer.step

        def watched(_: Any, *args: Any, **kwargs: Any) -> Any:
            named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
            number = self.state.global_step + 1
            self.gradients[number] = {n: p.grad.clone() for n, p in named if p.grad is not None}
            result = step(*args, **kwargs)
            self.weights[number] = {n: p.detach().clone() for n, p in named}
            return result

        optimizer.step = MethodType(watched, optimizer)  # learning rate schedulers want a method
        return optimizer


def total_norm(grads: Iterable[torch.Tensor | None]) -> float:
    return float(torch.stack([grad.double().norm() for grad in grads if grad is not None]).norm())


def tiny_bert() -> BertForSequenceClassification:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, **sizes))


class Tokens(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(50, (6,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": tokens, "labels": tokens[0] % 2}


def arguments(output_dir: Path, **changes: Any) -> TrainingArguments:
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "learning_rate": 1e-2,
        **changes,
    }
    return TrainingArguments(**settings)


def expected_of(trainer: Witness, steps: list[int]) -> Expected:
    expected = Expected()
    for step in steps:
        for kind, title, tensors in (
            ("gradients", "grad", trainer.gradients[step]),
            ("weights", "weight", trainer.weights[step]),
        ):
            inside = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
            layers = defaultdict(list)
            for name in inside:
                layers[layer_of(name)].append(name)
            expected.add(step, kind, title, inside, layers)
    return expected


def assert_watched(trainer: Witness, logdir: Path, steps: list[int], every: int) -> None:
    """Gradients and weights as the witness saw them, at the steps of the losses that belong to them."""
    expected_of(trainer, steps).assert_logged(logdir, others="train/|eval/|grad_norm/before_clipping")
    events = read(logdir)
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert list(losses) == steps
    for step in steps:
        micro_batches = [loss for s in range(step - every + 1, step + 1) for loss in trainer.losses[s]]
        assert losses[step] == pytest.approx(sum(micro_batches) / every, rel=1e-4)
