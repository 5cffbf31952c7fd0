"""What a writer says of tags that are rewritten, and of two series that TensorBoard takes for one."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_files import scalars
from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

import fastlog
from fastlog.writer.torch_writer import TorchSummaryWriter

Log = Callable[[Any, int], None]
LOGS: dict[str, Log] = {
    "scalars": lambda writer, step: writer.add_scalar("a", 1.0, step),
    "histograms": lambda writer, step: writer.add_histogram("a", np.arange(4.0), step),
    "images": lambda writer, step: writer.add_image("a", np.zeros((3, 2, 2), np.uint8), step),
    "audio": lambda writer, step: writer.add_audio("a", np.zeros(4), step),
    "pr_curves": lambda writer, step: writer.add_pr_curve("a", np.array([0, 1]), np.array([0.1, 0.9]), step),
}


@pytest.fixture
def said() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", fastlog.FastlogWarning)
        yield caught


def texts(said: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in said if warning.category is fastlog.FastlogWarning]


def shown(logdir: Path) -> set[str]:
    """The plugins of TensorBoard that list the tag "a"."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(logdir))
    arguments = {"ctx": context.RequestContext(), "experiment_id": "", "run_tag_filter": None}
    found = set()
    for plugin in LOGS:
        for listed in (provider.list_scalars, provider.list_tensors, provider.list_blob_sequences):
            runs = listed(plugin_name=plugin, **arguments)
            found |= {plugin for tags in runs.values() if "a" in tags}
    return found


# ---- two kinds of data under one tag


@pytest.mark.parametrize("first", LOGS)
@pytest.mark.parametrize("second", LOGS)
def test_two_kinds_of_data_under_one_tag_are_said_where_tensorboard_hides_one(
    tmp_path: Path, said: list[warnings.WarningMessage], first: str, second: str
) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        for step in range(3):
            LOGS[first](writer, step)
            LOGS[second](writer, step)
    assert shown(tmp_path) == {first}
    if first == second:
        assert not texts(said)
    else:
        (text,) = texts(said)
        assert text.endswith("(this warning is shown once)")
        assert "('a'): add_" in text and "has logged under the same tag" in text and "another tag" in text
        assert said[-1].filename == __file__


def test_a_histogram_and_the_scalars_beside_it_do_not_clash(
    tmp_path: Path, said: list[warnings.WarningMessage]
) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_histogram("a", np.array([1.0, 2.0]), 0)
        writer.add_scalar("a/max", 2.0, 0)
        writer.add_scalars("a", {"b": 1.0}, 0)
        writer.add_text("a", "text", 0)
        writer.add_hparams({"lr": 1.0}, {"a": 1.0})
    assert not texts(said)


# ---- two tags with one name


@pytest.mark.parametrize(
    ("one", "other", "name"), [("loss a", "loss_a", "loss_a"), ("/loss", "loss", "loss"), ("a%", "a#", "a_")]
)
def test_two_tags_that_are_written_under_one_name_are_said_once(
    tmp_path: Path, said: list[warnings.WarningMessage], one: str, other: str, name: str
) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        for step in range(3):
            writer.add_scalar(one, 1.0, step)
            writer.add_scalar(other, 2.0, step)
    (text,) = texts(said)
    assert text.endswith("(this warning is shown once)")
    assert f"add_scalar({other!r})" in text and f"add_scalar({one!r})" in text and repr(name) in text
    assert [row[:2] for row in scalars(tmp_path)] == [(name, step) for step in range(3) for _ in "ab"]


def test_each_writer_has_tags_of_its_own(tmp_path: Path, said: list[warnings.WarningMessage]) -> None:
    with fastlog.SummaryWriter(tmp_path / "a") as writer, fastlog.SummaryWriter(tmp_path / "b") as other:
        writer.add_scalar("loss a", 1.0, 0)
        other.add_scalar("loss_a", 1.0, 0)
        copied = pickle.loads(pickle.dumps(writer))
        copied.add_histogram("loss a", np.ones(2), 0)
        copied.close()
    with TorchSummaryWriter(tmp_path / "torch") as as_torch:
        as_torch.add_scalar("loss a", 1.0, 0)
        as_torch.add_scalar("loss_a", 1.0, 0)
    assert not texts(said)


# ---- characters that no file can hold


@pytest.mark.parametrize(("tag", "name"), [("a\ud800", "a_"), ("a\0b", "a_b"), ("a\x7fb", "a_b")])
def test_a_tag_with_characters_that_no_file_can_hold_is_said_once(
    tmp_path: Path, said: list[warnings.WarningMessage], tag: str, name: str
) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        for step in range(3):
            writer.add_scalar(tag, 1.0, step)
            writer.add_histogram(f"h{tag}", np.ones(2), step)
    (text,) = texts(said)
    assert text.endswith("(this warning is shown once)")
    assert text.startswith(f"add_scalar({tag!r}): tag has characters") and repr(name) in text
    assert said[0].filename == __file__
    assert [row[:2] for row in scalars(tmp_path) if row[0] == name] == [(name, step) for step in range(3)]


def test_surrogates_are_said_of_tags_that_are_written_as_they_are(
    tmp_path: Path, said: list[warnings.WarningMessage]
) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_text("a\ud800", "text", 0)
    with TorchSummaryWriter(tmp_path / "torch") as as_torch:
        as_torch.add_scalar("a\0b", 1.0, 0)  # is written so
        as_torch.add_scalar("b\ud800", 1.0, 0)
    assert [text.partition(")")[0] for text in texts(said)] == [
        r"add_text('a\ud800'",
        r"add_scalar('b\ud800'",
    ]


# ---- times that are none


@pytest.mark.parametrize("walltime", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_wall_time_that_is_not_finite_is_said_and_counted(
    tmp_path: Path, said: list[warnings.WarningMessage], walltime: Any
) -> None:
    calls: list[tuple[str, Callable[[Any], None]]] = [
        ("add_scalar('s')", lambda writer: writer.add_scalar("s", 1.0, 0, walltime)),
        ("add_histogram('h')", lambda writer: writer.add_histogram("h", np.ones(2), 0, walltime=walltime)),
        ("add_text('t')", lambda writer: writer.add_text("t", "x", 0, walltime)),
        ("add_scalars('m', ", lambda writer: writer.add_scalars("m", {"k": 1.0}, 0, walltime)),
        ("add_image('i')", lambda writer: writer.add_image("i", np.zeros((3, 2, 2)), 0, walltime)),
    ]
    with fastlog.SummaryWriter(tmp_path) as writer:
        for _, call in calls:
            call(writer)
        writer.add_scalar("good", 1.0, 0)
        assert writer.stats()["bad_values"] == len(calls)
    for (place, _), text in zip(calls, texts(said), strict=True):
        assert text.startswith(place) and f"walltime must be seconds since the epoch, not {walltime}" in text
    assert [row[0] for row in scalars(tmp_path)] == ["good"]
