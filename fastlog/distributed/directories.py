"""Which rank of a job this process is, and where it logs what is its own."""

from __future__ import annotations

import os

import torch.distributed as dist


def rank_directory(rank: int) -> str:
    """Where a rank logs what is its own, below the log directory."""
    return f"rank_{rank}"


def own_directory(logdir: str | os.PathLike[str] | None) -> str:
    """The ``rank_directory`` of this process; before ``init_process_group`` what ``torchrun`` says counts.

    Raises:
        ValueError: no ``logdir``.
    """
    if not logdir:
        raise ValueError("rank_dirs=True needs a logdir, the same on all ranks")
    is_initialized = dist.is_available() and dist.is_initialized()
    rank = dist.get_rank() if is_initialized else int(os.environ.get("RANK", "0"))
    return os.path.join(logdir, rank_directory(rank))
