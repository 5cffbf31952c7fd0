"""The methods that log histograms."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from tensorboardX import summary as tbx
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from fastlog.common.notices import users_line
from fastlog.distributed.shards import is_dtensor, is_whole, own_part
from fastlog.events.items import RAW, Item
from fastlog.summaries.engines import Packed, pack_one
from fastlog.summaries.packed import NONFINITE
from fastlog.summaries.summary import TensorSummary
from fastlog.writer.bad_values import at_place
from fastlog.writer.base import WriterBase
from fastlog.writer.comet import unless_comet
from fastlog.writer.encode.bins import checked_bins, of_packed, of_snapshot
from fastlog.writer.encode.histograms import histogram_tags, nonfinite_items
from fastlog.writer.encode.snapshots import no_elements, no_value, take, take_one


class HistogramMethods(WriterBase):
    """Over the default bins a tensor is summarised at the call; over others a copy is counted later."""

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
        of a frozen parameter), is a value that cannot be logged: one warning per tag, and counted.

        Args:
            tag: name of the series.
            values: tensor, array, number or list; any shape and real dtype; what NumPy masks is left out. Or
                a ``TensorSummary``, with the default bins. A ``DTensor`` has to be logged on all ranks of its
                mesh, with the default bins; the writer of the first one logs the whole of it.
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
            outbox = self.outbox
            with outbox.guarded(place) as since:
                step, wall_time = outbox.stamp(place, global_step, walltime)
                if is_dtensor(values):
                    if not values.numel():
                        raise no_elements("values")
                    if not is_whole(values):
                        self.sharding.add_histogram(name, values, step, wall_time, self.merge_timeout)
                        return
                    values, _ = own_part(values, "values")
                    if not values.numel():
                        return
                outbox.put_histogram(name, self._pack(values), step, wall_time, since)
        if self._comet_on:
            self._get_comet_logger().log_histogram(values, tag, global_step)

    def _pack(self, values: Any) -> Packed:
        if type(values) is TensorSummary:
            return values.to_packed()
        if values is None:
            raise no_value("values")
        packed = pack_one(values, "values", self.outbox.wait_seconds)
        if type(packed) is not bytes and not values.numel():
            raise no_elements("values")
        return packed

    def _add_binned(
        self, name: str, place: str, values: Any, global_step: Any, walltime: Any, bins: Any, max_bins: Any
    ) -> None:
        try:
            checked, limit = checked_bins(bins, max_bins)
        except (TypeError, ValueError) as error:
            raise at_place(place, error) from None
        bad_values, line = self.outbox.bad_values, users_line()
        with self.outbox.guarded(place) as since:
            step, wall_time = self.outbox.stamp(place, global_step, walltime)
            if isinstance(checked, str) and checked == "tensorflow":
                packed = self._pack(values)
                if type(packed) is bytes and not NONFINITE.unpack_from(packed)[-1]:
                    raise no_elements("values")
                parts = []
                count = functools.partial(of_packed, packed, limit)
            else:
                shown = values.compressed() if isinstance(values, np.ma.MaskedArray) else values
                parts = [take(shown, "values")]
                if 0 in parts[0].shape:
                    raise no_elements("values")
                tell = functools.partial(bad_values.tell, f"{place} bins", line=line)
                count = functools.partial(
                    of_snapshot, parts[0], checked, limit, lambda text: tell(f"{place}: {text}")
                )

            def run() -> list[Item]:
                proto, nan, inf = count()
                event = Event(
                    step=step,
                    wall_time=wall_time,
                    summary=Summary(value=[Summary.Value(tag=name, histo=proto)]),
                )
                beside = nonfinite_items(bad_values, name, int(proto.num), nan, inf, step, wall_time, line)
                return [(RAW, event.SerializeToString()), *beside]

            self.outbox.put_job(place, histogram_tags(name), parts, run, since)

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
        tag = self._name(tag, "add_histogram_raw")
        place = f"add_histogram_raw({tag!r})"
        with self.outbox.guarded(place) as since:
            moments = {"min": min, "max": max, "num": num, "sum": sum, "sum_squares": sum_squares}
            numbers = [take_one(value, argument) for argument, value in moments.items()]
            rows = [take(bucket_limits, "bucket_limits"), take(bucket_counts, "bucket_counts")]
            if rows[0].shape != rows[1].shape or len(rows[0].shape) != 1:
                raise ValueError("bucket_limits and bucket_counts must be rows of one length")
            encode = functools.partial(_histogram_raw, tag)
            self.outbox.put_summary(place, [tag], [*numbers, *rows], encode, global_step, walltime, since)


def _histogram_raw(tag: str, *parts: np.ndarray[Any, Any]) -> Any:
    *moments, limits, counts = parts
    return tbx.histogram_raw(tag, *(float(one.item()) for one in moments), limits.tolist(), counts.tolist())
