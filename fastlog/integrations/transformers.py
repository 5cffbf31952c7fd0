"""Hugging Face ``Trainer``: ``Trainer(..., callbacks=[FastLogCallback()])``."""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from fastlog.common.notices import users_line, warn_at
from fastlog.distributed.shards import ranks_of
from fastlog.integrations.hyperparameters import Hyperparameters
from fastlog.integrations.metrics import log_metric
from fastlog.integrations.stopping import StopOn, any_rank
from fastlog.watching import Watcher, watch
from fastlog.writer import SummaryWriter
from fastlog.writer.torch_writer import TorchSummaryWriter

# The columns of TensorBoard's HParams page that are shown first: hyperparameters, and metrics of speed last.
_FIRST = {"learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay"}
_SPEED = ("runtime", "_per_second", "_flos", "/epoch", "/step")


class FastLogCallback(TrainerCallback):  # type: ignore[misc]
    """Does what ``TensorBoardCallback`` does, and watches the model in training (see ``fastlog.watch``).

    Use it instead of that one (``TrainingArguments(report_to="none")``). Tags are the same. Subclasses of the
    ``Trainer``, such as TRL's, take it, too.

    Logs are written to ``logdir``, else the environment's ``TENSORBOARD_LOGGING_DIR``, else a new folder in
    ``output_dir/runs`` for each training (before transformers 5: ``TrainingArguments.logging_dir``). Each
    trial of a hyperparameter search has a folder of its own in there, called as the trial, or ``run-0``,
    ``run-1``, ... A resumed training goes on in the newest folder of ``output_dir/runs``, and hides what was
    logged there after its checkpoint; ``logdir`` gives it another folder.

    Training arguments and model configuration are logged as text. The arguments are also the hyperparameters
    of TensorBoard's HParams page, with the last value of each metric.

    Gradients carry the step number of the loss that they belong to. They are read after clipping:
    ``grad_norm/global`` is the norm of what the optimizer gets. ``grad_norm/before_clipping`` is the norm
    before it, which the Trainer also logs as ``train/grad_norm``.

    Metrics that are neither numbers nor texts are left out: they are counted, with one warning per tag.

    Args:
        writer: where to log; it stays open. None: a ``SummaryWriter`` for each training, closed at its end.
        log: what is watched; see ``fastlog.watch``. (): nothing.
        every: steps between watched steps. "logging_steps": the steps at which the Trainer logs, which are
            the last ones of the epochs with ``logging_strategy="epoch"``. The last step of the training is
            always watched.
        budget: see ``fastlog.watch``.
        logdir: folder of the writer.
        stop_on: findings of ``fastlog.watch(health=True)`` that end the training: severities ("error";
            "warning" means errors, too) and rules ("nonfinite"). A warning says which it was. The Trainer
            then does what it does at every end: evaluates, saves, calls the callbacks.
        watch_options: further arguments of ``fastlog.watch``: ``health``, ``mute``, ``on_finding``, ...

    Raises:
        ValueError: ``stop_on`` names no rule, or health is off.
    """

    def __init__(
        self,
        writer: SummaryWriter | None = None,
        log: str | Iterable[str] = ("weights", "gradients"),
        every: int | Literal["logging_steps"] = "logging_steps",
        budget: float | None = None,
        logdir: str | os.PathLike[str] | None = None,
        stop_on: str | Iterable[str] = (),
        **watch_options: Any,
    ) -> None:
        self.writer = writer
        self.watcher: Watcher | None = None
        self._is_own = writer is None
        self._log = (log,) if isinstance(log, str) else tuple(log)
        self._every = every
        self._logdir = logdir or os.getenv("TENSORBOARD_LOGGING_DIR")
        self._own_logdir: str | None = None  # where none is given: of this training
        self._stop_on = StopOn(stop_on, watch_options)
        self._options = {"budget": budget, **watch_options, **self._stop_on.watch_options}
        self._hyperparameters: Hyperparameters | None = None
        self._metrics: dict[str, None] = {}  # tags, in the order of their first values
        self._epoch: tuple[int, Any] | None = None  # the last one logged, and its step
        self._trial = -1  # number of the last one
        self._has_trained = False

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Opens the writer, logs arguments and configuration, starts to watch: on all ranks where the model
        is sharded."""
        self._metrics, self._epoch = {}, None
        self._stop_on.begin()
        self._trial += state.is_hyper_param_search
        self._stop_watching()  # a training that raised has had no end
        writer = self._begin(args, state, model) if state.is_world_process_zero else None
        if self._log and model is not None and (writer is not None or ranks_of(model)):
            self._watch(args, state, model, optimizer, train_dataloader, writer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sees to it that the last step is watched."""
        if self.watcher is not None and state.global_step + 1 == state.max_steps:
            self.watcher.log_next()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the training where a finding of ``stop_on`` has come: on all ranks, at the next step that the
        Trainer logs."""
        if not self._stop_on or (
            args.world_size > 1 and state.global_step % max(1, int(state.logging_steps))
        ):
            return
        if any_rank(self._stop_on.due(state.global_step), args.device):
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Logs numbers and texts under the Trainer's tags (``train/loss``, ``eval/loss``)."""
        if not state.is_world_process_zero:
            return
        logs, step = logs or {}, state.global_step
        writer = self._open(args, state)
        for tag, value in rewrite_logs(logs).items():
            if tag == "train/epoch":  # comes with everything that the Trainer logs at a step
                if self._epoch == (step, value):
                    continue
                self._epoch = (step, value)
            if log_metric(writer, "FastLogCallback.on_log", tag, value, step):
                self._metrics[tag] = None
        if "grad_norm" in logs and (args.max_grad_norm or 0) > 0 and {"gradients", "all"} & set(self._log):
            tag = "grad_norm/before_clipping"
            log_metric(writer, "FastLogCallback.on_log", tag, logs["grad_norm"], step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops to watch, completes the hyperparameters, closes or flushes the writer."""
        self._stop_watching()
        if self.writer is None:
            return
        if self._hyperparameters is not None:
            self._hyperparameters.finish(sorted(self._metrics, key=_metric_order))
            self._hyperparameters = None
        if self._is_own:
            self.writer.close()
            self.writer = None
        else:
            self.writer.flush()

    def _begin(self, args: Any, state: Any, model: Any) -> SummaryWriter:
        if self._is_own and self.writer is not None:  # its writer, or that of an evaluation before
            self.writer.close()
            self.writer = None
        if self._has_trained and not state.global_step and not state.is_hyper_param_search:
            self._own_logdir = None  # a new training is a new run
        self._has_trained = True
        writer = self._open(args, state, purge_step=state.global_step + 1 if state.global_step else None)
        writer.add_text("args", _json(args))
        if getattr(model, "config", None) is not None:
            writer.add_text("model_config", _json(model.config))
        length = "max_steps" if args.max_steps > 0 else "num_train_epochs"
        self._hyperparameters = Hyperparameters(writer, args.to_sanitized_dict(), {*_FIRST, length})
        return writer

    def _stop_watching(self) -> None:
        if self.watcher is not None:
            self.watcher.remove()
            self.watcher = None

    def _open(self, args: Any, state: Any, purge_step: int | None = None) -> SummaryWriter:
        if self.writer is None:
            if self._logdir is None and self._own_logdir is None:
                self._own_logdir = _default_logdir(args, state)
            folder = os.path.expanduser(self._logdir or self._own_logdir or "")
            if state.is_hyper_param_search:
                folder = os.path.join(folder, state.trial_name or f"run-{self._trial}")
            self.writer = TorchSummaryWriter(folder, purge_step=purge_step)
        return self.writer

    def _watch(
        self, args: Any, state: Any, model: Any, optimizer: Any, loader: Any, writer: SummaryWriter | None
    ) -> None:
        self.watcher = watch(
            model,
            writer,
            optimizer,
            every=_logging_steps(args, state, loader) if self._every == "logging_steps" else self._every,
            log=self._log,
            step=lambda: state.global_step + 1,  # the Trainer counts a step when it is over
            **self._options,
        )
        if args.logging_first_step and state.global_step == 0:
            self.watcher.log_next()


def _json(config: Any) -> str:
    """A configuration as transformers writes it; a dict, a dataclass, or one with values that JSON has not,
    with these as their texts.
    """
    try:
        return str(config.to_json_string())
    except Exception:  # whatever users keep in there: a quantisation, a class, a module
        to_dict = getattr(config, "to_dict", None)
        values = to_dict() if callable(to_dict) else getattr(config, "__dict__", config)
        return json.dumps(values, indent=2, skipkeys=True, default=str)


def _logging_steps(args: Any, state: Any, loader: Any) -> int:
    """Steps from one log of the Trainer to the next."""
    steps = int(state.logging_steps)
    if args.logging_strategy == "epoch":
        try:
            steps = math.ceil(len(loader) / args.gradient_accumulation_steps)
        except TypeError:
            warn_at(
                users_line(),
                "FastLogCallback: the training data has no length, so the last steps of epochs are not known "
                f"in advance. Watched are every {steps} steps and the last one; every= chooses others.",
            )
    return max(1, steps)


def _metric_order(tag: str) -> tuple[bool, bool]:
    return tag.endswith(_SPEED), not tag.startswith("eval/")


def _default_logdir(args: Any, state: Any) -> str:
    """Where ``TensorBoardCallback`` writes (before transformers 5 the training arguments say it); where a
    training is resumed, the folder in which it began.
    """
    of_arguments: str | None = getattr(args, "logging_dir", None)
    runs = Path(args.output_dir, "runs")
    run = runs / f"{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}"
    names = (run if n == 1 else f"{run}_{n}" for n in itertools.count(1))  # several within a second
    logdir = of_arguments or str(next(name for name in names if not os.path.exists(name)))
    if state.global_step and not state.is_hyper_param_search and Path(logdir).parent == runs:
        files = runs.glob("*/events.out.tfevents.*")
        newest = max(files, key=lambda file: file.stat().st_mtime, default=None)
        return logdir if newest is None else str(newest.parent)
    return logdir
