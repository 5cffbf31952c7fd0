"""SummaryWriter: the front door."""

from __future__ import annotations

import functools
from collections import deque
from time import monotonic, time
from typing import Any

import numpy as np
import torch
from tensorboardX import summary as tbx
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from fastlog.common.no_compile import eager_methods
from fastlog.distributed.shards import is_dtensor
from fastlog.events.items import DEVICE, EVENT_BYTES, HISTOGRAM, JOB, RAW, SCALAR, Item
from fastlog.summaries.engines import Packed, pack_one
from fastlog.summaries.packed import NONFINITE
from fastlog.summaries.summary import TensorSummary
from fastlog.writer.bad_values import at_place
from fastlog.writer.comet import unless_comet
from fastlog.writer.encode.bins import checked_bins, of_packed, of_snapshot
from fastlog.writer.encode.media import use_tensor
from fastlog.writer.encode.snapshots import MAX_INT, as_float, no_value, take, take_one
from fastlog.writer.oddities import histogram_tags, later_items, oddities
from fastlog.writer.scalars import scalar_item, take_number
from fastlog.writer.sharded import ShardedWriter
from fastlog.writer.tags import checked_tag

_UNSET = ""
_KEPT_POINTS = 65_536  # of each series of add_scalars, for export_scalars_to_json


@eager_methods
class SummaryWriter(ShardedWriter):
    """A ``tensorboardX.SummaryWriter`` that never makes training wait.

    Same methods, arguments and defaults; what torch.utils.tensorboard spells otherwise works too. What is
    logged is the value, step and wall time at the call, even if the next line overwrites the tensor. A value
    that cannot be logged gives one warning (``on_error``); wrong use, such as a tag that is no string,
    raises TypeError at once.
    """

    __module__ = "fastlog"

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
        file_writer = self.file_writer
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
            item = (SCALAR, self._tags[tag], float(scalar_value), global_step, time())
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
        with self._guarded(place) as since:
            file_writer = self._get_file_writer()
            step, wall_time = self._stamp(place, global_step, walltime)
            encode = functools.partial(_titled, name, title, description, new_style, double_precision)
            if not (title or description or new_style):
                item = scalar_item("scalar_value", name, value, step, wall_time, place)
                file_writer.put(*item, since)
            elif isinstance(value, torch.Tensor) and not value.is_cpu:
                part = take_number(value, "scalar_value")
                self._enqueue_summary(place, [name], [part], encode, step, wall_time, since, DEVICE)
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
        logdir = str(self._get_file_writer().get_logdir())
        stamp = None
        for tag, value in tag_scalar_dict.items():
            checked_tag(tag, method, "a key of tag_scalar_dict")
            argument = f"tag_scalar_dict[{tag!r}]"
            place = f"add_scalars({name!r}, {argument})"
            with self._guarded(place) as since:
                step, wall_time = stamp = stamp or self._stamp(method, global_step, walltime)
                path = self._scalars_directory(logdir, main_tag, tag)
                record: list[Any] = [wall_time, step]
                item = scalar_item(argument, name, value, step, wall_time, place, record)
                self._sub_writer(path).put(*item, since)
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

    def add_histogram(
        self,
        tag: str,
        values: Any,
        global_step: int | None = None,
        bins: Any = "tensorflow",
        walltime: float | None = None,
        max_bins: int | None = None,
    ) -> None:
        """Logs the distribution of a tensor's values.

        If there are NaN or infinite values, their numbers are logged as the scalars ``TAG/nan`` and
        ``TAG/inf``; they are in ``num`` but in no bucket. A tensor without elements, or None (the gradient
        of a frozen parameter), logs nothing. One warning per tag says so.

        Args:
            tag: name of the series.
            values: tensor, array, number or list; any shape and real dtype. Or a ``TensorSummary``, with the
                default bins. A ``DTensor`` has to be logged on all ranks of its mesh, with the default bins;
                the writer of the first one logs the whole of it.
            bins: "tensorflow": TensorBoard's default bins, the fast way. Else what ``np.histogram`` takes,
                and its result: a number of bins, edges (what is beyond them is not counted), or the name of
                an estimator (at most 65,536 bins, with a warning).
            max_bins: adds up neighbouring bins until there are about as many.

        Raises:
            TypeError: strings, complex or quantised values, a meta tensor; says what to pass instead.
            ValueError: ``bins`` or ``max_bins`` cannot be.
        """
        name = self._name(tag, "add_histogram")
        place = f"add_histogram({name!r})"
        if not isinstance(bins, str) or bins != "tensorflow" or max_bins is not None:
            self._add_binned(name, place, values, global_step, walltime, bins, max_bins)
        else:
            with self._guarded(place) as since:
                file_writer = self._get_file_writer()
                step, wall_time = self._stamp(place, global_step, walltime)
                if is_dtensor(values):
                    self._add_sharded(name, values, step, wall_time)
                    return
                packed = self._pack(values)
                if type(packed) is not bytes:
                    run = functools.partial(later_items, self._bad_values, name, packed, step, wall_time)
                    job = (JOB, run, len(packed), True, place, DEVICE, histogram_tags(name))
                    file_writer.put(job, len(packed), True, since)
                    return
                nan, pos_inf, neg_inf, num = NONFINITE.unpack_from(packed)
                if num:
                    file_writer.put((HISTOGRAM, name, packed, step, wall_time), len(packed), True, since)
                if nan or pos_inf or neg_inf or not num:
                    inf = pos_inf + neg_inf
                    for item in oddities(self._bad_values, name, num, nan, inf, step, wall_time):
                        file_writer.put(item, 0)
        if self._comet_on:
            self._get_comet_logger().log_histogram(values, tag, global_step)

    def _pack(self, values: Any) -> Packed:
        if type(values) is TensorSummary:
            return values.to_packed()
        if values is None:
            raise no_value("values")
        return pack_one(values, "values", self._patience)

    def _add_binned(
        self, name: str, place: str, values: Any, global_step: Any, walltime: Any, bins: Any, max_bins: Any
    ) -> None:
        try:
            checked, limit = checked_bins(bins, max_bins)
        except (TypeError, ValueError) as error:
            raise at_place(place, error) from None
        bad_values = self._bad_values
        with self._guarded(place) as since:
            step, wall_time = self._stamp(place, global_step, walltime)
            if isinstance(checked, str) and checked == "tensorflow":
                packed = self._pack(values)
                parts = []
                count = functools.partial(of_packed, packed, limit)
            else:
                parts = [take(values, "values")]
                tell = functools.partial(bad_values.tell, f"{place} bins")
                count = functools.partial(
                    of_snapshot, parts[0], checked, limit, lambda text: tell(f"{place}: {text}")
                )

            def run() -> list[Item]:
                proto, nan, inf = count()
                num = int(proto.num)
                event = Event(
                    step=step,
                    wall_time=wall_time,
                    summary=Summary(value=[Summary.Value(tag=name, histo=proto)]),
                )
                odd = oddities(bad_values, name, num, nan, inf, step, wall_time)
                return [(RAW, event.SerializeToString()), *odd] if num else odd

            self._enqueue_job(place, histogram_tags(name), parts, run, since)

    @unless_comet
    def add_histogram_raw(
        self,
        tag: str,
        min: float,
        max: float,
        num: float,
        sum: float,
        sum_squares: float,
        bucket_limits: Any,
        bucket_counts: Any,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Logs a histogram that is already counted.

        Args:
            min, max, num, sum, sum_squares: of the values.
            bucket_limits: the upper limit of each bucket.
            bucket_counts: the number of values in each bucket.
        """
        tag = checked_tag(tag, "add_histogram_raw")
        place = f"add_histogram_raw({tag!r})"
        with self._guarded(place) as since:
            moments = {"min": min, "max": max, "num": num, "sum": sum, "sum_squares": sum_squares}
            numbers = [take_one(value, argument) for argument, value in moments.items()]
            rows = [take(bucket_limits, "bucket_limits"), take(bucket_counts, "bucket_counts")]
            if rows[0].shape != rows[1].shape or len(rows[0].shape) != 1:
                raise ValueError("bucket_limits and bucket_counts must be rows of one length")
            encode = functools.partial(_histogram_raw, tag)
            self._enqueue_summary(place, [tag], [*numbers, *rows], encode, global_step, walltime, since)

    def add_onnx_graph(self, onnx_model_file: Any = None, *, prototxt: Any = None) -> None:
        """Logs the graph of an ONNX file; ``prototxt`` is torch.utils.tensorboard's name of the argument."""
        super().add_onnx_graph(prototxt if onnx_model_file is None else onnx_model_file)


def _titled(name: str, title: str, description: str, new_style: bool, double: bool, number: Any) -> Summary:
    value = float(np.reshape(number, ()))
    summary = tbx.scalar("", value, title, description)
    summary.value[0].tag = name
    if new_style:
        use_tensor(summary.value[0], value, double)
    return summary


def _histogram_raw(tag: str, *parts: np.ndarray[Any, Any]) -> Any:
    *moments, limits, counts = parts
    return tbx.histogram_raw(tag, *(float(one.item()) for one in moments), limits.tolist(), counts.tolist())
