"""The summary in plain torch: the fallback on devices without an engine, and the oracle of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from fastlog.common.native import core
from fastlog.summaries.summary import EDGES, SUMMARY_DTYPE, TensorSummary

Partial: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Of one block: counts and counters, int64; moments. In the order of the record."""

_BLOCK = 1 << 22  # values widened at a time


def summarize_reference(tensor: torch.Tensor) -> TensorSummary:
    """Summarises a dense tensor on its own device; only the summary comes to the host (which waits for it).

    Counts, extremes and counters equal the engine's. MPS has no float64: there values are compared and summed
    in float32.
    """
    edges = torch.from_numpy(EDGES.copy()).to(tensor.device, _wide_on(tensor))
    made = partials(tensor.detach().reshape(-1), edges)
    return folded([(integers.cpu(), moments.cpu()) for integers, moments in made])


def partials(flat: torch.Tensor, edges: torch.Tensor) -> list[Partial]:
    """What `folded` needs of each block of the values, on their device. Waits for no device.

    Args:
        flat: one dimension.
        edges: `EDGES` on the device of ``flat``.
    """
    return [_of_block(flat[start : start + _BLOCK], edges) for start in range(0, flat.numel(), _BLOCK)]


def folded(parts: Sequence[Partial]) -> TensorSummary:
    """The summary of all blocks, from host memory."""
    total = TensorSummary(np.frombuffer(_EMPTY, SUMMARY_DTYPE).reshape(()))
    for integers, moments in parts:
        record = integers.numpy().astype("<i8").tobytes() + moments.numpy().astype("<f8").tobytes()
        total += TensorSummary(np.frombuffer(record, SUMMARY_DTYPE).reshape(()))
    return total


def _wide_on(tensor: torch.Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _widen(block: torch.Tensor) -> torch.Tensor:
    if block.dtype.is_floating_point and block.element_size() == 1:
        block = block.to(torch.float32)
    return block.to(_wide_on(block))


def _sum(values: torch.Tensor) -> torch.Tensor:
    # Partial sums may overflow where the sum does not, and then cancel to NaN.
    plain = values.sum()
    return torch.where(plain.isfinite(), plain, (values * 2.0**-64).sum() * 2.0**64)


def _of_block(block: torch.Tensor, edges: torch.Tensor) -> Partial:
    x = _widen(block)
    bins = len(EDGES) - 1
    finite = torch.isfinite(x)
    # Slots 0 and bins + 1 take what lies outside; `right=True` puts an edge into the bin on its right.
    slot = torch.bucketize(x, edges, right=True)
    slot = torch.where(x == edges[-1], bins, slot)
    slot = torch.where(finite, slot, bins + 2)
    counts = slot.new_zeros(bins + 3)
    counts.scatter_add_(0, slot, torch.ones_like(slot))
    magnitude = torch.where(finite, x, 0).abs()
    nonzero = magnitude > 0
    counters = torch.stack(
        [
            counts[0],
            counts[bins + 1],
            x.isnan().sum(),
            (x == float("inf")).sum(),
            (x == float("-inf")).sum(),
            (x == 0).sum(),
            *((nonzero & (magnitude < normal)).sum() for normal in core.SMALLEST_NORMALS),
            *((magnitude > largest).sum() for largest in core.LARGEST),
            slot.new_full((), x.numel()),
            finite.sum(),
        ]
    )
    infinity = float("inf")
    values = torch.where(finite, x, 0)
    moments = torch.stack(
        [
            torch.where(finite, x, infinity).min() + 0.0,
            torch.where(finite, x, -infinity).max() + 0.0,
            magnitude.max(),
            _sum(values),
            (values * values).sum(),
        ]
    )
    return torch.cat([counts[1 : bins + 1], counters]), moments


def _empty() -> bytes:
    record = np.zeros((), SUMMARY_DTYPE)
    record["min"], record["max"] = np.inf, -np.inf
    return record.tobytes()


_EMPTY = _empty()
