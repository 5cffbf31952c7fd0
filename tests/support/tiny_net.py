"""The model that most tests train: an embedding, two numbered layers and a head. Imports torch alone."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.query(x).tanh())


class Net(nn.Module):
    """11 rows and 3 rows at its ends, which no number of ranks in these tests divides."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6, sparse=sparse)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


BLOCK = ("query.weight", "query.bias", "norm.weight", "norm.bias")
LAYERS = {
    "embed": ["embed.weight"],
    "layers.0": [f"layers.0.{name}" for name in BLOCK],
    "layers.1": [f"layers.1.{name}" for name in BLOCK],
    "head": ["head.weight", "head.bias"],
}


def loss_of(model: nn.Module) -> torch.Tensor:
    return model(torch.randint(11, (4, 5))).square().mean()


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
