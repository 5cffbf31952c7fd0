"""Fine-tune a pretrained BERT on several ranks, and log every weight and every gradient as if it were on one.

    torchrun --nproc_per_node 2 examples/finetune_fsdp.py             # FSDP2: every parameter is sharded
    torchrun --nproc_per_node 2 examples/finetune_fsdp.py --tp 2      # tensor parallelism
    torchrun --nproc_per_node 4 examples/finetune_fsdp.py --tp 2      # both

On the CPU with gloo, on GPUs with NCCL. fastlog needs two lines: a writer on rank 0, and ``fastlog.watch`` on
all ranks.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from finetune_bert import PACKAGED_MODEL, load_reviews, make_batches, model_path
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

import fastlog

TENSOR_PARALLEL = {
    "attention.self.query": ColwiseParallel(),
    "attention.self.key": ColwiseParallel(),
    "attention.self.value": ColwiseParallel(),
    "attention.output.dense": RowwiseParallel(),
    "intermediate.dense": ColwiseParallel(),
    "output.dense": RowwiseParallel(),
}


def distribute(model: Any, mesh: DeviceMesh) -> None:
    """Splits the layers over the ranks of ``mesh["model"]``, then each parameter over ``mesh["data"]``."""
    for layer in model.bert.encoder.layer:
        if mesh["model"].size() > 1:
            parallelize_module(layer, mesh["model"], TENSOR_PARALLEL)
        fully_shard(layer, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default=PACKAGED_MODEL, help="packaged BERT, hub name or path (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16, help="of each data parallel rank (%(default)s)")
    parser.add_argument("--every", type=int, default=5, help="log every so many steps (%(default)s)")
    parser.add_argument("--tp", type=int, default=1, help="ranks that share a layer (%(default)s)")
    parser.add_argument("--logdir", type=Path, default=Path("runs", time.strftime("fsdp-%Y%m%d-%H%M%S")))
    parser.add_argument("--lr", type=float, default=5e-5)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group()
    rank, size = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh(device, (size // args.tp, args.tp), mesh_dim_names=("data", "model"))

    torch.manual_seed(0)
    path = model_path(args.model)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2).to(device)
    distribute(model, mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    reviews = load_reviews(seed=0)[mesh["data"].get_local_rank() :: mesh["data"].size()]
    samples = list(itertools.islice(itertools.cycle(reviews), args.steps * args.batch_size))
    batches = make_batches(samples, args.batch_size, AutoTokenizer.from_pretrained(path), device)

    writer = fastlog.SummaryWriter(args.logdir) if rank == 0 else None
    fastlog.watch(model, writer, optimizer, every=args.every)
    began = time.perf_counter()
    for step, batch in enumerate(batches):
        # Ranks that share a layer drop the same.
        torch.manual_seed(step * size + mesh["data"].get_local_rank())
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        if writer is not None:
            writer.add_scalar("loss/train", loss, step)
    seconds = time.perf_counter() - began

    if writer is not None:
        writer.close()
        parameters = sum(param.numel() for param in model.parameters())
        print(f"{parameters / 1e6:.1f} M parameters over {size} ranks ({args.tp} share a layer), on {device}")
        print(f"{1e3 * seconds / args.steps:.0f} ms a step; loss at the end {loss.item():.3f}")
        print(f"merged: {writer.stats()['merged']}\nsee it with: tensorboard --logdir {args.logdir}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
