"""`FastLogLogger` and `FastLogWatch` in real `Trainer.fit()` calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_net import LAYERS, Net, gradients, loss_of, weights
from watch_oracle import Expected, read, steps

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from fastlog.integrations.lightning import FastLogLogger, FastLogWatch
from fastlog.writer import SummaryWriter

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
]


class Module(LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = Net()
        self.seen: dict[int, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = {}
        self.losses: dict[int, float] = {}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = loss_of(self.net)
        self.losses[self.steps_done()] = loss.item()
        self.log("loss", loss)
        return loss

    def steps_done(self) -> int:
        return self.trainer.fit_loop.epoch_loop._batches_that_stepped

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.hparams.lr)
        kernel = optimizer._init_group  # called inside of step, when the closure has run

        def spy(*args: Any, **kwargs: Any) -> Any:
            self.seen[self.steps_done()] = (gradients(self.net), {})
            return kernel(*args, **kwargs)

        optimizer._init_group = spy
        return optimizer

    def on_train_batch_end(self, *args: Any) -> None:
        done = self.steps_done()
        if done in self.seen:
            self.seen[done] = (self.seen[done][0], weights(self.net))

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(range(8), batch_size=1)


def fit(logger: Any, *callbacks: Any, module: Module | None = None, **options: Any) -> Module:
    torch.manual_seed(0)
    module = module or Module()
    trainer = Trainer(
        logger=logger,
        callbacks=list(callbacks),
        **({"max_epochs": 1, "log_every_n_steps": 2} | options),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module)
    return module


def test_the_same_events_as_the_tensorboard_logger(tmp_path: Path) -> None:
    fit(TensorBoardLogger(tmp_path, name="theirs"))
    logger = FastLogLogger(tmp_path, name="ours")
    assert isinstance(logger.experiment, SummaryWriter)
    fit(logger)
    ours, theirs = (read(tmp_path / name / "version_0") for name in ("ours", "theirs"))
    assert set(ours.Tags()["scalars"]) == set(theirs.Tags()["scalars"]) >= {"loss", "hp_metric"}
    for tag in theirs.Tags()["scalars"]:
        assert [(e.step, e.value) for e in ours.Scalars(tag)] == [
            (e.step, e.value) for e in theirs.Scalars(tag)
        ]
    assert (tmp_path / "ours" / "version_0" / "hparams.yaml").is_file()


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_gradients_carry_the_step_of_their_loss(tmp_path: Path, options: dict[str, Any]) -> None:
    watcher = FastLogWatch()
    module = fit(
        FastLogLogger(tmp_path, name="logs", default_hp_metric=False),
        watcher,
        gradient_clip_val=0.05,
        **options,
    )
    assert watcher.watcher is None
    logdir = tmp_path / "logs" / "version_0"
    losses = {event.step: event.value for event in read(logdir).Scalars("loss")}
    layers = {f"net.{layer}": [f"net.{name}" for name in names] for layer, names in LAYERS.items()}
    expected = Expected()
    for step, value in losses.items():
        assert value == pytest.approx(module.losses[step], rel=1e-6)
        grads, params = module.seen[step]
        total = torch.stack([grad.double().norm() for grad in grads.values()]).norm()
        assert float(total) == pytest.approx(0.05, rel=1e-3), "clipped"
        for kind, title, tensors in (("gradients", "grad", grads), ("weights", "weight", params)):
            expected.add(step, kind, title, {f"net.{n}": t for n, t in tensors.items()}, layers)
    assert list(losses) == ([1, 3] if options.get("accumulate_grad_batches") else [1, 3, 5, 7])
    expected.assert_logged(logdir, others="loss|epoch")


def test_a_fast_run_for_developers_needs_no_logger(tmp_path: Path) -> None:
    """Lightning takes the loggers away there."""
    fit(FastLogLogger(tmp_path), FastLogWatch(log="all"), fast_dev_run=True)
    assert not list(tmp_path.rglob("events*"))


def test_watch_needs_the_logger(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FastLogLogger"):
        fit(TensorBoardLogger(tmp_path), FastLogWatch())


def test_tags_are_those_of_the_tensorboard_logger_letter_by_letter(tmp_path: Path) -> None:
    metrics = {
        "cosine_ndcg@10": 0.5,
        "loss (mean)_epoch": torch.tensor(0.25),
        "group": {"a": 1.0, "b c": 2.0},
    }
    for kind, name in ((TensorBoardLogger, "theirs"), (FastLogLogger, "ours")):
        logger = kind(tmp_path, name=name)
        logger.log_metrics(metrics, step=3)
        logger.log_hyperparams({"lr": 0.1}, {"hp/ndcg@10": 0.75})
        logger.finalize("success")
    ours, theirs = (
        {
            path.relative_to(tmp_path / name): read(path).Tags()["scalars"]
            for path in {file.parent for file in (tmp_path / name).rglob("events*")}
        }
        for name in ("ours", "theirs")
    )
    assert ours == theirs
    assert Path("version_0/group_b c") in ours and "hp/ndcg@10" in ours[Path("version_0")]


@pytest.mark.parametrize(
    "options",
    [
        {"max_epochs": 2},
        {"max_epochs": -1, "max_steps": 9},
        {"max_epochs": 5, "max_steps": 9, "accumulate_grad_batches": 2},
    ],
)
def test_the_last_step_is_always_watched(tmp_path: Path, options: dict[str, Any]) -> None:
    fit(FastLogLogger(tmp_path, name="logs"), FastLogWatch(log="gradients", every=4), **options)
    last = 8 if "max_steps" in options else 15
    assert steps(tmp_path / "logs" / "version_0") == sorted({*range(3, last, 4), last})


def test_the_last_step_of_several_optimizers_is_watched(tmp_path: Path) -> None:
    class Adversaries(Module):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(loss_of(self.net))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            parts = (self.net.embed, self.net.head)
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]

    callback, options = FastLogWatch(log="gradients", every=4), {"max_epochs": -1, "max_steps": 18}
    fit(FastLogLogger(tmp_path, name="logs"), callback, module=Adversaries(), **options)
    assert steps(tmp_path / "logs" / "version_0") == [3, 7, 8]
