"""`FastLogTracker` in a real Accelerate loop, beside Accelerate's own TensorBoardTracker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from watch_oracle import Expected, Net, expect_step, gradients, loss_of, one_thread, read, texts, weights

from fastlog.watching import watch

accelerate = pytest.importorskip("accelerate")

from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402
from accelerate.tracking import TensorBoardTracker  # noqa: E402

from fastlog.integrations.accelerate import FastLogTracker  # noqa: E402
from fastlog.writer import SummaryWriter  # noqa: E402

__all__ = ["one_thread"]  # fixtures


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
    assert isinstance(accelerator.get_tracker("fastlog", unwrap=True), SummaryWriter)
    accelerator.end_training()
    assert not flushes
    ours, theirs = read(tmp_path / "ours" / "run"), read(tmp_path / "theirs" / "run")
    assert ours.Tags()["scalars"] == theirs.Tags()["scalars"] == ["loss", "tensor"]
    for tag in ("loss", "tensor"):
        assert [(e.step, e.value) for e in ours.Scalars(tag)] == [
            (e.step, e.value) for e in theirs.Scalars(tag)
        ]
    assert [e.step for e in ours.Images("images")] == [e.step for e in theirs.Images("images")] == [0, 1, 2]
    tag = "note/text_summary"
    assert texts(tmp_path / "ours" / "run", tag) == texts(tmp_path / "theirs" / "run", tag)
    for folder in ("both/a", "both/b"):
        assert len(read(tmp_path / "ours" / "run" / folder).Scalars("both")) == 3
    assert list((tmp_path / "ours" / "run" / "hparams").glob("events*"))


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
