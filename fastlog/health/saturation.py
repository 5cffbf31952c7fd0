"""How much of what a tanh or sigmoid puts out lies near its limits, from the counts of its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastlog.health.history import Floats
from fastlog.summaries.packed import Heads
from fastlog.summaries.summary import EDGES, TensorSummary

_MIDDLE = (EDGES[:-1] + EDGES[1:]) / 2
_KINDS = ("Tanh", "Sigmoid")
_TOP = int(np.searchsorted(EDGES, 1.0, side="right")) - 1  # the bin of 1 is wide: from 0.917 on


class Saturation:
    """Knows which modules are tanh or sigmoid."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def learn(self, modules: Mapping[str, str]) -> None:
        """Classes of the modules by name."""
        self._classes = {name: kind for name, kind in modules.items() if kind in _KINDS}

    def measures(
        self, names: Sequence[str], heads: Heads, packed: Sequence[bytes]
    ) -> dict[str, tuple[tuple[str, ...], Floats]]:
        """ "saturated": share of the outputs near the limits; "passing": the root mean square of the slope
        there, as a share of the largest: so much of a gradient comes through.
        """
        chosen = [(i, name, self._classes[name]) for i, name in enumerate(names) if name in self._classes]
        if not chosen:
            return {}
        found = [_near_and_passing(kind, TensorSummary.from_packed(packed[i])) for i, _, kind in chosen]
        chosen_names = tuple(name for _, name, _ in chosen)
        near, passing = np.array(found).T
        return {"saturated": (chosen_names, near), "passing": (chosen_names, passing)}


def _near_and_passing(kind: str, summary: TensorSummary) -> tuple[float, float]:
    """The values of the widest bin, that of 1, are known by what the exact sums leave for them."""
    counts = summary.counts
    total = max(1, int(counts.sum()))
    top = np.zeros(len(counts), bool)
    top[_TOP] = True
    if kind == "Tanh":
        top[len(counts) - 1 - _TOP] = True
        slope = np.clip(1 - _MIDDLE**2, 0, 1)
        low = np.zeros(len(counts), bool)
        left = summary.sum_squares - float((counts * _MIDDLE**2)[~top].sum())
    else:
        slope = np.clip(4 * _MIDDLE * (1 - _MIDDLE), 0, 1)
        low = _MIDDLE < 0.03
        left = summary.sum - float((counts * _MIDDLE)[~top].sum())
    at_top = int(counts[top].sum())
    typical = min(1.0, max(0.0, left / at_top)) if at_top else 0.0  # of tanh squared, of sigmoid itself
    slope_at_top = 1 - typical if kind == "Tanh" else 4 * typical * (1 - typical)
    is_near = typical > (0.97**2 if kind == "Tanh" else 0.97)
    near = (at_top * is_near + int(counts[low].sum())) / total
    passing = float((counts * slope**2)[~top].sum()) + at_top * slope_at_top**2
    return near, float(np.sqrt(passing / total))
