"""The CUDA engine against what one would use instead, in GB/s of the values read. Writes a Markdown table.

    python benchmarks/gpu.py [--device cpu] [--values 268435456] [--out table.md]

``--device cpu`` runs the same script with the CPU engine, to show that it works.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fastlog
from fastlog.summary import EDGES, TensorSummary
from fastlog.tensors import _CODES

DTYPES = (torch.float32, torch.bfloat16, torch.float8_e4m3fn)
# A 1 B-parameter decoder: embedding, then per layer attention, MLP and norms.
MODEL_1B = [
    (32000, 2048),
    *[shape for _ in range(22) for shape in [(2048, 2048)] * 4 + [(5632, 2048)] * 3 + [(2048,)] * 2],
]


def inputs(values: int, dtype: torch.dtype, device: str) -> dict[str, torch.Tensor]:
    """Data of the kinds that histograms of training meet."""
    gaussian = torch.randn(values, device=device) * 0.02
    zeros = torch.where(torch.rand(values, device=device) < 0.9, 0.0, gaussian)
    made = {"gaussian": gaussian, "90 % zeros": zeros, "constant": torch.full_like(gaussian, 0.37)}
    return {name: tensor.to(dtype) for name, tensor in made.items()}


def contenders(device: str) -> dict[str, Callable[[torch.Tensor], object]]:
    """fastlog first. Each takes one tensor."""
    edges = torch.tensor(EDGES, dtype=torch.float32, device=device)

    def bucketize(tensor: torch.Tensor) -> object:
        return torch.bincount(torch.bucketize(tensor.float(), edges), minlength=len(EDGES) + 1)

    start = starter(device)
    return {
        "fastlog": lambda tensor: start([tensor]),
        "copy (read + write)": lambda tensor: tensor.clone(),
        "torch.histc, 512 equal bins": lambda tensor: torch.histc(tensor.float(), 512),
        "bucketize + bincount": bucketize,
        "torch._foreach_norm": lambda tensor: torch._foreach_norm([tensor]),
    }


def starter(device: str) -> Callable[[list[torch.Tensor]], Any]:
    """One call of the engine, not waited for."""
    if device == "cpu":
        return fastlog.summarize
    from fastlog import _cuda
    from fastlog.transfer import transfers_of

    transfers = transfers_of(_cuda, torch.cuda.current_device())

    def start(tensors: list[torch.Tensor]) -> Any:
        return transfers.start([(t.data_ptr(), t.numel(), _CODES[t.dtype], 0, 0) for t in tensors])

    return start


def seconds(run: Callable[[], object], device: str, laps: int = 7) -> float:
    """Median time from call to the end of its work on the device."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(laps):
        synchronize()
        start = time.perf_counter()
        result = run()
        synchronize()
        times.append(time.perf_counter() - start)
        del result
    return statistics.median(times[2:])


def one_tensor(values: int, device: str) -> list[str]:
    lines = ["| dtype | data | contender | GB/s read | of copy |", "| --- | --- | --- | --- | --- |"]
    for dtype in DTYPES:
        for data, tensor in inputs(values, dtype, device).items():
            rates: dict[str, float | None] = {}
            for name, run in contenders(device).items():
                try:
                    rates[name] = (
                        tensor.nbytes / seconds(lambda run=run, tensor=tensor: run(tensor), device) / 1e9
                    )
                except (RuntimeError, TypeError):  # this dtype is beyond it
                    rates[name] = None
            copy = rates["copy (read + write)"] or 1.0
            for name, rate in rates.items():
                kind = str(dtype).removeprefix("torch.")
                cells = "cannot | " if rate is None else f"{rate:.1f} | {rate / (2 * copy):.0%}"
                lines.append(f"| {kind} | {data} | {name} | {cells} |")
    return lines


def one_model(device: str, shrink: int) -> list[str]:
    """Host time of a call, and the device's time, for all weights of a model."""
    model = [
        torch.randn([max(1, n // shrink) for n in shape], device=device).bfloat16() for shape in MODEL_1B
    ]
    call = starter(device)
    total = seconds(lambda: call(model), device)
    start = time.perf_counter()
    pending = call(model)
    host = time.perf_counter() - start
    summaries = pending if device == "cpu" else map(TensorSummary.from_packed, pending.packed())
    assert [summary.num for summary in summaries] == [tensor.numel() for tensor in model]
    size = sum(t.nbytes for t in model)
    return [
        f"{len(model)} tensors, {size / 1e9:.3g} GB of bfloat16: {host * 1e6:.0f} µs of host time, "
        f"{total * 1e3:.3g} ms until the device is done, {size / total / 1e9:.0f} GB/s."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--values", type=int, default=1 << 28)
    parser.add_argument("--shrink", type=int, default=1, help="divide the model's dimensions by this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    lines = [f"{name}, torch {torch.__version__}, {options.values} values a tensor", ""]
    lines += [*one_tensor(options.values, options.device), "", *one_model(options.device, options.shrink)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
