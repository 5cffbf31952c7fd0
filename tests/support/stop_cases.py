"""Trainings of frameworks in which a weight becomes NaN, and that a finding stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rank_cases import Net, loss_of
from torch import nn

STEPS = 400
_AT = 5


def poison(model: nn.Module) -> None:
    """One weight of the model becomes NaN."""
    with torch.no_grad():
        next(param for param in model.parameters() if param.dim() > 1)[0, 0] = float("nan")


class NetWithLoss(Net):
    def forward(self, tokens: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"loss": super().forward(tokens).square().mean()}


def transformers_trainer(rank: int, logdir: Path) -> int:
    """Under DDP. Returns after which step this rank has stopped."""
    from trainer_cases import arguments
    from transformers import Trainer, TrainerCallback

    from fastlog.integrations.transformers import FastLogCallback

    class Poison(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == _AT:
                poison(model)

    torch.manual_seed(0)
    settings = arguments(logdir / "output", max_steps=STEPS, learning_rate=0.001, remove_unused_columns=False)
    data = [{"tokens": torch.tensor([i, i + 1]), "labels": torch.tensor(0)} for i in range(8)]
    callbacks = [FastLogCallback(logdir=logdir, stop_on="error"), Poison()]
    trainer = Trainer(NetWithLoss(), settings, train_dataset=data, callbacks=callbacks)
    trainer.train()
    return int(trainer.state.global_step)


def lightning_trainer(
    rank: int, logdir: Path, devices: int, steps: int = STEPS, stop_on: str = "error", **options: Any
) -> int:
    """Returns after which step this rank has stopped."""
    from lightning.pytorch import LightningModule, Trainer

    from fastlog.integrations.lightning import FastLogLogger, FastLogWatch

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.global_step == _AT:
                poison(self.net)
            return loss_of(self.net, "DDP", rank, batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.net.parameters(), lr=0.001)

        def train_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(torch.arange(16))

    torch.manual_seed(0)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=steps,
        log_every_n_steps=2,
        logger=FastLogLogger(logdir, name="", version=""),
        callbacks=[FastLogWatch(stop_on=stop_on, **options)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module())
    return int(trainer.global_step)
