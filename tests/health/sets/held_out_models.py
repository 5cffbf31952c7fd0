"""Models and an optimizer that only the held-out runs use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from sets.models import Attention


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self, classes: int = 10, width: int = 12, depth: int = 3) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        self.layers = nn.Sequential(*[Residual(width) for _ in range(depth)])
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layers(F.relu(self.bn(self.stem(x)))).mean((2, 3)))


class Seq2Seq(nn.Module):
    """A GRU that reads, and one that writes and looks back at what was read."""

    def __init__(self, vocabulary: int = 12, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(2 * width, vocabulary)

    def encode(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(self.embed(source))

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        read, state = self.encode(source)
        written = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
        hidden, _ = self.decoder(self.embed(written), state)
        seen = (hidden @ read.transpose(1, 2) / hidden.shape[-1] ** 0.5).softmax(-1) @ read
        return self.out(torch.cat([hidden, seen], -1))


class Experts(nn.Module):
    """The best of several networks for each token."""

    def __init__(self, width: int, number: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, number, bias=False)
        self.experts = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
                for _ in range(number)
            ]
        )
        self.balance = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.router(x).softmax(-1)
        weight, chosen = shares.max(-1)
        used = F.one_hot(chosen, len(self.experts)).float().mean((0, 1))
        self.balance = len(self.experts) * (used * shares.mean((0, 1))).sum()
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            mine = chosen == i
            out[mine] = (weight[mine, None] * expert(x[mine])).to(x.dtype)
        return out


class Switch(nn.Module):
    def __init__(self, vocabulary: int = 24, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(32, width)
        self.attention = nn.ModuleList([Attention(width) for _ in range(depth)])
        self.mixtures = nn.ModuleList([Experts(width) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * depth + 1)])
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        for i, (attention, mixture) in enumerate(zip(self.attention, self.mixtures, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + mixture(self.norms[2 * i + 1](x))
        return self.head(self.norms[-1](x))

    def balance(self) -> torch.Tensor:
        return sum((mixture.balance for mixture in self.mixtures), torch.zeros(()))


class Vit(nn.Module):
    """Nine patches of 4 x 4 and a class token, seen by torch's own encoder."""

    def __init__(self, width: int = 32, depth: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 4, 4)
        self.cls, self.place = (
            nn.Parameter(torch.zeros(1, 1, width)),
            nn.Parameter(0.02 * torch.randn(1, 10, width)),
        )
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.blocks(x)[:, 0])


class Patches:
    """Images with one of ten patterns, brighter and darker."""

    def __init__(self, batch: int = 32) -> None:
        self.batch = batch
        self._patterns = torch.randn(10, 1, 12, 12)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randint(10, (self.batch,))
        light = 0.5 + torch.rand(self.batch, 1, 1, 1)
        return light * self._patterns[y] + 0.8 * torch.randn(self.batch, 1, 12, 12), y


class Lion(torch.optim.Optimizer):
    """Steps of one size: the sign of the momentum."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                momentum = self.state[param].setdefault("momentum", torch.zeros_like(param))
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.sub_(group["lr"] * torch.sign(0.9 * momentum + 0.1 * param.grad))
                momentum.lerp_(param.grad, 0.01)
