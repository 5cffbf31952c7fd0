"""What is read back with TensorBoard's reader, call by call, against what tensorboardX writes for the same
call."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
from google.protobuf.json_format import MessageToDict
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

import fastlog

Calls = Callable[[Any], object]
OPENVINO = """<net>
  <layers> <layer id="0" name="in" type="Parameter"/> <layer id="1" name="out" type="ReLU"/> </layers>
  <edges> <edge from-layer="0" to-layer="1"/> </edges>
</net>"""
rng = np.random.default_rng(0)
PIXELS = rng.random((3, 8, 9))
BATCH = torch.from_numpy(rng.integers(0, 255, (5, 3, 6, 4), dtype=np.uint8))
PICTURES = torch.from_numpy(rng.random((3, 3, 5, 5)))
VALUES = rng.standard_normal(1000)
LABELS = rng.integers(0, 2, 50)
SCORES = rng.random(50)
COUNTS = [np.arange(5.0) + i for i in range(6)]


def events(logdir: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of each directory, as dicts, each tag's in order; those that start a file are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(logdir.rglob("events.out.tfevents.*")):
        rows = [MessageToDict(event) for event in LegacyEventFileLoader(str(path)).Load()]
        assert rows[0]["fileVersion"] == "brain.Event:2"
        found.setdefault(str(path.parent.relative_to(logdir)), []).extend(rows[1:])
    for rows in found.values():
        rows.sort(key=lambda row: [value.get("tag", "") for value in row.get("summary", {}).get("value", [])])
    return found


def other_files(logdir: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(logdir)): path.read_bytes()
        for path in sorted(logdir.rglob("*"))
        if path.is_file() and "tfevents" not in path.name
    }


def approximate_sums(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums are within 1e-12 of the sum of the magnitudes, not the same: compared as such."""
    for row in rows:
        for value in row.get("summary", {}).get("value", []):
            if "histo" in value:
                for key in ("sum", "sumSquares"):
                    if key in value["histo"]:
                        value["histo"][key] = pytest.approx(value["histo"][key], rel=1e-9, abs=1e-9)
    return rows


def both(tmp_path: Path, calls: Calls, **options: Any) -> tuple[Path, Path]:
    with tensorboardX.SummaryWriter(str(tmp_path / "theirs"), **options) as writer:
        calls(writer)
    with fastlog.SummaryWriter(str(tmp_path / "ours"), compact=False, **options) as writer:
        calls(writer)
    return tmp_path / "theirs", tmp_path / "ours"


def assert_same(tmp_path: Path, calls: Calls, times: bool = True, **options: Any) -> None:
    theirs, ours = both(tmp_path, calls, **options)
    expected, got = events(theirs), events(ours)
    assert expected.keys() == got.keys()
    assert any(expected.values())
    for directory, rows in expected.items():
        if not times:
            for row in rows + got[directory]:
                assert row.pop("wallTime") > 1e9
        assert got[directory] == approximate_sums(rows), directory
    assert other_files(ours) == other_files(theirs)


AT = {"global_step": 7, "walltime": 1234.5}

SAME: dict[str, Calls] = {
    "add_scalar": lambda w: w.add_scalar("loss/train", 0.25, 7, 1234.5),
    "add_scalar of an int": lambda w: w.add_scalar("n", 3, **AT),
    "add_scalar at a negative step": lambda w: w.add_scalar("n", 3.0, -5, 1.0),
    "add_scalar without a step": lambda w: w.add_scalar("n", 3.0, walltime=1.0),
    "add_scalar of a bool": lambda w: w.add_scalar("n", True, **AT),
    "add_scalar of NumPy numbers": lambda w: (
        w.add_scalar("f", np.float32(0.1), np.int64(3), np.float64(5.5)),
        w.add_scalar("i", np.int64(3), np.int32(4), 5),
        w.add_scalar("a", np.array([[2.5]]), 1, 5),
    ),
    "add_scalar of tensors": lambda w: (
        w.add_scalar("t", torch.tensor(0.1, requires_grad=True), torch.tensor(3), 5),
        w.add_scalar("p", torch.nn.Parameter(torch.ones(1)), 1, 5),
        w.add_scalar("i", torch.tensor([[4]]), 1, 5),
    ),
    "add_scalar of a list": lambda w: w.add_scalar("l", [1.5], **AT),
    "add_scalar of NaN and Inf": lambda w: [
        w.add_scalar("x", v, **AT) for v in (math.nan, math.inf, -math.inf)
    ],
    "add_scalar beyond float32": lambda w: w.add_scalar("x", 1e300, **AT),
    "add_scalar with words": lambda w: w.add_scalar("t", 1.0, 7, 1234.5, "a title", "a description"),
    "add_scalar with odd tags": lambda w: [
        w.add_scalar(tag, 1.0, **AT)
        for tag in ("loss (train)", "/abs/olute", "a b\tc", "ü/é.x-1", "", "😀", "../../up", "x" * 10_000)
    ],
    "add_scalars": lambda w: (
        w.add_scalars("data/group", {"a": 1.0, "b b": np.float32(2), "c/d": torch.tensor(3.0)}, **AT),
        w.add_scalars("data/group", {"a": 4.0}, 8, 1235.5),
        w.add_scalars("other (group)", {"a": 4}, 8, 1235.5),
    ),
    "add_histogram": lambda w: w.add_histogram("h", VALUES, 7, "tensorflow", 1234.5),
    "add_histogram of a tensor": lambda w: w.add_histogram(
        "h h", torch.from_numpy(VALUES).float().reshape(10, -1), **AT
    ),
    "add_histogram of ints": lambda w: w.add_histogram("h", torch.arange(-50, 50), **AT),
    "add_histogram of a list": lambda w: w.add_histogram("h", [1.0, 2.0, 4.0], **AT),
    "add_histogram of one value": lambda w: w.add_histogram("h", np.float64(0.0), **AT),
    "add_histogram with max_bins": lambda w: w.add_histogram("h", VALUES, max_bins=30, **AT),
    "add_histogram_raw": lambda w: w.add_histogram_raw(
        "raw (h)", -1.5, 2, np.int64(10), torch.tensor(5.0), 9.5, [0.0, 1.0, 2.0], np.array([0, 4, 6]), **AT
    ),
    "add_image": lambda w: w.add_image("i (x)", PIXELS, **AT),
    "add_image HWC": lambda w: w.add_image("i", torch.from_numpy(PIXELS).permute(1, 2, 0), 7, 1234.5, "HWC"),
    "add_image HW": lambda w: w.add_image("i", PIXELS[0].astype(np.float32), dataformats="HW", **AT),
    "add_image of one channel": lambda w: w.add_image("i", PIXELS[:1], **AT),
    "add_image of a half tensor": lambda w: w.add_image("i", torch.from_numpy(PIXELS).half(), **AT),
    "add_image RGBA": lambda w: w.add_image(
        "i", rng.integers(0, 255, (4, 5, 5), dtype=np.uint8) * 0 + 9, **AT
    ),
    "add_images": lambda w: w.add_images("b", BATCH, **AT),
    "add_images of a list": lambda w: w.add_images("b", list(BATCH), dataformats="CHW", **AT),
    "add_images of a list of arrays": lambda w: w.add_images(
        "b", [PIXELS, PIXELS / 2], dataformats="CHW", **AT
    ),
    "add_image_with_boxes": lambda w: w.add_image_with_boxes(
        "boxes (x)",
        np.zeros((3, 40, 40)),
        torch.tensor([[5, 5, 20, 20], [9, 9, 30, 30]]),
        7,
        1234.5,
        labels=["a", "b"],
    ),
    "add_image_with_boxes in HWC, half as large": lambda w: w.add_image_with_boxes(
        "boxes",
        np.zeros((40, 40, 3), np.uint8),
        np.array([[5, 5, 20, 20]]),
        7,
        1234.5,
        "HWC",
        "one",
        rescale=0.5,
    ),
    "add_figure": lambda w: (
        w.add_figure("figure", drawing(), 7, True, 1234.5),
        w.add_figure("figures", [drawing(), drawing()], 7, False, 1234.5),
    ),
    "add_text": lambda w: w.add_text("some (text)", "**ü** 😀\n", **AT),
    "add_pr_curve": lambda w: w.add_pr_curve("pr (x)", LABELS, torch.from_numpy(SCORES), **AT),
    "add_pr_curve with weights": lambda w: w.add_pr_curve(
        "pr", torch.from_numpy(LABELS), SCORES, 7, 20, np.linspace(0, 1, 50), 1234.5
    ),
    "add_pr_curve_raw": lambda w: w.add_pr_curve_raw("pr", *COUNTS, num_thresholds=5, **AT),
    "add_pr_curve_raw of lists": lambda w: w.add_pr_curve_raw(
        "pr", *[list(c) for c in COUNTS], 7, 200, None, 1234.5
    ),
    "use_metadata": lambda w: with_metadata(w),
}

SAME_BUT_FOR_THE_TIME: dict[str, Calls] = {
    "add_custom_scalars": lambda w: w.add_custom_scalars({"c": {"t": ["Multiline", ["a/b", "c"]]}}),
    "add_custom_scalars_multilinechart": lambda w: w.add_custom_scalars_multilinechart(["a", "b"], "c", "t"),
    "add_custom_scalars_marginchart": lambda w: w.add_custom_scalars_marginchart(["a", "b", "c"]),
    "add_graph": lambda w: w.add_graph(
        torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()), torch.zeros(1, 3)
    ),
    "add_hparams": lambda w: w.add_hparams(
        {"lr": 0.1, "layers": 3, "bn": True, "name": "x", "f": len},
        {"acc/x": 0.5, "loss": 1},
        "trial/1",
        4,
    ),
    "add_embedding": lambda w: (
        w.add_scalar("a", 1.0),
        w.add_embedding(torch.arange(6.0).reshape(3, 2), ["a", "b", "c"], PICTURES, 2, "tag/x"),
        w.add_embedding(np.eye(3, dtype=np.float32) / 3, torch.tensor([1, 2, 3]), global_step=12),
        w.add_embedding(np.eye(2), [["a", 1], ["b", 2]], metadata_header=["name", "n"], tag="two"),
    ),
    "FileWriter.add_event": lambda w: (
        w.file_writer.add_event(tensorboardX.proto.event_pb2.Event(step=3), 5, 2e9),
        w.file_writer.add_event(tensorboardX.proto.event_pb2.Event(step=3)),
        w.file_writer.add_summary(tensorboardX.summary.scalar("a", 1.0), 5),
    ),
}


def drawing() -> Figure:
    figure = Figure((1, 1))
    figure.subplots().plot([1, 2, 0])
    return figure


def with_metadata(writer: Any) -> None:
    with writer.use_metadata(global_step=17, walltime=13.0):
        writer.add_scalar("a", 0.1)
        writer.add_scalar("b", 0.2, global_step=7)
        writer.add_scalar("c", 0.3, walltime=18.0)
        writer.add_histogram("d", VALUES)
        writer.add_image("e", PIXELS)
        writer.add_text("f", "g")
    writer.add_scalar("h", 0.5, walltime=1.0)


@pytest.mark.parametrize("name", SAME)
def test_reads_back_as_from_tensorboardX(name: str, tmp_path: Path) -> None:
    assert_same(tmp_path, SAME[name])


@pytest.mark.filterwarnings("ignore:.torch.jit.trace(_method)?. is deprecated")
@pytest.mark.parametrize("name", SAME_BUT_FOR_THE_TIME)
def test_reads_back_as_from_tensorboardX_but_for_the_time(name: str, tmp_path: Path) -> None:
    assert_same(tmp_path, SAME_BUT_FOR_THE_TIME[name], times=False)


def test_openvino_graph_reads_back_as_from_tensorboardX(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text(OPENVINO)
    assert_same(tmp_path, lambda w: w.add_openvino_graph(str(tmp_path / "net.xml")), times=False)
