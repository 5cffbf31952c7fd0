"""Loggers beside fastlog's, opened in a directory of their own, and what is in the files afterwards."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tensorboardX
import torch.utils.tensorboard
from contenders import proto_counts
from inputs import Input
from race import OURS
from tensorboardX.proto.event_pb2 import Event

import fastlog


@contextmanager
def open_writers(directory: Path) -> Iterator[dict[str, Any]]:
    """SummaryWriters by name: fastlog's, tensorboardX's, torch's; closed at the end."""
    writers = {
        OURS: fastlog.SummaryWriter(str(directory / OURS)),
        "tensorboardX": tensorboardX.SummaryWriter(str(directory / "tensorboardX")),
        "torch.utils.tensorboard": torch.utils.tensorboard.SummaryWriter(
            str(directory / "torch.utils.tensorboard")
        ),
    }
    try:
        yield writers
    finally:
        for writer in writers.values():
            writer.close()


@contextmanager
def open_wandb(directory: Path) -> Iterator[Any | None]:
    """An offline run of wandb, or None where it is not installed."""
    if not find_spec("wandb"):
        yield None
        return
    folders = {
        name: str(directory)
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    }
    os.environ |= {**folders, "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    import wandb

    run = wandb.init(mode="offline", dir=str(directory), project="benchmark")
    try:
        yield run
    finally:
        run.finish()


@contextmanager
def open_lightning(directory: Path) -> Iterator[Any | None]:
    """Lightning's TensorBoardLogger, or None where it is not installed."""
    if not find_spec("pytorch_lightning"):
        yield None
        return
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(str(directory), name="lightning", version="")
    try:
        yield logger
    finally:
        logger.finalize("success")


def raw_events(directory: Path) -> Iterator[bytes]:
    """The serialized events of all files in the directory, which must end with a whole record."""
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        offset = 0
        while offset < len(data):
            (length,) = struct.unpack_from("<Q", data, offset)  # a TFRecord: length, checksum, data, checksum
            assert offset + 16 + length <= len(data)
            yield data[offset + 12 : offset + 12 + length]
            offset += 16 + length


def events(directory: Path) -> list[Event]:
    """The events that carry a summary."""
    parsed = (Event.FromString(raw) for raw in raw_events(directory))
    return [event for event in parsed if event.HasField("summary")]


def check_last_histogram(directory: Path, given: Input) -> None:
    """Asserts that the last event is the histogram of ``given``."""
    histogram = events(directory)[-1].summary.value[0].histo
    np.testing.assert_array_equal(proto_counts(histogram), given.expected())
    assert histogram.num == given.values.numel()
