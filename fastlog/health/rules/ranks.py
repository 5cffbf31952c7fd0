"""What differs between ranks though it should not, is the same though it should not, and who is slow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from fastlog.health.findings import Finding
from fastlog.health.history import ACTIVATIONS
from fastlog.health.rules.base import Rule, Run, chart_of, first_run

_TIMES = re.compile(r"time|sec|wait|duration|latency", re.I)
_SLOW = 0.25
_POSITIONS = re.compile(r"pos|type|segment", re.I)


def _replicas_differ(run: Run) -> Iterator[Finding]:
    table = run.measure("replicas_differ")
    if table is None or not (table.values > 0).any():
        return
    differ = table.values > 0
    tensors = list(dict.fromkeys(name.partition("/")[2] for name in table.names))
    first = int(np.argmax(differ.any(axis=0)))
    yield run.finding(
        "replicas-differ",
        "error",
        f"{len(tensors)} tensors differ between ranks that should hold the same",
        tensors,
        first,
        evidence={"tensors": len(tensors), "kinds": sorted({name.partition("/")[0] for name in table.names})},
        cause="A rank may have begun with other weights (another seed, no broadcast), stepped without the "
        "others, "
        "or changed weights or buffers on its own.",
        advice="Seed all ranks alike or broadcast at the start: `for p in model.parameters(): "
        "torch.distributed.broadcast(p.data, 0)`, and let only collective code change weights.",
        judged_by="replicas-differ: other counts or sums of the same part on two ranks, 1 observation",
    )


def _same_batch(run: Run) -> Iterator[Finding]:
    table, activations = run.measure("replicas_alike"), run.kind(ACTIVATIONS)
    if table is None or activations is None:
        return
    modules = run.history.inventories[-1].modules if run.history.inventories else {}
    of_data = [
        n for n in activations.names if not (_POSITIONS.search(n) and "Embedding" in modules.get(n, ""))
    ]
    if not of_data or f"{ACTIVATIONS}/{of_data[0]}" not in table.names:
        return
    alike = table.row(f"{ACTIVATIONS}/{of_data[0]}") > 0
    first = first_run(alike, np.ones(run.count, bool), 2)
    if first < 0:
        return
    yield run.finding(
        "same-batch",
        "error",
        f"two data-parallel ranks see the same batch: {of_data[0]} puts out the same on both",
        [of_data[0]],
        first,
        evidence={"observations": int(alike.sum()), "of": run.count},
        cause="The data loaders of the ranks draw the same samples: no DistributedSampler, or the same "
        "seed for a "
        "shuffle that each rank makes itself.",
        advice="`DataLoader(dataset, sampler=DistributedSampler(dataset))`, and "
        "`sampler.set_epoch(epoch)` in each "
        "epoch.",
        judged_by="same-batch: summaries of the first activation are equal bit for bit, 2 of 2 observations",
        share=1.0,
    )


def _straggler(run: Run) -> Iterator[Finding]:
    seconds = np.diff(run.history.wall_times) / np.maximum(np.diff(run.steps), 1)
    step_seconds = float(np.median(seconds)) if len(seconds) else 0.0
    for tag, (steps, slowest) in run.history.scalars.items():
        match = re.fullmatch(r"fastlog/ranks/(.+)/max", tag)
        medians = run.history.scalars.get(tag[: -len("max")] + "median")
        ranks = run.history.scalars.get(tag[: -len("max")] + "slowest_rank")
        if match is None or medians is None or ranks is None or not _TIMES.search(match[1]):
            continue
        if not len(slowest) == len(medians[1]) == len(ranks[1]):
            continue
        behind = slowest - medians[1]
        slow = (slowest > (1 + _SLOW) * medians[1]) & (behind > _SLOW * step_seconds)
        rank = int(np.bincount(ranks[1][slow].astype(np.int64)).argmax()) if slow.any() else -1
        first = first_run(slow & (ranks[1] == rank), np.ones(len(slow), bool), 5)
        if first < 0:
            continue
        at = run.at(int(steps[first]))
        yield run.finding(
            "straggler",
            "warning",
            f"rank {rank} is slow: its {match[1]} is {slowest[first] / max(medians[1][first], 1e-9):.1f} "
            f"times "
            "the median of all ranks",
            [],
            at,
            evidence={"rank": rank, "slowest": float(slowest[first]), "median": float(medians[1][first])},
            cause="The rank may share its machine, read data from a slower disk, or get more work than "
            "the others.",
            advice="Look at that rank's machine, its data loader (`num_workers`) and the lengths of its "
            "batches.",
            judged_by=f"straggler: one rank over {1 + _SLOW} times the median, and by over a quarter of a "
            f"step, "
            "5 of 5 observations",
            chart=chart_of(f"slowest {match[1]}", steps, slowest),
            share=1.0,
        )


def _has(measure: str, how: str) -> Callable[[Run], str]:
    return lambda run: "" if run.measure(measure) is not None else f"ranks were not compared ({how})"


def _has_rank_scalars(run: Run) -> str:
    found = any(tag.startswith("fastlog/ranks/") for tag in run.history.scalars)
    return "" if found else "no times of ranks are logged (Watcher.rank_scalars)"


STRAGGLER = Rule(
    "straggler",
    _straggler,
    _has_rank_scalars,
    "one rank over 1.25 times the median, and by over a quarter of a step, 5 of 5 observations",
    "a choice; not calibrated on runs",
)

REPLICAS_DIFFER = Rule(
    "replicas-differ",
    _replicas_differ,
    _has("replicas_differ", "watch(..., merge=True, check_replicas=True)"),
    "other counts or sums of the same part on two ranks, 1 observation",
    "exact; no threshold",
)

SAME_BATCH = Rule(
    "same-batch",
    _same_batch,
    _has("replicas_alike", 'watch(..., merge=True, log=("activations", ...))'),
    "the first activation is equal bit for bit on two ranks, 2 of 2 observations",
    "exact; no threshold",
)
