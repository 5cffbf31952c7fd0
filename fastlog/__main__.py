"""``python -m fastlog info`` and ``python -m fastlog bench``."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device; the CUDA engine was not built"
    return f"{torch.cuda.get_device_name()}; the CUDA engine was not built: CUDA tensors use the pure-torch reference"


def _crc32c() -> str:
    try:
        import crc32c
    except ImportError:
        return "not installed: tensorboardX's own writers use slow Python checksums"
    return "hardware" if crc32c.hardware_based else "software"


def info() -> str:
    """The report, a line per fact."""
    from fastlog.native import core

    facts = {
        "fastlog": _version("torch-fastlog"),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "CPU paths": f"{', '.join(core.cpu_paths())} (chosen: {core.cpu_path()}; FASTLOG_CPU_ISA forces one)",
        "CUDA": _cuda(),
        "torch": _version("torch"),
        "tensorboardX": _version("tensorboardX"),
        "numpy": _version("numpy"),
        "crc32c": f"{_version('crc32c')}, {_crc32c()}",
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fastlog", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what was built and what runs here")
    commands.add_parser("bench", help="fastlog beside other loggers on this machine, in about half a minute")
    if parser.parse_args(arguments).command == "bench":
        from fastlog import bench

        bench.main()
    else:
        print(info())


if __name__ == "__main__":
    main()
