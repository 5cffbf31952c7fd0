"""The methods that log numbers."""

from __future__ import annotations

import functools
from collections import deque
from time import monotonic, time
from typing import Any

import numpy as np
import torch
from tensorboardX import summary as tbx
from tensorboardX.proto.summary_pb2 import Summary

from fastlog.events.items import DEVICE, EVENT_BYTES, SCALAR
from fastlog.writer.base import WriterBase
from fastlog.writer.encode.media import use_tensor
from fastlog.writer.encode.scalars import scalar_item, take_number
from fastlog.writer.encode.snapshots import MAX_INT, as_float
from fastlog.writer.tags import checked_tag

_UNSET = ""
_KEPT_POINTS = 65_536  # of each series of add_scalars, for export_scalars_to_json


class ScalarMethods(WriterBase):
    """``add_scalar`` is called at each step of a training: its first lines are the fast way."""

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        display_name: str = _UNSET,
        summary_description: str = _UNSET,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """Logs a number.

        Args:
            tag: name of the series; characters that TensorFlow forbids become "_".
            scalar_value: a number, or a tensor or array of one element. A CUDA tensor is not waited for.
            global_step: step of the event, within 64 bits.
            walltime: seconds since the epoch; default now.
            display_name, summary_description: title of the chart and its explanation.
            new_style, double_precision: torch.utils.tensorboard's, also in their places: write a tensor
                instead of a simple value, in float64.
        """
        since = monotonic()
        file_writer = self.outbox.file_writer
        kind = type(scalar_value)
        if (
            (kind is float or (kind is int and -MAX_INT <= scalar_value < MAX_INT))
            and walltime is None
            and file_writer is not None
            and file_writer.direct is not None
            and (global_step is None or (type(global_step) is int and -MAX_INT <= global_step < MAX_INT))
            and type(tag) is str
            and display_name is summary_description is _UNSET
            and new_style is False
        ):
            put, sink = file_writer.direct
            item = (SCALAR, self._scalar_tags[tag], float(scalar_value), global_step, time())
            put(sink, item, EVENT_BYTES, False, since)
            return
        self._add_any_scalar(
            tag,
            scalar_value,
            global_step,
            walltime,
            display_name,
            summary_description,
            new_style,
            double_precision,
        )

    def _add_any_scalar(
        self,
        tag: str,
        value: Any,
        global_step: Any,
        walltime: Any,
        title: Any,
        description: Any,
        new_style: bool,
        double_precision: bool,
    ) -> None:
        if isinstance(title, bool):
            new_style, title = new_style or title, ""
        if isinstance(description, bool):
            double_precision, description = double_precision or description, ""
        name = self._name(tag, "add_scalar")
        place = f"add_scalar({name!r})"
        title = checked_tag("" if title is None else title, place, "display_name")
        description = checked_tag("" if description is None else description, place, "summary_description")
        with self.outbox.guarded(place) as since:
            file_writer = self.outbox.main()
            step, wall_time = self.outbox.stamp(place, global_step, walltime)
            encode = functools.partial(_titled, name, title, description, new_style, double_precision)
            if not (title or description or new_style):
                item = scalar_item("scalar_value", name, value, step, wall_time, place)
                file_writer.put(*item, since)
            elif isinstance(value, torch.Tensor) and not value.is_cpu:
                part = take_number(value, "scalar_value")
                self.outbox.put_summary(place, [name], [part], encode, step, wall_time, since, DEVICE)
            else:
                file_writer.add_summary(encode(as_float(value, "scalar_value")), step, wall_time)
            if self._comet_on:
                self._get_comet_logger().log_metric(tag, title, value, global_step)

    def add_scalars(
        self,
        main_tag: str,
        tag_scalar_dict: dict[str, Any],
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Logs numbers to one chart, each as a run of its own in the sub-directory ``main_tag/tag``.

        The last 65,536 points of each series are also kept in memory for ``export_scalars_to_json``, until
        ``close``.

        Args:
            main_tag: name of the chart.
            tag_scalar_dict: value by name, as in ``add_scalar``.
        """
        name = self._name(main_tag, "add_scalars", "main_tag")
        method = f"add_scalars({name!r})"
        if not hasattr(tag_scalar_dict, "items"):
            raise TypeError(f"{method}: tag_scalar_dict must be a dict, not {type(tag_scalar_dict).__name__}")
        logdir = str(self.outbox.main().get_logdir())
        stamp = None
        for tag, value in tag_scalar_dict.items():
            checked_tag(tag, method, "a key of tag_scalar_dict")
            argument = f"tag_scalar_dict[{tag!r}]"
            place = f"add_scalars({name!r}, {argument})"
            with self.outbox.guarded(place) as since:
                step, wall_time = stamp = stamp or self.outbox.stamp(method, global_step, walltime)
                path = self._scalars_directory(logdir, main_tag, tag)
                record: list[Any] = [wall_time, step]
                item = scalar_item(argument, name, value, step, wall_time, place, record)
                self.outbox.beside(path).put(*item, since)
                if self._keeps_scalars:
                    self.scalar_dict.setdefault(path, deque(maxlen=_KEPT_POINTS)).append(record)
        if self._comet_on:
            self._get_comet_logger().log_metrics(tag_scalar_dict, main_tag, step=global_step)

    def export_scalars_to_json(self, path: Any) -> None:
        """Writes what ``add_scalars`` has logged so far and forgets it.

        The file holds {directory: [[wall time, step, value], ...], ...}, of each series the last 65,536
        points.
        """
        self.flush()
        self.scalar_dict = {series: list(points) for series, points in self.scalar_dict.items()}
        super().export_scalars_to_json(path)


def _titled(name: str, title: str, description: str, new_style: bool, double: bool, number: Any) -> Summary:
    value = float(np.reshape(number, ()))
    summary = tbx.scalar("", value, title, description)
    summary.value[0].tag = name
    if new_style:
        use_tensor(summary.value[0], value, double)
    return summary
