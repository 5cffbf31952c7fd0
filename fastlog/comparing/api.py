"""``fastlog.compare``: from two log directories to where their runs part."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fastlog.comparing.distances import Distances, distances
from fastlog.comparing.parting import (
    KINDS,
    Comparison,
    Difference,
    Tensor,
    began_the_same,
    differing_at,
    part_paired,
    part_unpaired,
)
from fastlog.health.files import kind_and_name
from fastlog.runs import Run, load
from fastlog.runs.run import Histograms

Steps = npt.NDArray[np.int64]
Rename = Callable[[str], str]
_KINDS = frozenset({*KINDS, "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg"})


def compare(
    one: str | os.PathLike[str],
    other: str | os.PathLike[str],
    *,
    like: Sequence[str | os.PathLike[str]] = (),
    rename: Rename | None = None,
) -> Comparison:
    """Says where two runs part: the first step, the first tensors, and what the difference looks like.

    Compares the histograms of weights, gradients, activations, … that both runs have under the same tag, at
    the steps that both have logged. Those of fastlog, tensorboardX and torch have the same bins.

    Runs that began the same (one seed, the same data) are compared exactly: whatever differs beyond rounding
    has a cause. Of other runs only what lasts and what is gross is said, unless ``like`` tells what is usual.

    Args:
        one, other: directories of runs: the good one first.
        like: runs that are meant to be like ``one``, with other seeds.
        rename: gives the names of ``other``'s and of ``like``'s tensors as ``one`` has them.

    Raises:
        FileNotFoundError: a directory is not there, or holds no event file.
        ValueError: a directory holds several runs, or the runs have no tensor or no step in common.
    """
    rename = rename or (lambda name: name)
    good, bad = _run(one), _run(other)
    mine, theirs = _tensors(good, lambda name: name), _tensors(bad, rename)
    steps, nearest, found, notes = _distances(good, bad, mine, theirs)
    repeated = []
    for path in like:
        run = _run(path)
        steps_like, _, found_like, _ = _distances(good, run, mine, _tensors(run, rename), steps)
        if len(steps_like) == len(steps):
            repeated.append(found_like)
        else:
            notes.append(f"{path} has not logged all of the steps: it is not used")
    if nearest:
        notes.append("the runs have logged other steps: each was compared with the nearest one")
    paired = began_the_same(found)
    if paired:
        at, which = part_paired(steps, found)
    else:
        at, which = part_unpaired(found, repeated)
    if not paired and not repeated:
        notes.append(
            "the runs did not begin the same, so only gross and lasting differences are told: give runs with "
            "other seeds (--like), or start both with one seed and the same data"
        )
    if not any(kind == "activations" for kind, _ in found):
        notes.append('with log="all" in fastlog.watch the first module that differs could be named')
    differing = [] if at is None else differing_at(found, at, which)
    names = {(one.kind, one.name) for one in differing}
    same = {
        kind: sum(t not in names for t in found if t[0] == kind)
        for kind in dict.fromkeys(k for k, _ in found)
    }
    step = None if at is None else int(steps[at])
    verdict = _verdict(step, steps, differing, found, paired)
    return Comparison(at is None, paired, step, tuple(differing), same, steps, verdict, tuple(notes), found)


def rename_by(rules: Iterable[str]) -> Rename:
    """From rules as sed has them: ``s/PATTERN/REPLACEMENT/``, with any character in the place of ``/``.

    Raises:
        ValueError: one is no such rule, or its pattern no regular expression.
    """
    compiled = []
    for rule in rules:
        parts = rule[2:].split(rule[1]) if len(rule) > 2 and rule[0] == "s" else []
        if len(parts) != 3 or parts[2]:
            raise ValueError(f"{rule!r} is no rule like 's/^model\\.//'")
        try:
            compiled.append((re.compile(parts[0]), parts[1]))
        except re.error as error:
            raise ValueError(f"{rule!r}: {error}") from error

    def rename(name: str) -> str:
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        return name

    return rename


def _run(path: str | os.PathLike[str]) -> Run:
    loaded = load(path, strict=False)
    if isinstance(loaded, Run):
        return loaded
    with_tensors = {name: run for name, run in loaded.items() if run.tags["histograms"]}
    if len(with_tensors) != 1:
        names = ", ".join(sorted(with_tensors)[:5]) or "none with histograms"
        raise ValueError(
            f"compare: {os.fspath(path)} holds {len(with_tensors)} runs ({names}): name one directory"
        )
    return next(iter(with_tensors.values()))


def _tensors(run: Run, rename: Rename) -> dict[Tensor, str]:
    """Tags of histograms by kind and name, in the order in which they were logged."""
    found: dict[Tensor, str] = {}
    for tag in run.tags["histograms"]:
        first, _, rest = tag.partition("/")
        known = (first, rest) if first in _KINDS and rest else None
        kind, name = known or kind_and_name(tag) or ("histograms", tag)
        found.setdefault((kind, rename(name)), tag)
    return found


def _distances(
    good: Run, bad: Run, mine: dict[Tensor, str], theirs: dict[Tensor, str], only: Steps | None = None
) -> tuple[Steps, bool, dict[Tensor, Distances], list[str]]:
    """The common steps, whether they are only near, the distances of common tensors, and what is missing."""
    for tensors, run in ((mine, good), (theirs, bad)):
        if not tensors:
            raise ValueError(f"compare: the run {run.name} has no histograms: log them, or watch the model")
    common = [tensor for tensor in mine if tensor in theirs]
    if not common:
        raise ValueError(
            f"compare: the runs have no tensor in common: {_some(mine)} here, {_some(theirs)} there. "
            "--map 's/PATTERN/REPLACEMENT/' gives the second run's names as the first has them"
        )
    notes = []
    for names, where in (
        ([t for t in mine if t not in theirs], "first"),
        ([t for t in theirs if t not in mine], "second"),
    ):
        if names:
            notes.append(f"{len(names)} tensors are in the {where} run alone, such as {'/'.join(names[0])}")
    steps, nearest = _common_steps(good, bad, mine, theirs, common)
    if only is not None:
        steps = [pair for pair in steps if pair[0] in set(only.tolist())]
    found = {}
    for tensor in common:
        pair = [run.histograms(tags[tensor]) for run, tags in ((good, mine), (bad, theirs))]
        places = [{int(step): i for i, step in enumerate(one.steps)} for one in pair]
        if all(a in places[0] and b in places[1] for a, b in steps):
            chosen = [
                _at(one, [place[step[i]] for step in steps])
                for i, (one, place) in enumerate(zip(pair, places, strict=True))
            ]
            found[tensor] = distances(*chosen)
        else:
            notes.append(f"{'/'.join(tensor)} was not logged at all of the steps: it is not compared")
    if not steps or not found:
        raise ValueError("compare: the runs have no logged step in common")
    return np.array([step for step, _ in steps], np.int64), nearest, found, notes


def _common_steps(
    good: Run, bad: Run, mine: dict[Tensor, str], theirs: dict[Tensor, str], common: Sequence[Tensor]
) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of steps: those that both runs have; where there are too few of them, the nearest ones."""
    series = [
        np.unique(np.concatenate([run.histograms(tags[tensor], most=None).steps for tensor in common[:3]]))
        for run, tags in ((good, mine), (bad, theirs))
    ]
    same = np.intersect1d(series[0], series[1])
    if len(same) >= min(len(series[0]), len(series[1])) / 2:
        return [(int(step), int(step)) for step in same], False
    gap = min(int(np.median(np.diff(one))) if len(one) > 1 else 1 for one in series)
    pairs = []
    for step in series[0]:
        near = series[1][np.abs(series[1] - step).argmin()]
        if abs(int(near) - int(step)) <= gap / 2:
            pairs.append((int(step), int(near)))
    return pairs, True


def _at(histograms: Histograms, places: Sequence[int]) -> Histograms:
    at = np.array(places, np.int64)
    return Histograms(
        histograms.steps[at],
        histograms.wall_times[at],
        histograms.min[at],
        histograms.max[at],
        histograms.num[at],
        histograms.sum[at],
        histograms.sum_squares[at],
        [histograms.limits[place] for place in places],
        [histograms.counts[place] for place in places],
    )


def _some(tensors: dict[Tensor, str]) -> str:
    return ", ".join("/".join(tensor) for tensor in list(tensors)[:2]) or "none"


def _verdict(
    step: int | None,
    steps: Steps,
    differing: Sequence[Difference],
    found: dict[Tensor, Distances],
    paired: bool,
) -> str:
    last = f"{len(found)} tensors at {len(steps)} steps, {steps[0]:,} to {steps[-1]:,}"
    if step is None:
        exact = all(one.same.all() for one in found.values())
        how = "the same, bit for bit" if exact else "the same but for rounding" if paired else "alike"
        return f"The runs are {how}: {last}."
    first = differing[0]
    return (
        f"The runs part at step {step:,}: {first.kind}/{first.name} is the first of {len(differing)} tensors "
        f"that differ ({first.looks_like})."
    )
