"""Processes that inherit a queue and its files, by fork or by pickle."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from processes import exit_code, forked
from queue_doubles import make_queue, scalar
from remote_store import Store
from sink_files import files_in, steps_in
from tensorboardX import record_writer

from fastlog.events.items import JOB
from fastlog.events.queue import AsyncQueue
from fastlog.events.sinks.event_files import EventFileSink
from fastlog.events.worker import Worker

# Python warns about forks of threaded processes, which is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def child_directory(logdir: Path) -> Path:
    (path,) = (path for path in logdir.iterdir() if path.name.startswith("pid-"))
    return path


def test_a_forked_child_has_a_file_of_its_own(tmp_path):
    sink = EventFileSink(str(tmp_path))
    queue = make_queue()
    for i in range(100):
        queue.put(sink, scalar(i), 10)  # some still wait: they are the parent's

    def child() -> None:
        assert queue.stats()["accepted"] == 0
        for i in range(1000, 1010):
            queue.put(sink, scalar(i), 10)
        queue.flush()
        queue.close()

    with forked(child) as pid:
        assert exit_code(pid) == 0
    for i in range(100, 200):
        queue.put(sink, scalar(i), 10)
    queue.close()
    assert steps_in(tmp_path) == list(range(200))
    assert steps_in(child_directory(tmp_path)) == list(range(1000, 1010))
    assert child_directory(tmp_path).name == f"pid-{pid}"


def test_a_child_that_logs_nothing_leaves_nothing(tmp_path):
    sink = EventFileSink(str(tmp_path))
    queue = make_queue()
    queue.attach(sink)
    queue.put(sink, scalar(0), 10)
    with forked(lambda: (queue.flush(), queue.close(), sink.close())) as pid:
        assert exit_code(pid) == 0
    queue.close()
    assert [path.name for path in tmp_path.iterdir()] == [files_in(tmp_path)[0].name]
    assert steps_in(tmp_path) == [0]


def test_forks_at_any_moment_never_hang(tmp_path):
    sink = EventFileSink(str(tmp_path))
    queue = make_queue(queue_events=200)
    stop = threading.Event()

    def log(name: str) -> None:
        step = 0
        while not stop.wait(0.001):
            for _ in range(3):
                queue.put(sink, scalar(step, name), 10)
                step += 1

    threads = [threading.Thread(target=log, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()

    def child() -> None:
        for i in range(5):
            queue.put(sink, scalar(i), 10)
        queue.close()

    try:
        for _ in range(25):
            with forked(child) as pid:
                assert exit_code(pid) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        queue.close()
    children = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(children) == 25
    assert all(steps_in(path) == [0, 1, 2, 3, 4] for path in children)
    for name in "ab":
        steps = steps_in(tmp_path, name)
        assert steps == list(range(len(steps)))
    assert queue.stats()["written"] == sum(len(steps_in(tmp_path, name)) for name in "ab")


def test_a_job_that_forks_is_not_counted_in_the_child(tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "exiting", True)  # so it runs on this thread, which outlives a fork
    sink = EventFileSink(str(tmp_path))
    queue = make_queue()
    pids = []

    def run():
        pids.append(os.fork())
        return [scalar(1)]

    queue.put(sink, (JOB, run, 10, False, "fork"), 10)
    if pids == [0]:
        stats = queue.stats()
        os._exit(stats["accepted"] + stats["written"] + stats["depth"])
    queue.close()
    assert exit_code(pids[0]) == 0
    assert steps_in(tmp_path) == [1]
    assert queue.stats()["written"] == 1


def log_and_leave(queue: AsyncQueue, sink: EventFileSink) -> None:
    for i in range(10):
        queue.put(sink, scalar(i), 10)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_multiprocessing_needs_no_close(tmp_path, method):
    sink, queue = EventFileSink(str(tmp_path)), make_queue()
    queue.put(sink, scalar(77), 10)
    process = multiprocessing.get_context(method).Process(target=log_and_leave, args=(queue, sink))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    queue.close()
    assert steps_in(tmp_path) == [77]
    assert steps_in(child_directory(tmp_path)) == list(range(10))


def test_a_child_does_not_send_the_parents_remote_file(monkeypatch):
    store = Store()
    monkeypatch.setitem(record_writer.REGISTERED_FACTORIES, "store", store)
    sink = EventFileSink("store://bucket/run")
    sink.write([scalar(0)])

    def child() -> None:
        file = sink
        del file
        sink.close()
        assert store.sent == 0
        sink.write([scalar(1)])
        sink.close()
        assert [path.split("/")[-2] for path in store.files] == [f"pid-{os.getpid()}"]

    with forked(child) as pid:
        assert exit_code(pid) == 0
    sink.close()
    assert store.sent == 1
