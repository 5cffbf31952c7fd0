"""Hyperparameters for TensorBoard's HParams page."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from fastlog.writer import SummaryWriter
from fastlog.writer.encode import hparams

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
        self._values = {str(name): hparams.plain(value) for name, value in values.items()}
        self._first = frozenset(first)
        with writer.outbox.guarded("hyperparameters"):
            _, start, _ = hparams.summaries(self._values, {}, {})
            writer.outbox.main().add_summary(start)

    def finish(self, metrics: Iterable[str]) -> None:
        """The run is over: its columns on the page are the hyperparameters and these metrics, by tag."""
        with self._writer.outbox.guarded("hyperparameters"):
            experiment, _, end = hparams.summaries(self._values, dict.fromkeys(metrics), {})
            plugin = experiment.value[0].metadata.plugin_data
            content = HParamsPluginData.FromString(plugin.content)
            for info in content.experiment.hparam_infos:
                if info.name in self._first:
                    info.MergeFromString(_DIFFERS)
            plugin.content = content.SerializeToString()
            for summary in (experiment, end):
                self._writer.outbox.main().add_summary(summary)
