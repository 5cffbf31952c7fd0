"""``python -m fastlog compare``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fastlog.comparing.api import compare, rename_by
from fastlog.comparing.showing import as_html, as_json, as_text

_PART, _UNREADABLE = 1, 2


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``compare``."""
    parser.epilog = (
        "Exit status: 0 where the runs are alike, 1 where they part, 2 where they cannot be compared."
    )
    parser.add_argument("good", metavar="GOOD", help="the directory of a run")
    parser.add_argument("other", metavar="OTHER", help="the directory of another run")
    parser.add_argument(
        "--like", nargs="+", default=[], metavar="RUN", help="runs meant to be like GOOD: with other seeds"
    )
    parser.add_argument(
        "--map", action="append", default=[], metavar="RULE", help="renames OTHER's tensors: 's/^model\\.//'"
    )
    parser.add_argument("--json", action="store_true", help="for other programs")
    parser.add_argument(
        "--html", metavar="FILE", help="a page with the distance of every tensor over the steps"
    )


def run_compare(options: argparse.Namespace) -> int:
    """Prints where the runs part."""
    try:
        found = compare(options.good, options.other, like=options.like, rename=rename_by(options.map))
        if options.html is not None:
            Path(options.html).write_text(
                as_html(found, f"{options.good} and {options.other}"), encoding="utf-8"
            )
    except (OSError, ValueError) as error:
        print(f"python -m fastlog compare: {str(error).removeprefix('compare: ')}", file=sys.stderr)
        return _UNREADABLE
    try:
        print(as_json(found) if options.json else as_text(found), end="", flush=True)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if found.alike else _PART
