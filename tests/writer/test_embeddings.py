"""add_embedding, read as TensorBoard's projector reads it: a label and an image for each point."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.tensorboard
from event_files import log
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

import fastlog
from fastlog import TorchSummaryWriter


def configuration(logdir: Path) -> Any:
    return text_format.Parse((logdir / "projector_config.pbtxt").read_text(), ProjectorConfig())


def labels_as_the_projector_reads_them(logdir: Path) -> list[dict[str, str]]:
    """Blank lines do not count, and the first line is a header exactly if it has a tab."""
    (info,) = configuration(logdir).embeddings
    text = (logdir / info.metadata_path).read_text(encoding="utf8")
    lines = [line for line in text.split("\n") if line.strip()]
    names = ["label"]
    if "\t" in lines[0]:
        names = lines.pop(0).split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


LABELS: dict[str, tuple[list[Any], Any, list[dict[str, str]]]] = {
    "plain": (["a", 2, "ü"], None, [{"label": "a"}, {"label": "2"}, {"label": "ü"}]),
    "tab in the first": (["a\tb", "c", "d"], None, [{"label": "a b"}, {"label": "c"}, {"label": "d"}]),
    "line breaks": (
        ["a\r\nb", "c\u2028d", "e\n"],
        None,
        [{"label": "a b"}, {"label": "c d"}, {"label": "e"}],
    ),
    "empty": (["", "  ", "\n"], None, [{"label": "(empty)"}] * 3),
    "one column": ([["a"], ["b"], ["c"]], ["name"], [{"label": "a"}, {"label": "b"}, {"label": "c"}]),
    "a row of empty cells": (
        [["a", 1], ["", ""], ["c\t", 3]],
        ["name", "n\tn"],
        [{"name": "a", "n n": "1"}, {"name": "(empty)", "n n": "(empty)"}, {"name": "c ", "n n": "3"}],
    ),
}


@pytest.mark.parametrize("name", LABELS)
def test_every_point_has_its_label(name: str, tmp_path: Path) -> None:
    labels, header, expected = LABELS[name]
    log(tmp_path, lambda w: w.add_embedding(np.eye(3), labels, metadata_header=header))
    assert labels_as_the_projector_reads_them(tmp_path) == expected


def test_a_header_without_its_columns_is_said(tmp_path: Path) -> None:
    said = pytest.warns(fastlog.FastlogWarning, match=r"^add_embedding\('default'\): .*metadata_header")
    with fastlog.SummaryWriter(tmp_path) as writer, said:
        writer.add_embedding(np.eye(2), [["a", 1], ["b"]], metadata_header=["name", "n"])
    assert not (tmp_path / "00000").exists()


def images_as_the_projector_cuts_them(logdir: Path, count: int) -> list[np.ndarray[Any, Any]]:
    """Row by row, as many as fit the width."""
    (info,) = configuration(logdir).embeddings
    sprite = np.asarray(Image.open(logdir / info.sprite.image_path))
    assert sprite.shape[0] == sprite.shape[1]
    width, height = info.sprite.single_image_dim
    columns = sprite.shape[1] // width
    corners = [(i // columns * height, i % columns * width) for i in range(count)]
    return [sprite[y : y + height, x : x + width] for y, x in corners]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (12, 4), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 5, 9, 10, 40])
def test_every_point_has_its_image(count: int, size: tuple[int, int], channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, channels, *size), dtype=np.uint8)
    log(tmp_path, lambda w: w.add_embedding(np.zeros((count, 2)), label_img=images))
    shown = images_as_the_projector_cuts_them(tmp_path, count)
    for image, given in zip(shown, images, strict=True):
        assert np.array_equal(image, np.broadcast_to(given.transpose(1, 2, 0), image.shape))


@pytest.mark.filterwarnings("ignore:.*which are cut to:fastlog.FastlogWarning")
def test_the_files_are_torchs_where_torch_writes_them(tmp_path: Path) -> None:
    keywords = [f"label {i}" for i in range(100)]
    pictures = torch.linspace(-1, 2, 100 * 3 * 10 * 32).reshape(100, 3, 10, 32)
    for kind, name in ((torch.utils.tensorboard.SummaryWriter, "theirs"), (TorchSummaryWriter, "ours")):
        with kind(str(tmp_path / name)) as writer:
            writer.add_embedding(torch.arange(500.0).reshape(100, 5), keywords, pictures, 3)
            writer.add_embedding(torch.eye(5), label_img=pictures[:5, :, :, :10], global_step=4, tag="a/b")
            writer.add_embedding(torch.eye(2), [["a", 1], ["b", 2]], metadata_header=["x", "y"], tag="two")
    ours, theirs = (
        {str(path.relative_to(tmp_path / name)): path for path in (tmp_path / name).glob("0*/*/*")}
        for name in ("ours", "theirs")
    )
    assert ours.keys() == theirs.keys() and len(ours) == 3 + 2 + 2
    for name, path in theirs.items():
        if name.endswith(".png"):
            assert np.array_equal(np.asarray(Image.open(ours[name])), np.asarray(Image.open(path)))
        else:
            assert ours[name].read_text() == path.read_text()
    assert configuration(tmp_path / "ours") == configuration(tmp_path / "theirs")
