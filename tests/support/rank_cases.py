"""What the ranks of the distributed tests do. Imports little: each rank is a process of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tiny_net import Net
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

import fastlog
from fastlog.distributed.exchange import Exchange, Head, Numbering

Arrays = dict[str, np.ndarray]

# mesh, placements, shape, dtype
LAYOUTS: dict[str, tuple[tuple[int, ...], list[Any], tuple[int, ...], torch.dtype]] = {
    "rows": ((4,), [Shard(0)], (8, 3), torch.float32),
    "columns": ((4,), [Shard(1)], (5, 8), torch.float64),
    "uneven": ((4,), [Shard(0)], (7, 3), torch.bfloat16),
    "some_empty": ((4,), [Shard(0)], (2, 5), torch.float32),
    "no_element": ((4,), [Shard(0)], (0, 5), torch.float32),
    "replicated": ((4,), [Replicate()], (6, 5), torch.float32),
    "scalar": ((2, 2), [Replicate(), Replicate()], (), torch.float32),
    "HSDP": ((2, 2), [Replicate(), Shard(0)], (5, 3), torch.float32),
    "replicas_inside": ((2, 2), [Shard(0), Replicate()], (5, 3), torch.int64),
    "two_dimensions": ((2, 2), [Shard(0), Shard(1)], (5, 3), torch.float16),
    "one_dimension_twice": ((2, 2), [Shard(0), Shard(0)], (9, 3), torch.float32),
    "three_dimensions": ((2, 1, 2), [Replicate(), Shard(0), Shard(1)], (3, 7), torch.float32),
    "three_dimensions_some_empty": ((1, 2, 2), [Shard(0), Shard(0), Shard(0)], (3, 7), torch.float32),
}


def values(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The same on every rank: different scales by row, with NaN, Inf and zeros where the dtype has them."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) * 10
    if made.dim() and made.shape[0]:
        made *= torch.logspace(-3, 3, made.shape[0]).reshape(-1, *[1] * (made.dim() - 1))
        if dtype.is_floating_point and made.numel() > 4:
            made.view(-1)[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    return made.to(dtype)


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    """All of its values, flat, in float64."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().double().numpy().ravel().copy()


def log_layouts(rank: int, logdir: Path) -> dict[str, object]:
    """Every layout in one job; each rank has a writer, one logs."""
    writer = fastlog.SummaryWriter(logdir / ("" if rank == 0 else f"not_here_{rank}"))
    for name, (mesh, placements, shape, dtype) in LAYOUTS.items():
        tensor = distribute_tensor(values(shape, dtype), init_device_mesh("cpu", mesh), placements)
        for step in range(2):
            writer.add_histogram(name, tensor, step)
    mesh = init_device_mesh("cpu", (2, 2))
    strided = DTensor.from_local(
        torch.full((2,), float(rank)), mesh, [_StridedShard(0, split_factor=2), Shard(0)]
    )
    writer.add_histogram("strided", strided, 0)
    try:
        addends = DTensor.from_local(torch.ones(3), mesh, [Replicate(), Partial()])
        writer.add_histogram("addends", addends, 0)
    except TypeError as error:
        refusal = str(error)
    writer.close()
    return {"refusal": refusal, **writer.stats()}


def make(kind: str) -> nn.Module:
    """The net, distributed over all ranks."""
    torch.manual_seed(0)
    model = Net()
    if kind == "DDP":
        return nn.parallel.DistributedDataParallel(model)
    if kind == "plain":
        return model
    size = dist.get_world_size()
    if kind == "TP":
        return tensor_parallel(model, init_device_mesh("cpu", (size,)))
    if kind == "FSDP":
        return shard(model, init_device_mesh("cpu", (size,)))
    mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("outer", "inner"))
    if kind == "HSDP":
        return shard(model, mesh)
    assert kind == "FSDP and TP"
    return shard(tensor_parallel(model, mesh["inner"]), mesh["outer"])


def shard(model: Any, mesh: Any) -> nn.Module:
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel(model: Any, mesh: Any) -> nn.Module:
    whole = ColwiseParallel(output_layouts=Replicate())
    plan = {"embed": RowwiseParallel(input_layouts=Replicate()), "head": whole}
    return parallelize_module(model, mesh, {**plan, "layers.*.query": whole})


def loss_of(model: nn.Module, kind: str, rank: int, step: int) -> torch.Tensor:
    data_rank = {"TP": 0, "plain": 0, "FSDP and TP": rank // 2}.get(kind, rank)
    tokens = torch.randint(11, (4, 5), generator=torch.Generator().manual_seed(10 * step + data_rank))
    return model(tokens).square().mean()


def watch_kind(
    rank: int, kind: str, logdir: Path
) -> list[tuple[int, Arrays, Arrays, Arrays, Arrays, Arrays]]:
    """Trains; returns step, gradients, weights before and after, and Adam's state, gathered."""
    model = make(kind)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    writer = fastlog.SummaryWriter(logdir) if rank == 0 else None
    log = ("weights", "gradients", "updates", "optimizer_state")
    watcher = fastlog.watch(model, writer, optimizer, every=2, log=log)
    inner = model.module if kind == "DDP" else model
    params = dict(inner.named_parameters())
    seen = []
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model, kind, rank, step).backward()
        before = {name: numpy_of(param) for name, param in params.items()}
        grads = {name: numpy_of(param.grad) for name, param in params.items()}
        optimizer.step()
        if step % 2 == 0:
            after = {name: numpy_of(param) for name, param in params.items()}
            states = [
                {name: numpy_of(optimizer.state[param][key]) for name, param in params.items()}
                for key in ("exp_avg", "exp_avg_sq")
            ]
            seen.append((step, grads, before, after, *states))
    watcher.remove()
    if writer is not None:
        writer.close()
        assert writer.stats()["bad_values"] == 0
    return seen if rank == 0 else []


def watch_activations(rank: int, logdir: Path) -> np.ndarray:
    """What this rank's head puts out at the one step that is logged."""
    model = make("FSDP")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    writer = fastlog.SummaryWriter(logdir) if rank == 0 else None
    fastlog.watch(
        model, writer, optimizer, log="activations", modules="^head$", tensor_scalars=(), scalars=()
    )
    seen = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(numpy_of(output)))
    loss_of(model, "FSDP", rank, 0).backward()
    optimizer.step()
    if writer is not None:
        writer.close()
    return seen[0]


def watch_stages(rank: int, logdir: Path) -> Arrays:
    """A pipeline stage per rank, and a norm that both have."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"shared": nn.Linear(2, 2), f"stage{rank}": nn.Linear(3, 4)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    writer = fastlog.SummaryWriter(logdir) if rank == 0 else None
    fastlog.watch(model, writer, optimizer, log="weights", merge=True)
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    if writer is not None:
        writer.close()
    return {name: numpy_of(param) for name, param in model.named_parameters()}


def watch_an_empty_parameter(rank: int, logdir: Path) -> None:
    """The second stage has a parameter without elements."""
    model = nn.Linear(2, 2)
    if rank == 1:
        model.register_parameter("nothing", nn.Parameter(torch.ones(0, 3)))
    with fastlog.SummaryWriter(logdir / str(rank)) as writer:
        fastlog.watch(model, writer, log="weights", merge=True).step()


def disagree(rank: int, fault: str, logdir: Path, timeout: float) -> dict[str, object]:
    """Six logged steps, each rank with a stage of its own; rank 1 is at ``fault``, most at the third step."""
    torch.manual_seed(0)
    model = nn.ModuleDict({f"stage{rank}": nn.Linear(3, 4)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    store = dist.distributed_c10d._get_default_store()
    if rank == 1 and fault == "is not there":
        store.wait(["closed"])
        store.set("seen", "")
        return {}
    writer = fastlog.SummaryWriter(logdir) if rank == 0 else None
    watcher = fastlog.watch(
        model, writer, optimizer, every=1, log="weights", merge=True, merge_timeout=timeout
    )
    if rank == 1 and fault == "is late":
        store.wait(["trained"])
    for step in range(6):
        if rank == 1 and step == 2:
            while watcher._writer.stats()["merged"]["whole"] < 2:
                time.sleep(0.01)
            if fault == "raises":
                raise RuntimeError("out of memory")
            if fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "hangs":
                store.wait(["closed"])
            if fault == "skips":
                watcher.step(step + 1)
                continue
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()
    if rank == 0:
        store.set("trained", "")
    watcher.remove()
    watcher._writer.close()
    if rank == 0:
        store.set("closed", "")
    if fault in ("hangs", "is not there"):  # rank 0 has the store, and outlives rank 1
        store.wait(["seen"]) if rank == 0 else store.set("seen", "")
    return dict(watcher._writer.stats())


def exchange_sizes(rank: int, sizes: list[list[int]]) -> list[tuple[list[bool], list[bytes]]]:
    """One round for each row of payload sizes, by rank."""
    store = dist.distributed_c10d._get_default_store()
    exchange = Exchange(store, [0, 1, 2], rank, Numbering(), 0)
    exchange.meet(10.0, f"rank {rank}")
    assert exchange.greeting == "rank 0"
    rounds = []
    for i, row in enumerate(sizes):
        payload = bytes([rank + 1]) * row[rank]
        result = exchange.round(Head(i, rank, len(payload)), payload)
        assert result.heads == [Head(i, r, row[r]) for r in range(3)]
        rounds.append((result.arrived, [bytes(payload) for payload in result.payloads]))
    return rounds


def watch_replicas(rank: int, merge: bool, logdir: Path) -> dict[str, object]:
    """DDP whose ranks see other data; each has a writer."""
    model = make("DDP")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    writer = fastlog.SummaryWriter(logdir, rank_dirs=True)
    log = ("weights", "activations")
    watcher = fastlog.watch(model, writer, optimizer, log=log, modules="^head$", merge=merge)
    for number in (1.0, 3.0 - rank):
        watcher.rank_scalars(data_wait=number)
    loss_of(model, "DDP", rank, 0).backward()
    optimizer.step()
    watcher.remove()
    writer.close()
    return dict(writer.stats())


def watch_broken_replicas(rank: int, logdir: Path) -> dict[str, object]:
    """HSDP over 2 by 2 ranks, where one value of rank 2's shard has been flipped."""
    model = make("HSDP")
    if rank == 2:
        with torch.no_grad():
            model.head.weight.to_local()[0, 0] = 100.0
    writer = fastlog.SummaryWriter(logdir) if rank == 0 else None
    watcher = fastlog.watch(model, writer, log="weights", check_replicas=True)
    watcher.step(0)
    watcher.remove()
    watcher._writer.close()
    return dict(watcher._writer.stats())


def resume(rank: int, logdir: Path) -> None:
    """A second run that begins again at step 2 of 3."""
    for first, purge_step in ((0, None), (2, 2)):
        model = make("FSDP")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        writer = fastlog.SummaryWriter(logdir, purge_step=purge_step) if rank == 0 else None
        watcher = fastlog.watch(model, writer, optimizer, every=1, log="weights")
        watcher.step(first)
        for step in range(first, 3):
            loss_of(model, "FSDP", rank, step).backward()
            optimizer.step()
        watcher.remove()
        if writer is not None:
            writer.close()


def merge_again(rank: int, logdir: Path) -> dict[str, object]:
    """Rank 0 watches, and rank 1 does not; then both do, and rank 1 hangs; then both do, and all is well."""
    model = nn.ModuleDict({f"stage{rank}": nn.Linear(3, 4)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    store = dist.distributed_c10d._get_default_store()
    writer = fastlog.SummaryWriter(logdir if rank == 0 else "", write_to_disk=rank == 0)
    for phase, timeout in enumerate((0.5, 2.0, 40.0)):
        if rank == 0 or phase > 0:
            with fastlog.watch(
                model, writer, optimizer, every=1, log="weights", merge=True, merge_timeout=timeout
            ) as watcher:
                watcher.step(2 * phase)
                for step in range(2):
                    if phase == step == rank == 1:
                        store.wait(["alone in 1"])
                    for param in model.parameters():
                        param.grad = torch.ones_like(param)
                    optimizer.step()
        writer.flush()
        if rank == 0:
            store.set(f"alone in {phase}", "")
        dist.barrier()
    writer.close()
    return dict(writer.stats())


def watch_inside_of_flat_parameters(rank: int, use_orig_params: bool) -> str:
    """Watches what FSDP1 wraps, which knows nothing of it; returns what is said."""
    model = FullyShardedDataParallel(Net(), device_id=torch.device("cpu"), use_orig_params=use_orig_params)
    try:
        fastlog.watch(model.module, fastlog.SummaryWriter("", write_to_disk=False))
    except TypeError as error:
        return str(error)
    return "accepted"
