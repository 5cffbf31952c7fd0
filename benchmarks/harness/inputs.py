"""Tensors to count: what gradients, masks, one-hot codes and outliers look like to a histogram."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from contenders import EDGES, Array

CONTENTS: dict[str, Callable[[int, torch.Generator], torch.Tensor]] = {
    "gaussian": lambda n, rng: torch.randn(n, generator=rng),
    "zeros-heavy": lambda n, rng: torch.randn(n, generator=rng) * (torch.rand(n, generator=rng) > 0.9),
    "constant": lambda n, rng: torch.full((n,), 0.125),
    "two-valued": lambda n, rng: torch.randint(2, (n,), generator=rng) * 2.0 - 1.0,
    "heavy-tailed": lambda n, rng: torch.randn(n, generator=rng) * (4 * torch.randn(n, generator=rng)).exp(),
    "sorted": lambda n, rng: torch.randn(n, generator=rng).sort().values,
}


@dataclass(frozen=True)
class Input:
    """``values`` holds each element of ``base`` ``repeats`` times, so that NumPy need only count the base."""

    values: torch.Tensor
    base: torch.Tensor
    repeats: int

    def expected(self, edges: Array = EDGES) -> Array:
        """np.histogram's counts, in float64; all values lie within the edges."""
        counts = self.repeats * np.histogram(self.base.double().numpy(), bins=edges)[0]
        assert counts.sum() == self.values.numel()
        return counts

    def warm(self) -> None:
        """Reads every byte by an operation of torch, as in training.

        So everyone finds the cache, and torch's threads, in the same state.
        """
        self.values.view(torch.uint8).max()


@lru_cache(maxsize=1)
def make_input(content: str, dtype: torch.dtype, size: int) -> Input:
    """A contiguous tensor of ``size`` values within the dtype. Integers are 1,000 times as large."""
    base_size = next((n for n in (2**20, 10**6) if size > n and size % n == 0), size)
    base = CONTENTS[content](base_size, torch.Generator().manual_seed(0))
    if dtype.is_floating_point:
        limit = min(torch.finfo(dtype).max, 1e15)
        base = base.clamp(-limit, limit).to(dtype)
    elif dtype is not torch.bool:
        info = torch.iinfo(dtype)
        base = (base * 1000).clamp(max(info.min, -(2**24)), min(info.max, 2**24)).to(dtype)
    else:
        base = base > 0
    repeats = size // base_size
    values = base if repeats == 1 else _repeat(base, repeats, in_order=content == "sorted")
    return Input(values, base, repeats)


def _repeat(base: torch.Tensor, repeats: int, in_order: bool) -> torch.Tensor:
    source = base.view(torch.uint8).reshape(len(base), -1)  # torch repeats uint8 whatever the dtype
    repeated = source.repeat_interleave(repeats, dim=0) if in_order else source.repeat(repeats, 1)
    return repeated.flatten().view(base.dtype)
