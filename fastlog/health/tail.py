"""``python -m fastlog tail``: a run that goes on, in a terminal, for clusters without a browser."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TextIO

import numpy as np

from fastlog.health.api import check
from fastlog.health.findings import Chart, RunHealth
from fastlog.health.losses import find_losses
from fastlog.health.report.numbers import duration, plural, printable, short
from fastlog.health.report.terminal import spark
from fastlog.health.report.words import SIGNS, headline, sentence
from fastlog.runs import Run
from fastlog.runs.event_file import find_event_files, is_url
from fastlog.runs.run import Series

_REDRAW = 0.5  # seconds
_LOOK = 5.0  # seconds between two looks for new runs
_CHECK = 10.0  # seconds between two checks ...
_CHECK_SHARE = 20  # ... and this many times what a check took
_WIDTH, _HEIGHT = 100, 24  # where there is no terminal
_LABEL, _VALUE = 22, 10  # columns
_MOST_RUNS = 4  # that are named beside the one that is shown
_NORM = re.compile(r"(?:^|/)grad(?:ient)?_norm(?:/(?:global|total))?$")
_RATE = re.compile(r"(?:^|[/_])(?:lr|learning_rate)(?:[/_]?\d+)?$", re.IGNORECASE)
_HOME, _REST, _SHOW_SCREEN, _LEAVE_SCREEN = "\x1b[H", "\x1b[J", "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def tail_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``tail``."""
    parser.epilog = "Ctrl-C ends it. Exit status: 0, or 2 where --once finds nothing to read."
    parser.add_argument("logdir", metavar="LOGDIR", help="a directory with event files, in it or below it")
    parser.add_argument("--run", help="the run to show (default: the one that was written last)")
    parser.add_argument(
        "--once", action="store_true", help="one look, for scripts; so where there is no terminal"
    )


def run_tail(options: argparse.Namespace) -> int:
    """Shows the run until Ctrl-C."""
    tail = Tail(options.logdir, options.run)
    if options.once or not sys.stdout.isatty():
        return _show_once(tail, options.logdir)
    with ThreadPoolExecutor(1) as pool:
        sys.stdout.write(_SHOW_SCREEN)
        try:
            while True:
                tail.look()
                tail.check_beside(pool)
                size = shutil.get_terminal_size((_WIDTH, _HEIGHT))
                _draw(tail.lines(size.columns, size.lines - 1), sys.stdout)
                time.sleep(_REDRAW)
        except KeyboardInterrupt:
            return 0
        finally:
            sys.stdout.write(_LEAVE_SCREEN)
            sys.stdout.flush()


def _show_once(tail: Tail, logdir: str) -> int:
    tail.look()
    if tail.shown is None:
        what = f"the run {tail.asked!r} is not in" if tail.asked is not None else "no event file in"
        print(f"python -m fastlog tail: {what} {logdir}", file=sys.stderr)
        return 2
    tail.check_now()
    try:
        print("\n".join(tail.lines(_WIDTH, sys.maxsize)), flush=True)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _draw(lines: list[str], file: TextIO) -> None:
    """Over what is there: a screen that is cleared first would flicker."""
    encoding = file.encoding or "ascii"
    text = "".join(f"{line}\x1b[K\n" for line in lines)
    file.write(_HOME + text.encode(encoding, "replace").decode(encoding) + _REST)
    file.flush()


class Tail:
    """The runs below a log directory, and how the one that is shown gets on.

    Args:
        asked: name of the run to show; None: the one that was written last.
        clock: seconds since the epoch; for tests.

    Attributes:
        shown: the run; None: there is none (yet).
    """

    def __init__(self, logdir: str, asked: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self.asked = asked
        self.shown: Run | None = None
        self._logdir = logdir
        self._clock = clock
        self._runs: dict[str, Run] = {}
        self._looked = -_LOOK
        self._health: RunHealth | None = None
        self._checking: Future[tuple[RunHealth | None, float]] | None = None
        self._next_check = 0.0
        self._checked: tuple[str, int | None] | None = None

    def look(self) -> None:
        """Reads what the files have gained, and at times looks for new runs."""
        now = self._clock()
        if now >= self._looked + _LOOK:
            self._looked = now
            for name in _find(self._logdir):
                if name not in self._runs:
                    find = partial(_files_of, self._logdir, name)
                    self._runs[name] = Run(name, find, strict=False, purge=True, follow=False)
        for run in self._runs.values():
            run.update()
        before = self.shown
        if self.asked is not None:
            self.shown = self._runs.get(self.asked)
        else:
            self.shown = max(self._runs.values(), key=_written_at, default=None)
        if self.shown is not before:
            self._health, self._next_check = None, 0.0

    def check_now(self) -> None:
        """Judges the run that is shown."""
        if self.shown is not None:
            self._health, _ = _check(self._directory(self.shown))

    def check_beside(self, pool: ThreadPoolExecutor) -> None:
        """Judges the run on another thread, now and then, where it has got on."""
        now = self._clock()
        if self._checking is not None:
            if not self._checking.done():
                return
            self._health, took = self._checking.result()
            self._checking = None
            self._next_check = now + max(_CHECK, _CHECK_SHARE * took)
        if self.shown is not None and now >= self._next_check:
            state = (self.shown.name, self.shown.last_step)
            if state != self._checked:
                self._checked = state
                self._checking = pool.submit(_check, self._directory(self.shown))

    def lines(self, width: int, height: int) -> list[str]:
        """The picture, at most ``height`` lines of ``width`` columns."""
        if self.shown is None:
            missing = f"the run {self.asked!r}" if self.asked is not None else "event files"
            return [f"waiting for {missing} in {self._logdir}"[:width]]
        tags = self.shown.tags["scalars"]
        rows = [self._head(self.shown), ""]
        for label, series in self._series(self.shown, tags).items():
            rows.append(_row(label, series, width))
        if len(rows) == 2:
            rows.append(f"no loss, gradient norm or learning rate among {len(tags):,} series of scalars")
        rows += ["", *self._findings(), *self._others()]
        return [printable(row)[:width] for row in rows[:height]]

    def _directory(self, run: Run) -> str:
        return self._logdir if run.name == "." else os.path.join(self._logdir, run.name)

    def _head(self, run: Run) -> str:
        name = os.path.basename(os.path.abspath(self._logdir)) if run.name == "." else run.name
        last = run.last_step
        age = max(self._clock() - _written_at(run), 0.0)
        return (
            f"{name} \u00b7 step {'none' if last is None else f'{last:,}'} \u00b7 written {duration(age)} ago"
        )

    def _series(self, run: Run, tags: list[str]) -> dict[str, Series]:
        losses = find_losses(tags)
        norms = sorted((tag for tag in tags if _NORM.search(tag)), key=lambda tag: "/global" not in tag)
        rates = [tag for tag in tags if _RATE.search(tag)]
        chosen = [losses.training, losses.validation, *norms[:1], *rates[:1]]
        found = {tag: run.scalars(tag) for tag in chosen if tag is not None}
        if found:
            densest = max(found.values(), key=len)
            if (speed := _steps_per_second(densest)) is not None:
                found["steps per second"] = speed
        return found

    def _findings(self) -> list[str]:
        if self._health is None:
            return ["not checked yet"]
        found = [f"{SIGNS[f.severity]} {sentence(f)} (step {f.first_step:,})" for f in self._health.findings]
        return found or [f"{SIGNS[self._health.verdict]} {headline(self._health)}"]

    def _others(self) -> list[str]:
        others = sorted((run for run in self._runs.values() if run is not self.shown), key=_written_at)
        if not others:
            return []
        named = ", ".join(run.name for run in others[: -_MOST_RUNS - 1 : -1])
        return ["", f"{plural(len(others), 'other run')}: {named}"]


def _find(logdir: str) -> dict[str, list[str]]:
    """Event files by run; none where the directory is not there (yet)."""
    if os.path.isfile(logdir):
        return {".": [logdir]}
    return find_event_files(logdir) if is_url(logdir) or os.path.isdir(logdir) else {}


def _files_of(logdir: str, name: str) -> list[str]:
    return _find(logdir).get(name, [])


def _written_at(run: Run) -> float:
    """When the run was written last, by its files; 0 where they are gone."""
    times = [os.stat(file.path).st_mtime for file in run.files if os.path.exists(file.path)]
    return max(times, default=0.0)


def _check(directory: str) -> tuple[RunHealth | None, float]:
    """What the rules say of a run, and what that took; None where there is nothing to judge (yet)."""
    began = time.monotonic()
    try:
        found = check(directory)
    except OSError:
        found = []
    return (found[0] if found else None), time.monotonic() - began


def _row(label: str, series: Series, width: int) -> str:
    if not len(series):
        return f"{label:<{_LABEL}}{'none yet':>{_VALUE}}"
    values = np.asarray(series.values, float)
    finite = values[np.isfinite(values)]
    positive = len(finite) > 0 and finite.min() > 0
    wide = positive and finite.max() > 100 * finite.min()
    ends = f"  {short(finite.min())} \u2026 {short(finite.max())}" if len(finite) else ""
    cells = max(width - _LABEL - _VALUE - len(ends) - 4, 8)
    chart = Chart(label, tuple(series.steps.tolist()), tuple(values.tolist()), logarithmic=bool(wide))
    name = label if len(label) < _LABEL else f"\u2026{label[2 - _LABEL :]}"
    return f"{name:<{_LABEL}}{short(values[-1]):>{_VALUE}}  {spark(chart, cells)}{ends}"


def _steps_per_second(series: Series) -> Series | None:
    """Between the points of a series; None where it has no two."""
    steps, times = np.diff(series.steps), np.diff(series.wall_times)
    there = (steps > 0) & (times > 0)
    if not there.any():
        return None
    return Series(series.steps[1:][there], series.wall_times[1:][there], steps[there] / times[there])
