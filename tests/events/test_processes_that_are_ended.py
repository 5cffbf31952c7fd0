"""Processes that inherit a queue, or are ended without being asked: what a call has logged is safe."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from event_files import scalars
from processes import exit_code, forked
from queue_doubles import OpenableSink, make_queue, scalar, until
from sink_files import steps_in

import fastlog
from fastlog.common.notices import FastlogWarning
from fastlog.events.items import DEVICE, ENCODER, JOB
from fastlog.events.sinks.event_files import EventFileSink

# Python warns about forks of threaded processes, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

_writers: dict[str, fastlog.SummaryWriter] = {}


def log_all_kinds(step: int) -> int:
    """What a function given to a Pool does with a writer of its parent."""
    (writer,) = _writers.values()
    writer.add_scalar("a", step, step)
    writer.add_histogram("h", np.arange(9.0), step)
    writer.add_image("i", np.zeros((3, 4, 4)), step)
    writer.add_text("t", "text", step)
    writer.add_scalars("m", {"b": step}, step)
    return os.getpid()


def logged_below(logdir: Path, tag: str) -> list[int]:
    return sorted(step for name, step, _ in scalars(logdir) if name == tag)


@pytest.fixture
def inherited(tmp_path: Path):
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_scalar("parent", 1.0)
        _writers["it"] = writer
        yield writer
    _writers.clear()


def test_workers_of_a_pool_are_ended_at_the_end_of_its_block_and_lose_nothing(tmp_path, inherited):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pids = set(pool.map(log_all_kinds, range(20), chunksize=1))
    for tag in ("a", "h", "i", "t/text_summary", "m"):
        assert logged_below(tmp_path, tag) == list(range(20)), tag
    directories = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert directories == {f"pid-{pid}" for pid in pids}


def test_children_leave_the_directories_of_their_parent_alone(tmp_path, inherited):
    inherited.add_scalars("m", {"b": -1}, 0)
    inherited.flush()
    before = sorted(path for path in tmp_path.rglob("*"))

    def child() -> None:
        log_all_kinds(7)
        inherited.add_hparams({"lr": 0.1}, {"loss": 1.0}, "trial")
        inherited.add_embedding(np.eye(3))

    for _ in range(2):
        with forked(child) as pid:
            assert exit_code(pid) == 0
    children = sorted(tmp_path.glob("pid-*"))
    assert len(children) == 2
    others = [path for path in tmp_path.rglob("*") if not set(children) & {path, *path.parents}]
    assert sorted(others) == before
    for directory in children:
        assert (directory / "projector_config.pbtxt").exists()
        assert {path.name for path in directory.iterdir() if path.is_dir()} == {"m", "trial", "00000"}


def test_a_forked_child_that_leaves_by_os_exit_loses_nothing(tmp_path, inherited):
    with forked(lambda: log_all_kinds(7)) as pid:
        assert exit_code(pid) == 0
    for tag in ("a", "h", "i", "t/text_summary", "m"):
        assert logged_below(tmp_path, tag) == [7], tag


def test_threads_of_a_child_that_log_at_once_each_return_when_their_event_is_written(tmp_path):
    sink, queue = EventFileSink(str(tmp_path)), make_queue()

    def child() -> None:
        ends = threading.Barrier(4)

        def log(name: str) -> None:
            for i in range(50):
                queue.put(sink, scalar(i, name), 10)
            ends.wait(60)

        for name in "abc":
            threading.Thread(target=log, args=(name,), daemon=True).start()
        ends.wait(60)

    with forked(child) as pid:
        assert exit_code(pid) == 0
    (directory,) = tmp_path.glob("pid-*")
    assert [steps_in(directory, name) for name in "abc"] == [list(range(50))] * 3
    queue.close()


def test_a_child_says_at_the_call_that_nothing_can_be_written():
    sink, queue = OpenableSink(), make_queue()

    def child() -> None:
        sink.error = OSError(28, "No space left on device")
        with pytest.warns(FastlogWarning, match="No space left"):
            queue.put(sink, scalar(0), 10)
        sink.error = None
        queue.put(sink, scalar(1), 10)
        assert [item[3] for item in sink.items] == [0, 1]

    with forked(child) as pid:
        assert exit_code(pid) == 0


def test_a_child_runs_jobs_at_the_call_but_waits_for_no_device():
    sink, queue = OpenableSink(), make_queue()

    def child() -> None:
        ran_on, go = [], threading.Event()

        def run(number: int, wait: bool = False):
            assert not wait or go.wait(60)
            ran_on.append(threading.current_thread())
            return [scalar(number)]

        for number, aside in enumerate((None, ENCODER)):
            queue.put(sink, (JOB, lambda number=number: run(number), 10, True, "job", aside, ["x"]), 10, True)
        assert [item[3] for item in sink.items] == [0, 1]
        assert set(ran_on) == {threading.current_thread()}
        queue.put(sink, (JOB, lambda: run(2, True), 10, True, "job", DEVICE, ["x"]), 10, True)
        queue.put(sink, scalar(3, "y"), 10)
        assert [item[3] for item in sink.items] == [0, 1, 3]
        go.set()
        until(lambda: len(sink.items) == 4)
        queue.close()

    with forked(child) as pid:
        assert exit_code(pid) == 0


def log_for_ever(logdir: str, started: Callable[[], object]) -> None:
    """The target of a daemonic process: tells how far it has come, and is ended in the middle."""
    writer = fastlog.SummaryWriter(logdir)
    for step in range(sys.maxsize):
        writer.add_scalar("a", step, step)
        started(step)


def test_a_daemon_of_multiprocessing_that_is_ended_has_written_what_its_calls_have_logged(tmp_path):
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=log_for_ever, args=(str(tmp_path), writer.send), daemon=True)
    process.start()
    assert reader.poll(100)
    while (last := reader.recv()) < 30:
        pass
    process.terminate()
    process.join(60)
    while reader.poll(0):
        last = reader.recv()
    assert len(logged_below(tmp_path, "a")) >= last + 1


def test_a_forked_child_has_new_writers_of_the_quick_kind(tmp_path):
    def child() -> None:
        with fastlog.SummaryWriter(tmp_path) as writer:
            writer.add_scalar("a", 1.0, 1)
            assert writer.outbox._queue._worker.thread is not None

    with forked(child) as pid:
        assert exit_code(pid) == 0
    assert logged_below(tmp_path, "a") == [1]
