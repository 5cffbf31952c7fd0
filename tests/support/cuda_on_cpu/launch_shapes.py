"""What launches are made of: the parameters of real models, and mixtures that a generator makes up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

Shape = tuple[torch.dtype, int]
"""Dtype and number of values of one tensor."""


def _counts(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    return [math.prod(shape) for shape in shapes]


def _linear(out: int, into: int) -> list[tuple[int, ...]]:
    return [(out, into), (out,)]


def bert(layers: int, hidden: int, vocabulary: int = 30522) -> list[int]:
    """An encoder as of `transformers.BertModel`; the feed-forward part is 4 times as wide."""
    norm: list[tuple[int, ...]] = [(hidden,), (hidden,)]
    layer = [
        *(_linear(hidden, hidden) * 4),
        *norm,
        *_linear(4 * hidden, hidden),
        *_linear(hidden, 4 * hidden),
        *norm,
    ]
    embeddings = [(vocabulary, hidden), (512, hidden), (2, hidden), *norm]
    return _counts([*embeddings, *(layer * layers), *_linear(hidden, hidden)])


def llama(layers: int, hidden: int, keys: int, inner: int, vocabulary: int) -> list[int]:
    """A decoder with grouped keys and a gated feed-forward part."""
    attention = [(hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden)]
    layer = [*attention, (inner, hidden), (inner, hidden), (hidden, inner), (hidden,), (hidden,)]
    return _counts([(vocabulary, hidden), *(layer * layers), (hidden,), (vocabulary, hidden)])


def resnet50() -> list[int]:
    """Convolutions with their batch norms, as of torchvision's resnet50."""

    def convolution(out: int, into: int, side: int) -> list[tuple[int, ...]]:
        return [(out, into, side, side), (out,), (out,)]

    shapes = convolution(64, 3, 7)
    into = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, into, 1) + convolution(width, width, 3)
            shapes += convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, into, 1)
            into = 4 * width
    return _counts([*shapes, *_linear(1000, 2048)])


def experts(layers: int, hidden: int, inner: int, number: int, vocabulary: int) -> list[int]:
    """A decoder with ``number`` small feed-forward parts in each layer."""
    one = [(inner, hidden), (inner, hidden), (hidden, inner)]
    layer = [*[(hidden, hidden)] * 4, (number, hidden), *(one * number), *[(hidden,)] * 4]
    return _counts([(vocabulary, hidden), *(layer * layers), (hidden,), (vocabulary, hidden)])


MODELS: dict[str, list[int]] = {
    "BERT base": bert(12, 768),
    "MiniLM-L6": bert(6, 384),
    "Llama 8B": llama(32, 4096, 1024, 14336, 128256),
    "ResNet-50": resnet50(),
    "a mixture of 64 experts": experts(16, 2048, 1024, 64, 50304),
}


def of_model(counts: Sequence[int], how: str) -> list[Shape]:
    """``how`` names a dtype, or a mixture: matrices in the narrower dtype, vectors in float32."""
    if "+" not in how:
        return [(getattr(torch, how), count) for count in counts]
    narrow = getattr(torch, how.split("+")[0])
    return [(narrow if count > 65536 else torch.float32, count) for count in counts]


def mixture(seed: int, dtypes: Sequence[torch.dtype]) -> list[Shape]:
    """1 to 300 tensors of any dtype; counts over many magnitudes, on and beside borders of chunks."""
    generator = np.random.default_rng(seed)
    number = int(generator.choice([1, 2, 5, 20, 80, 300]))
    kinds = generator.choice(len(dtypes), min(len(dtypes), int(generator.integers(1, 5))), replace=False)
    largest = generator.uniform(1, 7)
    shapes = []
    for _ in range(number):
        count = int(10 ** generator.uniform(-1, largest))
        if generator.random() < 0.2:
            count = 131072 * int(generator.integers(1, 4)) + int(generator.integers(-1, 2))
        shapes.append((dtypes[int(generator.choice(kinds))], count))
    return shapes
