"""A run: what one directory's event files say together, as NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fastlog.runs.event_file import (
    AUDIO,
    HISTOGRAM,
    IMAGE,
    SCALAR,
    SESSION_START,
    TENSOR,
    EventFile,
    Rows,
    Tag,
)
from fastlog.summaries.summary import EDGES

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
HPARAMS_TAG = "_hparams_/session_start_info"


@dataclass(frozen=True)
class Series:
    """What was logged under one tag. Arrays have an element for each event, in the order of the files.

    Attributes:
        steps: int64 [n].
        wall_times: float64 [n], seconds since the epoch.
        values: scalars: float64 [n] (files hold float32); texts: list of str; images and audio: list of
            bytes, encoded (PNG, WAV).
    """

    steps: Integers
    wall_times: Floats
    values: Any

    def __len__(self) -> int:
        return len(self.steps)

    def frame(self) -> Any:
        """A data frame with a row for each event: pandas where it is installed, else polars.

        Raises:
            ImportError: neither is installed.
        """
        return _frame({"step": self.steps, "wall_time": self.wall_times, "value": self.values})


@dataclass(frozen=True)
class Histograms:
    """The histograms of one tag.

    Attributes:
        steps: int64 [n].
        wall_times: float64 [n], seconds since the epoch.
        min, max, num, sum, sum_squares: float64 [n], as the file has them; TensorFlow's and Keras's files
            have none, and these are estimates from the buckets.
        limits, counts: of each histogram an array of its buckets' upper limits and counts.
    """

    steps: Integers
    wall_times: Floats
    min: Floats
    max: Floats
    num: Floats
    sum: Floats
    sum_squares: Floats
    limits: Sequence[Floats]
    counts: Sequence[Floats]

    def __len__(self) -> int:
        return len(self.steps)

    @cached_property
    def bins(self) -> Integers | None:
        """Counts over the 1548 default bins (``EDGES``), int64 [n, 1548]: two of them can be subtracted.

        None where a histogram was made with other bins.
        """
        dense = np.zeros((len(self), len(EDGES) - 1), np.int64)
        for row, limits, counts in zip(dense, self.limits, self.counts, strict=True):
            occupied = np.flatnonzero(counts)
            if not len(occupied):
                continue
            right = np.searchsorted(EDGES, limits[occupied])
            left = limits[np.maximum(occupied - 1, 0)]
            inside = (occupied > 0) & (right > 0) & (right < len(EDGES))
            right = np.where(inside, right, 1)
            if not (inside & (EDGES[right] == limits[occupied]) & (EDGES[right - 1] == left)).all():
                return None
            row[right - 1] = counts[occupied].astype(np.int64)
        return dense

    def quantile(self, q: float) -> Floats:
        """The value below which the share ``q`` of the values lies, float64 [n]; NaN where there is none.

        Within a bucket the values are taken to be spread evenly, so the result is as exact as the bucket is
        narrow.

        Raises:
            ValueError: ``q`` is not within 0 and 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"quantile: q={q} must be between 0 and 1")
        return np.array([self._quantile(i, q) for i in range(len(self))])

    def _quantile(self, i: int, q: float) -> float:
        limits, counts = self.limits[i], self.counts[i]
        total = float(counts.sum())
        if not total:
            return math.nan
        upto = np.cumsum(counts)
        at = min(int(np.searchsorted(upto, q * total)), len(counts) - 1)
        low = limits[at - 1] if at else self.min[i]
        share = (q * total - (upto[at] - counts[at])) / counts[at] if counts[at] else 0.0
        return float(np.clip(low + share * (limits[at] - low), self.min[i], self.max[i]))

    def frame(self) -> Any:
        """A data frame with a row for each histogram; ``limits`` and ``counts`` are lists.

        Raises:
            ImportError: neither pandas nor polars is installed.
        """
        names = ("min", "max", "num", "sum", "sum_squares")
        return _frame(
            {
                "step": self.steps,
                "wall_time": self.wall_times,
                **{name: getattr(self, name) for name in names},
                "limits": [limits.tolist() for limits in self.limits],
                "counts": [counts.tolist() for counts in self.counts],
            }
        )


class Run:
    """A run that was logged to event files; made by ``fastlog.load``.

    Attributes:
        name: the directory, relative to the log directory.
        files: the event files, in the order in which they were begun.
    """

    __module__ = "fastlog"

    def __init__(
        self, name: str, find: Callable[[], Sequence[str]], strict: bool, purge: bool, follow: bool
    ) -> None:
        self.name = name
        self.files: list[EventFile] = []
        self._find = find
        self._strict = strict
        self._purge = purge
        self._follow = follow
        self._index: dict[str, tuple[Tag, list[Rows]]] = {}
        self.update()

    def update(self) -> None:
        """Reads what the files have gained, and new files of the run. ``follow=True`` does it by itself."""
        known = {file.path for file in self.files}
        for file in self.files:
            file.update()
        self.files += [EventFile(path, self._strict) for path in self._find() if path not in known]
        self._index = self._make_index()

    @property
    def tags(self) -> dict[str, list[str]]:
        """Tags by what they hold: "scalars", "histograms", "images", "audio", "texts", "tensors"."""
        self._look_again()
        kinds = ("scalars", "histograms", "images", "audio", "texts", "tensors")
        found: dict[str, list[str]] = {kind: [] for kind in kinds}
        for name, (tag, rows) in self._index.items():
            if kind := _kind_of(tag, rows):
                found[kind].append(name)
        return found

    @property
    def first_step(self) -> int | None:
        """The smallest step of any value; None where there is none."""
        return min(self._steps(), default=None)

    @property
    def last_step(self) -> int | None:
        """The largest step of any value; None where there is none."""
        return max(self._steps(), default=None)

    @property
    def torn_bytes(self) -> int:
        """Bytes of records that are being written, or were cut off by a kill or a full disk."""
        return sum(file.torn_bytes for file in self.files)

    @property
    def skipped_bytes(self) -> int:
        """Bytes of corrupt records that were passed over (``strict=False``)."""
        return sum(file.skipped_bytes for file in self.files)

    def scalars(self, tag: str) -> Series:
        """The scalars of a tag. Raises KeyError where there are none."""
        rows = self._rows(tag, "scalars")
        of_kind = [part[part["kind"] == SCALAR] for part in rows]
        joined = np.concatenate(of_kind)
        return Series(joined["step"].copy(), joined["wall_time"].copy(), joined["value"].copy())

    def histograms(self, tag: str, most: int | None = None) -> Histograms:
        """The histograms of a tag: all, or ``most`` of them, evenly spaced, the first and the last included.

        Raises:
            KeyError: there are none.
            ValueError: one is malformed, or ``most`` is less than 1.
        """
        if most is not None and most < 1:
            raise ValueError(f"histograms: most={most} must be at least 1")
        rows = self._rows(tag, "histograms")
        kind = next(part["kind"][0] for part in rows if len(part))
        parts = [part[part["kind"] == kind] for part in rows]
        number = sum(map(len, parts))
        if most is not None and most < number:
            chosen = np.zeros(number, bool)
            chosen[np.linspace(0, number - 1, most).round().astype(int)] = True
            inside = np.split(chosen, np.cumsum([len(part) for part in parts])[:-1])
            parts = [part[kept] for part, kept in zip(parts, inside, strict=True)]
        decoded = [file.histograms(part) for file, part in zip(self.files, parts, strict=True) if len(part)]
        joined = np.concatenate(parts)
        moments = np.concatenate([moments for moments, *_ in decoded])
        limits: list[Floats] = []
        counts: list[Floats] = []
        for _, all_limits, all_counts, ends in decoded:
            limits += np.split(all_limits, ends[:-1])
            counts += np.split(all_counts, ends[:-1])
        low, high, num, total, squares = moments.T
        return Histograms(
            joined["step"].copy(), joined["wall_time"].copy(), low, high, num, total, squares, limits, counts
        )

    def texts(self, tag: str) -> Series:
        """The texts of a tag, without the suffix ``/text_summary`` of their tags in the file."""
        name = tag if tag in self._index else f"{tag}/text_summary"
        return self._series(name, "texts", TENSOR, _text)

    def images(self, tag: str) -> Series:
        """The encoded images (PNG, GIF) of a tag, as bytes."""
        return self._series(tag, "images", IMAGE, _encoded_image)

    def audio(self, tag: str) -> Series:
        """The encoded audio (WAV) of a tag, as bytes."""
        return self._series(tag, "audio", AUDIO, _encoded_audio)

    def raw(self, tag: str) -> Series:
        """The serialized protos of a tag (``TensorProto`` for tensors), as bytes, whatever its kind."""
        return self._series(tag, None, None, bytes)

    @property
    def hparams(self) -> dict[str, Any]:
        """The hyperparameters that ``add_hparams`` logged; empty where there are none."""
        from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

        self._look_again()
        if HPARAMS_TAG not in self._index:
            return {}
        data = HParamsPluginData.FromString(self._index[HPARAMS_TAG][0].content)
        return {
            name: getattr(value, value.WhichOneof("kind") or "string_value")
            for name, value in data.session_start_info.hparams.items()
        }

    def __repr__(self) -> str:
        found = ", ".join(f"{len(tags)} {kind}" for kind, tags in self.tags.items() if tags)
        return f"Run({self.name!r}, steps {self.first_step} to {self.last_step}: {found or 'nothing'})"

    def _series(
        self, tag: str, kind: str | None, number: int | None, decode: Callable[[bytes], Any]
    ) -> Series:
        parts = [part if number is None else part[part["kind"] == number] for part in self._rows(tag, kind)]
        joined = np.concatenate(parts)
        values = [
            decode(payload)
            for file, part in zip(self.files, parts, strict=True)
            for payload in file.payloads(part)
        ]
        return Series(joined["step"].copy(), joined["wall_time"].copy(), values)

    def _rows(self, name: str, kind: str | None) -> list[Rows]:
        """The rows of a tag, file by file."""
        self._look_again()
        tag, rows = self._index.get(name, (None, []))
        if tag is None or kind not in (None, _kind_of(tag, rows)):
            raise KeyError(f"no {kind or 'value'} with the tag {name!r} in the run {self.name!r}")
        return rows

    def _steps(self) -> Iterator[int]:
        self._look_again()
        for _, rows in self._index.values():
            for part in rows:
                if len(part):
                    yield int(part["step"].min())
                    yield int(part["step"].max())

    def _look_again(self) -> None:
        if self._follow:
            self.update()

    def _make_index(self) -> dict[str, tuple[Tag, list[Rows]]]:
        tables = [file.rows for file in self.files]
        if self._purge:
            tables = _without_purged(tables)
        index: dict[str, tuple[Tag, list[Rows]]] = {}
        for number, (file, table) in enumerate(zip(self.files, tables, strict=True)):
            tags = file.tags
            by_tag = table[np.argsort(table["tag"], kind="stable")]
            by_tag = by_tag[np.searchsorted(by_tag["tag"], 0) :]  # the others are no values
            starts = np.flatnonzero(np.diff(by_tag["tag"], prepend=-1))
            for part in np.split(by_tag, starts[1:]) if len(by_tag) else []:
                tag = tags[part["tag"][0]]
                known, rows = index.setdefault(
                    tag.name, (tag, [np.zeros(0, table.dtype) for _ in self.files])
                )
                if not known.plugin and tag.plugin:
                    index[tag.name] = (tag, rows)
                rows[number] = part
        return index


def _without_purged(tables: Sequence[Rows]) -> list[Rows]:
    """A session that starts at a step replaces what was logged before at this step and after.

    The first session of a run replaces nothing, as in TensorBoard (EventAccumulator).
    """
    starts = [np.flatnonzero(table["kind"] == SESSION_START) for table in tables]
    if sum(map(len, starts)) < 2:
        return list(tables)
    keep = [np.ones(len(table), bool) for table in tables]
    started = False
    for number, table in enumerate(tables):
        for at in starts[number]:
            if started:
                step = table["step"][at]
                for before in range(number):
                    keep[before] &= tables[before]["step"] < step
                keep[number][:at] &= table["step"][:at] < step
            started = True
    return [table[kept] for table, kept in zip(tables, keep, strict=True)]


def _kind_of(tag: Tag, rows: Sequence[Rows]) -> str | None:
    """What a tag holds, by its first value and the plugin that shows it."""
    kinds = [int(part["kind"][0]) for part in rows if len(part)]
    if not kinds:
        return None
    if kinds[0] == TENSOR:
        return {"text": "texts", "histograms": "histograms"}.get(tag.plugin, "tensors")
    return {SCALAR: "scalars", HISTOGRAM: "histograms", IMAGE: "images", AUDIO: "audio"}.get(kinds[0])


def _text(payload: bytes) -> str:
    from tensorboardX.proto.tensor_pb2 import TensorProto

    strings = TensorProto.FromString(payload).string_val
    return strings[0].decode("utf-8", "replace") if strings else ""


def _encoded_image(payload: bytes) -> bytes:
    from tensorboardX.proto.summary_pb2 import Summary

    return bytes(Summary.Image.FromString(payload).encoded_image_string)


def _encoded_audio(payload: bytes) -> bytes:
    from tensorboardX.proto.summary_pb2 import Summary

    return bytes(Summary.Audio.FromString(payload).encoded_audio_string)


def _frame(columns: dict[str, Any]) -> Any:
    try:
        import pandas

        return pandas.DataFrame(columns)
    except ImportError:
        pass
    try:
        import polars

        return polars.DataFrame(columns)
    except ImportError as error:
        raise ImportError("frame() needs pandas or polars: pip install pandas") from error
