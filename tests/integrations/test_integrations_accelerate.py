"""`FastLogTracker` in a real Accelerate loop, beside Accelerate's own TensorBoardTracker."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hparams_page import hparams_page
from tiny_net import Net, gradients, loss_of, weights
from watch_oracle import Expected, expect_step, read, steps, texts

from fastlog.watching import watch

accelerate = pytest.importorskip("accelerate")

from accelerate import Accelerator, tracking  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from accelerate.tracking import TensorBoardTracker  # noqa: E402

from fastlog import FastlogWarning  # noqa: E402
from fastlog.integrations.accelerate import FastLogTracker  # noqa: E402
from fastlog.writer import SummaryWriter  # noqa: E402


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Accelerate keeps the settings of a process in singletons."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_the_same_events_as_the_tensorboard_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[None] = []
    monkeypatch.setattr(SummaryWriter, "flush", lambda self, timeout=None: flushes.append(None))
    trackers = [FastLogTracker("run", tmp_path / "ours"), TensorBoardTracker("run", tmp_path / "theirs")]
    accelerator = Accelerator(cpu=True, log_with=trackers)
    accelerator.init_trackers("project", config={"lr": 0.5, "name": "net", "amsgrad": True})
    images = np.random.default_rng(0).random((2, 3, 4, 4))
    for step in range(3):
        values = {
            "loss": 1.0 / (step + 1),
            "tensor": torch.tensor(step),
            "note": "fine",
            "both": {"a": 1, "b": 2},
        }
        accelerator.log(values, step=step)
        for tracker in accelerator.trackers:
            tracker.log_images({"images": images}, step=step)
            tracker.writer.add_scalar("own", step, step)
    assert isinstance(accelerator.get_tracker("fastlog", unwrap=True), SummaryWriter)
    accelerator.end_training()
    assert not flushes
    ours, theirs = read(tmp_path / "ours" / "run"), read(tmp_path / "theirs" / "run")
    assert ours.Tags()["scalars"] == theirs.Tags()["scalars"] == ["loss", "tensor", "own"]
    for tag in ("loss", "tensor", "own"):
        assert [(e.step, e.value) for e in ours.Scalars(tag)] == [
            (e.step, e.value) for e in theirs.Scalars(tag)
        ]
    assert [e.step for e in ours.Images("images")] == [e.step for e in theirs.Images("images")] == [0, 1, 2]
    tag = "note/text_summary"
    assert texts(tmp_path / "ours" / "run", tag) == texts(tmp_path / "theirs" / "run", tag)
    for folder in ("both_a", "both_b"):
        for name in ("ours", "theirs"):
            assert len(read(tmp_path / name / "run" / folder).Scalars("both")) == 3


def test_watching_what_accelerate_has_prepared(tmp_path: Path) -> None:
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2,
        log_with=FastLogTracker("run", tmp_path),
        mixed_precision="bf16",
    )
    accelerator.init_trackers("project")
    net = Net()
    model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters(), lr=0.1))
    writer = accelerator.get_tracker("fastlog", unwrap=True)
    expected = Expected()
    with watch(model, writer, optimizer, every=2):
        for batch in range(6):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.05)
                grads = gradients(net)
                optimizer.step()
                if batch in (1, 5):
                    expect_step(expected, batch // 2, grads, weights(net))
                optimizer.zero_grad()
    accelerator.end_training()
    expected.assert_logged(tmp_path / "run")


@pytest.mark.parametrize(
    "value", [None, b"bytes", object(), 1j, {"inner": {"a": 1}}, [1, None]], ids=lambda v: type(v).__name__
)
def test_metrics_that_are_no_numbers_are_counted_and_said_once(tmp_path: Path, value: Any) -> None:
    accelerator = Accelerator(cpu=True, log_with=FastLogTracker("run", tmp_path))
    accelerator.init_trackers("project")
    stats = accelerator.get_tracker("fastlog", unwrap=True).stats
    with pytest.warns(FastlogWarning, match="odd") as said:
        for step in range(2):
            accelerator.log({"loss": 1.0, "odd": value, "last": 2.0}, step=step)
    with pytest.warns(FastlogWarning, match="2 values were not logged"):
        accelerator.end_training()
    assert len(said) == 1 and stats()["bad_values"] == 2
    events = read(tmp_path / "run")
    assert events.Tags()["scalars"] == ["loss", "last"]
    assert [event.step for event in events.Scalars("last")] == [0, 1]


def test_a_group_of_metrics_keeps_its_numbers_beside_one_that_is_none(tmp_path: Path) -> None:
    tracker = FastLogTracker("run", tmp_path)
    with pytest.warns(FastlogWarning, match="'group'.*'b'"):
        tracker.log({"group": {"a": 1.0, "b": b"x", "c": 3.0}}, step=4)
    tracker.finish()
    for name, value in (("a", 1.0), ("c", 3.0)):
        events = read(tmp_path / "run" / f"group_{name}").Scalars("group")
        assert [(event.step, event.value) for event in events] == [(4, value)]


def test_the_configuration_comes_with_the_metrics_and_as_a_file(tmp_path: Path) -> None:
    """Of any type: Accelerate's own tracker takes no list and no dict."""

    class Mode(str, Enum):
        FAST = "fast"

    config = {
        "lr": 0.5,
        "prompts": ["a dog", "a cat"],
        "nested": {"r": 8, "mode": Mode.FAST},
        "mode": Mode.FAST,
        "path": Path("data"),
        "none": None,
        "size": np.int64(3),
        "on": np.bool_(True),
        "weight": torch.tensor(0.25),
    }
    tracker = FastLogTracker("run", tmp_path)
    accelerator = Accelerator(cpu=True, log_with=tracker)
    accelerator.init_trackers("project", config=config)
    for step in range(3):
        accelerator.log({"loss": 3.0 - step, "note": "fine"}, step=step)
    accelerator.end_training()
    assert yaml.safe_load((tmp_path / "run" / "hparams.yml").read_text()) == {
        **config,
        "nested": {"r": 8, "mode": "fast"},
        "mode": "fast",
        "path": "data",
        "weight": 0.25,
    }
    page = hparams_page(tmp_path)
    values, metrics = page.rows["run"]
    assert page.metrics == ["loss"] and metrics == {"loss": 1.0}
    assert values == {
        "lr": 0.5,
        "prompts": "['a dog', 'a cat']",
        "nested": "{'r': 8, 'mode': <Mode.FAST: 'fast'>}",
        "mode": "fast",
        "path": "data",
        "size": 3.0,
        "on": True,
        "weight": 0.25,
    }
    assert {path.parent for path in tmp_path.rglob("events*")} == {tmp_path / "run"}
    assert [event.step for event in read(tmp_path / "run").Scalars("loss")] == [0, 1, 2]


def test_where_no_file_can_be_written_training_goes_on(tmp_path: Path) -> None:
    tracker = FastLogTracker("run", tmp_path)
    (tmp_path / "run" / "hparams.yml").mkdir(parents=True)
    with pytest.warns(FastlogWarning, match=r"store_init_configuration.*hparams\.yml"):
        tracker.store_init_configuration({"lr": 0.5})
    tracker.finish()
    assert hparams_page(tmp_path).rows["run"][0] == {"lr": 0.5}


def test_under_accumulation_the_charts_share_an_axis_where_watch_is_told_the_step(tmp_path: Path) -> None:
    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=2, log_with=FastLogTracker("run", tmp_path)
    )
    accelerator.init_trackers("project")
    net = Net()
    model, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.1))
    batch = -1
    watch(model, accelerator.get_tracker("fastlog", unwrap=True), optimizer, every=1, step=lambda: batch)
    for batch in range(8):
        with accelerator.accumulate(model):
            loss = loss_of(model)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        accelerator.log({"loss": loss.item()}, step=batch)
    accelerator.end_training()
    assert steps(tmp_path / "run", "loss") == list(range(8))
    assert steps(tmp_path / "run") == [1, 3, 5, 7], "of the batches that ended in a step of the optimizer"


@pytest.mark.skipif(not hasattr(tracking, "register_tracker_class"), reason="this Accelerate cannot")
def test_accelerate_can_make_it_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = tracking.LOGGER_TYPE_TO_CLASS
    monkeypatch.setitem(classes, "fastlog", None)  # so that it is taken away again after the test
    del classes["fastlog"]
    tracking.register_tracker_class(FastLogTracker)
    accelerator = Accelerator(cpu=True, log_with="fastlog", project_dir=tmp_path)
    accelerator.init_trackers("run", init_kwargs={"fastlog": {"flush_secs": 5}})
    accelerator.log({"loss": 1.0}, step=0)
    accelerator.end_training()
    assert steps(tmp_path / "run", "loss") == [0]
