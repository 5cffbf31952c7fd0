"""Reads event files with TensorBoard's own reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


def assert_same_files(found: Path, expected: Path) -> None:
    """But for what sums in another order may change, and the order of different tags."""
    found_here, others = histograms(found), histograms(expected)
    assert _by_tag(found_here) == _by_tag(others)
    for key, histo in found_here.items():
        other = others[key]
        assert list(histo.bucket) == list(other.bucket)
        assert list(histo.bucket_limit) == list(other.bucket_limit)
        assert (histo.min, histo.max, histo.num) == (other.min, other.max, other.num)
        assert np.isclose(histo.sum, other.sum, 1e-9, 1e-9)
        assert np.isclose(histo.sum_squares, other.sum_squares, 1e-9, 1e-9)
    scalars, others = simple_values(found), simple_values(expected)
    assert _by_tag(scalars) == _by_tag(others)
    for key, value in scalars.items():
        assert np.isclose(value, others[key], 1e-5, 1e-7, equal_nan=True), key


def _by_tag(found: dict[tuple[str, int], Any]) -> list[tuple[str, int]]:
    return sorted(found, key=lambda key: key[0])
