"""Tools that replace methods of tensorboardX, as ClearML does, hear of every event; it is still written."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorboardX
from event_files import scalars, values
from tensorboardX.event_file_writer import EventFileWriter

import fastlog


def calls(writer: Any) -> None:
    writer.add_scalar("a", 0.5, 1, 9.0)
    writer.add_scalar("no step", 0.5)
    writer.add_histogram("h", np.arange(5.0), 2)
    writer.add_histogram("b", np.arange(5.0), 2, bins=3)
    writer.add_image("i", np.zeros((3, 4, 4)), 3)
    writer.add_text("t", "text", 4)
    writer.add_scalars("s", {"x": 1.0}, 5)
    writer.add_hparams({"lr": 0.1}, {"m": 2.0}, "trial")
    writer.add_custom_scalars({"c": {"d": ["Multiline", ["a"]]}})


def heard(
    monkeypatch: pytest.MonkeyPatch, owner: type, method: str, event_of: Callable[..., Any], run: Any
) -> list[tuple[str, int]]:
    """(tag, step) of what a tool hears in the place of a method."""
    found: list[tuple[str, int]] = []
    original = getattr(owner, method)

    def hook(self: Any, proto: Any, *args: Any, **kwargs: Any) -> None:
        found.extend(event_of(proto, *args))
        original(self, proto, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, hook)
        run()
    return found


def tags_and_step(event: Any, step: Any = None, *_: Any) -> list[tuple[str, int]]:
    return [(value.tag, event.step if step is None else step) for value in event.summary.value]


def tags_of_summary(summary: Any, step: Any = None, *_: Any) -> list[tuple[str, int]]:
    return [(value.tag, step or 0) for value in summary.value]


@pytest.mark.parametrize(
    "owner, method, event_of",
    [
        (tensorboardX.FileWriter, "add_summary", tags_of_summary),
        (tensorboardX.FileWriter, "add_event", tags_and_step),
        (EventFileWriter, "add_event", tags_and_step),
    ],
)
def test_a_tool_hears_what_it_hears_of_tensorboardX(
    owner: type, method: str, event_of: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(library: Any, **options: Any) -> Callable[[], None]:
        def log() -> None:
            with library.SummaryWriter(tmp_path / library.__name__, **options) as writer:
                calls(writer)

        return log

    theirs = heard(monkeypatch, owner, method, event_of, run(tensorboardX))
    ours = heard(monkeypatch, owner, method, event_of, run(fastlog, on_error="raise"))
    assert ours == theirs and len(ours) > 10
    run(fastlog)()  # not any more
    assert len(ours) == len(theirs)
    assert len(scalars(tmp_path / "fastlog")) == 2 * len(theirs)


HOOKED_BEFORE_IMPORT = """
import functools, sys, tensorboardX
original = tensorboardX.FileWriter.add_event

@functools.wraps(original)
def hook(self, event, step=None, walltime=None):
    print(event.summary.value[0].tag, step)
    original(self, event, step, walltime)

tensorboardX.FileWriter.add_event = hook
import fastlog
with fastlog.SummaryWriter(sys.argv[1]) as writer:
    writer.add_scalar("a", 1.0, 7)
"""


def test_a_tool_that_was_there_first(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOOKED_BEFORE_IMPORT, str(tmp_path)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "a 7\n"
    assert scalars(tmp_path) == [("a", 7, 1.0)]


def test_a_mock_sees_the_event_at_the_call(tmp_path: Path) -> None:
    with (
        mock.patch("tensorboardX.event_file_writer.EventFileWriter.add_event") as hook,
        fastlog.SummaryWriter(tmp_path) as writer,
    ):
        with writer.use_metadata(global_step=17, walltime=13.0):
            writer.add_scalar("a", 0.5)
        (event,) = hook.call_args[0]
        assert (event.step, event.wall_time, event.summary.value[0].simple_value) == (17, 13.0, 0.5)
    assert values(tmp_path) == {}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_events_of_forked_children_are_heard_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        writer = fastlog.GlobalSummaryWriter(str(tmp_path))
        child = multiprocessing.get_context("fork").Process(target=writer.add_scalar, args=("child", 1.0))
        child.start()
        child.join(60)
        writer.add_scalar("parent", 1.0)
        writer.close()

    assert heard(monkeypatch, EventFileWriter, "add_event", tags_and_step, run) == [("parent", 0)]
    assert {tag for tag, *_ in scalars(tmp_path)} == {"parent", "child"}
