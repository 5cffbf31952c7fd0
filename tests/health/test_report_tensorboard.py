"""What TensorBoard gets: few pictures, which show what the history holds, and a layout that it can read."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_runs import bert, fast, frozen, poisoned
from PIL import Image
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboardX.proto.event_pb2 import Event

import fastlog
from fastlog.health.findings import Finding
from fastlog.health.history import GRADIENTS, UPDATES, History
from fastlog.health.report import font
from fastlog.health.report.colours import NAN_COLOUR, ZERO_COLOUR
from fastlog.health.report.tensorboard import Overview, layout, pictures


def drawn(history: History, *findings: Finding) -> dict[str, np.ndarray]:
    """RGB by tag."""
    images = {}
    for summary in pictures(history, findings):
        (value,) = summary.value
        picture = Image.open(io.BytesIO(value.image.encoded_image_string)).convert("RGB")
        assert (value.image.width, value.image.height) == picture.size
        images[value.tag] = np.asarray(picture)
    return images


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is set."""
    y, x = np.nonzero(mask)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def test_a_picture_shows_where_a_layer_has_no_gradient() -> None:
    history, finding = frozen(bert(), layer=3, since=20)
    images = drawn(history, finding)
    assert list(images) == ["fastlog/health/update-ratio", "fastlog/health/gradient-rms"]
    image = images["fastlog/health/gradient-rms"]
    black = (image == ZERO_COLOUR).all(axis=2)
    black[:60] = False  # the legend
    left, top, right, bottom = box(black)
    names = history.kinds[GRADIENTS].names
    first = names.index("bert.encoder.layer.3.attention.self.query.weight")
    down, across = (bottom - top) / 16, (right - left) / 80
    assert down == int(down) and across == int(across)
    assert top == 64 + down * first
    inside = black[top:bottom, left + 7 : right]  # after the mark of the finding
    assert inside.all()
    assert not (images["fastlog/health/update-ratio"][60:] == ZERO_COLOUR).all(axis=2).any()


def test_a_picture_shows_nan() -> None:
    history, finding = poisoned(bert(), at=50)
    image = drawn(history, finding)["fastlog/health/gradient-rms"]
    red = (image[60:] == NAN_COLOUR).all(axis=2)
    left, top, right, bottom = box(red)
    assert red[top:bottom, left + 7 : right].all() and bottom - top == 4 * len(history.kinds[GRADIENTS].names)


def test_findings_are_written_below_the_picture() -> None:
    history, error = frozen(bert(), layer=3, since=20)
    history, warning = fast(history)
    with_both = drawn(history, error, warning)["fastlog/health/gradient-rms"]
    text = font.draw(f"2 step {warning.first_step:,}: {warning.title}", 2)
    red = (with_both == (214, 40, 40)).all(axis=2)
    y, x = with_both.shape[0] - 16 - 22, 16
    assert np.array_equal(red[y : y + text.shape[0], x : x + text.shape[1]], text)


def test_letters_are_all_different_and_unknown_ones_are_marked() -> None:
    letters = [chr(code) for code in range(32, 127)] + ["…"]
    shapes = {font.draw(letter).tobytes() for letter in letters}
    assert len(shapes) == len(letters)
    assert np.array_equal(font.draw("层"), font.draw("?"))
    rows = ["".join(".#"[int(point)] for point in row) for row in font.draw("Ag")]
    assert rows == [
        ".###........",
        "#...#.......",
        "#...#..##.#.",
        "#####.#..##.",
        "#...#.#...#.",
        "#...#.#..##.",
        "#...#..##.#.",
        "..........#.",
        ".......###..",
    ]


@pytest.mark.parametrize("names", [["w"], ["层.weight", "</script>", "x" * 500]])
def test_any_names_can_be_drawn(names: list[str]) -> None:
    history, finding = frozen(bert(logged=5), layer=3, since=2)
    for kind in history.kinds.values():
        kind.names = tuple(names)
        kind.heads, kind.present = kind.heads[: len(names)], kind.present[: len(names)]
    assert len(drawn(history, finding)) == 2


def test_the_layout_names_the_curves_that_watch_logs() -> None:
    history = bert()
    history.validation_tag = "loss/val (mean)"
    summary = layout(history)
    assert summary is not None
    (value,) = summary.value
    assert (
        value.tag == "custom_scalars__config__" and value.metadata.plugin_data.plugin_name == "custom_scalars"
    )
    read = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    (category,) = read.category
    charts = {chart.title: chart.multiline.tag for chart in category.chart}
    assert list(charts) == ["loss", "gradient norm", "gradient norm by layer", "update / weight by layer"]

    def chosen(title: str, tags: list[str]) -> list[str]:
        return [tag for tag in tags if any(re.match(pattern, tag) for pattern in charts[title])]

    assert chosen("loss", ["loss/train", "loss/val (mean)", "loss/train2", "xloss/train"]) == [
        "loss/train",
        "loss/val (mean)",
    ]
    layers = ["grad_norm/bert.encoder.layer.0", "grad_norm/classifier"]
    tensors = ["grad_norm/bert.encoder.layer.0.output.dense.weight", "grad_norm/classifier.weight"]
    assert chosen("gradient norm by layer", layers + tensors) == layers
    assert chosen("update / weight by layer", ["update_ratio/classifier", "update_ratio/global"]) == [
        "update_ratio/classifier"
    ]
    del history.kinds[UPDATES]
    assert b"update / weight" not in layout(history).SerializeToString()  # type: ignore[union-attr]


def test_there_is_no_layout_of_nothing() -> None:
    assert layout(History("empty", np.empty(0, np.int64), np.empty(0))) is None


def until(history: History, count: int) -> History:
    """The history after so many observations."""
    kinds = {
        name: type(kind)(kind.names, kind.heads[:, :count], kind.present[:, :count])
        for name, kind in history.kinds.items()
    }
    return History(
        history.run, history.steps[:count], history.wall_times[:count], kinds, loss_tag=history.loss_tag
    )


def test_a_run_gets_one_layout_and_few_pictures() -> None:
    history, overview = bert(logged=120, every=1), Overview()
    at: dict[str, list[int]] = {}
    for count in range(1, 121):
        for data in overview.events(until(history, count), ()):
            event = Event.FromString(data)
            assert event.step == count - 1
            at.setdefault(event.summary.value[0].tag, []).append(count)
    assert at.pop("custom_scalars__config__") == [1]
    assert list(at.values()) == [[10, 13, 17, 22, 28, 36, 46, 58, 73, 92, 116]] * 2


def test_a_new_finding_and_the_end_get_pictures_at_once() -> None:
    history, finding = frozen(bert(), layer=3, since=2)
    overview = Overview()
    assert len(overview.events(until(history, 4), ())) == 1  # the layout
    assert len(overview.events(until(history, 5), (finding,))) == 2
    assert overview.events(until(history, 6), (finding,)) == []
    assert len(overview.events(until(history, 6), (finding,), last=True)) == 2


def test_the_layout_waits_a_little_for_the_loss() -> None:
    history = bert()
    history.loss_tag = None
    overview = Overview()
    given = [len(overview.events(until(history, count), ())) for count in range(1, 6)]
    assert given == [0, 0, 0, 1, 0]


def test_a_watched_model_gets_pictures_and_keeps_the_layout_of_its_user(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        writer.add_custom_scalars({"mine": {"loss": ["Multiline", ["loss"]]}})
        with fastlog.watch(model, writer, optimizer, every=1, health=True):
            for step in range(14):
                optimizer.zero_grad()
                loss = (model(torch.ones(16, 4)) - 1).square().mean()
                loss.backward()
                optimizer.step()
                writer.add_scalar("loss", loss, step)
    run = fastlog.load(tmp_path)
    assert isinstance(run, fastlog.Run)
    assert set(run.tags["images"]) == {"fastlog/health/gradient-rms", "fastlog/health/update-ratio"}
    for tag in run.tags["images"]:
        images = run.images(tag)
        assert images.steps[0] == 9  # the tenth observation
        Image.open(io.BytesIO(images.values[-1])).load()
    layouts = run.raw("custom_scalars__config__")
    assert len(layouts) == 1 and b"mine" in layouts.values[0]
