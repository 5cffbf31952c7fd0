"""What merging costs each rank, over 1, 2, 4, 8 gloo ranks on this machine.

    python benchmarks/distributed.py                    # a table
    python benchmarks/distributed.py --plot docs/images/distributed.png

Every rank brings the summaries of its shards of ``--tensors`` tensors of ``--values`` values each.
More ranks than cores take turns: then the time of a round says more about the machine than about merging. CPU
time and bytes do not depend on that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fastlog.distributed.merger import Contribution, Merger
from fastlog.distributed.parts import Record, encode
from fastlog.summaries.engines import pack_many


def work(rank: int, size: int, args: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    generator = torch.Generator().manual_seed(rank)
    shards = [torch.randn(args.values // size, generator=generator) for _ in range(args.tensors)]
    records = [
        Record("weights", f"model.layers.{i}.mlp.weight", packed, rank)
        for i, packed in enumerate(pack_many(shards))
    ]
    merger = Merger(range(size), lambda cause, message: print(message), 60.0, folder)
    submits, rounds, cpu = [], [], []
    for step in range(args.rounds + 3):
        dist.barrier()
        used, began = time.process_time(), time.perf_counter()
        merger.submit(Contribution("step", step, records, lambda merged, numbers: None, lambda own: None))
        submits.append(time.perf_counter() - began)
        merger.drain()
        rounds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    assert merger.stats()["whole"] == args.rounds + 3
    result = {
        "bytes": len(encode(records, {})),
        "submit_us": 1e6 * statistics.median(submits[3:]),
        "round_ms": 1e3 * statistics.median(rounds[3:]),
        "cpu_ms": 1e3 * statistics.median(cpu[3:]),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    merger.end(None)
    dist.destroy_process_group()


def measure(size: int, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Of the writing rank and of the median of the others."""
    folder.mkdir(parents=True)
    mp.spawn(work, (size, args, str(folder)), size)
    first, *others = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]
    found = {f"writer_{key}": value for key, value in first.items()}
    for key in first if others else ():
        found[f"other_{key}"] = statistics.median(rank[key] for rank in others)
    return {"ranks": size, **found}


def plot(rows: list[dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    ranks = [row["ranks"] for row in rows]
    for axis, key, title in (
        (axes[0], "cpu_ms", "CPU time of a logged step [ms]"),
        (axes[1], "bytes", "bytes sent in a logged step"),
    ):
        if key == "cpu_ms":
            axis.plot(ranks, [row[f"writer_{key}"] for row in rows], "o-", label="the writing rank")
        axis.plot(ranks[1:], [row[f"other_{key}"] for row in rows[1:]], "s-", label="each other rank")
        axis.set(title=title, xlabel="ranks", xticks=ranks, ylim=(0, 1.3 * axis.get_ylim()[1]))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tensors", type=int, default=400)
    parser.add_argument("--values", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plot", metavar="PNG")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(size, args, Path(folder, str(size))) for size in args.ranks]
    print(f"{args.tensors} tensors of {args.values:,} values, {torch.get_num_threads()} cores")
    for key in rows[-1]:
        print(f"{key:18}" + "".join(f"{row.get(key, float('nan')):12,.1f}" for row in rows))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
