"""GlobalSummaryWriter: what forked and spawned children log is in the parent's file."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
from event_files import files, scalars

import fastlog
from fastlog.writer import global_writer

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def logged(logdir: Path) -> list[tuple[int, float]]:
    """(step, value) of tag "a" in the one file below a directory."""
    (path,) = files(logdir)
    return [(step, value) for tag, step, value in scalars(path.parent) if tag == "a"]


def count_up(writer: Any, child: int) -> None:
    for i in range(50):
        writer.add_scalar("a", 100 * child + i)
    writer.add_image("i", np.zeros((3, 4, 4)))
    writer.add_text("t", "text")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_log_to_the_parents_file(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "Lock", multiprocessing.get_context(method).Lock)
    writer = fastlog.GlobalSummaryWriter(str(tmp_path))
    assert isinstance(writer, tensorboardX.GlobalSummaryWriter)
    context = multiprocessing.get_context(method)
    children = [context.Process(target=count_up, args=(writer, i)) for i in range(1, 4)]
    for child in children:
        child.start()
    count_up(writer, 0)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    writer.close()
    rows = logged(tmp_path)
    assert sorted(step for step, _ in rows) == list(range(200))
    assert sorted(value for _, value in rows) == [100 * child + i for child in range(4) for i in range(50)]
    for child_values in ([v for _, v in rows if v // 100 == child] for child in range(4)):
        assert child_values == sorted(child_values)
    tags = [tag for tag, _, _ in scalars(tmp_path)]
    assert tags.count("i") == tags.count("t/text_summary") == 4


def test_flush_covers_what_children_have_sent(tmp_path: Path) -> None:
    writer = fastlog.GlobalSummaryWriter(str(tmp_path))
    child = multiprocessing.get_context("fork").Process(target=count_up, args=(writer, 1))
    child.start()
    child.join(60)
    writer.smw.flush()
    assert len(logged(tmp_path)) == 50
    writer.close()


def send_for_ever(writer: Any, started: Any) -> None:
    while True:
        writer.add_histogram("h", np.arange(1000.0))
        started.set()


def test_a_killed_child_does_not_take_the_parent_along(tmp_path: Path) -> None:
    writer = fastlog.GlobalSummaryWriter(str(tmp_path)).smw
    context = multiprocessing.get_context("fork")
    started = context.Event()
    child = context.Process(target=send_for_ever, args=(writer, started))
    child.start()
    assert started.wait(60)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(60)
    writer.add_scalar("a", 1.0)
    writer.close(timeout=30)
    assert logged(tmp_path) == [(0, 1.0)]


def send_from_a_child(writer: Any, count: int) -> None:
    child = multiprocessing.get_context("fork").Process(
        target=lambda: [writer.add_scalar("a", i) for i in range(count)]
    )
    child.start()
    child.join(60)


def test_what_children_have_sent_is_waited_for_as_long_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(global_writer, "_HANG_SECS", 0.5)
    receive = global_writer.SharedWriter._receive

    def receive_slowly(writer: Any, message: Any) -> None:
        time.sleep(0.1)
        receive(writer, message)

    monkeypatch.setattr(global_writer.SharedWriter, "_receive", receive_slowly)
    writer = fastlog.GlobalSummaryWriter(str(tmp_path))
    send_from_a_child(writer, 20)
    writer.smw.flush()
    assert len(logged(tmp_path)) == 20
    writer.close()


def test_a_pipe_that_gets_on_with_nothing_does_not_hold_up_flush_and_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(global_writer, "_HANG_SECS", 0.1)
    go_on = threading.Event()
    monkeypatch.setattr(global_writer.SharedWriter, "_receive", lambda *message: go_on.wait(60))
    writer = fastlog.GlobalSummaryWriter(str(tmp_path))
    writer.add_scalar("a", 0.0)
    send_from_a_child(writer, 3)
    writer.smw.flush()
    writer.close()
    assert logged(tmp_path) == [(0, 0.0)] and not go_on.is_set()
    go_on.set()


def test_a_program_that_leaves_without_closing(tmp_path: Path) -> None:
    script = f"""
import multiprocessing, fastlog
def work(writer):
    for i in range(100):
        writer.add_scalar("a", i)
if __name__ == "__main__":
    writer = fastlog.GlobalSummaryWriter({str(tmp_path)!r})
    child = multiprocessing.get_context("fork").Process(target=work, args=(writer,))
    child.start()
    child.join()
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True, capture_output=True)
    assert logged(tmp_path) == [(i, i) for i in range(100)]


def test_one_for_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastlog.writer.global_writer._writer", None)
    writer = fastlog.GlobalSummaryWriter.getSummaryWriter()
    assert fastlog.GlobalSummaryWriter.getSummaryWriter() is writer
    writer.add_scalar("a", 1.0)
    writer.close()
    (path,) = files(tmp_path)
    assert path.parent.parent == tmp_path / "runs"
