"""Models that are spread over the ranks of a job: who counts what, and who logs it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch.distributed as dist
from torch import nn

from fastlog.distributed import shards
from fastlog.distributed.merger import Contribution, Merger, Numbers
from fastlog.distributed.parts import Merged, Record
from fastlog.watching.reading import Reading, Report
from fastlog.watching.series import ACTIVATION_GRADIENTS, ACTIVATIONS
from fastlog.writer import SummaryWriter
from fastlog.writer.outbox import Outbox

Put = Callable[[Merged, Outbox, dict[str, float]], None]
"""Logs summaries, and scalars by tag, through an outbox."""


def merged_ranks(model: nn.Module, merge: Any) -> tuple[int, ...]:
    """The ranks whose summaries are to be merged, ascending; () for none. ``merge`` as in ``fastlog.watch``.

    Raises:
        TypeError: ``merge`` is something else, or the model is distributed in a way that is not supported.
    """
    shards.refuse_unknown(model)
    if merge is None:
        return shards.ranks_of(model)
    if merge is False:
        return ()
    group = None if merge is True else merge
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"merge must be None, a bool or a ProcessGroup, not {type(merge).__name__}")
    if not dist.is_initialized():
        raise TypeError("merge: torch.distributed is not initialised")
    return tuple(sorted(dist.get_process_group_ranks(group)))


def is_later_replica(model: nn.Module) -> bool:
    """Whether this is a rank of DistributedDataParallel whose tensors the first rank has, too."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # of torch.compile
        model = inner
    return isinstance(model, nn.parallel.DistributedDataParallel) and model.process_group.rank() > 0


def logs_nothing(model: nn.Module, merged: tuple[int, ...]) -> bool:
    """Whether this rank needs no writer of its own, because the first one logs for it."""
    return (dist.get_rank() != merged[0]) if merged else is_later_replica(model)


def together(
    model: nn.Module,
    writer: SummaryWriter,
    merged: tuple[int, ...],
    timeout: float,
    check_replicas: bool,
    prefix: str = "",
) -> Ranks | None:
    """How a model's tensors are counted and logged; None for a model that is on this rank alone.

    Args:
        prefix: of the tags; the same on all ranks.
    """
    if not merged and not shards.ranks_of(model):
        return None
    merger = writer.sharding.merge_over(merged, object(), timeout) if len(merged) > 1 else None
    return Ranks(model, writer, merger, check_replicas, prefix)


def over_ranks(by_rank: dict[int, Numbers]) -> dict[str, float]:
    """Scalars that show what the ranks' numbers are like, and which rank has the largest."""
    scalars: dict[str, float] = {}
    for name in sorted({name for numbers in by_rank.values() for name in numbers}):
        values = {rank: numbers[name] for rank, numbers in by_rank.items() if name in numbers}
        slowest = max(values, key=values.__getitem__)
        for stat, value in (
            ("min", min(values.values())),
            ("median", statistics.median(values.values())),
            ("max", values[slowest]),
            ("slowest_rank", slowest),
        ):
            scalars[f"fastlog/ranks/{name}/{stat}"] = value
    return scalars


class Ranks:
    """What a rank counts of the tensors of a model, and the way of its summaries into the log.

    Args:
        model: the watched one.
        merger: None: each rank logs what it counts.
        prefix: tells the models apart whose ranks log together.
        check_replicas: replicas bring what they hold, too, to be compared.
    """

    def __init__(
        self,
        model: nn.Module,
        writer: SummaryWriter,
        merger: Merger | None,
        check_replicas: bool,
        prefix: str = "",
    ) -> None:
        self._key = f"fastlog.watch {prefix}".strip()
        self._writer = writer
        self._merger = merger
        self._all_replicas = check_replicas and merger is not None
        self._brings_copies = self._all_replicas or not is_later_replica(model)
        self._knows_activations = (
            merger is None or not shards.ranks_of(model) or shards.is_data_parallel(model)
        )
        self._numbers: dict[str, float] = {}

    @property
    def is_first(self) -> bool:
        """Whether this rank logs what is merged, or logs alone."""
        return self._merger is None or self._merger.is_first

    def own(self, readings: Iterable[Reading], report: Report) -> list[Reading]:
        """What this rank counts of the tensors. The first rank names those of which it counts nothing, too:
        it gives the order. What cannot be counted is reported.
        """
        own = []
        for reading in readings:
            try:
                own.append(self._own(reading))
            except Exception as error:
                report(reading.place, error)
        names_all = self._merger is not None and self._merger.is_first
        return [reading for reading in own if names_all or reading.tensor.numel()]

    def _own(self, reading: Reading) -> Reading:
        kind, name, tensor = reading[:3]
        place = reading.place
        of_module = kind in (ACTIVATIONS, ACTIVATION_GRADIENTS)
        if shards.is_dtensor(tensor):
            whole = 0 if of_module else tensor.numel()  # seen several times, perhaps, and of uneven batches
            return Reading(kind, name, *shards.own_part(tensor, place, self._all_replicas), whole)
        tensor = shards.settled(tensor)
        if not of_module:
            return Reading(kind, name, tensor if self._brings_copies else shards.NOTHING)
        if not self._knows_activations:
            raise TypeError(
                f"{place}: which ranks hold the same values of a plain tensor cannot be known under tensor"
                " parallelism; only activations that are DTensors are logged"
            )
        return Reading(kind, name, tensor, 0 if self._merger is None else self._merger.rank)

    def note(self, numbers: dict[str, float]) -> None:
        """Numbers of this rank, to be logged with the next step; of each name the last."""
        self._numbers.update({name: float(number) for name, number in numbers.items()})

    def log(self, records: Sequence[Record], step: int | None, put: Put) -> None:
        """Logs what this rank has counted at a step: at once, or merged with the other ranks' later."""
        if self._merger is None:
            put(Merged(list(records), {}, [], {}), self._writer.outbox, {})
            return
        merger, writer = self._merger, self._writer
        numbers, self._numbers = self._numbers, {}
        merger.submit(
            Contribution(
                self._key,
                step,
                records,
                deliver=lambda merged, by_rank: put(merged, writer.outbox, over_ranks(by_rank)),
                alone=lambda own: put(
                    Merged(list(own), {}, [], {}),
                    writer.sharding.alone(merger),
                    over_ranks({merger.rank: numbers}),
                ),
                numbers=numbers,
            )
        )
        writer.outbox.bad_values.warn()

    def end(self) -> None:
        """Nothing more comes. Merging goes on; the writer's ``flush`` and ``close`` wait for it."""
        if self._merger is not None:
            self._merger.end()
