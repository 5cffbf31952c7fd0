"""Findings that end a training: the Trainer's and Lightning's ``stop_on=``, Accelerate's trigger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stop_cases
import torch
from run_ranks import run_ranks
from tiny_net import Net, loss_of
from trainer_cases import Tokens, arguments, tiny_bert
from transformers import Trainer, TrainerCallback
from watch_oracle import texts

import fastlog
from fastlog.health.findings import Finding
from fastlog.integrations.stopping import StopOn
from fastlog.integrations.transformers import FastLogCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true:UserWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]

STEPS = 400


class Poison(TrainerCallback):  # type: ignore[misc]
    """Makes a weight NaN before step ``at``."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step + 1 == self.at:
            with torch.no_grad():
                model.classifier.weight[0, 0] = float("nan")


def train(tmp_path: Path, callback: FastLogCallback, *more: TrainerCallback, steps: int = STEPS) -> int:
    """Returns after which step the Trainer has stopped."""
    trainer = Trainer(
        model=tiny_bert(),
        args=arguments(tmp_path, max_steps=steps, logging_steps=1, learning_rate=1e-3),
        train_dataset=Tokens(),
        callbacks=[callback, *more],
    )
    trainer.train()
    return int(trainer.state.global_step)


@pytest.mark.parametrize("stop_on", [("error",), "nonfinite", ("no-gradient", "warning")], ids=str)
def test_the_trainer_stops_at_a_finding_and_says_once_which(tmp_path: Path, stop_on: Any) -> None:
    found: list[Finding] = []
    callback = FastLogCallback(logdir=tmp_path / "logs", stop_on=stop_on, on_finding=found.append)
    with pytest.warns(fastlog.FastlogWarning) as caught:
        stopped = train(tmp_path, callback, Poison(at=5))
    assert 5 <= stopped < STEPS
    said = [str(w.message) for w in caught if "stop_on" in str(w.message)]
    assert len(said) == 1 and f"after step {stopped}" in said[0]
    assert f"{found[0].rule}: {found[0].title}" in said[0] and found[0].rule == "nonfinite"
    assert "nonfinite" in texts(tmp_path / "logs", "fastlog/health/text_summary")[0][1]
    assert callback.watcher is None and callback.writer is None


@pytest.mark.parametrize(
    "options",
    [{"stop_on": "loss-spike"}, {"stop_on": "error", "mute": {"nonfinite": "planted"}}, {"health": True}],
    ids=["another rule", "muted", "not asked"],
)
@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_the_trainer_goes_on_where_no_finding_was_to_stop_it(tmp_path: Path, options: dict[str, Any]) -> None:
    callback = FastLogCallback(logdir=tmp_path / "logs", **options)
    assert train(tmp_path, callback, Poison(at=5), steps=40) == 40


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_a_callback_that_has_stopped_a_training_can_watch_the_next(tmp_path: Path) -> None:
    callback = FastLogCallback(logdir=tmp_path / "logs", stop_on="error")
    assert train(tmp_path, callback, Poison(at=5)) < STEPS
    assert train(tmp_path, callback, steps=20) == 20
    assert train(tmp_path, callback, Poison(at=5)) < STEPS


@pytest.mark.parametrize(
    ("stop_on", "options", "message"),
    [
        ("errors", {}, "no rule 'errors'.*error, warning.*nonfinite"),
        (("error", "info"), {}, "no rule 'info'"),
        ("error", {"health": False}, "needs health=True"),
    ],
)
def test_stop_on_names_what_it_does_not_know(stop_on: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastLogCallback(stop_on=stop_on, **options)


def test_warnings_stop_where_errors_alone_do_not() -> None:
    def finding(severity: Any) -> Finding:
        return Finding("loss-spike", severity, "it leaps", (), 1.0, 3, 4, {}, "", "", "")

    for stop_on, severity, stops in (
        ("error", "warning", False),
        ("error", "error", True),
        ("warning", "error", True),
        ("warning", "warning", True),
        ("loss-spike", "warning", True),
    ):
        stopper = StopOn(stop_on, {})
        stopper.watch_options["on_finding"](finding(severity))
        if stops:
            with pytest.warns(fastlog.FastlogWarning, match="after step 5.*it leaps"):
                assert stopper.due(5)
        assert not stopper.due(6)


def test_all_ranks_of_the_trainer_stop_together(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    zero, one = run_ranks(2, stop_cases.transformers_trainer, tmp_path)
    assert 5 <= zero.result == one.result < stop_cases.STEPS
    assert sum("stop_on" in text for text in zero.warnings) == 1 and one.warnings == []


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_lightning_stops_at_a_finding(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    found: list[Finding] = []
    stopped = stop_cases.lightning_trainer(0, tmp_path, devices=1, stop_on="error", on_finding=found.append)
    assert 5 <= stopped < stop_cases.STEPS and found[0].rule == "nonfinite"
    assert stop_cases.lightning_trainer(0, tmp_path, devices=1, steps=40, stop_on="loss-spike") == 40


def test_all_ranks_of_lightning_stop_together(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    zero, one = run_ranks(2, stop_cases.lightning_trainer, tmp_path, 2)
    assert 5 <= zero.result == one.result < stop_cases.STEPS
    assert sum("stop_on" in text for text in zero.warnings) == 1 and one.warnings == []


@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_a_finding_pulls_the_trigger_of_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    from fastlog.integrations.accelerate import FastLogTracker

    accelerator = accelerate.Accelerator(cpu=True, log_with=FastLogTracker("run", tmp_path))
    accelerator.init_trackers("project")
    net = Net()
    model, optimizer = accelerator.prepare(net, torch.optim.AdamW(net.parameters()))
    writer = accelerator.get_tracker("fastlog", unwrap=True)
    with fastlog.watch(
        model, writer, optimizer, every=1, health=True, on_finding=lambda finding: accelerator.set_trigger()
    ):
        for step in range(STEPS):
            if step == 5:
                stop_cases.poison(net)
            optimizer.zero_grad()
            accelerator.backward(loss_of(model))
            optimizer.step()
            if accelerator.check_trigger():
                break
    accelerator.end_training()
    assert 5 <= step < STEPS - 1
