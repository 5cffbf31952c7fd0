"""What `fastlog.watch` has to log, computed from copies of the tensors in float64 (sums in long double)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracles import EDGES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_net import LAYERS

STATS = (
    "norm",
    "rms",
    "mean",
    "std",
    "min",
    "max",
    "zeros",
    "nan",
    "inf",
    "below_bf16",
    "below_fp16",
    "below_fp8",
)
SMALLEST_NORMAL = {"below_bf16": 2.0**-126, "below_fp16": 2.0**-14, "below_fp8": 2.0**-6}


def copy(tensor: torch.Tensor) -> np.ndarray:
    """The values in float64, as they are now."""
    tensor = tensor.detach()
    dense = tensor.to_dense() if tensor.layout is not torch.strided else tensor
    return dense.double().numpy().ravel().copy()


def statistics(values: np.ndarray) -> dict[str, tuple[float, float]]:
    """Every scalar of a tensor, and how far the logged one may be from it."""
    finite = values[np.isfinite(values)]
    n = len(finite)
    wide = finite.astype(np.longdouble)
    squares, absolutes = float((wide**2).sum()), float(np.abs(wide).sum())
    mean = float(wide.sum() / n) if n else math.nan
    variance = float(((wide - wide.sum() / n) ** 2).sum() / n) if n else math.nan
    found = {
        "norm": (math.sqrt(squares), 0.0),
        "rms": (math.sqrt(squares / n) if n else math.nan, 0.0),
        "mean": (mean, 2e-12 * absolutes / max(n, 1)),
        # a difference of the sums: its square is as exact as the mean square
        "std": (math.sqrt(variance) if n else math.nan, math.sqrt(4e-12 * squares / max(n, 1))),
        "min": (float(finite.min()) if n else math.nan, 0.0),
        "max": (float(finite.max()) if n else math.nan, 0.0),
        "zeros": (float((values == 0).mean()), 0.0),
        "nan": (float(np.isnan(values).sum()), 0.0),
        "inf": (float(np.isinf(values).sum()), 0.0),
    }
    magnitude = np.abs(values)
    for stat, limit in SMALLEST_NORMAL.items():
        found[stat] = (float(((magnitude > 0) & (magnitude < limit)).mean()), 0.0)
    return found


@dataclass
class Expected:
    """The events of a run so far: by tag, step and value."""

    scalars: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    histograms: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def add(
        self,
        step: int,
        kind: str,
        title: str,
        tensors: Mapping[str, torch.Tensor | np.ndarray],
        layers: Mapping[str, Iterable[str]],
        tensor_stats: Iterable[str] = ("norm",),
    ) -> None:
        """The tensors of one kind at one step, the layers that they make up, and the whole model."""
        arrays = {n: t if isinstance(t, np.ndarray) else copy(t) for n, t in tensors.items()}
        for name, array in arrays.items():
            self.histograms.setdefault(f"{kind}/{name}", {})[step] = array
            self._scalars(step, title, name, array, tensor_stats)
        for layer, names in layers.items():
            if members := [arrays[name] for name in names if name in arrays]:
                self._scalars(step, title, layer, np.concatenate(members), STATS)
        self._scalars(step, title, "global", np.concatenate(list(arrays.values())), STATS)

    def add_ratios(
        self,
        step: int,
        weights: Mapping[str, torch.Tensor],
        updates: Mapping[str, np.ndarray],
        layers: Mapping,
    ) -> None:
        for name, members in {**{n: [n] for n in updates}, **layers, "global": list(updates)}.items():
            norms = [
                np.linalg.norm(np.concatenate([np.asarray(part[m], np.float64) for m in members]))
                for part in (updates, {n: copy(w) for n, w in weights.items()})
            ]
            if norms[1]:
                self.scalar(step, f"update_ratio/{name}", float(norms[0] / norms[1]))

    def scalar(self, step: int, tag: str, value: float, tolerance: float = 0.0) -> None:
        self.scalars.setdefault(tag, {})[step] = (value, tolerance)

    def _scalars(self, step: int, title: str, name: str, array: np.ndarray, stats: Iterable[str]) -> None:
        found = statistics(array)
        for stat in stats:
            self.scalar(step, f"{title}_{stat}/{name}", *found[stat])

    def assert_logged(self, logdir: Path, others: str | None = None) -> None:
        """The files hold exactly this: the same tags, steps, counts; scalars to float32's precision.

        Scalars whose tags match the regular expression ``others`` are let be.
        """
        events = read(logdir)
        tags = events.Tags()
        ours = {tag for tag in tags["scalars"] if others is None or not re.match(others, tag)}
        assert ours == set(self.scalars)
        assert set(tags["histograms"]) == set(self.histograms)
        for tag, by_step in self.scalars.items():
            logged = {event.step: event.value for event in events.Scalars(tag)}
            assert len(logged) == len(events.Scalars(tag)), f"{tag} twice at one step"
            assert logged.keys() == by_step.keys(), tag
            for step, (value, tolerance) in by_step.items():
                close = math.isclose(logged[step], value, rel_tol=2e-7, abs_tol=max(tolerance, 1e-45))
                assert close or (math.isnan(value) and math.isnan(logged[step])), (
                    tag,
                    step,
                    logged[step],
                    value,
                )
        for tag, arrays in self.histograms.items():
            logged_histograms = {event.step: event.histogram_value for event in events.Histograms(tag)}
            assert logged_histograms.keys() == arrays.keys(), tag
            for step, array in arrays.items():
                histogram = logged_histograms[step]
                finite = array[np.isfinite(array)]
                counts, _ = np.histogram(finite, bins=EDGES)
                occupied = np.flatnonzero(counts)
                pairs = zip(histogram.bucket_limit, histogram.bucket, strict=True)
                assert [pair for pair in pairs if pair[1]] == [(EDGES[i + 1], counts[i]) for i in occupied], (
                    tag
                )
                assert histogram.num == array.size


def read(logdir: Path | str) -> EventAccumulator:
    """All events of a folder, none sampled away."""
    return EventAccumulator(str(logdir), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0}).Reload()


def texts(logdir: Path | str, tag: str = "fastlog/nonfinite/text_summary") -> list[tuple[int, str]]:
    events = read(logdir)
    if tag not in events.Tags()["tensors"]:
        return []
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag)]


def expect_step(expected: Expected, step: int, grads: dict[str, Any], params: dict[str, Any]) -> None:
    expected.add(step, "gradients", "grad", grads, LAYERS)
    expected.add(step, "weights", "weight", params, LAYERS)


def steps(logdir: Path | str, tag: str = "grad_norm/global") -> list[int]:
    """The steps at which a scalar was logged."""
    return [event.step for event in read(logdir).Scalars(tag)]


def weight_steps(logdir: Path) -> dict[str, list[int]]:
    """The steps at which weights were logged, by name; biases aside."""
    if not logdir.exists():
        return {}
    events = read(logdir)
    tags = [tag for tag in events.Tags()["histograms"] if not tag.endswith(".bias")]
    return {tag.removeprefix("weights/"): [event.step for event in events.Histograms(tag)] for tag in tags}
