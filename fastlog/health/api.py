"""``fastlog.check`` and ``fastlog.report``: from a log directory to what is wrong with its runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fastlog.health import files, rules
from fastlog.health.findings import RunHealth
from fastlog.health.history import History
from fastlog.health.report.html import Shown, page
from fastlog.health.report.ridges import STEPS, Histograms
from fastlog.health.report.words import headline
from fastlog.runs import Run
from fastlog.runs.event_file import is_url

_NOTEBOOK_HEIGHT = 720
_MOST_HISTOGRAMS = 2000  # tags of a run


class Report:
    """What is wrong with the runs below a log directory, on one page. Shows itself in a notebook.

    Attributes:
        logdir: the directory.
        runs: what the rules say of each run.
    """

    __module__ = "fastlog"

    def __init__(self, logdir: str, shown: Sequence[Shown]) -> None:
        self.logdir = logdir
        self.runs = [run.health for run in shown]
        self._shown = shown

    def html(self, refresh: int | None = None) -> str:
        """The page. ``refresh``: seconds after which browsers load it again."""
        return page(self._shown, self.logdir, refresh)

    def save(self, path: str | os.PathLike[str], refresh: int | None = None) -> Path:
        """Writes the page, at once: nobody reads a part of it. Returns its path."""
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            unfinished.write_text(self.html(refresh), encoding="utf-8")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html())}" sandbox="allow-scripts" width="100%" '
            f'height="{_NOTEBOOK_HEIGHT}" frameborder="0" title="fastlog report"></iframe>'
        )

    def __repr__(self) -> str:
        lines = [f"{health.run}: {health.verdict}, {headline(health)}" for health in self.runs]
        return "\n".join([f"Report of {self.logdir}", *lines])


def check(logdir: str | os.PathLike[str], *, mute: Mapping[str, str] | None = None) -> list[RunHealth]:
    """Says what is wrong with the runs below a log directory, of any logger.

    What `fastlog.watch` writes allows all checks. Other loggers' files allow some: ``RunHealth.not_checked``
    says why the rest did not run.

    Args:
        logdir: a directory with event files, in it or below it; or one event file.
        mute: why findings are meant to be so, by rule, or by "RULE:REGULAR EXPRESSION" for some tensors.

    Raises:
        FileNotFoundError: it is not there, or there is nothing in it to check.
        ValueError: ``mute`` names a rule that there is not.
    """
    return [rules.run(history, mute) for _, history in _runs(logdir)]


def report(logdir: str | os.PathLike[str], *, mute: Mapping[str, str] | None = None) -> Report:
    """As ``check``, on a page with pictures that needs no network: ``report(logdir).save("report.html")``.

    Args:
        logdir, mute: as for ``check``.

    Raises:
        FileNotFoundError, ValueError: as ``check``.
    """
    shown = [Shown(history, rules.run(history, mute), _histograms(run)) for run, history in _runs(logdir)]
    return Report(os.fspath(logdir), shown)


def _runs(logdir: str | os.PathLike[str]) -> list[tuple[Run, History]]:
    """The run in the log directory itself is called as that."""
    path = os.fspath(logdir)
    try:
        runs = files.read(path)
    except FileNotFoundError:
        runs = []
    if not runs:
        is_there = is_url(path) or os.path.exists(path)
        what = "holds no event files with scalars or histograms" if is_there else "does not exist"
        raise FileNotFoundError(f"{path} {what}")
    for _, history in runs:
        if history.run == ".":
            history.run = Path(logdir).resolve().name
        if history.model:
            history.run += f" ({history.model})"
    return runs


def _histograms(run: Run) -> dict[str, Histograms]:
    """A few of each tensor's, by "KIND/NAME" as `fastlog.watch` calls them."""
    found: dict[str, Histograms] = {}
    for tag in run.tags["histograms"][:_MOST_HISTOGRAMS]:
        kind, name = files.kind_and_name(tag) or ("histograms", tag)
        found[f"{kind}/{name}"] = run.histograms(tag, most=STEPS)
    return found
