"""What the page shows of every tensor, or of every layer, at every step: measures, made from the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastlog.health.history import (
    GRADIENTS,
    UPDATE_SAMPLES,
    UPDATES,
    WEIGHTS,
    Bools,
    Floats,
    History,
    Kind,
    Table,
)
from fastlog.health.names import layer_of

_SUMS = ("num", "num_finite", "zeros", "sum_squares")


@dataclass(frozen=True)
class Rows:
    """Sums of the summaries of some tensors, float64 [names, T]: of layers as well as of single tensors."""

    names: tuple[str, ...]
    present: Bools
    sums: dict[str, Floats]
    abs_max: Floats

    @classmethod
    def of(cls, kind: Kind) -> Rows:
        """One row a tensor."""
        sums = {name: np.where(kind.present, kind.heads[name], 0).astype(np.float64) for name in _SUMS}
        return cls(kind.names, kind.present, sums, np.where(kind.present, kind.heads["abs_max"], 0.0))

    def only(self, names: Sequence[str]) -> Rows:
        """The rows of these names, in their order."""
        place = {name: i for i, name in enumerate(self.names)}
        rows = [place[name] for name in names]
        sums = {name: values[rows] for name, values in self.sums.items()}
        return Rows(tuple(names), self.present[rows], sums, self.abs_max[rows])

    def by_layer(self) -> Rows:
        """One row a layer, in the order of the model."""
        layers = list(dict.fromkeys(map(layer_of, self.names)))
        place = {layer: i for i, layer in enumerate(layers)}
        rows = np.array([place[layer_of(name)] for name in self.names])
        shape = (len(layers), self.present.shape[1])

        def gather(values: npt.NDArray[np.generic], ufunc: np.ufunc) -> npt.NDArray[np.generic]:
            out = np.zeros(shape, values.dtype)
            ufunc.at(out, rows, values)
            return out

        return Rows(
            tuple(layers),
            gather(self.present, np.logical_or),  # type: ignore[arg-type]
            {name: gather(values, np.add) for name, values in self.sums.items()},  # type: ignore[misc]
            gather(self.abs_max, np.maximum),  # type: ignore[arg-type]
        )

    @property
    def nonfinite(self) -> Bools:
        """Where a NaN or an Inf is."""
        return self.sums["num"] > self.sums["num_finite"]


@dataclass(frozen=True)
class Measure:
    """One number a row and observation, to be shown by colour.

    Attributes:
        key: short name, for links and tests.
        meaning: one sentence for readers.
        values: NaN where the row holds NaN or Inf.
        logarithmic: whether colours follow the logarithm.
    """

    key: str
    title: str
    meaning: str
    names: tuple[str, ...]
    values: Floats
    present: Bools
    logarithmic: bool


@dataclass(frozen=True)
class _Recipe:
    key: str
    title: str
    meaning: str
    kind: str
    values: Callable[[Rows], Floats]
    logarithmic: bool = True


_OF_ONE_KIND = (
    _Recipe(
        "gradient-rms",
        "gradient rms",
        "Root mean square of the gradient, as the optimizer gets it.",
        GRADIENTS,
        lambda rows: np.sqrt(_quotient(rows.sums["sum_squares"], rows.sums["num_finite"])),
    ),
    _Recipe(
        "zeros",
        "gradient zeros",
        "Share of the gradient's values that are exactly 0.",
        GRADIENTS,
        lambda rows: _quotient(rows.sums["zeros"], rows.sums["num"]),
        logarithmic=False,
    ),
    _Recipe(
        "abs-max", "weight abs max", "Largest magnitude of a weight.", WEIGHTS, lambda rows: rows.abs_max
    ),
    _Recipe(
        "weight-rms",
        "weight rms",
        "Root mean square of the weights.",
        WEIGHTS,
        lambda rows: np.sqrt(_quotient(rows.sums["sum_squares"], rows.sums["num_finite"])),
    ),
)


def measures(history: History, layers: bool = False) -> list[Measure]:
    """All that the history allows, of tensors or of layers."""
    rows = {kind: Rows.of(summaries) for kind, summaries in history.kinds.items() if summaries.names}
    if GRADIENTS in rows and history.without_gradient is not None:
        rows[GRADIENTS] = _with_none(rows[GRADIENTS], history.without_gradient, history.sizes())
    made = _update_ratio(rows, layers)
    for recipe in _OF_ONE_KIND:
        if recipe.kind in rows:
            part = rows[recipe.kind].by_layer() if layers else rows[recipe.kind]
            shown = np.where(part.present & ~part.nonfinite, recipe.values(part), np.nan)
            made.append(
                Measure(
                    recipe.key,
                    recipe.title,
                    recipe.meaning,
                    part.names,
                    shown,
                    part.present,
                    recipe.logarithmic,
                )
            )
    return made


def _with_none(rows: Rows, without: Table, sizes: Mapping[str, int]) -> Rows:
    """Gradients that are None count as zeros, also those of tensors that never had one."""
    names = (*rows.names, *(name for name in without.names if name not in set(rows.names)))
    if sizes:
        order = {name: i for i, name in enumerate(sizes)}
        names = tuple(sorted(names, key=lambda name: order.get(name, len(order))))
    shape = (len(names), rows.present.shape[1])
    sums = {name: np.zeros(shape) for name in _SUMS}
    present, abs_max = np.zeros(shape, bool), np.zeros(shape)
    known = {name: i for i, name in enumerate(rows.names)}
    for row, name in enumerate(names):
        if name in known:
            present[row], abs_max[row] = rows.present[known[name]], rows.abs_max[known[name]]
            for field, values in rows.sums.items():
                sums[field][row] = values[known[name]]
        if name in without.names:
            missing = without.row(name) == 1
            present[row] |= missing
            for field in ("num", "num_finite", "zeros"):
                sums[field][row, missing] = sizes.get(name, 1)
    return Rows(names, present, sums, abs_max)


def _update_ratio(rows: dict[str, Rows], layers: bool) -> list[Measure]:
    kind = next((kind for kind in (UPDATES, UPDATE_SAMPLES) if kind in rows), None)
    if kind is None or WEIGHTS not in rows:
        return []
    moved = set(rows[kind].names)
    names = [name for name in rows[WEIGHTS].names if name in moved]
    if not names:
        return []
    updates, weights = rows[kind].only(names), rows[WEIGHTS].only(names)
    if layers:
        updates, weights = updates.by_layer(), weights.by_layer()
    squares = [_quotient(part.sums["sum_squares"], part.sums["num_finite"]) for part in (updates, weights)]
    with np.errstate(all="ignore"):
        ratio = np.sqrt(squares[0] / squares[1])
    there = updates.present & weights.present & (squares[1] > 0)
    bad = updates.nonfinite | weights.nonfinite
    meaning = "How far one step moves a weight, relative to its size. Usual for matrices: around 1e-3."
    shown = np.where(there & ~bad, ratio, np.nan)
    return [Measure("update-ratio", "update / weight", meaning, updates.names, shown, there | bad, True)]


def _quotient(a: Floats, b: Floats) -> Floats:
    with np.errstate(all="ignore"):
        return a / b
