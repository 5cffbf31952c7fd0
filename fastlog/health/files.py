"""Histories from the event files of a log directory, fastlog's or anybody's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastlog.health import event_files
from fastlog.health.builder import HistoryBuilder
from fastlog.health.event_files import Value
from fastlog.health.history import GRADIENTS, HEAD, WEIGHTS, History
from fastlog.health.losses import find_losses, words
from fastlog.health.record import PLUGIN, Names, Observation, RecordReader

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


def read(logdir: str | os.PathLike[str], loss: str | None = None) -> list[History]:
    """The histories of all runs below a directory that have scalars, histograms or records.

    What cannot be read is passed over: the torn end of a file, unknown events and versions.

    Args:
        logdir: a directory, or one event file.
        loss: tag of the loss; None: by convention.
    """
    histories = []
    for run, paths in event_files.runs_of(logdir).items():
        builder = HistoryBuilder(run)
        builder.loss_tag = loss
        _Reader(builder).read(paths)
        history = builder.history()
        if builder.count or history.scalars:
            histories.append(history)
    return _with_validation(histories)


class _Reader:
    """One run."""

    def __init__(self, builder: HistoryBuilder) -> None:
        self._builder = builder
        self._foreign: dict[int, dict[str, dict[str, Any]]] = {}
        self._times: dict[int, float] = {}

    def read(self, paths: Iterable[Path]) -> None:
        """All files of the run; each begins with another process."""
        for path in paths:
            self._builder.begin()
            records = RecordReader()
            for value in event_files.values(path):
                if value.plugin == PLUGIN:
                    seen = records.read(value.step, value.wall_time, value.proto.metadata.plugin_data.content)
                    if seen is not None:
                        self._builder.add(seen)
                else:
                    self._take(value)
        if not self._builder.count:
            self._add_foreign()

    def _take(self, value: Value) -> None:
        number = event_files.number_of(value)
        if number is not None:
            self._builder.scalar(value.tag, value.step, number)
            return
        found = kind_and_name(value.tag)
        buckets = event_files.buckets_of(value) if found is not None else None
        if found is not None and buckets is not None:
            kind, name = found
            self._foreign.setdefault(value.step, {}).setdefault(kind, {})[name] = head_of(value, buckets)
            self._times[value.step] = value.wall_time

    def _add_foreign(self) -> None:
        """Observations from the histograms of others."""
        self._builder.source = "other"
        rates = [s for tag, s in self._builder.scalars.items() if set(words(tag)) & _RATES or tag in _RATES]
        lr_at = dict(zip(*rates[0], strict=True)) if rates else {}
        steps = sorted(self._foreign) or sorted(
            {s for steps, _ in self._builder.scalars.values() for s in steps}
        )
        known = float("nan")
        for step in steps:
            known = lr_at.get(step, known)
            kinds: dict[str, tuple[Names, Any]] = {
                kind: (tuple(heads), np.array(list(heads.values()), HEAD))
                for kind, heads in self._foreign.get(step, {}).items()
            }
            lr = (known,) if rates else ()
            self._builder.add(Observation(step, self._times.get(step, 0.0), kinds, lr=lr))


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


def head_of(value: Value, buckets: Any) -> Any:
    """What a histogram says of a summary: exact where it says it itself, else from its buckets."""
    head = np.zeros((), HEAD)
    head["min"], head["max"] = np.inf, -np.inf
    counts = buckets[:, 2] if len(buckets) else np.empty(0)
    proto = value.proto.histo if value.proto.HasField("histo") else None
    inside = round(float(counts.sum()))
    head["num"] = int(proto.num) if proto is not None else inside
    head["num_finite"] = inside
    full = buckets[counts > 0] if len(buckets) else buckets
    if not len(full):
        return head
    middle = np.clip((full[:, 0] + full[:, 1]) / 2, full[0, 0], full[-1, 1])
    head["min"], head["max"] = (proto.min, proto.max) if proto is not None else (full[0, 0], full[-1, 1])
    head["sum"] = proto.sum if proto is not None else float((middle * full[:, 2]).sum())
    head["sum_squares"] = (
        proto.sum_squares if proto is not None else float((middle * middle * full[:, 2]).sum())
    )
    largest = max(abs(float(head["min"])), abs(float(head["max"])))
    head["abs_max"] = largest
    # the narrow bucket beside 0 holds the zeros, and next to nothing else
    narrow = full[:, 1] - full[:, 0] < max(1e-6 * largest, 1.1e-12)
    at_zero = (full[:, 0] <= 0) & (full[:, 1] >= 0) & narrow
    head["zeros"] = round(float(full[at_zero, 2].sum()))
    if head["min"] == head["max"] == 0:
        head["zeros"] = head["num_finite"]
    return head


def _with_validation(histories: list[History]) -> list[History]:
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
    return histories
