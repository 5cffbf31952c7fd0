"""Many writers, many tags, workers of a DataLoader, and what stats() says of the calling threads' time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from event_files import events, files, scalars
from matplotlib.figure import Figure
from queue_doubles import until
from torch.utils.data import DataLoader, Dataset

import fastlog
from fastlog.events import worker as queue_worker
from fastlog.writer import bad_values, tags


def test_a_hundred_writers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_worker, "_IDLE_SECS", 0.1)
    threads = threading.active_count()
    writers = [fastlog.SummaryWriter(tmp_path / str(number)) for number in range(100)]
    assert threading.active_count() == threads, "a writer that has nothing to do needs no thread"
    for step in range(50):
        for number, writer in enumerate(writers):
            writer.add_scalar("a", number, step)
    for writer in writers:
        writer.flush()
    until(lambda: threading.active_count() <= threads)
    for number, writer in enumerate(writers):
        assert scalars(tmp_path / str(number)) == [("a", step, number) for step in range(50)]
        writer.add_scalar("b", 1.0)
    for number, writer in enumerate(writers):
        writer.close()
        assert scalars(tmp_path / str(number))[50:] == [("b", 0, 1.0)]


def test_a_hundred_thousand_tags(tmp_path: Path) -> None:
    names = [f"layer/{number}/weight" for number in range(100_000)]
    with fastlog.SummaryWriter(tmp_path, block_timeout=None) as writer:
        for name in names:
            writer.add_scalar(name, 1.0)
    (path,) = files(tmp_path)
    assert [event.summary.value[0].tag for event in events(path)] == names
    assert len(tags.CLEAN_TAGS) <= 65_536


class Logging(Dataset[int]):
    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        self.writer.add_scalar("item", index, index)
        return index


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_data_loader_have_files_of_their_own(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        loader = DataLoader(Logging(writer), num_workers=2, multiprocessing_context="fork")
        for step, _ in enumerate(loader):
            writer.add_scalar("main", step, step)
    (own,) = tmp_path.glob("events*")
    assert [event.step for event in events(own)] == list(range(20))
    workers = list(tmp_path.glob("pid-*"))
    assert len(workers) == 2
    assert sorted(step for each in workers for _, step, _ in scalars(each)) == list(range(20))


CALLS: dict[str, Callable[[fastlog.SummaryWriter], None]] = {
    "add_scalar": lambda w: w.add_scalar("t", torch.tensor(1.0)),
    "add_scalars": lambda w: w.add_scalars("t", {"a": 1.0}),
    "add_histogram": lambda w: w.add_histogram("t", torch.ones(3)),
    "add_histogram of other bins": lambda w: w.add_histogram("t", torch.ones(3), bins=3),
    "add_image": lambda w: w.add_image("t", np.zeros((3, 2, 2))),
    "add_figure": lambda w: w.add_figure("t", Figure((1, 1))),
    "add_audio": lambda w: w.add_audio("t", np.zeros(9)),
    "add_embedding": lambda w: w.add_embedding(np.eye(2)),
    "add_tensor": lambda w: w.add_tensor("t", torch.ones(2)),
}


@pytest.mark.parametrize("name", CALLS)
def test_all_that_a_call_takes_is_in_the_callers_seconds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        long_ago = SimpleNamespace(monotonic=lambda: time.monotonic() - 1000)
        monkeypatch.setattr(bad_values, "time", long_ago)  # every call seems to have begun then
        CALLS[name](writer)
        assert writer.stats()["caller_seconds"] > 1000
