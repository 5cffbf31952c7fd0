"""Lightning: ``Trainer(logger=FastLogLogger("logs"), callbacks=[FastLogWatch()])``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from fastlog.distributed.shards import ranks_of
from fastlog.integrations.stopping import StopOn, any_rank
from fastlog.watching import Watcher, watch
from fastlog.writer import SummaryWriter
from fastlog.writer.torch_writer import TorchSummaryWriter

# The two packages have classes of their own, which do not work with each other's Trainer.
if "pytorch_lightning" in sys.modules and "lightning" not in sys.modules:
    from lightning_fabric.loggers.logger import rank_zero_experiment
    from pytorch_lightning import Callback
    from pytorch_lightning.loggers import TensorBoardLogger
else:
    from lightning.fabric.loggers.logger import rank_zero_experiment
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import TensorBoardLogger


class FastLogLogger(TensorBoardLogger):  # type: ignore[misc]
    """``TensorBoardLogger`` whose ``experiment`` is a ``fastlog.SummaryWriter``; arguments and tags are the
    same.
    """

    _experiment: SummaryWriter | None

    @property
    @rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> SummaryWriter:
        """The writer, opened at first use."""
        if self._experiment is None:
            if self.root_dir:
                self._fs.makedirs(self.root_dir, exist_ok=True)
            self._experiment = TorchSummaryWriter(log_dir=self.log_dir, **self._kwargs)
        return self._experiment


class FastLogWatch(Callback):  # type: ignore[misc]
    """Watches the module in training (see ``fastlog.watch``) with the writer of the Trainer's
    ``FastLogLogger``.

    Gradients are those after clipping, under the step at which Lightning logs the loss that they belong to.
    The last step of the training is always watched.

    Args:
        log: what is watched; see ``fastlog.watch``.
        every: steps between watched steps; None: the Trainer's ``log_every_n_steps``.
        budget: see ``fastlog.watch``.
        stop_on: findings of ``fastlog.watch(health=True)`` that end the training (``Trainer.should_stop``):
            severities ("error"; "warning" means errors, too) and rules ("nonfinite"). A warning says which it
            was.
        watch_options: further arguments of ``fastlog.watch``: ``health``, ``mute``, ``on_finding``, ...

    Raises:
        ValueError: ``stop_on`` names no rule, or health is off.
    """

    def __init__(
        self,
        log: str | Iterable[str] = ("weights", "gradients"),
        every: int | None = None,
        budget: float | None = None,
        stop_on: str | Iterable[str] = (),
        **watch_options: Any,
    ) -> None:
        self.watcher: Watcher | None = None
        self._log = (log,) if isinstance(log, str) else tuple(log)
        self._every = every
        self._stop_on = StopOn(stop_on, watch_options)
        self._options = {"budget": budget, **watch_options, **self._stop_on.watch_options}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts to watch, in the first process; where the module is sharded in all. Under ``fast_dev_run``,
        which takes the loggers away, nothing is watched.

        Raises:
            ValueError: the Trainer has no ``FastLogLogger``.
        """
        self._stop_on.begin()
        if trainer.fast_dev_run:
            return
        writers = [logger.experiment for logger in trainer.loggers if isinstance(logger, FastLogLogger)]
        if not writers:
            raise ValueError("FastLogWatch needs a FastLogLogger: Trainer(logger=FastLogLogger(...))")
        if not trainer.is_global_zero and not ranks_of(pl_module):
            return
        epoch_loop = trainer.fit_loop.epoch_loop
        every = self._every or max(1, trainer.log_every_n_steps)
        self.watcher = watch(
            pl_module,
            writers[0] if trainer.is_global_zero else None,
            trainer.optimizers,
            every=every,
            offset=every - 1,  # as Lightning's logger connector has it
            log=self._log,
            step=lambda: epoch_loop._batches_that_stepped,
            **self._options,
        )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Sees to it that the last step is watched."""
        if self.watcher is not None and (
            0 < trainer.max_steps <= trainer.global_step + len(trainer.optimizers)
            or (trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs)
        ):
            self.watcher.log_next()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the training where a finding of ``stop_on`` has come: on all ranks, at the next batch that the
        Trainer logs."""
        if not self._stop_on:
            return
        done = trainer.fit_loop.epoch_loop._batches_that_stepped
        if trainer.world_size > 1 and done % max(1, trainer.log_every_n_steps):
            return
        if any_rank(self._stop_on.due(done), pl_module.device):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stops to watch."""
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stops to watch."""
        self._stop()

    def _stop(self) -> None:
        if self.watcher is not None:
            self.watcher.remove()
            self.watcher = None
