"""``python -m fastlog info``, ``python -m fastlog bench`` and ``python -m fastlog run``."""

from __future__ import annotations

import argparse
import os
import platform
import runpy
import sys
from importlib import metadata


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> dict[str, str]:
    """What CUDA can do here, and what summarises the tensors of each device."""
    import torch

    from fastlog.summaries.cuda import devices

    engine = devices.missing() or "the CUDA engine is built"
    if torch.version.cuda is None:
        return {"CUDA": f"torch is built without CUDA; {engine}"}
    if not torch.cuda.is_available():
        return {"CUDA": f"no device ({_why_no_device()}); {engine}"}
    facts = {"CUDA": f"{torch.version.cuda} in torch; {engine}"}
    for device in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(device)
        facts[f"CUDA device {device}"] = f"{name}: tensors are summarised by {devices.report(device)}"
    return facts


def _why_no_device() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return "torch sees none"


def _crc32c() -> str:
    try:
        import crc32c
    except ImportError:
        return "not installed: tensorboardX's own writers use slow Python checksums"
    return "hardware" if crc32c.hardware_based else "software"


def info() -> str:
    """The report, a line per fact."""
    from fastlog.common.native import core

    facts = {
        "fastlog": _version_of("torch-fastlog"),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "CPU paths": f"{', '.join(core.cpu_paths())} (chosen: {core.cpu_path()}; FASTLOG_CPU_ISA forces one)",
        **_cuda(),
        "torch": _version_of("torch"),
        "tensorboardX": _version_of("tensorboardX"),
        "numpy": _version_of("numpy"),
        "crc32c": f"{_version_of('crc32c')}, {_crc32c()}",
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def run_script(path: str, arguments: list[str]) -> None:
    """Runs a script as ``python path arguments...`` does, with fastlog's writers; see ``fastlog.install``."""
    import fastlog

    fastlog.install()
    sys.argv[:] = [path, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(path))  # in place of the working directory
    runpy.run_path(path, run_name="__main__")


def run_module(name: str, arguments: list[str]) -> None:
    """Runs a module as ``python -m name arguments...`` does, with fastlog's writers."""
    import fastlog

    fastlog.install()
    sys.argv[:] = ["-m", *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fastlog", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="what was built and what runs here")
    commands.add_parser("bench", help="fastlog beside other loggers on this machine, in about half a minute")
    run = commands.add_parser(
        "run",
        usage="%(prog)s (SCRIPT | -m MODULE) [ARGUMENT ...]",
        help="a program in which tensorboardX's and torch.utils.tensorboard's SummaryWriter are fastlog's",
    )
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module and its arguments")
    run.add_argument("script", nargs=argparse.REMAINDER, help="a script and its arguments")
    options = parser.parse_args(arguments)
    if options.command == "run":
        if options.module:
            run_module(options.module[0], options.module[1:])
        elif options.script:
            run_script(options.script[0], options.script[1:])
        else:
            run.error("which SCRIPT, or -m MODULE?")
    elif options.command == "bench":
        from fastlog import bench

        bench.main()
    else:
        print(info())


if __name__ == "__main__":
    main()
