"""Faults that finetune_bert.py plants with ``--sick=KIND``: mistakes as people make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def too_high_a_rate(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """A learning rate with the wrong exponent."""
    for group in optimizer.param_groups:
        group["lr"] = 0.05


def detached_states(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """The hidden states are detached behind the third layer, say to save memory."""

    def detach(module: Any, inputs: Any, output: Any) -> Any:
        return tuple(part.detach() for part in output) if isinstance(output, tuple) else output.detach()

    model.bert.encoder.layer[2].register_forward_hook(detach)


def division_by_zero(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """In the twentieth batch nothing counts, and the loss is divided by the number of what counts."""
    seen = 0

    def divide(module: Any, inputs: Any, output: Any) -> None:
        nonlocal seen
        seen += module.training
        output.loss = output.loss / (0.0 if seen == 20 else 1.0)

    model.register_forward_hook(divide)


def dead_units(model: Any, optimizer: torch.optim.Optimizer) -> None:
    """ReLU in place of GELU, with biases far below zero: the feed-forward layers put out nothing."""
    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = torch.nn.ReLU()
        with torch.no_grad():
            layer.intermediate.dense.bias -= 10.0


FAULTS: dict[str, Callable[[Any, torch.optim.Optimizer], None]] = {
    "frozen": detached_states,
    "lr": too_high_a_rate,
    "nan": division_by_zero,
    "dead": dead_units,
}
"""By the word that picks them. Each gets the model and its optimizer before there is a scheduler."""
