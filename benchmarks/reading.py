"""How fast event files are read back: ``fastlog.load`` beside TensorBoard's own readers and tbparse.

    python benchmarks/reading.py [FOLDER] [--scale 0.1]

Writes three log directories (1 M scalars, 100,000 histograms, 1 GB of both and of images) and reads each with
every reader that is installed: all scalars and histograms as arrays. CPU seconds are of the reader alone;
neighbours on the machine change them less than the seconds. The Rust server reads into its own memory and
hands out nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastlog


def write_scalars(folder: Path, number: int) -> None:
    with fastlog.SummaryWriter(folder) as writer:
        for step in range(number // 100):
            for tag in range(100):
                writer.add_scalar(f"layer.{tag}/norm", step / (1 + tag), step)


def write_histograms(folder: Path, number: int) -> None:
    values = np.random.default_rng(0).normal(size=(64, 2000)).astype(np.float32)
    with fastlog.SummaryWriter(folder) as writer:
        for step in range(number // 200):
            for tag in range(200):
                writer.add_histogram(f"weights/layer.{tag}", values[(step + tag) % 64], step)


def write_mixed(folder: Path, megabytes: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 5000)).astype(np.float32)
    picture = rng.integers(0, 255, (3, 512, 512), np.uint8)
    with fastlog.SummaryWriter(folder) as writer:
        step = 0
        while sum(file.stat().st_size for file in folder.glob("*")) < megabytes * 1_000_000:
            for _ in range(20):
                for tag in range(100):
                    writer.add_scalar(f"layer.{tag}/norm", step / (1 + tag), step)
                    writer.add_histogram(f"weights/layer.{tag}", values[(step + tag) % 64], step)
                writer.add_image("picture", picture, step)
                step += 1
            writer.flush()


def with_fastlog(folder: Path) -> int:
    run = fastlog.load(folder)
    assert isinstance(run, fastlog.Run)
    scalars = sum(len(run.scalars(tag)) for tag in run.tags["scalars"])
    return scalars + sum(len(run.histograms(tag)) for tag in run.tags["histograms"])


def skip_with_fastlog(folder: Path) -> int:
    run = fastlog.load(folder)
    assert isinstance(run, fastlog.Run)
    tag = next(iter(run.tags["scalars"]), None)
    return 0 if tag is None else len(run.scalars(tag))


def with_event_accumulator(folder: Path) -> int:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kept = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(folder), size_guidance=kept)
    events.Reload()
    tags = events.Tags()
    scalars = sum(len(events.Scalars(tag)) for tag in tags["scalars"])
    return scalars + sum(len(events.Histograms(tag)) for tag in tags["histograms"])


def with_tbparse(folder: Path) -> int:
    from tbparse import SummaryReader

    reader = SummaryReader(str(folder), event_types={"scalars", "histograms"})
    return len(reader.scalars) + len(reader.histograms)


def with_rust_server(folder: Path) -> int:
    """Until TensorBoard's server has read the directory and holds every value in its memory."""
    import tensorboard_data_server

    keep_all = "scalars=all,histograms=all,images=all"
    command = [
        tensorboard_data_server.server_binary(),
        "--logdir",
        str(folder),
        "--reload",
        "once",
        "--port",
        "0",
    ]
    server = subprocess.Popen(
        [*command, "-v", "--samples-per-plugin", keep_all],
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if "load cycle" in line and "Finish" in line:
                return 0
        raise RuntimeError("the server ended before it had read the directory")
    finally:
        server.kill()
        server.wait()


READERS: dict[str, Callable[[Path], int]] = {
    "fastlog.load": with_fastlog,
    "EventAccumulator": with_event_accumulator,
    "tbparse": with_tbparse,
    "tensorboard_data_server (Rust)": with_rust_server,
}
NEEDS = {"tbparse": "tbparse", "tensorboard_data_server (Rust)": "tensorboard_data_server"}


def measure(read: Callable[[Path], int], folder: Path, laps: int) -> tuple[float, float, int]:
    """Wall and CPU seconds of the fastest lap, and how many values were read."""
    found = []
    for _ in range(laps):
        used, began = cpu_seconds(), time.perf_counter()
        values = read(folder)
        found.append((time.perf_counter() - began, cpu_seconds() - used, values))
    return min(found)


def cpu_seconds() -> float:
    """Of this process and of its children that are over."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", help="where to write; default: a temporary one, removed at the end"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the three directories (%(default)s)")
    options = parser.parse_args()
    top = Path(options.folder or tempfile.mkdtemp(prefix="fastlog-reading-"))
    scale = options.scale
    sets: dict[str, tuple[Callable[[Path, int], None], int]] = {
        f"{int(1_000_000 * scale):,} scalars": (write_scalars, int(1_000_000 * scale)),
        f"{int(100_000 * scale):,} histograms": (write_histograms, int(100_000 * scale)),
        f"{int(1000 * scale):,} MB of scalars, histograms, images": (write_mixed, int(1000 * scale)),
    }
    for number, (name, (write, amount)) in enumerate(sets.items()):
        folder = top / str(number)
        write(folder, amount)
        size = sum(file.stat().st_size for file in folder.glob("*"))
        print(f"\n{name} ({size / 1e6:,.0f} MB)\n\n| reader | seconds | CPU seconds | of fastlog's CPU |")
        print("| --- | --- | --- | --- |", flush=True)
        ours = None
        for reader, read in READERS.items():
            if reader in NEEDS and importlib.util.find_spec(NEEDS[reader]) is None:
                print(f"| {reader} | not installed | | |")
                continue
            wall, cpu, _ = measure(read, folder, 3 if reader.startswith("fastlog") else 1)
            ours = cpu if ours is None else ours
            print(f"| {reader} | {wall:.2f} | {cpu:.2f} | {cpu / ours:.1f} x |", flush=True)
        wall, _, _ = measure(skip_with_fastlog, folder, 3)
        print(f"\nOne scalar series of it alone: {wall:.2f} s, {size / wall / 1e9:.2f} GB/s of the file")
    if options.folder is None:
        shutil.rmtree(top)


if __name__ == "__main__":
    sys.exit(main())
