"""What the ranks of the frameworks' tests do: train the net of ``rank_cases`` in a framework's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rank_cases import Arrays, Net, loss_of, numpy_of, shard
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import fastlog


class Witness:
    """Gathers gradients and weights after each step of an optimizer."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.seen: list[tuple[Arrays, Arrays]] = []
        register_optimizer_step_post_hook(lambda *_: self._look())

    def _look(self) -> None:
        params = dict(self._model.named_parameters())
        grads = {name: numpy_of(param.grad) for name, param in params.items()}
        self.seen.append((grads, {name: numpy_of(param) for name, param in params.items()}))


def sharded_on_cpu(accelerator: Any) -> None:
    """Makes Accelerate use FSDP2: for CPUs it takes DDP, whatever its plugin says."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils import DistributedType

    accelerator.state._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
    )


def accelerate_loop(rank: int, logdir: Path) -> list[tuple[Arrays, Arrays]]:
    from accelerate import Accelerator

    from fastlog.integrations.accelerate import FastLogTracker

    accelerator = Accelerator(cpu=True, log_with=FastLogTracker("run", logdir))
    sharded_on_cpu(accelerator)
    accelerator.init_trackers("run")
    torch.manual_seed(0)
    model = Net()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    witness = Witness(model)
    writer = accelerator.get_tracker("fastlog", unwrap=True) if accelerator.is_main_process else None
    fastlog.watch(model, writer, optimizer, every=1)
    for step in range(2):
        optimizer.zero_grad()
        accelerator.backward(loss_of(model, "FSDP", rank, step))
        accelerator.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
    accelerator.end_training()
    return witness.seen


class NetWithLoss(Net):
    def forward(self, tokens: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"loss": super().forward(tokens).square().mean()}


def transformers_trainer(rank: int, logdir: Path) -> list[tuple[Arrays, Arrays]]:
    from trainer_cases import arguments
    from transformers import Trainer

    from fastlog.integrations.transformers import FastLogCallback

    class TrainerOnCpu(Trainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            sharded_on_cpu(self.accelerator)
            self.is_fsdp_enabled = True

    torch.manual_seed(0)
    model = NetWithLoss()
    witness = Witness(model)
    settings = arguments(logdir / "output", max_steps=2, logging_steps=1, remove_unused_columns=False)
    data = [{"tokens": torch.tensor([i, i + 1]), "labels": torch.tensor(0)} for i in range(8)]
    callback = FastLogCallback(logdir=logdir)
    TrainerOnCpu(model, settings, train_dataset=data, callbacks=[callback]).train()
    return witness.seen


def lightning_trainer(rank: int, logdir: Path) -> tuple[list[tuple[Arrays, Arrays]], str]:
    """And what Lightning says of its FSDP1 strategy on a CPU."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

    from fastlog.integrations.lightning import FastLogLogger, FastLogWatch

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = Net()

        def configure_model(self) -> None:
            shard(self.net, self.device_mesh["data_parallel"])

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return loss_of(self.net, "FSDP", rank, batch_idx)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.net.parameters(), lr=0.01)

        def train_dataloader(self) -> torch.utils.data.DataLoader:
            return torch.utils.data.DataLoader(torch.arange(8))

    try:
        Trainer(accelerator="cpu", devices=2, strategy=FSDPStrategy())
    except ValueError as error:
        refusal = str(error)
    module = Module()
    witness = Witness(module)
    Trainer(
        accelerator="cpu",
        devices=2,
        strategy=ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        max_steps=2,
        log_every_n_steps=1,
        logger=FastLogLogger(logdir, name="", version=""),
        callbacks=[FastLogWatch()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module)
    return witness.seen, refusal
