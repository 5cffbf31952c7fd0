"""Runs functions on the ranks of a small job: processes with a gloo group, and what became of each."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

# A process that has imported all this and done nothing else: its forks start at once.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["run_ranks", "fastlog", "torch.distributed.fsdp", "torch.distributed.tensor.parallel"]
)


@dataclass
class Outcome:
    """What a rank returned, or the traceback of what it raised, its warnings and how the process ended."""

    result: Any = None
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    exit_code: int | None = None


def run_ranks(
    size: int, function: Callable[..., Any], *args: Any, seconds: float = 60.0, may_fail: bool = False
) -> list[Outcome]:
    """``function(rank, *args)`` on each rank.

    Fails where one hangs, or, unless ``may_fail``, raises or dies.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [_context.Pipe(duplex=False) for _ in range(size)]
    processes = [
        _context.Process(target=_rank, args=(rank, size, port, pipes[rank][1], function, args))
        for rank in range(size)
    ]
    outcomes = [Outcome() for _ in range(size)]
    give_up = time.monotonic() + seconds
    try:
        for process in processes:
            process.start()
        for rank, (reader, writer) in enumerate(pipes):
            writer.close()
            try:
                if reader.poll(max(0.0, give_up - time.monotonic())):
                    outcomes[rank] = reader.recv()
            except EOFError:
                pass  # it died
        for rank, process in enumerate(processes):
            process.join(max(0.0, give_up - time.monotonic()))
            outcomes[rank].exit_code = process.exitcode
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    for rank, outcome in enumerate(outcomes):
        assert outcome.exit_code is not None, f"rank {rank} hangs"
        assert may_fail or (outcome.error is None and outcome.exit_code == 0), (
            f"rank {rank} (exit code {outcome.exit_code}): {outcome.error}"
        )
    return outcomes


def _rank(rank: int, size: int, port: int, pipe: Any, function: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
        dist.barrier()  # a rank that ends at once would take its connections from those that are not through
        try:
            outcome.result = function(rank, *args)
        except BaseException:
            outcome.error = traceback.format_exc()
        outcome.warnings = [str(w.message) for w in caught if w.category.__name__ == "FastlogWarning"]
    pipe.send(outcome)
    pipe.close()
