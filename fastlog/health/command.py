"""``python -m fastlog check`` and ``python -m fastlog report``."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastlog.health.api import Report, check, report
from fastlog.health.findings import RunHealth, report_to_json
from fastlog.health.report.terminal import show
from fastlog.health.report.words import headline
from fastlog.health.rules import RULES

_RULES = [rule.id for rule in RULES]
_UNREADABLE = 2
_FAILS_ON = {"error": ("error",), "warning": ("error", "warning"), "never": ()}
_REFRESH = 10  # seconds


def check_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``check``."""
    parser.epilog = (
        "Exit status: 0, or 1 where a run's verdict is at or above --fail-on, or 2 where nothing can be read."
    )
    _common_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.add_argument(
        "--fail-on",
        choices=tuple(_FAILS_ON),
        default="error",
        help="from which severity on the exit status is 1 (%(default)s)",
    )


def report_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``report``."""
    _common_arguments(parser)
    parser.add_argument(
        "-o", "--output", default="report.html", help="the page (%(default)s); -: standard output"
    )
    parser.add_argument("--open", action="store_true", help="show it in a browser")
    parser.add_argument(
        "--follow",
        action="store_true",
        help=f"renew it every {_REFRESH} s while the run goes on, until Ctrl-C; the browser follows",
    )


def run_check(options: argparse.Namespace) -> int:
    """Prints what was found; see ``check_arguments`` for the status."""
    try:
        runs = check(options.logdir, mute=dict(options.mute))
    except OSError as error:
        return _refuse("check", error)
    try:
        if options.json:
            print(json.dumps(finite(report_to_json(runs)), indent=2, allow_nan=False))
        else:
            show(runs, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(any(health.verdict in _FAILS_ON[options.fail_on] for health in runs))


def run_report(options: argparse.Namespace) -> int:
    """Writes the page. Its status is 0 whatever was found, 2 where nothing can be read or written."""
    refresh = _REFRESH if options.follow else None
    try:
        made = report(options.logdir, mute=dict(options.mute))
        if options.output == "-":
            sys.stdout.write(made.html())
            return 0
        path = made.save(options.output, refresh)
    except OSError as error:
        return _refuse("report", error)
    print(f"{path} ({path.stat().st_size / 1000:.0f} KB)")
    _tell(made.runs)
    if options.open:
        webbrowser.open(path.resolve().as_uri())
    if options.follow:
        _follow(options, path)
    return 0


def _common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logdir", metavar="LOGDIR", help="a directory with event files, in it or below it")
    parser.add_argument(
        "--mute",
        action="append",
        type=_mute,
        default=[],
        metavar="RULE[:REGEX][=WHY]",
        help="leaves out the findings of a rule, or those of some tensors; may be given several times",
    )


def _mute(given: str) -> tuple[str, str]:
    key, _, why = given.partition("=")
    rule, _, pattern = key.partition(":")
    if rule not in _RULES:
        raise argparse.ArgumentTypeError(f"there is no rule {rule!r}; rules: {', '.join(_RULES)}")
    try:
        re.compile(pattern)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{pattern!r} is no regular expression: {error}") from error
    return key, why or "on the command line"


def _refuse(command: str, error: OSError) -> int:
    print(f"python -m fastlog {command}: {error}", file=sys.stderr)
    return _UNREADABLE


def _tell(runs: list[RunHealth]) -> None:
    for health in runs:
        print(f"{health.run}: {health.verdict}: {headline(health)}")


def _follow(options: argparse.Namespace, path: Path) -> None:
    """Renews the page when there is more to read; at the end it no longer asks browsers to come back."""
    print("following the run; Ctrl-C ends it")
    seen = _sizes(options.logdir)
    made: Report | None = None
    try:
        while True:
            time.sleep(_REFRESH / 2)
            if (now := _sizes(options.logdir)) != seen:
                made = report(options.logdir, mute=dict(options.mute))
                made.save(path, _REFRESH)
                seen = now
    except KeyboardInterrupt:
        (made or report(options.logdir, mute=dict(options.mute))).save(path)


def _sizes(logdir: str) -> dict[str, int]:
    return {str(file): file.stat().st_size for file in Path(logdir).rglob("*tfevents*")}


def finite(value: Any) -> Any:
    """JSON has no NaN: such numbers become text."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value.item() if hasattr(value, "item") else value
