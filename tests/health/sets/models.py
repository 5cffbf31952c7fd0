"""Small models and tasks that can be learnt in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

Loss = Callable[[int], torch.Tensor]


def mlp(sizes: tuple[int, ...] = (16, 64, 64, 4), activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(inputs, outputs))
        if i < len(sizes) - 2:
            layers.append(activation())
    return nn.Sequential(*layers)


class Points:
    """Points of several classes, told apart by a fixed random network."""

    def __init__(self, inputs: int = 16, classes: int = 4, batch: int = 64) -> None:
        self.batch = batch
        self.inputs = inputs
        self._map = torch.randn(inputs, classes)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(self.batch, self.inputs)
        return x, (x @ self._map).argmax(1)

    def loss(self, model: Callable[[torch.Tensor], torch.Tensor]) -> Loss:
        def loss_of(step: int) -> torch.Tensor:
            x, y = self.draw()
            return F.cross_entropy(model(x).float(), y)

        return loss_of


class Digits:
    """Images of 12 x 12 with one of ten patterns in noise."""

    def __init__(self, batch: int = 32, noise: float = 0.6) -> None:
        self.batch, self.noise = batch, noise
        self._patterns = torch.randn(10, 1, 12, 12)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randint(10, (self.batch,))
        return self._patterns[y] + self.noise * torch.randn(self.batch, 1, 12, 12), y


class Cnn(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.fc1 = nn.Linear(16 * 9, 32)
        self.drop = nn.Dropout(0.25)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(self.drop(F.relu(self.fc1(x.flatten(1)))))


class Sequences:
    """Sequences in which each token follows from the two before it, with some noise."""

    def __init__(self, vocabulary: int = 24, length: int = 16, batch: int = 16, noise: float = 0.1) -> None:
        self.vocabulary, self.length, self.batch, self.noise = vocabulary, length, batch, noise
        self._next = torch.randint(vocabulary, (vocabulary, vocabulary))

    def draw(self) -> torch.Tensor:
        tokens = [torch.randint(self.vocabulary, (self.batch,)) for _ in range(2)]
        for _ in range(self.length - 1):
            following = self._next[tokens[-2] % 3, tokens[-1]]
            other = torch.randint(self.vocabulary, (self.batch,))
            tokens.append(torch.where(torch.rand(self.batch) < self.noise, other, following))
        return torch.stack(tokens, 1)

    def loss(self, model: Callable[[torch.Tensor], torch.Tensor]) -> Loss:
        def loss_of(step: int) -> torch.Tensor:
            tokens = self.draw()
            logits = model(tokens[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

        return loss_of


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.softmax = nn.Softmax(-1)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, length, self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        logits = q @ k.transpose(-1, -2) / (width / self.heads) ** 0.5
        mask = torch.full((length, length), float("-inf")).triu(1).to(logits.dtype)
        mixed = self.softmax(logits + mask) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.ln2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class Gpt(nn.Module):
    def __init__(self, vocabulary: int = 24, width: int = 32, depth: int = 4, tied: bool = False) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(64, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, std=0.02)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase] = nn.GRU, vocabulary: int = 24, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.rnn = kind(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])


def small_bert(labels: int = 2, layers: int = 2, **options: object) -> nn.Module:
    """BERT with a new head and few layers: weights at random, as the shapes of the packaged one are large."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=200,
        hidden_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        num_labels=labels,
        **options,
    )
    return BertForSequenceClassification(config)


class Reviews:
    """Sentences of tokens: those with more from the upper half of the vocabulary belong to class 1."""

    def __init__(self, vocabulary: int = 200, length: int = 12, batch: int = 32) -> None:
        self.vocabulary, self.length, self.batch = vocabulary, length, batch

    def draw(self) -> dict[str, torch.Tensor]:
        labels = torch.randint(2, (self.batch,))
        upper = torch.rand(self.batch, self.length) < 0.2 + 0.6 * labels[:, None]
        tokens = torch.randint(5, self.vocabulary // 2, (self.batch, self.length))
        tokens = tokens + upper * (self.vocabulary // 2 - 5)
        lengths = torch.randint(6, self.length + 1, (self.batch, 1))
        mask = (torch.arange(self.length) < lengths).long()
        return {"input_ids": tokens * mask, "attention_mask": mask, "labels": labels}


def warm_up_and_decay(
    optimizer: torch.optim.Optimizer, steps: int, warm_up: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """From 0 up, and down to 0 with the last step."""

    def factor(step: int) -> float:
        if step < warm_up:
            return step / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - 1 - warm_up)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
