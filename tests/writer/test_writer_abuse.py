"""Every argument of every add_* replaced by something malformed, and every writer shared by many threads."""

import decimal
import inspect
import math
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX.event_file_writer
import tensorboardX.writer
import torch
from event_files import events, files, values
from matplotlib.figure import Figure

import fastlog

PIXELS = np.zeros((3, 4, 4))
GOOD: dict[str, dict[str, Any]] = {
    "add_scalar": {"tag": "t", "scalar_value": 1.0},
    "add_scalars": {"main_tag": "t", "tag_scalar_dict": {"a": 1.0}},
    "add_histogram": {"tag": "t", "values": [1.0, 2.0]},
    "add_histogram_raw": {
        **{"tag": "t", "min": 0, "max": 1, "num": 1, "sum": 1, "sum_squares": 1},
        **{"bucket_limits": [1.0, 2.0], "bucket_counts": [0, 1]},
    },
    "add_image": {"tag": "t", "img_tensor": PIXELS},
    "add_images": {"tag": "t", "img_tensor": PIXELS[None]},
    "add_image_with_boxes": {"tag": "t", "img_tensor": PIXELS, "box_tensor": np.ones((1, 4))},
    "add_audio": {"tag": "t", "snd_tensor": np.zeros(9)},
    "add_text": {"tag": "t", "text_string": "x"},
    "add_embedding": {"mat": np.eye(2), "metadata": ["a", "b"], "label_img": np.zeros((2, 3, 4, 4))},
    "add_pr_curve": {"tag": "t", "labels": [1, 0], "predictions": [0.5, 0.1]},
    "add_pr_curve_raw": {
        **{"tag": "t", "true_positive_counts": [1.0], "false_positive_counts": [1.0]},
        **{
            "true_negative_counts": [1.0],
            "false_negative_counts": [1.0],
            "precision": [1.0],
            "recall": [1.0],
        },
    },
    "add_mesh": {"tag": "t", "vertices": np.zeros((1, 3, 3))},
    "add_tensor": {"tag": "t", "tensor": torch.ones(2)},
    "add_video": {"tag": "t", "vid_tensor": np.zeros((1, 2, 3, 4, 4))},
    "add_figure": {"tag": "t", "figure": Figure((1, 1))},
    "add_hparams": {"hparam_dict": {"a": 1}, "metric_dict": {"b": 2.0}, "run_name": "run"},
}
JUNK: list[Any] = [
    *(None, True, 0, -1, 2**70, 10**400, 1.5, math.nan, math.inf, 1j, decimal.Decimal("1.5")),
    *(
        "",
        "text",
        "\ud800",
        b"bytes",
        [],
        {},
        set(),
        object(),
        Exception,
        [None],
        ["a"],
        [[1], [1, 2]],
        {"a": object()},
    ),
    *({1: 2}, {None: None}, np.array(["a"]), np.array([None]), np.array(1j), np.datetime64("2020-01-01")),
    *(np.zeros((0, 3)), np.zeros((2, 2, 2, 2, 2)), torch.ones(0), torch.ones(2, dtype=torch.complex64)),
    *(torch.ones(2, device="meta"), torch.full((2, 2), math.nan), lambda: 1),
]
# What a value in this place is taken for, written for torch.utils.tensorboard.
ALSO = {"dataformats": "rescale", "name": "hparam_domain_discrete"}
TAGS = {"add_embedding": "default", "add_hparams": "run"}


@pytest.mark.parametrize("method", GOOD)
def test_every_error_names_the_method_the_tag_and_the_argument(method: str, tmp_path: Path) -> None:
    unnamed = []
    tag = repr(TAGS.get(method, "t"))
    with warnings.catch_warnings(record=True) as said, fastlog.SummaryWriter(tmp_path) as writer:
        warnings.simplefilter("always")
        call = getattr(writer, method)
        for argument in inspect.signature(call).parameters:
            if argument in ("torch_step", "torch_labels"):
                continue
            for junk in JUNK:
                try:
                    call(**{**GOOD[method], argument: junk})
                except (TypeError, ValueError) as error:
                    where = [method] if argument in ("tag", "main_tag", "name", "run_name") else [method, tag]
                    words = [argument, ALSO.get(argument, argument)]
                    text = str(error)
                    if not any(word in text for word in words) or not all(word in text for word in where):
                        unnamed.append(f"{argument}={junk!r:.40}: {type(error).__name__}: {text:.150}")
        writer.flush()
        writer.add_scalar("after", 1.0)
    assert [str(w) for w in said if not issubclass(w.category, fastlog.FastlogWarning)] == []
    texts = [str(w.message) for w in said if "events were dropped" not in str(w.message)]
    unnamed += [text for text in texts if method not in text]
    assert not unnamed, "\n".join(unnamed)
    assert "after" in values(tmp_path)


def test_threads_share_a_writer(tmp_path: Path) -> None:
    def work(number: int) -> None:
        for step in range(200):
            writer.add_scalar(f"own/{number}", step, step)
            writer.add_scalars("shared", {"a": number, f"b{step % 3}": number}, step)
            if step % 50 == 0:
                writer.add_histogram("h", torch.ones(3), step)
                writer.add_histogram("h", torch.ones(3), step, bins=3)
                writer.flush()

    with fastlog.SummaryWriter(tmp_path) as writer:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (path,) = tmp_path.glob("events*")
    steps: dict[str, list[int]] = {}
    for event in events(path):
        for value in event.summary.value:
            steps.setdefault(value.tag, []).append(event.step)
    assert all(steps[f"own/{number}"] == list(range(200)) for number in range(8))
    assert len(steps["h"]) == 8 * 4 * 2
    assert len(list(tmp_path.rglob("events*"))) == 1 + 4
    (shared,) = tmp_path.glob("shared/a/events*")
    assert len(events(shared)) == 8 * 200


@pytest.mark.filterwarnings("ignore:.* was closed and is used again:fastlog.FastlogWarning")
def test_close_races_with_logging(tmp_path: Path) -> None:
    def work() -> None:
        for step in range(500):
            writer.add_scalar("a", step, step)

    writer = fastlog.SummaryWriter(tmp_path)
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        writer.close()
    writer.close()
    assert [event.step for path in files(tmp_path) for event in events(path)] == list(range(500))


def test_a_subclass_left_by_another_tool_hears_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    class Listening(tensorboardX.event_file_writer.EventFileWriter):
        def __init__(self, logdir: str, *args: Any, **kwargs: Any) -> None:
            heard.append(logdir)
            super().__init__(logdir, *args, **kwargs)

    monkeypatch.setattr(tensorboardX.writer, "EventFileWriter", Listening)
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_scalar("a", 1.0)
        writer.add_scalars("m", {"b": 1.0})
        assert isinstance(writer.file_writer.event_writer, Listening)
    assert heard == [str(tmp_path), str(tmp_path / "m/b")]
    assert len(list(tmp_path.rglob("events*"))) == 2
