"""Hugging Face ``Trainer``: ``Trainer(..., callbacks=[FastLogCallback()])``."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from typing import Any, Literal

from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from fastlog.distributed.shards import ranks_of
from fastlog.watching import Watcher, watch
from fastlog.writer import SummaryWriter


class FastLogCallback(TrainerCallback):  # type: ignore[misc]
    """Does what ``TensorBoardCallback`` does, and watches the model in training (see ``fastlog.watch``).

    Use it instead of that one (``TrainingArguments(report_to="none")``). Logs are written to ``logdir``, else
    the environment's ``TENSORBOARD_LOGGING_DIR``, else a new folder in ``output_dir/runs`` (before
    transformers 5: ``TrainingArguments.logging_dir``); trials of a hyperparameter search each to a folder of
    their own in there, called as the trial, or ``run-0``, ``run-1``, ... Training arguments and model
    configuration are logged as text, the arguments with the last value of each metric as hyperparameters at
    the end. A resumed training hides what was logged after its checkpoint, where ``logdir`` is the same.
    Gradients carry the step number of the loss that they belong to, and are those after clipping (the Trainer
    logs the norm before it as ``train/grad_norm``).

    Args:
        writer: where to log; it stays open. None: a ``SummaryWriter`` for each training, closed at its end.
        log: what is watched; see ``fastlog.watch``. (): nothing.
        every: steps between watched steps, or "logging_steps": those at which the Trainer logs.
        budget: see ``fastlog.watch``.
        logdir: folder of the writer.
        watch_options: further arguments of ``fastlog.watch``.
    """

    def __init__(
        self,
        writer: SummaryWriter | None = None,
        log: str | Iterable[str] = ("weights", "gradients"),
        every: int | Literal["logging_steps"] = "logging_steps",
        budget: float | None = None,
        logdir: str | os.PathLike[str] | None = None,
        **watch_options: Any,
    ) -> None:
        self.writer = writer
        self.watcher: Watcher | None = None
        self._is_own = writer is None
        self._log = (log,) if isinstance(log, str) else tuple(log)
        self._every = every
        self._logdir = logdir
        self._options = {"budget": budget, **watch_options}
        self._metrics: dict[str, float] = {}
        self._trial = -1  # number of the last one

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Opens the writer, logs arguments and configuration as text, starts to watch: on all ranks where
        the model is sharded."""
        self._metrics = {}
        self._trial += state.is_hyper_param_search
        self._stop_watching()  # a training that raised has had no end
        if not state.is_world_process_zero:
            if self._log and model is not None and ranks_of(model):
                self._watch(args, state, model, optimizer, None)
            return
        if self._is_own and self.writer is not None:  # its writer, or that of an evaluation before
            self.writer.close()
            self.writer = None
        writer = self._open(args, state, purge_step=state.global_step + 1 if state.global_step else None)
        writer.add_text("args", args.to_json_string())
        if getattr(model, "config", None) is not None:
            writer.add_text("model_config", model.config.to_json_string())
        if self._log and model is not None:
            self._watch(args, state, model, optimizer, writer)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Logs numbers and texts under the Trainer's tags (``train/loss``, ``eval/loss``)."""
        if not state.is_world_process_zero:
            return
        writer = self._open(args, state)
        for tag, value in rewrite_logs(logs or {}).items():
            if isinstance(value, str):
                writer.add_text(tag, value, state.global_step)
                continue
            writer.add_scalar(tag, value, state.global_step)
            if isinstance(value, (int, float)):
                self._metrics[tag] = value

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs the hyperparameters, stops to watch, closes or flushes the writer."""
        self._stop_watching()
        if self.writer is None:
            return
        if state.is_world_process_zero:
            hparams = {key: value for key, value in args.to_sanitized_dict().items() if value is not None}
            self.writer.add_hparams(hparams, self._metrics, name="hparams")
        if self._is_own:
            self.writer.close()
            self.writer = None
        else:
            self.writer.flush()

    def _stop_watching(self) -> None:
        if self.watcher is not None:
            self.watcher.remove()
            self.watcher = None

    def _open(self, args: Any, state: Any, purge_step: int | None = None) -> SummaryWriter:
        if self.writer is None:
            if self._logdir is None:
                self._logdir = os.getenv("TENSORBOARD_LOGGING_DIR") or _default_logdir(args)
            folder = os.path.expanduser(self._logdir)
            if state.is_hyper_param_search:
                folder = os.path.join(folder, state.trial_name or f"run-{self._trial}")
            self.writer = SummaryWriter(folder, purge_step=purge_step)
        return self.writer

    def _watch(self, args: Any, state: Any, model: Any, optimizer: Any, writer: SummaryWriter | None) -> None:
        every = max(1, int(state.logging_steps)) if self._every == "logging_steps" else self._every
        self.watcher = watch(
            model,
            writer,
            optimizer,
            every=every,
            log=self._log,
            step=lambda: state.global_step + 1,  # the Trainer counts a step when it is over
            **self._options,
        )
        if args.logging_first_step and state.global_step == 0:
            self.watcher.log_next()


def _default_logdir(args: Any) -> str:
    """Where ``TensorBoardCallback`` writes: before transformers 5 the training arguments say it."""
    of_arguments: str | None = getattr(args, "logging_dir", None)
    run = f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}"
    return of_arguments or os.path.join(args.output_dir, "runs", run)
