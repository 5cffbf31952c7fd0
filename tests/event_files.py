"""Reads event files with TensorBoard's own reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

import fastlog


def files(logdir: Path) -> list[Path]:
    """All event files below a directory, sorted."""
    return sorted(logdir.rglob("events.out.tfevents.*"))


def events(path: Path) -> list[Any]:
    """The events of a file but the one that starts it."""
    first, *others = LegacyEventFileLoader(str(path)).Load()
    assert first.file_version == "brain.Event:2"
    return others


def values(logdir: Path) -> dict[str, Any]:
    """The last Summary.Value of each tag below a directory."""
    return {
        value.tag: value for path in files(logdir) for event in events(path) for value in event.summary.value
    }


def scalars(logdir: Path) -> list[tuple[str, int, float]]:
    """(tag, step, simple value) of all values below a directory, each file's in order."""
    return [
        (value.tag, event.step, value.simple_value)
        for path in files(logdir)
        for event in events(path)
        for value in event.summary.value
    ]


def histograms(logdir: Path) -> dict[tuple[str, int], Any]:
    """By tag and step, in the order of the file; of one directory alone."""
    return {
        (value.tag, event.step): value.histo
        for path in sorted(logdir.glob("events.*"))
        for event in events(path)
        for value in event.summary.value
        if value.HasField("histo")
    }


def simple_values(logdir: Path) -> dict[tuple[str, int], float]:
    """By tag and step, in the order of the file; of one directory alone."""
    return {
        (value.tag, event.step): value.simple_value
        for path in sorted(logdir.glob("events.*"))
        for event in events(path)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def log(logdir: Path, calls: Callable[[Any], object], **options: Any) -> dict[str, Any]:
    """What ``calls`` logs to a writer, as :func:`values`."""
    with fastlog.SummaryWriter(logdir, **options) as writer:
        calls(writer)
    return values(logdir)
