"""``python -m fastlog COMMAND``."""

from __future__ import annotations

import argparse
import os
import platform
import runpy
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from fastlog.comparing import command as comparing
from fastlog.health import command as health
from fastlog.health import tail
from fastlog.runs import export


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
    _stay_main(runpy.run_path(path, run_name="__main__"))


def run_module(name: str, arguments: list[str]) -> None:
    """Runs a module as ``python -m name arguments...`` does, with fastlog's writers."""
    import fastlog

    fastlog.install()
    sys.argv[:] = ["-m", *arguments]
    _stay_main(runpy.run_module(name, run_name="__main__", alter_sys=True))


def _stay_main(namespace: dict[str, Any]) -> None:
    """Lets threads that outlive the program find its classes, as pickle does, in ``__main__``."""
    main_module = types.ModuleType("__main__")
    main_module.__dict__.update(namespace)
    sys.modules["__main__"] = main_module


@dataclass(frozen=True)
class Command:
    """One command: ``run`` gets the options that ``add_arguments`` asks for, and returns the exit status."""

    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def _run_info(options: argparse.Namespace) -> int:
    try:
        print(info(), flush=True)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run_bench(options: argparse.Namespace) -> int:
    from fastlog import bench

    bench.main()
    return 0


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s (SCRIPT | -m MODULE) [ARGUMENT ...]"
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module and its arguments")
    parser.add_argument("script", nargs=argparse.REMAINDER, help="a script and its arguments")
    parser.set_defaults(refuse=parser.error)


def _run_run(options: argparse.Namespace) -> int:
    if options.module:
        run_module(options.module[0], options.module[1:])
    elif script := options.script[options.script[:1] == ["--"] :]:
        run_script(script[0], script[1:])
    else:
        options.refuse("which SCRIPT, or -m MODULE?")
    return 0


COMMANDS = {
    "check": Command(
        "what is wrong with the runs below a log directory, in plain words",
        health.run_check,
        health.check_arguments,
    ),
    "report": Command("the same on one page, with pictures", health.run_report, health.report_arguments),
    "compare": Command(
        "where two runs part: the first step, the first tensors, and what it looks like",
        comparing.run_compare,
        comparing.compare_arguments,
    ),
    "tail": Command("a run that goes on, in a terminal", tail.run_tail, tail.tail_arguments),
    "export": Command("what was logged, as CSV, JSON or Parquet", export.run_export, export.export_arguments),
    "run": Command(
        "a program in which tensorboardX's and torch.utils.tensorboard's SummaryWriter are fastlog's",
        _run_run,
        _run_arguments,
    ),
    "info": Command("what was built and what runs here", _run_info),
    "bench": Command("fastlog beside other loggers on this machine, in about half a minute", _run_bench),
}


def main(arguments: list[str] | None = None) -> None:
    """The command line. Ends the process with the command's status unless that is 0."""
    parser = argparse.ArgumentParser(prog="python -m fastlog", description="What fastlog does from a shell.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.help, description=command.help))
    options = parser.parse_args(arguments)
    if status := COMMANDS[options.command].run(options):
        sys.exit(status)


if __name__ == "__main__":
    main()
