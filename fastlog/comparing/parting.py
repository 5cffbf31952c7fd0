"""Where two runs part: the first step and tensors that differ by more than chance and rounding explain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from fastlog.comparing.distances import Distances

Tensor = tuple[str, str]
"""(kind, name), such as ("gradients", "layers.0.weight")."""

KINDS: Final = ("activations", "activation_gradients", "gradients", "updates", "weights")
"""In the order in which a training step makes them: what differs first is where to look. Others follow."""

_ROUNDING = 1e-5  # relative; what another order of additions does to a tensor in float32
_GROWN = 1e-3  # what rounding may have grown to in the first steps
_NARROW = 2e-2  # ... and what bfloat16 does (its last place is 2 ** -8)
_SHARE_NARROW = 0.7  # of the tensors that differ by no more
_JUMP = 50.0  # rounding grows in training, but not so much from one logged step to the next
_SAME_START = 0.2  # of what the sums of two independent draws of one distribution differ by
_GROSS = math.log(2.0)  # without repeated runs: what no two seeds should differ by for long
_GROSS_SHARE = 0.25
_LASTING = 0.5  # of the steps
_OUTSIDE = 4.0  # times the range of the repeated runs
_CHANCE = 6.0  # standard deviations of what is drawn at random
_FLOOR = 0.05  # relative; less is never said of runs with different seeds

_COMPUTED = ("activations", "activation_gradients", "gradients")  # before the optimizer


@dataclass(frozen=True)
class Difference:
    """One tensor at the step at which the runs part.

    Attributes:
        kind, name: of the tensor.
        looks_like: in words.
        size: about the relative change of the values.
        factor: ratio of the root mean squares.
        zeros, nonfinite, ks, w1, shift: see ``Distances``.
    """

    kind: str
    name: str
    looks_like: str
    size: float
    factor: float
    shift: float
    zeros: float
    nonfinite: float
    ks: float
    w1: float


@dataclass(frozen=True)
class Comparison:
    """What ``fastlog.compare`` says.

    Attributes:
        alike: nothing differs by more than chance and rounding explain.
        paired: the runs began the same (seed, data, order), so that every difference has a cause.
        first_step: where they part; None where they do not.
        differing: the tensors that differ there, in the order in which a step makes them.
        same: how many tensors of each kind are the same there.
        steps: the steps that were compared.
        verdict: in one sentence.
        notes: what could not be compared, and how to see more.
        distances: of each tensor over all steps.
    """

    alike: bool
    paired: bool
    first_step: int | None
    differing: tuple[Difference, ...]
    same: Mapping[str, int]
    steps: npt.NDArray[np.int64]
    verdict: str
    notes: tuple[str, ...]
    distances: Mapping[Tensor, Distances] = field(repr=False)


def began_the_same(found: Mapping[Tensor, Distances]) -> bool:
    """Whether both runs drew the same random weights, saw the same data, or both.

    The sums of two independent draws differ by about the root of the number of values; those of the same draw
    do not, even after a different first step.
    """
    if any(
        one.same[0]
        for (kind, _), one in found.items()
        if kind in ("gradients", "activations") and _varies(one)
    ):
        return True
    drawn = [
        one for (kind, _), one in found.items() if kind == "weights" and one.number[0] > 1 and _varies(one)
    ]
    if not drawn:
        return any(one.same[0] for one in found.values() if _varies(one))
    differences = [abs(one.shift[0]) * math.sqrt(one.number[0]) for one in drawn]
    return bool(np.median(differences) < _SAME_START)


def part_paired(
    steps: npt.NDArray[np.int64], found: Mapping[Tensor, Distances]
) -> tuple[int | None, set[Tensor]]:
    """Index of the step at which runs part that began the same, and the tensors that differ there."""
    differ = {tensor: ~one.same & ~_amplified(tensor, found) for tensor, one in found.items()}
    sizes = {tensor: np.where(differ[tensor], one.change, 0.0) for tensor, one in found.items()}
    computed = [size for (kind, _), size in sizes.items() if kind in _COMPUTED] or list(sizes.values())
    largest = np.max(computed, axis=0)
    for at in range(len(steps)):
        before = largest[at - 1] if at else 0.0
        limit = max(_JUMP * before, _GROWN) if before else _ROUNDING
        which = {tensor for tensor, size in sizes.items() if size[at] > limit}
        if which:
            if not before:  # nothing differed so far: rounding has had no time to grow
                which = {tensor for tensor, here in differ.items() if here[at]}
            return at, which
    return None, set()


def _amplified(tensor: Tensor, found: Mapping[Tensor, Distances]) -> npt.NDArray[np.bool_]:
    """Where a difference is rounding of the gradient, which Adam makes large.

    Adam divides by the gradient's size, and that is zero but for rounding in the bias of an attention's keys,
    say. From then on the weights have it.
    """
    kind, name = tensor
    one = found[tensor]
    gradient = found.get(("gradients", name))
    if kind in _COMPUTED or gradient is None:
        return np.zeros(len(one.same), bool)
    return np.logical_or.accumulate(~gradient.same & (gradient.change <= _ROUNDING))


def part_unpaired(
    found: Mapping[Tensor, Distances], like: Sequence[Mapping[Tensor, Distances]]
) -> tuple[int | None, set[Tensor]]:
    """Index of the step from which on tensors differ for long, and which ones do.

    Args:
        like: the first run against runs that are meant to be like it (other seeds).
    """
    first: int | None = None
    which: set[Tensor] = set()
    for tensor, one in found.items():
        usual = [repeated[tensor] for repeated in like if tensor in repeated]
        outside = _outside(one, usual) if usual else _gross(one)
        if outside.mean() >= _LASTING or outside[-max(len(outside) // 4, 3) :].all():
            at = int(np.flatnonzero(outside)[0])
            which.add(tensor)
            first = at if first is None else min(first, at)
    return first, which


def _outside(one: Distances, usual: Sequence[Distances]) -> npt.NDArray[np.bool_]:
    outside = np.zeros(len(one.same), bool)
    for name in ("log_rms", "zeros", "shift"):
        values = np.nan_to_num(np.array([getattr(run, name) for run in usual] + [0 * one.log_rms]))
        low, high = values.min(axis=0), values.max(axis=0)
        reach = _OUTSIDE * (high - low) + _FLOOR + _CHANCE / np.sqrt(np.maximum(one.number, 1))
        own = np.nan_to_num(getattr(one, name), nan=np.inf)
        outside |= (own > high + reach) | (own < low - reach)
    return np.asarray(outside | (one.nonfinite != 0), bool)


def _gross(one: Distances) -> npt.NDArray[np.bool_]:
    log_rms = np.nan_to_num(np.abs(one.log_rms), nan=np.inf)
    grown = log_rms > _GROSS + _CHANCE / np.sqrt(np.maximum(one.number, 1))
    return np.asarray(grown | (np.abs(one.zeros) > _GROSS_SHARE) | (one.nonfinite != 0), bool)


def differing_at(found: Mapping[Tensor, Distances], at: int, which: set[Tensor]) -> list[Difference]:
    """The tensors that differ at a step, in the order in which it makes them."""
    order = {tensor: place for place, tensor in enumerate(found)}
    chosen = sorted(
        which,
        key=lambda tensor: (KINDS.index(tensor[0]) if tensor[0] in KINDS else len(KINDS), order[tensor]),
    )
    sizes = [float(found[tensor].size[at]) for tensor in chosen]
    narrow = bool(sizes) and np.mean([size < _NARROW for size in sizes]) >= _SHARE_NARROW
    return [_difference(tensor, found[tensor], at, bool(narrow)) for tensor in chosen]


def _difference(tensor: Tensor, one: Distances, at: int, narrow: bool) -> Difference:
    log_rms = float(one.log_rms[at])
    return Difference(
        *tensor,
        _looks_like(one, at, narrow),
        float(one.size[at]),
        math.exp(log_rms) if math.isfinite(log_rms) else math.nan if math.isnan(log_rms) else math.inf,
        float(one.shift[at]),
        float(one.zeros[at]),
        float(one.nonfinite[at]),
        float(one.ks[at]),
        float(one.w1[at]),
    )


def _looks_like(one: Distances, at: int, narrow: bool) -> str:
    log_rms, shift, zeros = float(one.log_rms[at]), float(one.shift[at]), float(one.zeros[at])
    if one.nonfinite[at]:
        return f"{abs(one.nonfinite[at]):,.0f} {'more' if one.nonfinite[at] > 0 else 'fewer'} NaN or Inf"
    if log_rms == -math.inf or (math.isnan(log_rms) and zeros > 0):
        return "all zero in the second run"
    if log_rms == math.inf:
        return "all zero in the first run"
    if abs(zeros) > 0.02:
        return f"{abs(zeros):.0%} {'more' if zeros > 0 else 'fewer'} zeros"
    if one.change[at] <= _ROUNDING:
        return "rounding"
    if abs(log_rms) > 0.01 and abs(log_rms) > 3 * abs(shift):
        bins = abs(log_rms) / math.log(1.1)
        pure = bins < 1 or abs(one.w1[at] - bins) < 0.25 * bins
        return f"scaled by {math.exp(log_rms):.3g}" + ("" if pure else ", and of another form")
    if narrow and one.size[at] < _NARROW:
        return "slightly other values, as a narrower dtype or another eps makes"
    if abs(shift) > 0.02:
        return "shifted"
    return "other values, distributed alike"


def _varies(one: Distances) -> bool:
    """Whether it is more than one value at the first step: two runs share constants by design."""
    return bool(one.spread[0] > 1e-3)
