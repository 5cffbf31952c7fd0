"""Hugging Face Accelerate: ``Accelerator(log_with=FastLogTracker("run", "runs"))``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml
from accelerate.tracking import GeneralTracker, on_main_process

from fastlog.integrations.hyperparameters import Hyperparameters
from fastlog.integrations.metrics import leave_out, log_metric
from fastlog.writer import SummaryWriter
from fastlog.writer.encode import hparams
from fastlog.writer.torch_writer import TorchSummaryWriter


class FastLogTracker(GeneralTracker):  # type: ignore[misc]
    """Accelerate's ``TensorBoardTracker`` with a fastlog writer: the same tags, and no flush at each log.

    ``accelerator.get_tracker("fastlog", unwrap=True)`` gives the writer, on the main process. To watch a
    model pass it to ``fastlog.watch``, which takes the optimizer from ``accelerator.prepare`` as it is.
    ``fastlog.watch`` counts the optimizer's steps from 0. Under gradient accumulation these are fewer than
    the batches: pass ``step=lambda: N``, where N is the number that the loop passes to ``accelerator.log``,
    and the charts share one x-axis.

    The loop is the program's own, so a finding ends it by Accelerate's trigger, which reaches all processes:
    ``fastlog.watch(..., health=True, on_finding=lambda finding: accelerator.set_trigger())``, and in the loop
    ``if accelerator.check_trigger(): break``.

    Args:
        run_name: name of the run, a folder in ``logging_dir``.
        logging_dir: where runs are.
        writer_options: further arguments of ``SummaryWriter``.
    """

    name = "fastlog"
    requires_logging_directory = True  # where Accelerate makes it by its name (``register_tracker_class``)
    main_process_only = True

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str], **writer_options: Any) -> None:
        super().__init__()
        self.run_name = run_name
        self.logging_dir = os.path.join(logging_dir, run_name)
        self._writer_options = writer_options
        self._writer: SummaryWriter | None = None
        self._hyperparameters: Hyperparameters | None = None
        self._metrics: dict[str, None] = {}  # in the order of their first values

    @property
    def tracker(self) -> SummaryWriter:
        """The writer, opened at first use."""
        if self._writer is None:
            self._writer = TorchSummaryWriter(self.logging_dir, **self._writer_options)
        return self._writer

    @property
    def writer(self) -> SummaryWriter:
        """``TensorBoardTracker``'s other name of the writer."""
        return self.tracker

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Logs hyperparameters by name, for TensorBoard's HParams page, and writes them to ``hparams.yml``
        in the run's folder where that is a local one. What is no number, bool or text is logged as text.
        """
        self._hyperparameters = Hyperparameters(self.tracker, values)
        if "://" not in self.logging_dir:
            with self.tracker.outbox.guarded("store_init_configuration"):
                os.makedirs(self.logging_dir, exist_ok=True)
                with open(os.path.join(self.logging_dir, "hparams.yml"), "w", encoding="utf-8") as file:
                    yaml.safe_dump({str(name): _for_yaml(value) for name, value in values.items()}, file)

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Logs numbers (``add_scalar``), texts (``add_text``) and dicts of numbers (``add_scalars``) by
        tag. Other values are left out: they are counted, with one warning per tag.
        """
        for tag, value in values.items():
            if isinstance(value, Mapping):
                self._log_together(tag, value, step, **kwargs)
            elif log_metric(self.tracker, "log", tag, value, step, **kwargs):
                self._metrics[tag] = None

    @on_main_process  # type: ignore[untyped-decorator]
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Logs batches of images by tag, with ``add_images``."""
        for tag, value in values.items():
            self.tracker.add_images(tag, value, step, **kwargs)

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """Closes the writer."""
        if self._hyperparameters is not None:
            self._hyperparameters.finish(self._metrics)
            self._hyperparameters = None
        if self._writer is not None:
            self._writer.close()

    def _log_together(self, tag: str, values: Mapping[str, Any], step: int | None, **kwargs: Any) -> None:
        for name, value in values.items():
            try:
                self.tracker.add_scalars(tag, {name: value}, step, **kwargs)
            except TypeError:
                leave_out(self.tracker, f"log({tag!r}, {name!r})", value)


def _for_yaml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _for_yaml(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_yaml(inner) for inner in value]
    return hparams.plain(value)
