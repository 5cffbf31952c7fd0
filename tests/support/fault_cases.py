"""What the ranks of the fault tests do: they disagree about what there is, or end where they should not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import fastlog
from fastlog.distributed import merger
from fastlog.distributed.parts import Record


def sharded(tensor: torch.Tensor) -> nn.Parameter:
    """Its rows over all ranks."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return nn.Parameter(distribute_tensor(tensor, mesh, [Shard(0)]))


def holder(**params: nn.Parameter) -> nn.Module:
    return nn.ParameterDict(params)


def plain(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def odd_models(rank: int, logdir: Path) -> dict[str, dict[str, int]]:
    """Two steps each of models that are not the same on both ranks, or hardly there; counts by name."""
    models: dict[str, nn.Module] = {
        "other_shapes": holder(weight=plain(3, 4) if rank == 0 else plain(5, 4), both=plain(2)),
        "no_values": holder(weight=sharded(torch.ones(0, 5)), plain=plain(0)),
        "some_values": holder(weight=sharded(torch.ones(0, 5)), few=sharded(torch.ones(1, 5))),
        "later": holder(weight=plain(2)),
        "frozen": holder(**{f"stage{rank}": plain(3).requires_grad_(rank == 0)}),
        "half_a_gradient": holder(weight=sharded(torch.ones(4, 5)), other=sharded(torch.ones(4, 5))),
        "no_gradient": holder(**{f"stage{rank}": plain(3), "both": plain(2)}),
    }
    counts = {}
    for name, model in models.items():
        writer = fastlog.SummaryWriter(logdir / name) if rank == 0 else None
        log = ("weights", "gradients") if "gradient" in name else "weights"
        watcher = fastlog.watch(model, writer, every=1, log=log, merge=True, merge_timeout=20.0)
        for step in range(2):
            if name == "later" and (rank, step) == (1, 1):
                model["new"] = plain(7)
            for key, param in model.items():
                if not (
                    rank == 1 and (name, key) in (("half_a_gradient", "weight"), ("no_gradient", "both"))
                ):
                    param.grad = torch.ones_like(param)
            if name == "no_gradient" and rank == 1:
                model["stage1"].grad = None
            watcher.step(step)
        watcher.remove()
        watcher._writer.close()
        counts[name] = watcher._writer.stats()["merged"]
    return counts


def end_early(rank: int, how: str, logdir: Path) -> None:
    """A step, and then the process, its group or rank 1's watcher ends, before anybody closes the writer."""
    merger._EXIT_SECS = 1.0
    model = holder(**{f"stage{rank}": plain(3)})
    writer = fastlog.SummaryWriter(logdir) if rank == 0 else None
    watcher = fastlog.watch(model, writer, every=1, log="weights", merge=True, merge_timeout=30.0)
    kept.append(watcher)
    watcher.step(0)
    if how == "destroys the group":
        dist.destroy_process_group()
        watcher._writer.close()
    if how in ("removes", "is interrupted"):
        wait_for(lambda: watcher._writer.stats()["merged"]["whole"])
        if rank == 0:
            watcher.step(1)
            if how == "is interrupted":
                raise KeyboardInterrupt
            wait_for(lambda: watcher._writer.stats()["merged"]["alone"])
            watcher._writer.close()
            (logdir / "closed").touch()
        else:
            if how == "removes":
                watcher.remove()
            wait_for(lambda: (logdir / "closed").exists())


def skip_at_random(rank: int) -> tuple[list[int], list[int], dict[str, int]]:
    """Each rank brings some of 60 steps, and all bring the last; which it brought, and which were merged."""
    chance = random.Random(rank)
    mine = [step for step in range(60) if step == 59 or chance.random() < 0.8]
    merged: list[int] = []
    packed = fastlog.summarize(torch.ones(1)).to_packed()
    party = merger.Merger([0, 1, 2], lambda cause, message: None, 30.0, "")
    for step in mine:
        party.submit(
            merger.Contribution(
                "steps",
                step,
                [Record("", f"{rank}/{i}", packed) for i in range(chance.randrange(60))],
                lambda records, numbers, step=step: merged.append(step),
                lambda records: None,
            )
        )
        time.sleep(chance.choice([0.0, 0.0, 0.01]))
    party.drain()
    dist.barrier()
    return mine, merged, party.stats()


kept: list[object] = []  # until the process ends


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def crosswise(rank: int, logdir: Path) -> None:
    """Two models are watched, in another order on each rank, a tensor is logged, and groups are made."""
    models = [holder(**{f"model{i}": sharded(torch.ones(4))}) for i in range(2)]
    writer = fastlog.SummaryWriter(logdir if rank == 0 else "", write_to_disk=rank == 0)
    watchers = [
        fastlog.watch(
            model, writer, every=1, log="weights", prefix=f"{i}", group=None, scalars=(), tensor_scalars=()
        )
        for i, model in enumerate(models)
    ]
    for step in range(3):
        for watcher in watchers[:: 1 if rank == 0 else -1]:
            watcher.step(step)
        dist.new_group()
        writer.add_histogram(np.str_("tensor"), models[0]["model0"], step)
    for watcher in watchers:
        watcher.remove()
    writer.close()
