"""What all rules stand on: a run with what is derived of its history, persistence, and making findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fastlog.health.findings import Chart, Finding, Severity
from fastlog.health.history import (
    GRADIENTS,
    UPDATE_SAMPLES,
    UPDATES,
    WEIGHTS,
    Bools,
    Floats,
    History,
    Kind,
    Parameter,
    Table,
)
from fastlog.health.names import layer_of
from fastlog.health.rules.course import Course

FIRST_ARMED: Final = 10
"""Observations before which no rule of thresholds says anything."""

_ADAPTIVE = re.compile(
    r"adam|adagrad|adadelta|rmsprop|lion|lamb|nadam|radam|sophia|muon|shampoo|soap|prodigy", re.I
)
_TABLES = re.compile(r"embedding", re.I)
_NO_HEADS = re.compile(r"lora|pooler", re.I)
_CHART_POINTS = 200
_ENOUGH = 0.25  # of the parameters: matrices beside large embeddings say little of the model


@dataclass(frozen=True)
class Rule:
    """One question to a run.

    Attributes:
        id: its stable name.
        judge: its findings.
        needs: what a run lacks to be asked, in words; "" for nothing.
        threshold: when it says so.
        calibrated: on what the numbers in it were chosen.
    """

    id: str
    judge: Callable[[Run], Iterable[Finding]]
    needs: Callable[[Run], str]
    threshold: str
    calibrated: str


class Run:
    """A history, and what several rules derive of it.

    Args:
        history: of the run.
        mute: reasons by rule, or by "RULE:REGULAR EXPRESSION" for some of the tensors.
    """

    def __init__(self, history: History, mute: Mapping[str, str]) -> None:
        self.history = history
        self.steps = history.steps
        self.count = len(history.steps)
        self.sizes = history.sizes()
        self.total = max(1, sum(self._trained_sizes()))
        self.loss = Course.of(history)
        self._mute: dict[str, list[re.Pattern[str]]] = {}
        for key in mute:
            rule, _, pattern = key.partition(":")
            self._mute.setdefault(rule, []).append(re.compile(pattern))

    def _trained_sizes(self) -> Iterator[int]:
        parameters = self.history.parameters
        for name, size in self.sizes.items():
            if name not in parameters or parameters[name].trainable:
                yield size

    def is_muted(self, rule: str, name: str = "") -> bool:
        """Whether the user does not want to hear of it."""
        return any(pattern.search(name) for pattern in self._mute.get(rule, ()))

    def kind(self, name: str) -> Kind | None:
        """The summaries of a kind."""
        return self.history.kinds.get(name)

    def measure(self, name: str) -> Table | None:
        """A table of the history's measures."""
        return self.history.measures.get(name)

    def parameter(self, name: str) -> Parameter | None:
        """What the inventory says of a parameter."""
        return self.history.parameters.get(name)

    def at(self, step: int) -> int:
        """The first observation at a step or after it; the last one where there is none."""
        return int(np.searchsorted(self.steps, step).clip(0, max(self.count - 1, 0)))

    # ---- derived

    @cached_property
    def lr(self) -> Floats:
        """The largest learning rate of all groups, [T]; NaN where it is not known."""
        lr = self.history.lr
        if not lr.size:
            return np.full(self.count, np.nan)
        known = ~np.isnan(lr)
        highest: Floats = np.where(known.any(axis=0), np.where(known, lr, -np.inf).max(axis=0), np.nan)
        return highest

    def lr_of(self, name: str) -> Floats:
        """The learning rate of one parameter, [T]; NaN where it is not known."""
        parameter = self.parameter(name)
        if parameter is None or parameter.group is None or parameter.group >= len(self.history.lr):
            return self.lr if parameter is None else np.full(self.count, np.nan)
        row: Floats = self.history.lr[parameter.group]
        return row

    @cached_property
    def effective(self) -> int:
        """The first observation before which a step with a learning rate above 0 has been seen.

        What begins at zero (LoRA's B, residual branches, a warm-up) has moved by then.
        """
        moving = np.flatnonzero(~(self.lr == 0))
        return int(moving[0]) + 1 if len(moving) else self.count

    @cached_property
    def warmed_up(self) -> int:
        """The observation at which the learning rate has first reached 95 % of its peak so far."""
        known = np.where(np.isnan(self.lr), -np.inf, self.lr)
        if not self.count or not np.isfinite(known).any():
            return 0
        return int(np.argmax(known >= 0.95 * known.max()))

    @cached_property
    def armed(self) -> int:
        """The first observation that rules with thresholds look at."""
        return max(FIRST_ARMED, self.warmed_up)

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """Trainable parameters of two dimensions or more, embeddings aside, in the order of the model."""
        parameters = self.history.parameters
        if parameters:
            return tuple(
                name
                for name, p in parameters.items()
                if p.trainable and len(p.shape) > 1 and p.numel and min(p.shape[0], p.numel // p.shape[0]) > 1
                if not _TABLES.search(p.module) and not _TABLES.search(name)
            )
        weights = self.kind(WEIGHTS)
        names = weights.names if weights is not None else ()
        return tuple(
            name for name in names if re.search(r"weight|kernel", name) and "norm" not in name.lower()
        )

    @cached_property
    def classes(self) -> int | None:
        """How many classes the model tells apart, by the rows of its last matrix."""
        for name, parameter in reversed(list(self.history.parameters.items())):
            if len(parameter.shape) == 2 and parameter.trainable and not _NO_HEADS.search(name):
                return max(2, parameter.shape[0])
        return None

    @cached_property
    def updates(self) -> Kind | None:
        """Updates of whole tensors, or of the values that were read of each."""
        return self.kind(UPDATES) or self.kind(UPDATE_SAMPLES)

    @cached_property
    def update_ratios(self) -> Table | None:
        """RMS of the update over RMS of the weight, of the matrices; None where updates are not known."""
        updates, weights = self.updates, self.kind(WEIGHTS)
        if updates is None or weights is None:
            return None
        names = tuple(n for n in self.matrices if n in updates.index and n in weights.index)
        u = updates.stat("rms")[[updates.index[n] for n in names]]
        w = weights.stat("rms")[[weights.index[n] for n in names]]
        with np.errstate(all="ignore"):
            return Table(names, np.where(w > 0, u / w, np.nan))

    @cached_property
    def gradient_norm(self) -> Floats:
        """Norm of all gradients together, [T]; NaN where they are not known."""
        gradients = self.kind(GRADIENTS)
        if gradients is None:
            return np.full(self.count, np.nan)
        with np.errstate(all="ignore"):
            norm: Floats = np.sqrt(gradients.total("sum_squares"))
        return norm

    def is_adaptive(self, name: str | None = None) -> bool:
        """Whether the optimizer (of a parameter; else the first) divides by the size of past gradients."""
        groups = self.history.groups
        parameter = self.parameter(name) if name is not None else None
        number = parameter.group if parameter is not None and parameter.group is not None else 0
        return bool(number < len(groups) and _ADAPTIVE.search(str(groups[number].get("optimizer", ""))))

    def option(self, name: str, key: str, default: float = 0.0) -> float:
        """An option of the optimizer group of a parameter."""
        parameter = self.parameter(name)
        groups = self.history.groups
        if parameter is None or parameter.group is None or parameter.group >= len(groups):
            return default
        value = groups[parameter.group].get(key, default)
        return float(value) if isinstance(value, (int, float)) else default

    # ---- findings

    def share(self, names: Iterable[str]) -> float:
        """Share of the trained parameters (values)."""
        return min(1.0, sum(self.sizes.get(name, 0) for name in names) / self.total)

    def chart(
        self, label: str, values: Floats, threshold: float | None = None, logarithmic: bool = False
    ) -> Chart:
        """A line over the observations."""
        return chart_of(label, self.steps, values, threshold, logarithmic)

    def finding(
        self,
        rule: str,
        severity: Severity,
        title: str,
        tensors: Sequence[str],
        first: int,
        last: int | None = None,
        *,
        evidence: dict[str, Any],
        cause: str,
        advice: str,
        judged_by: str,
        chart: Chart | None = None,
        share: float | None = None,
    ) -> Finding:
        """A finding from observation ``first`` to ``last`` (indices)."""
        return Finding(
            rule,
            severity,
            title,
            tuple(tensors),
            self.share(tensors) if share is None else share,
            int(self.steps[first]),
            int(self.steps[self.count - 1 if last is None else last]),
            {key: _plain(value) for key, value in evidence.items()},
            cause,
            advice,
            judged_by,
            chart,
        )


def chart_of(
    label: str,
    steps: npt.NDArray[np.int64],
    values: Floats,
    threshold: float | None = None,
    logarithmic: bool = False,
) -> Chart:
    """A line of at most ``_CHART_POINTS`` finite points."""
    finite = np.flatnonzero(np.isfinite(values))
    kept = finite[:: max(1, -(-len(finite) // _CHART_POINTS))]
    numbers = tuple(float(f"{value:.5g}") for value in values[kept])
    return Chart(label, tuple(map(int, steps[kept])), numbers, threshold, logarithmic)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.4g}") if isinstance(value, float) and np.isfinite(value) else value


def typical(values: Floats) -> Floats:
    """Median of the finite values of each column; NaN where there is none."""
    finite = np.isfinite(values)
    known: Bools = np.any(finite, axis=0)
    median: Floats = np.full(values.shape[1:], np.nan)
    median[known] = np.nanmedian(np.where(finite, values, np.nan)[:, known], axis=0)
    return median


def middle(values: Floats) -> float:
    """Median of all finite values; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def trailing(flags: Bools, known: Bools) -> tuple[int, int]:
    """How many of the last known flags in a row are set, and the index of the first of these (-1: none)."""
    places = np.flatnonzero(known)
    unset = np.flatnonzero(~flags[places])
    run = places[int(unset[-1]) + 1 :] if len(unset) else places
    return len(run), int(run[0]) if len(run) else -1


def first_run(flags: Bools, known: Bools, length: int) -> int:
    """Index at which the first run of ``length`` set flags among the known ones begins; -1: there is none."""
    places = np.flatnonzero(known)
    in_a_row = 0
    for at, place in enumerate(places):
        in_a_row = in_a_row + 1 if flags[place] else 0
        if in_a_row == length:
            return int(places[at - length + 1])
    return -1


def by_onset(starts: Mapping[str, int]) -> list[tuple[int, list[str]]]:
    """Tensors grouped by the observation since which it is so; one observation apart counts as together."""
    groups: list[tuple[int, list[str]]] = []
    for name, start in sorted(starts.items(), key=lambda item: item[1]):
        if groups and start - groups[-1][0] <= 1:
            groups[-1][1].append(name)
        else:
            groups.append((start, [name]))
    return groups


def subject(names: Sequence[str], of: int, noun: str = "tensors") -> str:
    """The tensors in words: by name where they are few, else by number and layer."""
    if len(names) == 1:
        return names[0]
    if len(names) >= of > 0:
        return f"all {of} {noun}"
    if len(names) == 2:
        return f"{names[0]} and {names[1]}"
    layers = list(dict.fromkeys(map(layer_of, names)))
    place = layers[0] if len(layers) == 1 else f"{len(layers)} layers, {layers[0]} to {layers[-1]}"
    return f"{len(names)} of {of} {noun}" if 2 * len(names) >= of > 0 else f"{len(names)} {noun} in {place}"


def nothing(run: Run) -> str:
    """For rules that need nothing but observations."""
    return "" if run.count else "no steps of a watched model are in the log"


def needs_kinds(*kinds: str) -> Callable[[Run], str]:
    """For rules that need summaries of these kinds."""

    def needs(run: Run) -> str:
        missing = [kind for kind in kinds if run.kind(kind) is None]
        return f"no {' and no '.join(missing)} are logged" if missing else ""

    return needs


def both(*needs: Callable[[Run], str]) -> Callable[[Run], str]:
    """All of them; the first reason."""
    return lambda run: next((why for need in needs if (why := need(run))), "")


def needs_lr(run: Run) -> str:
    """For rules that need the learning rate."""
    return "" if np.isfinite(run.lr).any() else "the learning rate is not known"


def needs_inventory(run: Run) -> str:
    """For rules that need to know parameters and optimizer."""
    return "" if run.history.inventories else "the model's parameters are not in the log"


def needs_updates(run: Run) -> str:
    """For rules that need updates, of matrices that stand for the model."""
    ratios = run.update_ratios
    if ratios is None or not ratios.names:
        return "the updates of the weights are not known"
    share = run.share(ratios.names)
    return "" if share >= _ENOUGH else f"matrices are only {share:.0%} of the parameters"


def needs_loss(run: Run) -> str:
    """For rules that need to know whether the loss falls."""
    return run.loss.why_not


def needs_exact(run: Run) -> str:
    """For rules that need more than what a histogram tells."""
    return "" if run.history.source == "fastlog" else "histograms alone do not tell"


def needs_observations(number: int) -> Callable[[Run], str]:
    """For rules that need so many."""
    return lambda run: "" if run.count >= number else f"{run.count} of {number} observations that it needs"
