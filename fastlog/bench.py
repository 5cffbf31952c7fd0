"""``python -m fastlog bench``: fastlog beside tensorboardX and torch.utils.tensorboard on this machine."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX
import torch

from fastlog.common.native import core
from fastlog.summaries.summary import EDGES
from fastlog.summarize import summarize
from fastlog.writer import SummaryWriter

OURS = "fastlog"
_CASE_SECONDS = 3.0
_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 25
# The weights of a BERT with 6 layers of width 384: 103 tensors, 22.7 M values.
_WIDTH = 384
_BERT = [30522 * _WIDTH, 512 * _WIDTH, 2 * _WIDTH, _WIDTH, _WIDTH, _WIDTH**2, _WIDTH] + 6 * (
    4 * [_WIDTH**2, _WIDTH] + 2 * [4 * _WIDTH**2] + [4 * _WIDTH] + 5 * [_WIDTH]
)


@dataclass(frozen=True)
class _Case:
    """``log(writer)`` is timed, ``our_calls`` or ``their_calls`` times in a row; times are of one call."""

    name: str
    log: Callable[[Any], object]
    our_calls: int = 1
    their_calls: int = 1


def bench() -> str:
    """Measures for about half a minute; returns the machine and a table, as Markdown.

    All loggers take turns, round by round, so what else the machine does hits them alike; the table shows
    medians. What a worker still has to write after a call is waited for before the next turn, untimed.
    """
    torch.manual_seed(0)
    values = torch.randn(2**22)
    exact = np.array_equal(summarize(values).counts, np.histogram(values.double().numpy(), EDGES)[0])
    rows = []
    with tempfile.TemporaryDirectory(prefix="fastlog-bench-") as directory:
        writers = _writers(directory)
        try:
            for case in _cases(values):
                rows.append([case.name, *_cells(_medians(case, writers))])
        finally:
            for writer in writers.values():
                writer.close()
    head = ["", *writers, "tensorboardX / fastlog"]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
    return (
        f"{_machine()}\n\n{table}\n\n{_read_pass()}\n"
        f"Counts of 4,194,304 float32 values equal np.histogram's in float64: {'yes' if exact else 'NO'}."
    )


def main() -> None:
    """Prints what ``bench`` finds."""
    print("measuring for about half a minute ...", file=sys.stderr)
    print(bench())


def _writers(directory: str) -> dict[str, Any]:
    writers: dict[str, Any] = {
        OURS: SummaryWriter(os.path.join(directory, OURS)),
        "tensorboardX": tensorboardX.SummaryWriter(os.path.join(directory, "tensorboardX")),
    }
    try:
        from torch.utils.tensorboard import SummaryWriter as TorchWriter
    except ImportError:  # TensorBoard is not installed
        return writers
    return {**writers, "torch.utils.tensorboard": TorchWriter(os.path.join(directory, "torch"))}


def _cases(values: torch.Tensor) -> list[_Case]:
    def histogram(tensor: torch.Tensor) -> Callable[[Any], object]:
        return lambda writer: writer.add_histogram("weights", tensor, 0)

    model = [part.clone() for part in torch.split(torch.randn(sum(_BERT)), _BERT)]

    def log_model(writer: Any) -> None:
        for i, tensor in enumerate(model):
            writer.add_histogram(f"weights/{i}", tensor, 0)

    cases = [
        _Case("add_scalar", lambda writer: writer.add_scalar("loss", 0.5, 0), 2000, 200),
        _Case("add_histogram, 768 float32", histogram(values[:768]), 500, 20),
        _Case("add_histogram, 4 M float32", histogram(values)),
        _Case("add_histogram, 4 M bfloat16", histogram(values.bfloat16())),
        _Case(f"all {len(model)} weights of a BERT (22.7 M)", log_model),
    ]
    if torch.cuda.is_available():
        on_device = torch.randn(2**24, device="cuda")
        for tensor in (on_device, on_device.bfloat16()):
            name = f"16 M {str(tensor.dtype).removeprefix('torch.')} on the GPU"
            cases.append(_Case(f"add_histogram, {name}", histogram(tensor)))
            cases.append(_Case(f"{name}, until it is in the file", _until_in_the_file(tensor)))
    return cases


def _until_in_the_file(tensor: torch.Tensor) -> Callable[[Any], object]:
    def log(writer: Any) -> None:
        writer.add_histogram("weights", tensor, 0)
        writer.flush()

    return log


def _medians(case: _Case, writers: dict[str, Any]) -> dict[str, float | None]:
    """Seconds per call; None for a logger that cannot do it."""
    times: dict[str, list[float]] = {}
    for name, writer in writers.items():  # warms up, too
        try:
            _lap(case, name, writer)
        except TypeError:
            continue
        times[name] = []
    began = time.perf_counter()
    for done in range(_MOST_ROUNDS):
        if done >= _FEWEST_ROUNDS and time.perf_counter() - began > _CASE_SECONDS:
            break
        names = list(times)
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(_lap(case, name, writers[name]))
    return {name: statistics.median(times[name]) if name in times else None for name in writers}


def _lap(case: _Case, name: str, writer: Any) -> float:
    calls = case.our_calls if name == OURS else case.their_calls
    start = time.perf_counter()
    for _ in range(calls):
        case.log(writer)
    seconds = time.perf_counter() - start
    writer.flush()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return seconds / calls


def _cells(medians: dict[str, float | None]) -> list[str]:
    ours, theirs = medians[OURS], medians["tensorboardX"]
    ratio = f"{theirs / ours:.0f} x" if ours and theirs else ""
    return [*("cannot" if median is None else _duration(median) for median in medians.values()), ratio]


def _read_pass() -> str:
    """How far from the memory's limit."""
    large = torch.randn(2**26)
    times: dict[Callable[[torch.Tensor], object], list[float]] = {torch.sum: [], summarize: []}
    for _ in range(5):
        for run, laps in times.items():
            start = time.perf_counter()
            run(large)
            laps.append(time.perf_counter() - start)
    read, summarised = (statistics.median(laps) for laps in times.values())
    return (
        f"256 MB of float32: summarised in {_duration(summarised)}; x.sum(), which reads it once, takes "
        f"{_duration(read)}: {summarised / read:.1f} x."
    )


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    parts = [
        f"{_cpu()}, {cores} core{'s' * (cores > 1)}, {torch.get_num_threads()} torch threads",
        f"CPU path {core.cpu_path()}",
        *([torch.cuda.get_device_name()] if torch.cuda.is_available() else []),
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        *(f"{name} {metadata.version(name)}" for name in ("torch-fastlog", "torch", "tensorboardX", "numpy")),
    ]
    return "; ".join(parts)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
