"""Hugging Face Accelerate: ``Accelerator(log_with=FastLogTracker("run", "runs"))``."""

from __future__ import annotations

import os
from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import listify

from fastlog.writer import SummaryWriter


class FastLogTracker(GeneralTracker):  # type: ignore[misc]
    """Accelerate's ``TensorBoardTracker`` with a fastlog writer: the same tags, and no flush at each log.

    ``accelerator.get_tracker("fastlog", unwrap=True)`` gives the writer, on the main process. To watch a
    model pass it to ``fastlog.watch``, which takes the optimizer from ``accelerator.prepare`` as it is.

    Args:
        run_name: name of the run, a folder in ``logging_dir``.
        logging_dir: where runs are.
        writer_options: further arguments of ``SummaryWriter``.
    """

    name = "fastlog"
    requires_logging_directory = False  # it has its own
    main_process_only = True

    def __init__(self, run_name: str, logging_dir: str | os.PathLike[str], **writer_options: Any) -> None:
        super().__init__()
        self.run_name = run_name
        self.logging_dir = os.path.join(logging_dir, run_name)
        self._writer_options = writer_options
        self._writer: SummaryWriter | None = None

    @property
    def tracker(self) -> SummaryWriter:
        """The writer, opened at first use."""
        if self._writer is None:
            self._writer = SummaryWriter(self.logging_dir, **self._writer_options)
        return self._writer

    @on_main_process  # type: ignore[untyped-decorator]
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Logs hyperparameters: str, bool, int, float by name."""
        self.tracker.add_hparams(values, {}, name="hparams")

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Logs numbers (``add_scalar``), texts (``add_text``) and dicts of numbers (``add_scalars``) by
        tag.
        """
        for tag, value in listify(values).items():
            if isinstance(value, str):
                self.tracker.add_text(tag, value, step, **kwargs)
            elif isinstance(value, dict):
                self.tracker.add_scalars(tag, value, step, **kwargs)
            else:
                self.tracker.add_scalar(tag, value, step, **kwargs)

    @on_main_process  # type: ignore[untyped-decorator]
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Logs batches of images by tag, with ``add_images``."""
        for tag, value in values.items():
            self.tracker.add_images(tag, value, step, **kwargs)

    @on_main_process  # type: ignore[untyped-decorator]
    def finish(self) -> None:
        """Closes the writer."""
        if self._writer is not None:
            self._writer.close()
