"""fastlog on a GPU against what one would use instead. Writes a page of Markdown tables; takes some minutes.

    python benchmarks/gpu.py [--out docs/gpu.md] [--values 268435456] [--device cpu --shrink 64]

``--device cpu`` runs the same script with the CPU engine, to show that it works.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastlog
from fastlog.summaries.cuda import devices
from fastlog.summaries.engines import pack_many, wait_forever
from fastlog.summaries.summary import EDGES

DTYPES = (torch.float32, torch.bfloat16, torch.float8_e4m3fn)
LAPS = 7


def decoder(layers: int, width: int, inner: int, vocabulary: int = 32000) -> list[tuple[int, ...]]:
    """The shapes of a decoder's parameters: embedding; layers of attention, gated MLP and norms; a head."""
    layer: list[tuple[int, ...]] = [*[(width, width)] * 4, *[(inner, width)] * 3, *[(width,)] * 2]
    return [(vocabulary, width), *(layer * layers), (width,), (vocabulary, width)]


MODELS = {"1.5 B": decoder(24, 2048, 5632, 64000), "7 B": decoder(32, 4096, 11008)}


class Device:
    """Where tensors are made and how their time is taken: a CUDA device, or the CPU."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.kind == "cuda" else platform.processor() or "a CPU"

    @property
    def engine(self) -> str:
        return devices.report(torch.cuda.current_device()) if self.kind == "cuda" else "the CPU engine"

    def gaussian(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        if dtype.itemsize == 1:
            return self.gaussian(shape, torch.bfloat16).to(dtype)
        return torch.empty(tuple(shape), dtype=dtype, device=self.kind).normal_(std=0.02)

    def edges(self) -> torch.Tensor:
        return torch.tensor(EDGES, dtype=torch.float32, device=self.kind)

    def synchronize(self) -> None:
        if self.kind == "cuda":
            torch.cuda.synchronize()

    @contextlib.contextmanager
    def without_waiting(self) -> Iterator[None]:
        """Raises where the host waits for the device."""
        if self.kind == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if self.kind == "cuda":
                torch.cuda.set_sync_debug_mode("default")

    def assert_no_wait(self, run: Callable[[], object]) -> None:
        """Stops a benchmark of calls that wait: the device is busy for seconds, and is so behind the call."""
        if self.kind != "cuda":
            return
        run()  # what allocates, may wait
        torch.cuda.synchronize()
        torch.cuda._sleep(10_000_000_000)
        busy = torch.cuda.Event()
        busy.record()
        run()
        assert not busy.query(), "the calling thread waited for the device"
        torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object]) -> float:
        """Median time from the call to the end of its work on the device."""
        times = []
        for _ in range(LAPS):
            self.synchronize()
            start = time.perf_counter()
            result = run()
            self.synchronize()
            times.append(time.perf_counter() - start)
            del result
        return statistics.median(times[LAPS // 3 :])

    def host_seconds(self, run: Callable[[], object]) -> float:
        """Median time until the call returns, on an idle device."""
        times = []
        for _ in range(LAPS):
            self.synchronize()
            start = time.perf_counter()
            result = run()
            times.append(time.perf_counter() - start)
            self.synchronize()
            del result
        return statistics.median(times[LAPS // 3 :])


@dataclass(frozen=True)
class Contender:
    """``run`` takes a list of tensors. ``part``: it is given every so many-th part of the values only."""

    run: Callable[[list[torch.Tensor]], object]
    part: int = 1


def contenders(device: Device) -> dict[str, Contender]:
    """fastlog first, and the copy that the others are measured against."""
    made = {
        "fastlog": Contender(start),
        "copy (read and write)": Contender(lambda tensors: [tensor.clone() for tensor in tensors]),
        "torch._foreach_norm": Contender(lambda tensors: torch._foreach_norm(tensors)),
        "torch.histc, 512 equal bins": Contender(lambda ts: [torch.histc(t.float(), 512) for t in ts]),
        "bucketize + bincount": Contender(_bucketize(device.edges()), 4),
        "wandb.watch's way": Contender(lambda tensors: [_like_wandb(tensor) for tensor in tensors], 4),
        "tensorboardX's way": Contender(lambda tensors: [_like_tensorboardx(t) for t in tensors], 64),
    }
    if device.kind == "cuda" and importlib.util.find_spec("cupy"):
        made["cupy.histogram, TensorBoard's edges"] = Contender(_cupy_histogram(), 4)
    return made


def start(tensors: list[torch.Tensor]) -> Any:
    """What `add_histogram` and `watch` do on the calling thread; the result is read elsewhere."""
    return pack_many(tensors, None, wait_forever)


def _bucketize(edges: torch.Tensor) -> Callable[[list[torch.Tensor]], object]:
    def one(tensor: torch.Tensor) -> torch.Tensor:
        return torch.bincount(torch.bucketize(tensor.float().flatten(), edges), minlength=len(EDGES) + 1)

    return lambda tensors: [one(tensor) for tensor in tensors]


def _like_wandb(tensor: torch.Tensor) -> object:
    """64 bins between the extremes of the finite values, which the host asks for first."""
    flat = tensor.float().flatten()
    flat = flat[torch.isfinite(flat)]
    low, high = flat.min().item(), flat.max().item()
    return torch.histc(flat, bins=64, min=low, max=high).cpu().tolist()


def _like_tensorboardx(tensor: torch.Tensor) -> object:
    """All values to the host, and NumPy there."""
    return np.histogram(tensor.float().cpu().numpy().astype(float), bins=EDGES)


def _cupy_histogram() -> Callable[[list[torch.Tensor]], object]:
    import cupy  # type: ignore[import-not-found]

    edges = cupy.asarray(EDGES, dtype=cupy.float32)
    return lambda tensors: [
        cupy.histogram(cupy.from_dlpack(t.float().flatten()), bins=edges) for t in tensors
    ]


def inputs(device: Device, values: int, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Data of the kinds that histograms of training meet."""
    gaussian = device.gaussian([values], torch.bfloat16 if dtype.itemsize == 1 else dtype)
    yield "Gaussian", gaussian.to(dtype)
    zeros = gaussian * (device.gaussian([values], gaussian.dtype) > 0.0256)  # 1.28 standard deviations
    yield "90 % zeros", zeros.to(dtype)
    yield "constant", gaussian.fill_(0.37).to(dtype)


def one_tensor(device: Device, values: int) -> Iterator[str]:
    yield "| dtype | data | | GB/s read | of a copy |"
    yield "| --- | --- | --- | ---: | ---: |"
    for dtype in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        for data, tensor in inputs(device, values, dtype):
            rates: dict[str, float | None] = {}
            for name, contender in contenders(device).items():
                part = [tensor[: max(1, tensor.numel() // contender.part)]]
                try:
                    seconds = device.seconds(lambda run=contender.run, part=part: run(part))
                    rates[name] = part[0].nbytes / seconds / 1e9
                except (RuntimeError, TypeError, NotImplementedError):  # this dtype is beyond it
                    rates[name] = None
            copy = 2 * (rates["copy (read and write)"] or 0.5)
            for name, rate in rates.items():
                cells = "cannot | " if rate is None else f"{rate:.3g} | {rate / copy:.1%}"
                yield f"| {kind} | {data} | {name} | {cells} |"


def one_model(device: Device, model: str, dtype: torch.dtype, shrink: int) -> str:
    """A row: all parameters of a model in one call."""
    tensors = [device.gaussian([max(1, n // shrink) for n in shape], dtype) for shape in MODELS[model]]
    check(tensors)
    device.assert_no_wait(lambda: start(tensors))
    with device.without_waiting():
        host = device.host_seconds(lambda: start(tensors))
        total = device.seconds(lambda: start(tensors))
    copy = device.seconds(lambda: [tensor.clone() for tensor in tensors[:64]])
    norm = device.seconds(lambda: torch._foreach_norm(tensors)) if dtype.itemsize > 1 else None
    size, copied = (sum(t.nbytes for t in some) for some in (tensors, tensors[:64]))
    share = size / total / (2 * copied / copy)
    cells = [
        model,
        str(dtype).removeprefix("torch."),
        str(len(tensors)),
        f"{size / 1e9:.3g} GB",
        f"{host * 1e6:.0f} µs",
        f"{total * 1e3:.3g} ms",
        f"{size / total / 1e9:.4g} GB/s",
        f"{share:.0%}",
        "" if norm is None else f"{norm * 1e3:.3g} ms",
    ]
    return f"| {' | '.join(cells)} |"


def check(tensors: list[torch.Tensor]) -> None:
    """Stops a benchmark whose results are wrong."""
    for tensor, packed in zip(tensors[-3:], start(tensors)[-3:], strict=True):
        summary = fastlog.TensorSummary.from_packed(bytes(packed))
        expected = fastlog.summarize(tensor.cpu())
        same = np.array_equal(summary.counts, expected.counts) and summary.max == expected.max
        assert same and summary.num == tensor.numel(), "the engine's result is wrong"


class Decoder(torch.nn.Module):
    """The size of a language model of 1 B parameters, each dimension divided by ``shrink``."""

    def __init__(self, device: Device, shrink: int) -> None:
        super().__init__()
        width = 2048 // shrink
        how: dict[str, Any] = {"device": device.kind, "dtype": torch.bfloat16}
        self.embed = torch.nn.Embedding(32000 // shrink, width, **how)
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(width, 16, 4 * width, 0.0, batch_first=True, **how)
            for _ in range(max(1, 16 // shrink))
        )
        self.head = torch.nn.Linear(width, 32000 // shrink, **how)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def watched_steps(device: Device, shrink: int) -> Iterator[str]:
    """Rows: a training step without logging, and watched."""
    model = Decoder(device, shrink)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    tokens = torch.randint(0, 32000 // shrink, (4, max(8, 1024 // shrink)), device=device.kind)

    def step() -> None:
        logits = model(tokens).float().flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    size = sum(param.numel() for param in model.parameters())
    plain = 0.0
    for every in (None, 10, 1):
        with tempfile.TemporaryDirectory() as folder, fastlog.SummaryWriter(folder) as writer:
            watcher = None if every is None else fastlog.watch(model, writer, optimizer, every=every)
            for _ in range(LAPS):
                step()
            device.synchronize()
            began = time.perf_counter()
            for _ in range(10 * LAPS):
                step()
            device.synchronize()
            seconds = (time.perf_counter() - began) / (10 * LAPS)
            if watcher is not None:
                watcher.remove()
        plain = plain or seconds
        how = "nothing" if every is None else f"weights and gradients, every {every}"
        yield f"| {size / 1e9:.3g} B | {how} | {seconds * 1e3:.4g} ms | {seconds / plain - 1:+.2%} |"


def machine(device: Device) -> Iterator[str]:
    """What the numbers were taken with."""
    yield (
        f"By `python benchmarks/gpu.py`: torch {torch.__version__}, CUDA {torch.version.cuda}, Python "
        f"{platform.python_version()}. Summaries are made by {device.engine}."
    )
    if device.kind == "cuda":
        asked = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
        command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        yield f"Devices ({asked}): {found.replace(chr(10), '; ')}."


def lines(device: Device, values: int, shrink: int) -> Iterator[str]:
    """Of the page, as they come: what has been measured is kept if the machine goes away."""
    yield f"# fastlog on {device.name}"
    yield ""
    yield from machine(device)
    yield from (
        "",
        "## A model's parameters in one call",
        "",
        "Host time is that of the calling thread. Waiting for the device is an error while it is taken.",
        "",
        "| model | dtype | tensors | size | host time | until the device is done | read | of a copy | "
        "torch._foreach_norm |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    )
    for model in MODELS:
        for dtype in DTYPES[1:]:
            yield one_model(device, model, dtype, shrink)
    yield from (
        "",
        "## One tensor",
        "",
        f"{values:,} values; medians of {LAPS - LAPS // 3} calls, each waited for. Of a copy: share of the "
        "bandwidth of `tensor.clone()`, reads and writes counted. The slow ones get a part of the values.",
        "",
    )
    yield from one_tensor(device, values)
    yield from (
        "",
        "## A training step",
        "",
        "A decoder in bfloat16 with AdamW; means of many steps.",
        "",
        "| model | logged | a step | more than without |",
        "| --- | --- | ---: | ---: |",
    )
    yield from watched_steps(device, shrink)


def page(device: Device, values: int, shrink: int) -> str:
    """All lines."""
    return "".join(f"{line}\n" for line in lines(device, values, shrink))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--values", type=int, default=1 << 28)
    parser.add_argument("--shrink", type=int, default=1, help="divide the models' dimensions by this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    with options.out.open("w") if options.out else contextlib.nullcontext() as kept:
        for line in lines(Device(options.device), options.values, options.shrink):
            print(line, flush=True)
            if kept is not None:
                print(line, file=kept, flush=True)


if __name__ == "__main__":
    main()
