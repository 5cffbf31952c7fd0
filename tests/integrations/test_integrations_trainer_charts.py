"""What a training with `FastLogCallback` shows in TensorBoard: which charts, which points, which columns."""

from __future__ import annotations

import gc
import json
import math
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hparams_page import hparams_page
from packaging.version import Version
from trainer_cases import Tokens, Witness, arguments, tiny_bert
from transformers import Trainer, TrainingArguments
from transformers.integrations import TensorBoardCallback
from watch_oracle import read, steps, texts

from fastlog import FastlogWarning, TorchSummaryWriter
from fastlog.integrations.transformers import FastLogCallback
from fastlog.writer import SummaryWriter

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true:UserWarning"),
]


def train(tmp_path: Path, *callbacks: Any, resume: str | None = None, **options: Any) -> Trainer:
    """A training with evaluation at its end; ``metrics`` of ``options`` are those of the evaluation."""
    metrics = options.pop("metrics", {})
    trainer = Trainer(
        model=options.pop("model", None) or tiny_bert(),
        args=arguments(tmp_path, **({"eval_strategy": "steps", "eval_steps": 3} | options)),
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        compute_metrics=lambda _: dict(metrics),
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize(
    "value", [None, {"f1": {"a": 0.5}}, b"bytes", object(), 1j, [0.5, None]], ids=lambda v: type(v).__name__
)
def test_metrics_that_are_no_numbers_are_counted_and_said_once(tmp_path: Path, value: Any) -> None:
    metrics = {"accuracy": 0.5, "odd": value, "note": "fine", "array": torch.tensor(0.25)}
    total = pytest.warns(FastlogWarning, match="2 values were not logged")
    with total, SummaryWriter(str(tmp_path / "logs")) as writer:
        with pytest.warns(FastlogWarning, match="eval/odd") as said:
            trainer = train(tmp_path, FastLogCallback(writer, log=()), metrics=metrics)
        assert len([warning for warning in said if "eval/odd" in str(warning.message)]) == 1
        assert writer.stats()["bad_values"] == 2
    assert trainer.state.global_step == 6
    events = read(tmp_path / "logs")
    assert [event.step for event in events.Scalars("eval/accuracy")] == [3, 6]
    assert [event.value for event in events.Scalars("eval/array")] == [0.25, 0.25]
    assert "eval/odd" not in events.Tags()["scalars"]
    assert "eval/note/text_summary" in events.Tags()["tensors"]


def test_tags_are_those_of_the_tensorboard_callback_letter_by_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "theirs"))
    options: dict[str, Any] = {"metrics": {"cosine_ndcg@10": 0.5, "loss (mean)": 0.25, "größe/[a, b]": 1}}
    if hasattr(TrainingArguments, "logging_dir"):
        options["logging_dir"] = str(tmp_path / "theirs")
    train(tmp_path, TensorBoardCallback(), FastLogCallback(log=(), logdir=tmp_path / "ours"), **options)
    ours, theirs = (set(read(tmp_path / name).Tags()["scalars"]) for name in ("ours", "theirs"))
    assert ours == theirs > {"eval/cosine_ndcg@10", "eval/loss (mean)", "eval/größe/[a, b]"}


def test_the_epoch_comes_once_at_a_step(tmp_path: Path) -> None:
    train(tmp_path, FastLogCallback(log=(), logdir=tmp_path / "logs"))
    events = read(tmp_path / "logs").Scalars("train/epoch")
    assert [event.step for event in events] == [2, 3, 4, 6]
    assert [event.value for event in events] == pytest.approx([2 / 12, 3 / 12, 4 / 12, 6 / 12])


def test_hyperparameters_stand_beside_the_metrics_and_put_no_point_into_a_chart(tmp_path: Path) -> None:
    callbacks = [FastLogCallback(log="gradients", logdir=tmp_path / "logs" / name) for name in "ab"]
    train(tmp_path, callbacks[0], metrics={"accuracy": 0.5})
    train(tmp_path, callbacks[1], metrics={"accuracy": 0.75}, learning_rate=0.5)
    folders = {path.parent for path in (tmp_path / "logs").rglob("events*")}
    assert folders == {tmp_path / "logs" / name for name in "ab"}
    page = hparams_page(tmp_path / "logs")
    assert page.hyperparameters[:5] == [
        "gradient_accumulation_steps",
        "learning_rate",
        "max_steps",
        "per_device_train_batch_size",
        "weight_decay",
    ]
    assert "adam_beta1" in page.hyperparameters
    assert page.metrics[:2] == ["eval/loss", "eval/accuracy"]
    assert "train/loss" in page.metrics and "grad_norm/global" not in page.metrics
    for name, accuracy, learning_rate in (("a", 0.5, 0.01), ("b", 0.75, 0.5)):
        values, metrics = page.rows[name]
        assert values["learning_rate"] == learning_rate and values["per_device_train_batch_size"] == 2
        events = read(tmp_path / "logs" / name)
        assert metrics["eval/accuracy"] == accuracy
        assert metrics["train/loss"] == pytest.approx(events.Scalars("train/loss")[-1].value)
        assert all(event.step for tag in events.Tags()["scalars"] for event in events.Scalars(tag))


@dataclass
class Settings:
    """A configuration that is none of transformers', with values that JSON has not."""

    width: int = 8
    dtype: Any = torch.float16
    layer: Any = torch.nn.Linear


@pytest.mark.parametrize("config", [Settings(), vars(Settings()), {1j: "skipped", **vars(Settings())}])
def test_configurations_that_are_not_for_json_are_logged_as_well(tmp_path: Path, config: Any) -> None:
    model, odd = tiny_bert(), {"quantization": torch.qint8}
    inner = model.config

    class Begun(FastLogCallback):
        def on_train_begin(self, args: Any, *others: Any, **kwargs: Any) -> None:
            args.lr_scheduler_kwargs, model.config = odd, config
            super().on_train_begin(args, *others, **kwargs)
            args.lr_scheduler_kwargs, model.config = {}, inner

    train(tmp_path, Begun(log=(), logdir=tmp_path / "logs"), model=model, eval_strategy="no")
    (_, text), *_ = texts(tmp_path / "logs", "model_config/text_summary")
    assert json.loads(text) == {"width": 8, "dtype": "torch.float16", "layer": str(torch.nn.Linear)}
    (_, text), *_ = texts(tmp_path / "logs", "args/text_summary")
    assert json.loads(text)["lr_scheduler_kwargs"] == {"quantization": "torch.qint8"}
    assert json.loads(text)["max_steps"] == 6


def test_a_training_that_fails_has_left_its_hyperparameters(tmp_path: Path) -> None:
    class Fails(FastLogCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise InterruptedError

    callback = Fails(log=(), logdir=tmp_path / "logs" / "run")
    with pytest.raises(InterruptedError):
        train(tmp_path, callback, learning_rate=0.25)
    assert callback.writer is not None
    callback.writer.close()
    values, metrics = hparams_page(tmp_path / "logs").rows["run"]
    assert values["learning_rate"] == 0.25 and metrics["train/loss"] > 0


@pytest.mark.parametrize("accumulation", [1, 4, 5])
def test_with_logging_by_epoch_the_last_step_of_each_epoch_is_watched(
    tmp_path: Path, accumulation: int
) -> None:
    if accumulation == 5 and Version(transformers.__version__) < Version("4.46"):
        pytest.skip("there the last batches of an epoch count for the next one")
    callback = FastLogCallback(logdir=tmp_path / "logs", log="gradients")
    options = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": accumulation}
    train(tmp_path, callback, logging_strategy="epoch", **options)
    logged = steps(tmp_path / "logs", "train/loss")
    assert len(logged) == 2 and logged[0] == math.ceil(12 / accumulation)
    assert steps(tmp_path / "logs") == steps(tmp_path / "logs", "grad_norm/before_clipping") == logged


def test_epochs_of_unknown_length_are_told_and_the_last_step_is_watched(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return (Tokens()[i] for i in range(24))

    trainer = Trainer(
        model=tiny_bert(),
        args=arguments(tmp_path, max_steps=5, logging_strategy="epoch"),
        train_dataset=Stream(),
        callbacks=[FastLogCallback(logdir=tmp_path / "logs", log="gradients")],
    )
    with pytest.warns(FastlogWarning, match=r"no length.*every 2 steps") as said:
        trainer.train()
    assert [each.filename for each in said if each.category is FastlogWarning] == [__file__]
    assert steps(tmp_path / "logs") == [2, 4, 5]


@pytest.mark.parametrize("budget", [None, 1e-9])
def test_the_last_step_is_always_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float | None
) -> None:
    monkeypatch.setattr("fastlog.watching.budget.FREE_SECONDS", 0.0)
    callback = FastLogCallback(logdir=tmp_path / "logs", log="gradients", budget=budget)
    witness = Witness(
        model=tiny_bert(),
        args=arguments(tmp_path, max_steps=9, logging_steps=2),
        train_dataset=Tokens(),
        callbacks=[callback],
    )
    if budget is None:
        witness.train()
        assert steps(tmp_path / "logs") == [2, 4, 6, 8, 9]
    else:
        with pytest.warns(FastlogWarning, match="to stay within"):
            witness.train()
        assert steps(tmp_path / "logs") == [2, 4, 9]
    last = read(tmp_path / "logs").Histograms("gradients/classifier.weight")[-1].histogram_value
    assert last.num == witness.gradients[9]["classifier.weight"].numel()


def test_a_resumed_training_goes_on_in_its_folder(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 3}
    train(tmp_path, FastLogCallback(log=()), **options)
    (folder,) = (tmp_path / "runs").iterdir()
    (tmp_path / "runs" / "notes").mkdir()
    train(tmp_path, FastLogCallback(log=()), resume=str(tmp_path / "checkpoint-3"), max_steps=8, **options)
    assert {path.parent for path in tmp_path.rglob("events*")} == {folder}
    assert steps(folder, "train/loss") == [2, 4, 6, 8]
    train(tmp_path, FastLogCallback(log=()), **options)
    assert len({path.parent for path in tmp_path.rglob("events*")}) == 2


@pytest.mark.skipif(hasattr(TrainingArguments, "logging_dir"), reason="there the arguments say the folder")
def test_a_training_that_is_begun_anew_is_a_run_of_its_own(tmp_path: Path) -> None:
    """Its lines do not go back in the charts of the one before. Evaluations are in the run beside them."""
    trainer = Trainer(
        model=tiny_bert(),
        args=arguments(tmp_path),
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        callbacks=[FastLogCallback(log="gradients")],
    )
    trainer.evaluate()
    for _ in range(2):
        trainer.train()
        trainer.evaluate()
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, FastLogCallback))
    assert callback.writer is not None
    callback.writer.close()
    folders = list((tmp_path / "runs").iterdir())
    assert sorted(steps(folder, "eval/loss") for folder in folders) == [[0, 6], [6]]
    for folder in folders:
        assert steps(folder, "train/loss") == steps(folder) == [2, 4, 6]


def test_a_callback_that_is_still_held_does_not_keep_the_model_alive(tmp_path: Path) -> None:
    callback = FastLogCallback(logdir=tmp_path / "logs")
    trainer = train(tmp_path, callback)
    model = weakref.ref(trainer.model)
    del trainer
    gc.collect()
    assert model() is None and callback.watcher is None


def test_an_own_writer_keeps_its_tags(tmp_path: Path) -> None:
    """It is the user's choice: `SummaryWriter` cleans them, as tensorboardX does."""
    for writer, tag in (
        (SummaryWriter(str(tmp_path / "clean")), "eval/ndcg_10"),
        (TorchSummaryWriter(str(tmp_path / "verbatim")), "eval/ndcg@10"),
    ):
        with writer:
            train(tmp_path, FastLogCallback(writer, log=()), metrics={"ndcg@10": 1.0})
        assert tag in read(writer.logdir).Tags()["scalars"]
