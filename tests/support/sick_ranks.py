"""Two ranks that train together, healthy or with one fault; what the rules say, live and from the file."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rank_cases import shard
from tiny_net import Block
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import fastlog
from fastlog.health.findings import Finding

STEPS = 40
FAULT_AT = 12
SLOW = 0.06  # seconds, of steps that take a few milliseconds


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 6)
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def train(rank: int, kind: str, fault: str, seed: int, logdir: Path) -> list[Finding]:
    """What ``on_finding`` got on this rank."""
    torch.manual_seed(seed)
    teacher, model = nn.Linear(8, 4), Classifier()
    distributed = (
        nn.parallel.DistributedDataParallel(model)
        if kind == "DDP"
        else shard(model, init_device_mesh("cpu", (2,)))
        if kind == "FSDP2"
        else shard(model, init_device_mesh("cpu", (2, 1), mesh_dim_names=("outer", "inner")))
    )
    optimizer = torch.optim.AdamW(distributed.parameters(), lr=0.01)
    writer = fastlog.SummaryWriter(logdir) if rank == 0 else None
    found: list[Finding] = []
    watcher = fastlog.watch(
        distributed,
        writer,
        optimizer,
        every=1,
        log=("weights", "gradients", "activations"),
        merge=True if kind == "DDP" else None,
        check_replicas=True,
        health=True,
        on_finding=found.append,
    )
    data = torch.Generator().manual_seed(1000 * seed + (0 if fault == "same-batch" else rank))
    for step in range(STEPS):
        x = torch.randn(16, 8, generator=data)
        if fault == "straggler" and rank == 1 and step >= FAULT_AT:
            time.sleep(SLOW)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(distributed(x), teacher(x).argmax(1))
        loss.backward()
        optimizer.step()
        if fault == "replicas-differ" and rank == 1 and step == FAULT_AT:
            with torch.no_grad():
                weight = model.layers[1].query.weight
                (weight.to_local() if kind != "DDP" else weight)[0, 0] += 0.01
        if writer is not None:
            writer.add_scalar("loss", loss, step)
    watcher.remove()
    if writer is not None:
        writer.close()
    return found
