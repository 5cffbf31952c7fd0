"""Hyperparameters for TensorBoard's HParams page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fastlog import hparams
from fastlog.writer import SummaryWriter

# ``HParamInfo.differs``, a field that tensorboardX's copy of the message lacks: such columns come first.
_DIFFERS = b"\x38\x01"


class Hyperparameters:
    """The hyperparameters of a run, logged into the run's own file.

    There the HParams page finds the last value of each metric by itself: no chart gets a point for it.

    Args:
        writer: the run's.
        values: by name. What is no number, bool or text is logged as text; None is left out.
        first: names of the hyperparameters whose columns TensorBoard shows first.
    """

    def __init__(self, writer: SummaryWriter, values: Mapping[str, Any], first: Collection[str] = ()) -> None:
        self._writer = writer
        self._values = {str(name): plain(value) for name, value in values.items()}
        self._first = frozenset(first)
        with writer._guarded("hyperparameters"):
            _, start, _ = hparams.summaries(self._values, {}, {})
            writer._get_file_writer().add_summary(start)

    def finish(self, metrics: Iterable[str]) -> None:
        """The run is over: its columns on the page are the hyperparameters and these metrics, by tag."""
        with self._writer._guarded("hyperparameters"):
            experiment, _, end = hparams.summaries(self._values, dict.fromkeys(metrics), {})
            plugin = experiment.value[0].metadata.plugin_data
            content = HParamsPluginData.FromString(plugin.content)
            for info in content.experiment.hparam_infos:
                if info.name in self._first:
                    info.MergeFromString(_DIFFERS)
            plugin.content = content.SerializeToString()
            for summary in (experiment, end):
                self._writer._get_file_writer().add_summary(summary)


def plain(value: Any) -> Any:
    """The value as a number, bool or text, which TensorBoard and a YAML file can show; None stays None."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        flat = value.reshape(-1).tolist()
        value = flat[0] if len(flat) == 1 else value.tolist()
    if isinstance(value, Enum):
        value = value.value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # of this very type: YAML refuses subclasses
    return None if value is None else getattr(value, "__name__", None) or str(value)
