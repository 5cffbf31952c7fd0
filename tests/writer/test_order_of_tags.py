"""Images and the like are encoded aside; of each tag the order stays, as TensorBoard needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import events, files
from event_files import scalars as read
from queue_doubles import until

import fastlog
from fastlog.events.items import JOB, aside_of, nbytes_of, tags_of
from fastlog.events.queue import AsyncQueue
from fastlog.install import TorchSummaryWriter
from fastlog.writer.encode import media

PIXELS, POINTS = np.zeros((3, 4, 4)), np.zeros((1, 3, 3))

CALLS: dict[str, Callable[[Any], object]] = {
    "add_scalar": lambda w: w.add_scalar("a (b)/t", torch.ones(1), 1, display_name="title"),
    "add_histogram": lambda w: w.add_histogram("a (b)/t", [1.0, float("nan"), float("inf")], 1, bins="auto"),
    "add_histogram max_bins": lambda w: w.add_histogram("a (b)/t", [1.0, float("nan")], 1, max_bins=9),
    "add_histogram_raw": lambda w: w.add_histogram_raw("a (b)/t", 0, 1, 1, 1, 1, [1.0], [1]),
    "add_image": lambda w: w.add_image("a (b)/t", PIXELS),
    "add_images": lambda w: w.add_images("a (b)/t", PIXELS[None]),
    "add_image_with_boxes": lambda w: w.add_image_with_boxes("a (b)/t", PIXELS, np.ones((1, 4))),
    "add_audio": lambda w: w.add_audio("a (b)/t", np.zeros(9)),
    "add_embedding": lambda w: w.add_embedding(np.eye(2), tag="a (b)/t"),
    "add_pr_curve": lambda w: w.add_pr_curve("a (b)/t", [1, 0], [0.5, 0.1]),
    "add_pr_curve_raw": lambda w: w.add_pr_curve_raw("a (b)/t", *[[1.0]] * 6),
    "add_mesh": lambda w: w.add_mesh("a (b)/t", POINTS, POINTS, POINTS),
    "add_tensor": lambda w: w.add_tensor("a (b)/t", torch.ones(2)),
}


@pytest.mark.parametrize("kind", [fastlog.SummaryWriter, TorchSummaryWriter])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.filterwarnings("ignore::fastlog.FastlogWarning")
def test_jobs_declare_all_tags_under_which_they_log(kind, call, tmp_path, monkeypatch):
    jobs = []
    put = AsyncQueue.put
    monkeypatch.setattr(AsyncQueue, "put", lambda *args: (jobs.append(args[2]), put(*args))[1])
    with kind(tmp_path) as writer:
        CALLS[call](writer)
    for job in jobs:
        declared, items = tags_of(job), list(job[1]()) if job[0] == JOB else [job]
        assert declared is not None
        logged = {tag for item in items for tag in tags_of(item) or ()}
        assert logged <= set(declared)
        assert job[0] != JOB or aside_of(job) == "encoder"
    assert call in ("add_scalar", "add_embedding") or sum(map(nbytes_of, items)) > 200


@pytest.fixture
def encoding(monkeypatch):
    """Holds up the encoding of images."""
    go, image = threading.Event(), media.image

    def wait(*args: Any) -> Any:
        assert go.wait(60)
        return image(*args)

    monkeypatch.setattr(media, "image", wait)
    yield go
    go.set()


@pytest.mark.filterwarnings("ignore:.*has logged under the same tag")
def test_scalars_and_histograms_are_in_the_file_while_an_image_is_encoded(tmp_path: Path, encoding):
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_image("image", PIXELS, 0)
        for step in range(3):
            writer.add_scalar("loss", 1.0, step)
            writer.add_histogram("weights", torch.ones(3), step)
            writer.add_text("notes", "text", step)
            writer.add_scalars("losses", {"a": 1.0}, step)
        until(lambda: writer.stats()["written"] == 12)
        assert [tag for tag, *_ in read(tmp_path)][:9] == ["loss", "weights", "notes/text_summary"] * 3
        writer.add_image("image", PIXELS, 1)
        writer.add_scalar("image", 1.0, 2)  # nonsense, but in order
        encoding.set()
    assert [step for tag, step, _ in read(tmp_path) if tag == "image"] == [0, 1, 2]


def test_a_session_that_starts_anew_purges_nothing_that_came_later(tmp_path: Path, encoding):
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_image("image", PIXELS, 7)
        writer.file_writer.add_event(Event(step=5, session_log=SessionLog(status=SessionLog.START)), 5)
        writer.add_scalar("loss", 1.0, 6)
        encoding.set()
    (path,) = files(tmp_path)
    assert [event.step for event in events(path)] == [7, 5, 6]


def test_flush_waits_for_images_too(tmp_path: Path, encoding):
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_image("image", PIXELS, 0)
        writer.add_scalar("loss", 1.0, 1)
        with pytest.raises(TimeoutError, match="1 of the events"):
            writer.flush(timeout=1)
        threading.Timer(0.2, encoding.set).start()
        writer.flush()
        assert {tag for tag, *_ in read(tmp_path)} == {"image", "loss"}


def test_a_file_is_closed_behind_all_that_was_logged_to_it(tmp_path: Path, encoding):
    with fastlog.SummaryWriter(tmp_path) as writer:
        session = writer.outbox.beside(str(tmp_path / "session"))
        image = fastlog.SummaryWriter(tmp_path / "other")
        image.file_writer = session  # an image in the session's file
        image.add_image("image", PIXELS, 0)
        session.retire()
        encoding.set()
        image.file_writer = None
        image.close()
    assert len(files(tmp_path / "session")) == 1
    assert [tag for tag, *_ in read(tmp_path / "session")] == ["image"]
