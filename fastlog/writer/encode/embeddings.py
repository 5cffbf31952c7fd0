"""What TensorBoard's projector reads: points with their labels and images, as files beside the event file."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboardX import embedding
from tensorboardX.utils import make_grid

from fastlog.events.sinks.outputs import fetch, is_remote, send
from fastlog.writer.encode.media import Array, Encoding, listed, pixels
from fastlog.writer.encode.snapshots import Snapshot, take
from fastlog.writer.tags import encodable

_CONFIG = "projector_config.pbtxt"
_NOTHING = "(empty)"  # the projector skips blank lines, and then refuses all labels

_remote_configs: dict[str, bytes] = {}  # by log directory: stores have no way to append


def take_labels(metadata: Any, header: Sequence[Any] | None) -> list[Any] | Snapshot:
    """The labels of points: as strings, a list for each point where the header has several columns. A tensor,
    or a list of tensors, is not looked at yet."""
    tensors = metadata if isinstance(metadata, (list, tuple)) and metadata else [metadata]
    if all(isinstance(value, torch.Tensor) for value in tensors):
        return take(metadata, "metadata")
    return _labels(metadata, header)


def _labels(metadata: Any, header: Sequence[Any] | None) -> list[Any]:
    columns = len(header or ())
    if not columns:
        return [_cell(label) for label in listed(metadata, "metadata")]
    rows = [[_cell(label) for label in listed(row, "metadata")] for row in listed(metadata, "metadata")]
    if any(len(row) != columns for row in rows):
        raise ValueError(f"metadata has rows of other lengths than metadata_header, which has {columns}")
    return rows if columns > 1 else [label for (label,) in rows]


def _cell(label: Any) -> str:
    """The label in one cell of a table: tabs and line breaks would shift all that is behind them."""
    text = encodable(" ".join(str(label).splitlines()).replace("\t", " "))
    return text if text.strip() else _NOTHING


def check(shape: Sequence[int], labels: list[Any] | Snapshot | None, images: Sequence[int] | None) -> None:
    """Raises ValueError unless the points, their labels and their images fit each other and a sprite."""
    if len(shape) != 2:
        raise ValueError(f"mat has shape {tuple(shape)}; expected (points, dimensions)")
    if labels is not None:
        labelled = labels.shape[:1] if isinstance(labels, Snapshot) else (len(labels),)
        if labelled != (shape[0],):
            raise ValueError(f"metadata has {sum(labelled)} labels for {shape[0]} points")
    if images is None:
        return
    if len(images) != 4 or images[0] != shape[0] or images[1] not in (1, 3, 4) or 0 in images:
        raise ValueError(
            f"label_img has shape {tuple(images)}; expected ({shape[0]}, 1 or 3 or 4, height, width)"
        )
    side = _columns(images) * images[3]
    if side > embedding.TB_MAX_SPRITE_SIZE:
        raise ValueError(
            f"label_img makes a sprite of {side} pixels a side; {embedding.TB_MAX_SPRITE_SIZE} fit"
        )


def _columns(images: Sequence[int]) -> int:
    """How many images of this shape stand in a row, so that all of them fit a square."""
    count, _, height, width = images
    columns = math.isqrt(count - 1) + 1
    while -(-count // columns) * height > columns * width:
        columns += 1
    return columns


def _sprite(images: Array, encoding: Encoding) -> Array:
    """All images in one square, row by row, as (side, side, channels) pixels."""
    values = images if images.dtype == np.uint8 else images.astype(float)  # as both libraries
    shown = pixels("label_img", values, encoding._replace(as_torch=False))
    grid = make_grid(shown, ncols=_columns(images.shape)).transpose(1, 2, 0)
    side = _columns(images.shape) * images.shape[3]
    square = np.zeros((side, side, grid.shape[2]), np.uint8)
    square[: grid.shape[0], : grid.shape[1]] = grid
    return square


def write(
    logdir: str,
    path: str,
    tag: str,
    step: int,
    points: Array,
    labels: list[Any] | Snapshot | None,
    header: Sequence[Any] | None,
    images: Array | None,
    encoding: Encoding,
) -> None:
    """Writes the projector's files to ``path``, which is below ``logdir``, and adds them to its
    configuration. Both may be URLs.

    Raises:
        OSError, or what a remote store raises.
    """
    if isinstance(labels, Snapshot):
        labels = _labels(torch.from_numpy(labels.array()), header)
    below = os.path.relpath(path, logdir).replace(os.sep, "/")
    sprite = None if images is None else _sprite(images, encoding)
    with tempfile.TemporaryDirectory() if is_remote(logdir) else nullcontext(logdir) as local:
        _write_files(os.path.join(local, below), points, labels, header, sprite)
        embedding.append_pbtxt(labels, images, local, _quotable(below), step, _quotable(tag))
        if local != logdir:
            _send(Path(local), logdir)


def _write_files(
    path: str,
    points: Array,
    labels: list[Any] | None,
    header: Sequence[Any] | None,
    sprite: Array | None,
) -> None:
    os.makedirs(path, exist_ok=True)
    if labels is not None:
        names = [_cell(name) for name in header or ()]
        # a single column must not have a header
        embedding.make_tsv(labels, path, metadata_header=names if len(names) > 1 else None)
    if sprite is not None:
        from PIL import Image

        Image.fromarray(sprite).save(os.path.join(path, "sprite.png"))
    with open(os.path.join(path, "tensors.tsv"), "w") as file:
        file.writelines("\t".join(map(str, row.tolist())) + "\n" for row in points)


def _send(local: Path, logdir: str) -> None:
    """Copies a directory into a remote one; its configuration is added to the one there."""
    for file in sorted(local.rglob("*")):
        if file.is_file() and file.name != _CONFIG:
            send(f"{logdir}/{file.relative_to(local).as_posix()}", file.read_bytes())
    config = f"{logdir}/{_CONFIG}"
    before = _remote_configs.get(logdir)
    if before is None:
        before = fetch(config) or b""
    content = before + (local / _CONFIG).read_bytes()
    send(config, content)
    _remote_configs[logdir] = content


def _quotable(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
