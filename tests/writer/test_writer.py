"""What SummaryWriter promises about values: snapshots at the call, odd ones, wrong ones."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import log, values

import fastlog

Calls = Callable[[Any], object]
FLOAT32_MAX = float(np.finfo(np.float32).max)


def make_figure() -> Any:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot

    figure = matplotlib.pyplot.figure(figsize=(1, 1))
    figure.add_subplot().plot([1, 2, 3])
    return figure


# ---- the value at the call

SNAPSHOTS: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], object]]] = {
    "add_scalar": (lambda: torch.tensor(0.5), lambda w, x: w.add_scalar("t", x)),
    "add_scalar of an array": (lambda: np.array([0.5]), lambda w, x: w.add_scalar("t", x)),
    "add_scalars": (lambda: torch.tensor(0.5), lambda w, x: w.add_scalars("t", {"a": x})),
    "add_histogram": (lambda: torch.linspace(0, 1, 9), lambda w, x: w.add_histogram("t", x)),
    "add_histogram auto": (
        lambda: torch.linspace(0, 1, 9),
        lambda w, x: w.add_histogram("t", x, bins="auto"),
    ),
    "add_histogram edges": (
        lambda: np.linspace(0, 1, 9),
        lambda w, x: w.add_histogram("t", [0.1, 0.4, 0.4, 0.9], bins=x),
    ),
    "add_histogram_raw": (
        lambda: np.arange(1.0, 4.0),
        lambda w, x: w.add_histogram_raw("t", 0, 1, 3, 1, 1, x, x),
    ),
    "add_image": (lambda: torch.full((3, 4, 4), 0.5), lambda w, x: w.add_image("t", x)),
    "add_images": (lambda: np.full((2, 3, 4, 4), 9, np.uint8), lambda w, x: w.add_images("t", x)),
    "add_image_with_boxes": (
        lambda: torch.tensor([[1, 1, 9, 9]]),
        lambda w, x: w.add_image_with_boxes("t", np.zeros((3, 20, 20)), x),
    ),
    "add_audio": (lambda: torch.linspace(-1, 1, 99), lambda w, x: w.add_audio("t", x)),
    "add_pr_curve": (
        lambda: torch.linspace(0, 1, 9),
        lambda w, x: w.add_pr_curve("t", x > 0.3, x, weights=x),
    ),
    "add_pr_curve_raw": (lambda: np.arange(3.0), lambda w, x: w.add_pr_curve_raw("t", x, x, x, x, x, x)),
    "add_mesh": (lambda: torch.rand(1, 3, 3), lambda w, x: w.add_mesh("t", x, x, x)),
    "add_tensor": (lambda: torch.rand(2, 3), lambda w, x: w.add_tensor("t", x)),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_logs_the_value_at_the_call(name: str, tmp_path: Path) -> None:
    make, call = SNAPSHOTS[name]
    torch.manual_seed(0)
    kept = make()
    overwritten = copy.deepcopy(kept)
    expected = log(tmp_path / "kept", lambda w: call(w, kept))

    def call_and_overwrite(writer: Any) -> None:
        call(writer, overwritten)
        overwritten[...] = 0

    assert log(tmp_path / "overwritten", call_and_overwrite) == expected
    assert expected


def test_logs_the_figure_at_the_call(tmp_path: Path) -> None:
    figure = make_figure()

    def draw_on(writer: Any) -> None:
        writer.add_figure("before", figure, close=False)
        figure.axes[0].set_facecolor("red")
        figure.canvas.draw()
        writer.add_figure("after", [figure])

    kept = log(tmp_path / "kept", lambda w: w.add_figure("before", make_figure()))
    got = log(tmp_path / "drawn", draw_on)
    assert got["before"] == kept["before"]
    assert got["after"].image.encoded_image_string != kept["before"].image.encoded_image_string


def test_embedding_at_the_call(tmp_path: Path) -> None:
    points, labels, header = torch.ones(2, 2), [["a", 1], ["b", 2]], ["x", "y"]

    def overwrite(writer: Any) -> None:
        writer.add_embedding(points, labels, metadata_header=header)
        points.zero_()
        labels[0][0] = "c"
        header[0] = "z"

    log(tmp_path, overwrite)
    assert (tmp_path / "00000/default/tensors.tsv").read_text() == "1.0\t1.0\n1.0\t1.0\n"
    assert (tmp_path / "00000/default/metadata.tsv").read_text() == "x\ty\na\t1\nb\t2\n"


def test_json_settings_of_a_mesh_at_the_call(tmp_path: Path) -> None:
    settings = {"lights": [1]}

    def overwrite(writer: Any) -> None:
        writer.add_mesh("t", np.zeros((1, 3, 3)), config_dict=settings)
        settings["lights"].append(2)

    assert b'{"lights": [1]}' in log(tmp_path, overwrite)["t_1"].metadata.plugin_data.content


# ---- wrong use and bad values

WRONG_USE: dict[str, Calls] = {
    "tag None": lambda w: w.add_scalar(None, 1.0),
    "tag of a list": lambda w: w.add_scalar(["a"], 1.0),
    "tag of an int": lambda w: w.add_histogram(3, [1.0]),
    "tag of bytes": lambda w: w.add_image(b"a", np.zeros((3, 2, 2))),
    "tag of text": lambda w: w.add_text(1, "a"),
    "tag of audio": lambda w: w.add_audio(1, np.zeros(3)),
    "tag of mesh": lambda w: w.add_mesh(1, np.zeros((1, 2, 3))),
    "tag of a curve": lambda w: w.add_pr_curve(1, [0, 1], [0.1, 0.2]),
    "tag of a raw curve": lambda w: w.add_pr_curve_raw(1, *[[1.0]] * 6),
    "tag of a raw histogram": lambda w: w.add_histogram_raw(1, 0, 0, 0, 0, 0, [1], [1]),
    "tag of a tensor": lambda w: w.add_tensor(1, torch.ones(1)),
    "tag of boxes": lambda w: w.add_image_with_boxes(1, np.zeros((3, 2, 2)), np.zeros((1, 4))),
    "tag of a figure": lambda w: w.add_figure(1, None),
    "tag of a video": lambda w: w.add_video(1, np.zeros((1, 1, 1, 1, 1))),
    "tag of an embedding": lambda w: w.add_embedding(np.eye(2), tag=1),
    "main_tag": lambda w: w.add_scalars(1, {"a": 1}),
    "tag in add_scalars": lambda w: w.add_scalars("a", {1: 1}),
    "name of a session": lambda w: w.add_hparams({}, {}, 1.5),
    "key of a metric": lambda w: w.add_hparams({}, {1: 1.0}),
    "no dict": lambda w: w.add_hparams([], {}),
    "scalar_value of a string": lambda w: w.add_scalar("t", "1.5 s"),
    "scalar_value of bytes": lambda w: w.add_scalar("t", b"x"),
    "scalar_value of a module": lambda w: w.add_scalar("t", torch.nn.ReLU()),
    "scalar_value of strings": lambda w: w.add_scalar("t", np.array(["a"])),
    "scalar_value complex": lambda w: w.add_scalar("t", 1j),
    "scalar_value complex64": lambda w: w.add_scalar("t", np.complex64(1 + 2j)),
    "scalar_value of a complex tensor": lambda w: w.add_scalar("t", torch.tensor(1j)),
    "scalar_value of a meta tensor": lambda w: w.add_scalar("t", torch.ones(1, device="meta")),
    "scalar_value in a function transform": lambda w: torch.func.vmap(lambda x: w.add_scalar("t", x))(
        torch.ones(3)
    ),
    "img_tensor in a function transform": lambda w: torch.func.vmap(lambda x: w.add_image("t", x))(
        torch.ones(2, 3, 4, 4)
    ),
    "values of strings": lambda w: w.add_histogram("t", ["a", "b"]),
    "values of strings, binned": lambda w: w.add_histogram("t", np.array(["a"]), bins=3),
    "values of a module": lambda w: w.add_histogram("t", torch.nn.ReLU()),
    "values of objects": lambda w: w.add_histogram("t", np.array([None])),
    "values complex": lambda w: w.add_histogram("t", torch.ones(2, dtype=torch.complex64)),
    "values complex, binned": lambda w: w.add_histogram("t", torch.ones(2, dtype=torch.complex64), bins=3),
    "values quantised": lambda w: w.add_histogram(
        "t", torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8), bins=3
    ),
    "bins": lambda w: w.add_histogram("t", [1.0], bins=2.5),
    "bins None": lambda w: w.add_histogram("t", [1.0], bins=None),
    "img_tensor": lambda w: w.add_image("t", "a path"),
    "box_tensor": lambda w: w.add_image_with_boxes("t", np.zeros((3, 2, 2)), "boxes"),
    "vid_tensor": lambda w: w.add_video("t", object()),
    "snd_tensor": lambda w: w.add_audio("t", {"a": 1}),
    "text_string": lambda w: w.add_text("t", 3),
    "text_string of bytes": lambda w: w.add_text("t", b"a"),
    "mat": lambda w: w.add_embedding("points"),
    "label_img": lambda w: w.add_embedding(np.eye(2), label_img="images"),
    "labels": lambda w: w.add_pr_curve("t", "labels", [0.1]),
    "weights": lambda w: w.add_pr_curve("t", [1], [0.1], weights="w"),
    "recall": lambda w: w.add_pr_curve_raw("t", *[[1.0]] * 5, "recall"),
    "vertices": lambda w: w.add_mesh("t", "cube"),
    "config_dict": lambda w: w.add_mesh("t", np.zeros((1, 2, 3)), config_dict={"a": object()}),
    "tensor": lambda w: w.add_tensor("t", [1.0]),
    "tensor dtype": lambda w: w.add_tensor("t", torch.ones(2).to(torch.float8_e5m2)),
    "bucket_limits": lambda w: w.add_histogram_raw("t", 0, 1, 1, 1, 1, ["a"], [1]),
    "min": lambda w: w.add_histogram_raw("t", "x", 1, 1, 1, 1, [1.0], [1]),
    "global_step": lambda w: w.add_scalar("t", 1.0, [1]),
    "event": lambda w: w.file_writer.add_event("event"),
    "hparam_domain_discrete": lambda w: w.add_hparams({"a": 1}, {}, hparam_domain_discrete={"a": ["x"]}),
}
NAMED = (
    "tag",
    "main_tag",
    "scalar_value",
    "values",
    "bins",
    "img_tensor",
    "box_tensor",
    "vid_tensor",
    "snd_tensor",
)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("on_error", ["warn", "raise"])
@pytest.mark.parametrize("name", WRONG_USE)
def test_wrong_use_raises_at_once(name: str, on_error: Any, tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path, on_error=on_error) as writer:
        with pytest.raises((TypeError, AttributeError)) as error:
            WRONG_USE[name](writer)
        writer.add_scalar("after", 1.0)
    argument = name.split()[0]
    if argument in NAMED:
        assert argument in str(error.value)
    assert "after" in values(tmp_path)


@pytest.mark.parametrize(
    "bins", ["none such", 0, -1, 2**40, [1.0], [2.0, 1.0], [[1.0, 2.0]], [0.0, math.nan, 1.0]], ids=str
)
def test_bins_that_cannot_be(bins: Any, tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer, pytest.raises(ValueError, match="bins"):
        writer.add_histogram("t", [1.0], bins=bins)


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, math.nan])
def test_steps_that_cannot_be(step: Any, tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path, on_error="raise") as writer:
        for tag, call in (("s", writer.add_scalar), ("h", writer.add_histogram)):
            with pytest.raises((ValueError, OverflowError)):
                call(tag, 1.0, step)


BAD_VALUES: dict[str, Calls] = {
    "scalar_value": lambda w: w.add_scalar("t", torch.ones(2)),
    "scalar_value empty": lambda w: w.add_scalar("t", []),
    "scalar_value of a huge int": lambda w: w.add_scalar("t", 10**400),
    "tag_scalar_dict": lambda w: w.add_scalars("t", {"a": [1, 2]}),
    "metric_dict": lambda w: w.add_hparams({}, {"t": [1, 2]}, "run"),
    "img_tensor": lambda w: w.add_image("t", np.zeros((2, 3))),
    "img_tensor of 7 channels": lambda w: w.add_image("t", np.zeros((7, 3, 3))),
    "img_tensor empty": lambda w: w.add_image("t", np.zeros((3, 0, 3))),
    "img_tensor ragged": lambda w: w.add_images(
        "t", [np.zeros((3, 2, 2)), np.zeros((3, 2, 3))], dataformats="CHW"
    ),
    "img_tensor ragged tensors": lambda w: w.add_images("t", [torch.zeros(3, 2, 2), torch.zeros(3, 2, 3)]),
    "dataformats": lambda w: w.add_image("t", np.zeros((3, 3, 3)), dataformats="CCH"),
    "box_tensor": lambda w: w.add_image_with_boxes("t", np.zeros((3, 9, 9)), np.zeros((2, 3))),
    "vid_tensor": lambda w: w.add_video("t", np.zeros((2, 3, 4))),
    "snd_tensor": lambda w: w.add_audio("t", np.zeros((9, 7))),
    "snd_tensor empty": lambda w: w.add_audio("t", []),
    "text_string": lambda w: w.add_text("t", "\ud800"),
    "mat": lambda w: w.add_embedding(np.zeros(3)),
    "metadata": lambda w: w.add_embedding(np.eye(2), ["a"]),
    "label_img": lambda w: w.add_embedding(np.eye(2), label_img=np.zeros((2, 5, 16, 32))),
    "label_img too large": lambda w: w.add_embedding(np.eye(2), label_img=np.zeros((2, 1, 5000, 5000), bool)),
    "labels": lambda w: w.add_pr_curve("t", [1, 0], [0.5]),
    "true_positive_counts": lambda w: w.add_pr_curve_raw("t", [1.0, 2.0], *[[1.0]] * 5),
    "vertices": lambda w: w.add_mesh("t", np.zeros((2, 3))),
    "faces": lambda w: w.add_mesh("t", np.zeros((1, 2, 3)), faces=np.zeros(3)),
    "bucket_limits": lambda w: w.add_histogram_raw("t", 0, 1, 1, 1, 1, [1.0, 2.0], [1]),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_bad_value_is_said_once_and_counted(name: str, tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path / "warn")
    with pytest.warns(fastlog.FastlogWarning, match=name.split()[0]) as said:
        for _ in range(3):
            BAD_VALUES[name](writer)
        writer.flush()
    assert len(said) == 1
    assert writer.stats()["bad_values"] == 3
    assert said[0].filename == __file__
    writer.add_scalar("after", 1.0)
    with pytest.warns(fastlog.FastlogWarning, match="3 values were not logged"):
        writer.close()
    assert {tag for tag in values(tmp_path / "warn") if not tag.startswith("_hparams_")} == {"after"}

    with fastlog.SummaryWriter(tmp_path / "raise", on_error="raise") as writer:
        with pytest.raises((ValueError, RuntimeError, OverflowError)):
            BAD_VALUES[name](writer)
        writer.add_scalar("after", 1.0)
    assert "after" in values(tmp_path / "raise")


def test_what_the_worker_cannot_encode_is_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no such encoder")

    monkeypatch.setattr("tensorboardX.summary.make_image", fail)
    with pytest.warns(fastlog.FastlogWarning) as said:
        log(tmp_path, lambda w: (w.add_image("t", np.zeros((3, 2, 2))), w.add_scalar("after", 1.0)))
    assert any("add_image('t')" in str(w.message) and "no such encoder" in str(w.message) for w in said)
    assert {tag for tag in values(tmp_path) if not tag.startswith("fastlog/")} == {"after"}


def test_numbers_that_images_should_not_hold(tmp_path: Path) -> None:
    pixels = np.array([[math.nan, math.inf], [-3.0, 1e30]])
    with pytest.warns(fastlog.FastlogWarning, match="values from -3 to inf"):
        assert log(tmp_path, lambda w: w.add_image("t", pixels, dataformats="HW"))["t"].image.width == 2
