"""Everyone's way to count a tensor's values, under one signature, and the oracle that they are held against.

A contender that is not installed is not in the race; the report shows who was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import tensorboardX.summary
import torch
import torch.utils.tensorboard.summary

import fastlog

Array = np.ndarray[Any, Any]

EDGES = fastlog.summaries.summary.EDGES
BINS = len(EDGES) - 1
_EDGES32 = torch.from_numpy(EDGES.copy()).float()
# For those that count equal bins only: as many, over a range that holds everything and that they are told.
UNIFORM = np.linspace(-8.0, 8.0, BINS + 1)


@dataclass(frozen=True)
class Counter:
    """A way to count the values of a float32 tensor.

    Attributes:
        name: how the report calls it.
        run: what is timed: the tensor to whatever the library gives.
        counts: from that to int64 counts over ``edges``; not timed.
        edges: TensorBoard's, or ``UNIFORM`` for those that can do nothing else, an easier task.
        misplaced: the share of values that it may put into another bin than NumPy in float64 does: those that
            count in float32.
    """

    name: str
    run: Callable[[torch.Tensor], Any]
    counts: Callable[[Any], Array]
    edges: Array = field(default_factory=lambda: EDGES)
    misplaced: float = 0.0

    def check(self, values: torch.Tensor, expected: Callable[[Array], Array]) -> None:
        """Asserts that it counts ``values`` as ``expected(edges)`` says."""
        counts, wanted = self.counts(self.run(values)), expected(self.edges)
        if not self.misplaced:
            np.testing.assert_array_equal(counts, wanted)
        assert np.abs(counts - wanted).sum() / 2 <= self.misplaced * values.numel()


def proto_counts(proto: Any) -> Array:
    """A HistogramProto's buckets as counts over TensorBoard's default bins."""
    limits, buckets = np.array(proto.bucket_limit), np.array(proto.bucket)
    counts = np.zeros(BINS, np.int64)
    occupied = buckets > 0
    counts[np.searchsorted(EDGES, limits[occupied]) - 1] = buckets[occupied]
    return counts


def _from_summary(summary: Any) -> Array:
    return proto_counts(summary.value[0].histo)


def _numpy(values: torch.Tensor) -> Array:
    return values.detach().numpy().reshape(-1)


FASTLOG = Counter("fastlog", fastlog.summarize, lambda summary: summary.counts)
TENSORBOARDX = Counter(
    "tensorboardX", lambda x: tensorboardX.summary.histogram("tag", x, EDGES), _from_summary
)
TORCH_TENSORBOARD = Counter(
    "torch.utils.tensorboard",
    lambda x: torch.utils.tensorboard.summary.histogram("tag", x, EDGES),
    _from_summary,
)


def _bucketize_and_bincount(values: torch.Tensor) -> torch.Tensor:
    return torch.bincount(torch.bucketize(values.flatten(), _EDGES32, right=True), minlength=BINS + 2)


def _boost_histogram(threads: int) -> Counter:
    bh = import_module("boost_histogram")
    axis = bh.axis.Variable(EDGES)

    def run(values: torch.Tensor) -> Any:
        return bh.Histogram(axis, storage=bh.storage.Int64()).fill(_numpy(values), threads=threads)

    return Counter("boost-histogram", run, lambda histogram: histogram.values())


def _fast_histogram() -> Counter:
    histogram1d = import_module("fast_histogram").histogram1d
    low, high = float(UNIFORM[0]), float(UNIFORM[-1])
    return Counter(
        "fast-histogram (equal bins)",
        lambda x: histogram1d(_numpy(x), bins=BINS, range=(low, high)),
        lambda counts: counts.astype(np.int64),
        UNIFORM,
        misplaced=1e-3,
    )


def everyone_else(threads: int) -> Mapping[str, Counter]:
    """All that are installed, by name; float32 only. ``threads``: for those that want to be told."""
    counters = [
        TENSORBOARDX,
        TORCH_TENSORBOARD,
        Counter(
            "np.histogram", lambda x: np.histogram(_numpy(x), EDGES)[0], lambda counts: counts, EDGES, 1e-5
        ),
        Counter(
            "torch.histogram",
            lambda x: torch.histogram(x, bins=_EDGES32).hist,
            lambda hist: hist.numpy().astype(np.int64),
            misplaced=1e-4,
        ),
        Counter(
            "torch.bucketize + bincount",
            _bucketize_and_bincount,
            lambda counts: counts[1:-1].numpy(),
            misplaced=1e-4,
        ),
        Counter(
            "torch.histc (equal bins)",
            lambda x: torch.histc(x, bins=BINS, min=float(UNIFORM[0]), max=float(UNIFORM[-1])),
            lambda hist: hist.numpy().astype(np.int64),
            UNIFORM,
            misplaced=1e-3,
        ),
    ]
    if find_spec("boost_histogram"):
        counters.append(_boost_histogram(threads))
    if find_spec("fast_histogram"):
        counters.append(_fast_histogram())
    return {counter.name: counter for counter in counters}
