"""A small GPT, the ways in which its training can part from the good one, and its log."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import fastlog

WIDTH, HEADS, LAYERS, WORDS, LENGTH, BATCH, STEPS = 32, 2, 3, 48, 12, 8, 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.sees_future = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.qkv(x).split(WIDTH, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=not self.sees_future)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.drop = nn.Dropout(0.1)
        self.scale = 1 / math.sqrt(2 * LAYERS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.scale * self.attention(self.norm1(x))
        return x + self.scale * self.drop(self.down(F.gelu(self.up(self.norm2(x)))))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.embed(words) + self.place.weight
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


@dataclass
class Change:
    """What is other than in the good run."""

    model: Callable[[GPT], object] = lambda model: None
    optimizer: dict[str, Any] = field(default_factory=dict)
    groups: Callable[[GPT], Any] = lambda model: model.parameters()
    data_seed: int = 1
    dtype: torch.dtype | None = None
    lost_step: int | None = None


def train(
    folder: Path, change: Change | None = None, seed: int = 0, steps: int = STEPS, every: int = 1
) -> Path:
    change = change or Change()
    torch.manual_seed(seed)
    model = GPT()
    change.model(model)
    settings = {"lr": 1e-3, "weight_decay": 0.0, "eps": 1e-8} | change.optimizer
    optimizer = torch.optim.AdamW(change.groups(model), **settings)
    data = torch.Generator().manual_seed(change.data_seed + seed)
    torch.manual_seed(seed + 1)  # of the dropout
    with (
        fastlog.SummaryWriter(folder) as writer,
        fastlog.watch(model, writer, optimizer, every=every, log="all", health=False),
    ):
        for step in range(steps):
            words = torch.randint(WORDS, (BATCH, LENGTH + 1), generator=data)
            words[:, 1::2] = (words[:, 0:-1:2] * 7 + 3) % WORDS  # something to learn
            with torch.autocast("cpu", change.dtype or torch.bfloat16, enabled=change.dtype is not None):
                loss = F.cross_entropy(model(words[:, :-1]).flatten(0, 1).float(), words[:, 1:].flatten())
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            if change.lost_step == step:
                optimizer.zero_grad(set_to_none=False)
            optimizer.step()
            writer.add_scalar("loss", loss.item(), step)
    return folder


def no_dropout(model: GPT) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def other_init(model: GPT) -> None:
    with torch.no_grad():
        model.layers[1].up.weight.mul_(1.5)


def no_residual_scale(model: GPT) -> None:
    model.layers[1].scale = 1.0


def sees_future(model: GPT) -> None:
    model.layers[1].attention.sees_future = True


def transposed(model: GPT) -> None:
    with torch.no_grad():
        weight = model.layers[1].attention.out.weight
        weight.copy_(weight.t().clone())


def truncated(model: GPT) -> None:
    """One layer multiplies numbers of 10 bits, as TF32 does."""

    def cut(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (x,) = inputs
        return (x + (x.view(torch.int32) & ~0x1FFF).view(torch.float32).detach() - x.detach(),)

    model.layers[1].up.register_forward_pre_hook(cut)


def decay_on_norms(model: GPT) -> list[dict[str, Any]]:
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    rest = [p for name, p in model.named_parameters() if "norm" not in name]
    return [{"params": rest}, {"params": norms, "weight_decay": 0.5}]


CHANGES: dict[str, tuple[Change, int, str]] = {
    # name: what is changed, the first step that differs, how the first tensor's name begins
    "dropout off": (Change(no_dropout), 0, "activations/layers.0.drop"),
    "other init scale of one layer": (Change(other_init), 0, "activations/layers.1.up"),
    "eps": (Change(optimizer={"eps": 1e-3}), 0, "updates/"),
    "missing residual scale": (Change(no_residual_scale), 0, "activations/layers.1.norm2"),
    "attention sees the future": (Change(sees_future), 0, "activations/layers.1.attention"),
    "transposed weight": (Change(transposed), 0, "activations/layers.1.attention.out"),
    "lr 1.1 times": (Change(optimizer={"lr": 1.1e-3}), 0, "updates/"),
    "other data": (Change(data_seed=2), 0, "activations/embed"),
    "bfloat16": (Change(dtype=torch.bfloat16), 0, "activations/layers.0.attention.qkv"),
    "TF32 in one layer": (Change(truncated), 0, "activations/layers.1.up"),
    "one step of gradients lost": (Change(lost_step=4), 4, "gradients/"),
    "decay on norms": (Change(groups=decay_on_norms), 0, "updates/layers.0.norm1.weight"),
}
