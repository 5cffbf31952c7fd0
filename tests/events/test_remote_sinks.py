"""Event files in remote stores: what is sent, and when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from queue_doubles import scalar
from remote_store import Store
from sink_files import steps_in
from tensorboardX import record_writer

from fastlog.events.sinks import outputs
from fastlog.events.sinks.event_files import EventFileSink


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setitem(record_writer.REGISTERED_FACTORIES, "store", store)
    return store


def stored_steps(store: Store, tmp_path: Path) -> list[int]:
    for path, content in store.files.items():
        (tmp_path / path.rpartition("/")[2]).write_bytes(content)
    return steps_in(tmp_path)


def test_a_remote_file_is_sent_at_flush_and_close_only(store, tmp_path):
    sink = EventFileSink("store://bucket/run")
    assert store.checked == ["store://bucket/run"]
    for i in range(10):
        sink.write([scalar(i)])
    assert store.sent == 0
    sink.flush()
    sink.flush()  # nothing new: not sent again
    assert store.sent == 1
    sink.write([scalar(10)])
    sink.close()
    assert store.sent == 2
    assert stored_steps(store, tmp_path) == list(range(11))
    (path,) = store.files
    assert path.startswith("store://bucket/run/events.out.tfevents.")
    sink.write([scalar(11)])
    sink.close()
    assert stored_steps(store, tmp_path) == list(range(12))
    assert len(store.files) == 2


def test_a_large_remote_file_goes_on_in_a_new_part(store, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_PART_BYTES", 1000)
    sink = EventFileSink("store://bucket/run")
    for i in range(100):
        sink.write([scalar(i)])
        sink.flush()
    sink.close()
    assert 3 < len(store.files) < 20
    assert all(len(content) < 1100 for content in store.files.values())
    assert stored_steps(store, tmp_path) == list(range(100))


def test_a_store_that_fails_is_sent_everything_when_it_is_back(store, tmp_path):
    sink = EventFileSink("store://bucket/run")
    sink.write([scalar(0)])
    store.error = ConnectionError("no route")
    for _ in range(2):
        with pytest.raises(ConnectionError):
            sink.flush()
        with pytest.raises(ConnectionError):
            sink.close()
    store.error = None
    sink.write([scalar(1)])
    sink.close()
    assert stored_steps(store, tmp_path) == [0, 1]
    assert len(store.files) == 1


def test_a_local_directory_may_be_called_like_a_store(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = EventFileSink("store")
    sink.write([scalar(0)])
    sink.close()
    assert steps_in(tmp_path / "store") == [0]


def test_other_urls_go_through_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    sink = EventFileSink("memory://bucket/run")
    sink.write([scalar(i) for i in range(5)])
    sink.flush()
    sink.write([scalar(5), scalar(6)])
    sink.close()
    memory = fsspec.filesystem("memory")
    (path,) = memory.ls("/bucket/run", detail=False)
    (tmp_path / path.rpartition("/")[2]).write_bytes(memory.cat_file(path))
    assert steps_in(tmp_path) == list(range(7))
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_url_that_nothing_can_be_logged_to_is_refused_at_once(scheme):
    with pytest.raises(ValueError, match=f"{scheme}://host/run: nothing can be logged over {scheme}.*pass a"):
        EventFileSink(f"{scheme}://host/run")


def test_a_factory_registered_for_http_is_used(store, monkeypatch, tmp_path):
    monkeypatch.setitem(record_writer.REGISTERED_FACTORIES, "http", store)
    sink = EventFileSink("http://host/run")
    sink.write([scalar(0)])
    sink.close()
    assert stored_steps(store, tmp_path) == [0]


# A store of fsspec whose client needs an executor, as those that resolve names with asyncio do.
PROGRAM = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import fsspec
from fsspec.implementations.local import LocalFileSystem

class Store(LocalFileSystem):
    protocol = "store"
    pool = ThreadPoolExecutor()
    def pipe_file(self, path, value, **options):
        self.pool.submit(super().pipe_file, path, value, **options).result()

fsspec.register_implementation("store", Store)
import fastlog
writer = fastlog.SummaryWriter("store://" + sys.argv[1])
for step in range(10):
    writer.add_scalar("x", step, step)
"""
ENDS = {
    "the end of the program": "",
    "an exception": "raise SystemError",
    "sys.exit": "sys.exit(3)",
    "a thread that logs on": """
def log():
    time.sleep(0.5)
    writer.add_scalar("x", 10, 10)
threading.Thread(target=log).start()
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_leaves_without_closing_sends_before_executors_end(end, tmp_path):
    pytest.importorskip("fsspec")
    command = [sys.executable, "-c", PROGRAM + ENDS[end], str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert steps_in(tmp_path) == list(range(10))
    # What comes after the main thread cannot be sent any more, which is said.
    assert ("cannot schedule new futures" in done.stderr) == (end == "a thread that logs on")
