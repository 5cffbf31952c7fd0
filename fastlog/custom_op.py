"""``torch.ops.fastlog.summarize``: summaries as tensors, inside of a compiled graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastlog.common.native import core
from fastlog.summaries.engines import pack_one
from fastlog.summaries.packed import COUNTERS, MOMENTS
from fastlog.summaries.summary import EDGES, SUMMARY_DTYPE, TensorSummary


@torch.library.custom_op(
    "fastlog::summarize", mutates_args=(), schema="(Tensor values) -> (Tensor, Tensor, Tensor)"
)
def summarize(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Summarises a tensor, as :func:`fastlog.summarize` does.

    ``torch.compile(fullgraph=True)`` keeps it in the graph. Not differentiable. ``counts`` and ``counters``
    of several tensors, or of the ranks of a job, add up; :func:`from_tensors` makes a ``TensorSummary``.

    Args:
        values: any shape and real dtype.

    Returns:
        ``counts`` (int64, 1548), ``counters`` (int64, 14) and ``moments`` (float64, 5), on the tensor's
        device: the fields of ``TensorSummary`` in the order of ``COUNTERS`` and ``MOMENTS`` of
        ``fastlog.summaries.packed`` (of no finite values, the minimum is inf and the maximum -inf).

    Raises:
        TypeError: as :func:`fastlog.summarize`.
    """
    record = np.frombuffer(core.unpack(bytes(pack_one(values))), np.int64)
    counts, counters, moments = np.split(record.copy(), [len(EDGES) - 1, len(EDGES) - 1 + len(COUNTERS)])
    parts = (counts, counters, moments.view(np.float64))
    return tuple(torch.from_numpy(part.copy()).to(values.device) for part in parts)  # type: ignore[return-value]


@summarize.register_fake
def _shapes(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        values.new_empty(len(EDGES) - 1, dtype=torch.int64),
        values.new_empty(len(COUNTERS), dtype=torch.int64),
        values.new_empty(len(MOMENTS), dtype=torch.float64),
    )


def _no_gradient(ctx: Any, *gradients: Any) -> None:
    return None


def _mark(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.mark_non_differentiable(*output)


summarize.register_autograd(_no_gradient, setup_context=_mark)


def from_tensors(counts: torch.Tensor, counters: torch.Tensor, moments: torch.Tensor) -> TensorSummary:
    """The ``TensorSummary`` of what ``torch.ops.fastlog.summarize`` returned.

    Raises:
        ValueError: other shapes.
    """
    record = np.zeros((), SUMMARY_DTYPE)
    record["counts"] = counts.cpu().numpy()
    for names, numbers in ((COUNTERS, counters), (MOMENTS, moments)):
        for name, number in zip(names, numbers.tolist(), strict=True):
            record[name] = number
    return TensorSummary(record)
