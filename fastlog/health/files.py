"""Histories from the event files of a log directory, fastlog's or anybody's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tensorboardX.proto.summary_pb2 import Summary

from fastlog.health.builder import MOST_SCALARS, HistoryBuilder
from fastlog.health.foreign import heads_of_histograms
from fastlog.health.history import GRADIENTS, WEIGHTS, Floats, History
from fastlog.health.losses import find_losses, words
from fastlog.health.record import PLUGIN, TAG, Observation, RecordReader
from fastlog.runs import Run, load
from fastlog.runs.event_file import HISTOGRAM, TENSOR, EventFile, Rows
from fastlog.summaries.packed import HEAD, Heads

Scalars = tuple[npt.NDArray[np.int64], Floats]
"""Steps and values."""

_KINDS = {
    "weights": WEIGHTS,
    "weight": WEIGHTS,
    "params": WEIGHTS,
    "parameters": WEIGHTS,
    "gradients": GRADIENTS,
    "gradient": GRADIENTS,
    "grads": GRADIENTS,
    "grad": GRADIENTS,
    "updates": "updates",
    "activations": "activations",
}
_AFTER = re.compile(r"^(?P<name>.+)[./_](?P<kind>grad|grads|gradient|gradients)$")
_KERAS = re.compile(r"^(?P<name>.+/(?:kernel|bias|gamma|beta|embeddings)(?:_\d+)?)(?:/histogram)?$")
_RATES = {"lr", "learning_rate"}
_AT_ONCE = 256  # steps whose payloads are in memory


def read(logdir: str | os.PathLike[str], loss: str | None = None) -> list[tuple[Run, History]]:
    """All runs below a directory that have scalars, histograms or records, with their histories.

    What cannot be read is passed over: the torn end of a file, unknown events and versions.

    Args:
        logdir: a directory, or one event file.
        loss: tag of the loss; None: by convention.

    Raises:
        FileNotFoundError: ``logdir`` is not there, or holds no event file.
    """
    loaded = load(logdir, strict=False)
    if not isinstance(loaded, Run):
        found = loaded
    elif os.path.isfile(logdir):
        found = {Path(logdir).parent.name or ".": loaded}
    else:
        found = {loaded.name: loaded}
    made = [(run, history) for name, run in found.items() for history in _histories(run, name, loss)]
    made = [(run, history) for run, history in made if len(history.steps) or history.scalars]
    _add_validation([history for _, history in made])
    return made


def _histories(run: Run, name: str, loss: str | None) -> Iterator[History]:
    """One, or one for each model that was watched."""
    scalars = {tag: _scalars(run, tag) for tag in run.tags["scalars"]}
    names = {tag.name for file in run.files for tag in file.tags if tag.plugin == PLUGIN}
    for tag in sorted(names) or [""]:
        builder = HistoryBuilder(name)
        builder.loss_tag = loss
        for file in run.files:  # each begins with another process
            builder.begin()
            _add_records(builder, file, tag)
        if not builder.count and len(names) < 2:
            _add_foreign(builder, scalars, run.files)
        history = builder.history()
        history.scalars = dict(scalars)
        history.model = tag.removesuffix(TAG).rstrip("/")
        yield history


def _scalars(run: Run, tag: str) -> Scalars:
    """Steps and values; of very many the older ones are sparser."""
    series = run.scalars(tag)
    kept = np.arange(len(series))
    while len(kept) >= MOST_SCALARS:
        half = len(kept) // 2
        kept = np.concatenate([kept[1:half:2], kept[half:]])
    return series.steps[kept], series.values[kept]


def _add_records(builder: HistoryBuilder, file: EventFile, name: str) -> None:
    of_health = [number for number, tag in enumerate(file.tags) if (tag.plugin, tag.name) == (PLUGIN, name)]
    rows, reader = file.rows, RecordReader()
    rows = rows[np.isin(rows["tag"], of_health)]
    for first in range(0, len(rows), _AT_ONCE):
        some = rows[first : first + _AT_ONCE]
        for row, payload in zip(some, file.payloads(some), strict=True):
            content = Summary.Value.FromString(payload).metadata.plugin_data.content
            seen = reader.read(int(row["step"]), float(row["wall_time"]), content)
            if seen is not None:
                builder.add(seen)


def _add_foreign(builder: HistoryBuilder, scalars: Mapping[str, Scalars], files: Sequence[EventFile]) -> None:
    """Observations from the histograms of others; where there are none, from the steps of the scalars."""
    builder.source = "other"
    rates = [s for tag, s in scalars.items() if set(words(tag)) & _RATES or tag in _RATES]
    lr_at = dict(zip(rates[0][0].tolist(), rates[0][1].tolist(), strict=True)) if rates else {}
    lr = float("nan")
    histograms = _Histograms(files)
    seen = histograms.observations()
    if not len(histograms.steps):
        steps = np.unique(np.concatenate([np.empty(0, np.int64), *(steps for steps, _ in scalars.values())]))
        seen = iter([(step, 0.0, {}) for step in steps.tolist()])
    for step, wall_time, kinds in seen:
        lr = lr_at.get(step, lr)
        builder.add(Observation(step, wall_time, kinds, lr=(lr,) if rates else ()))


class _Histograms:
    """The histograms of tensors in some files, step by step."""

    def __init__(self, files: Sequence[EventFile]) -> None:
        self._columns: dict[str, dict[str, int]] = {}  # of the names of each kind
        self._files = [(file, *self._rows_of(file)) for file in files]
        self.steps = np.unique(
            np.concatenate([np.empty(0, np.int64), *(r["step"] for _, r, _ in self._files)])
        )

    def _rows_of(self, file: EventFile) -> tuple[Rows, dict[int, tuple[str, int]]]:
        """The rows with histograms, and which kind and column each tag is."""
        of_tag: dict[int, tuple[str, int]] = {}
        for number, tag in enumerate(file.tags):
            if (found := kind_and_name(tag.name)) is not None:
                kind, name = found
                columns = self._columns.setdefault(kind, {})
                of_tag[number] = kind, columns.setdefault(name, len(columns))
        rows = file.rows
        rows = rows[np.isin(rows["tag"], list(of_tag))]
        tensors = [number for number, tag in enumerate(file.tags) if tag.plugin == "histograms"]
        as_tensors = (rows["kind"] == TENSOR) & np.isin(rows["tag"], tensors)
        return rows[(rows["kind"] == HISTOGRAM) | as_tensors], of_tag

    def observations(self) -> Iterator[tuple[int, float, dict[str, tuple[tuple[str, ...], Heads]]]]:
        """Step, time, and names and heads by kind."""
        for first in range(0, len(self.steps), _AT_ONCE):
            steps = self.steps[first : first + _AT_ONCE]
            heads = {kind: np.zeros((len(steps), len(c)), HEAD) for kind, c in self._columns.items()}
            present = {kind: np.zeros(table.shape, bool) for kind, table in heads.items()}
            times = np.zeros(len(steps))
            for file, rows, of_tag in self._files:
                some = rows[(rows["step"] >= steps[0]) & (rows["step"] <= steps[-1])]
                at = np.searchsorted(steps, some["step"])
                times[at] = some["wall_time"]
                for row_kind in (HISTOGRAM, TENSOR):
                    chosen = some["kind"] == row_kind
                    decoded = zip(at[chosen], some["tag"][chosen], *_decode(file, some[chosen]), strict=True)
                    for i, tag, head, is_whole in decoded:
                        if is_whole:
                            kind, column = of_tag[tag]
                            heads[kind][i, column], present[kind][i, column] = head, True
            for i, step in enumerate(steps.tolist()):
                yield (
                    step,
                    float(times[i]),
                    {
                        kind: (
                            tuple(np.array(list(columns), object)[present[kind][i]]),
                            heads[kind][i, present[kind][i]],
                        )
                        for kind, columns in self._columns.items()
                        if present[kind][i].any()
                    },
                )


def _decode(file: EventFile, rows: Rows) -> tuple[Heads, npt.NDArray[np.bool_]]:
    """The heads of histograms, and which of them could be read."""
    try:
        return heads_of_histograms(*file.histograms(rows)), np.ones(len(rows), bool)
    except ValueError:
        if len(rows) == 1:
            return np.zeros(1, HEAD), np.zeros(1, bool)
    parts = [_decode(file, rows[i : i + 1]) for i in range(len(rows))]
    return np.concatenate([heads for heads, _ in parts]), np.concatenate([whole for _, whole in parts])


def kind_and_name(tag: str) -> tuple[str, str] | None:
    """What the tag of a histogram says it is of: "weights/NAME", "NAME.grad", "NAME/grad", Keras's
    "NAME/kernel_0"; a name that ends like a parameter's is a weight. None: something else.
    """
    first, _, rest = tag.partition("/")
    if first.lower() in _KINDS and rest:
        return _KINDS[first.lower()], rest
    if match := _AFTER.match(tag):
        return GRADIENTS, match["name"]
    if match := _KERAS.match(tag):
        return WEIGHTS, match["name"]
    if tag.endswith((".weight", ".bias", "/weight", "/bias")):
        return WEIGHTS, tag
    return None


def _add_validation(histories: Sequence[History]) -> None:
    """Keras writes the validation to a directory beside that of the training: it belongs to the same run."""
    by_run = {history.run: history for history in histories}
    for history in histories:
        parent, _, last = history.run.rpartition("/")
        sibling = by_run.get(f"{parent}/validation".lstrip("/"))
        if last == "train" and sibling is not None:
            for tag, series in sibling.scalars.items():
                history.scalars.setdefault(f"validation/{tag}", series)
    for history in histories:
        found = find_losses(history.scalars, history.loss_tag)
        history.loss_tag, history.validation_tag = history.loss_tag or found.training, found.validation
