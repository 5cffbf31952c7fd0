"""Opening, flushing, closing, copying and leaving a SummaryWriter, and where its files are."""

import copy
import gc
import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import events, files
from event_files import scalars as read

import fastlog


def test_flush_returns_when_it_can_be_read(tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path)
    for step in range(3):
        writer.add_scalar("a", step, step)
        writer.add_scalars("m", {"b": step}, step)
        writer.flush()
        assert read(tmp_path)[step] == ("a", step, step)
        assert read(tmp_path / "m")[step] == ("m", step, step)
    writer.flush(timeout=10)
    writer.close()


@pytest.mark.filterwarnings("ignore:.* was closed and is used again:fastlog.FastlogWarning")
def test_close_and_reopen_keep_every_file(tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(str(tmp_path), purge_step=5)
    for step in range(4):
        writer.add_scalar("a", 1.0, step)
        writer.close()
        assert writer.file_writer is None and writer.all_writers is None
        writer.close()
    assert read(tmp_path) == [("a", step, 1.0) for step in range(4)]
    assert len(files(tmp_path)) == 4
    purges = [
        event
        for path in files(tmp_path)
        for event in events(path)
        if event.session_log.status or event.step == 5
    ]
    assert len(purges) == 2, "reopening does not purge again"
    stats = writer.stats()
    assert stats["accepted"] == stats["written"] == 6


def test_with_block_closes_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_scalar("a", 1.0)
        raise KeyError
    assert writer.file_writer is None
    assert len(read(tmp_path)) == 1


def test_a_forgotten_writer_writes_all_and_leaves_nothing(tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path)
    writer.add_scalar("a", 1.0)
    writer.add_image("i", np.zeros((3, 2, 2)))
    gone = weakref.ref(writer)
    del writer
    gc.collect()
    assert gone() is None
    assert [tag for tag, _, _ in read(tmp_path)] == ["a", "i"]


def test_a_thousand_writers_leave_nothing_behind(tmp_path: Path) -> None:
    def cycle(count: int) -> None:
        for _ in range(count):
            with fastlog.SummaryWriter(tmp_path) as writer:
                writer.add_scalar("a", 1.0)

    cycle(10)
    gc.collect()
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    finalizers = len(weakref.finalize._registry)  # type: ignore[attr-defined]
    cycle(1000)
    gc.collect()
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert len(weakref.finalize._registry) <= finalizers  # type: ignore[attr-defined]
    assert len(files(tmp_path)) == 1010


SCRIPTS = {
    "by an error": "raise SystemError",
    "with a daemon": "import threading; threading.Thread(target=time.sleep, args=[60], daemon=True).start()",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_that_leaves_without_closing(name: str, tmp_path: Path) -> None:
    script = f"""
import sys, time
import fastlog, numpy
writer = fastlog.SummaryWriter({str(tmp_path)!r})
for step in range(100):
    writer.add_scalar("a", step, step)
writer.add_image("i", numpy.zeros((3, 2, 2)))
{SCRIPTS[name]}
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True)
    assert [step for tag, step, _ in read(tmp_path) if tag == "a"] == list(range(100))
    assert read(tmp_path)[-1][0] == "i"


def test_daemon_threads_that_log_to_the_very_end_do_not_break_the_exit(tmp_path: Path) -> None:
    script = f"""
import itertools, threading, time
import fastlog, numpy
writer, values = fastlog.SummaryWriter({str(tmp_path)!r}), numpy.ones(1_000_000)
def log():
    for step in itertools.count():
        writer.add_scalar("a", step, step)
        writer.add_histogram("h", values, step)
for _ in range(3):
    threading.Thread(target=log, daemon=True).start()
while writer.stats()["accepted"] < 30:
    time.sleep(0.01)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(read(tmp_path)) >= 30


def log_from(writer: Any) -> None:
    writer.add_scalar("child", 2.0)
    writer.add_histogram("h", torch.ones(3))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_has_a_file_of_its_own(method: str, tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_scalar("parent", 1.0)
        child = multiprocessing.get_context(method).Process(target=log_from, args=(writer,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        writer.add_scalar("parent", 3.0)
    own = [path for path in files(tmp_path) if path.parent == tmp_path]
    assert [tag for path in own for tag, _, _ in read(path.parent)][:2] == ["parent", "parent"]
    assert [tag for tag, _, _ in read(tmp_path / f"pid-{child.pid}")] == ["child", "h"]


def test_copies_and_pickles_keep_the_settings(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path, filename_suffix=".x", on_error="raise", queue_events=77) as writer:
        writer.add_scalars("m", {"a": 1.0})
        for twin in (copy.deepcopy(writer), pickle.loads(pickle.dumps(writer))):
            assert twin.logdir == tmp_path and twin.scalar_dict == writer.scalar_dict
            with pytest.raises(ValueError, match="scalar_value"):
                twin.add_scalar("a", [1.0, 2.0])
            twin.add_scalar("twin", 1.0)
            twin.close()
        assert read(tmp_path / f"pid-{os.getpid()}") == [("twin", 0, 1.0)] * 2


def test_metadata_is_taken_at_the_call_and_given_back(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        with pytest.raises(KeyError), writer.use_metadata(global_step=3) as same:
            assert same is writer
            writer.add_scalar("a", 1.0)
            writer.add_scalars("m", {"b": 1.0})
            writer.add_histogram("h", [1.0], bins=3)
            raise KeyError
        writer.add_scalar("a", 2.0)
        with pytest.raises(AssertionError), writer.use_metadata():
            pass
        with (
            writer.use_metadata(walltime=5.0),
            pytest.raises(AssertionError),
            writer.use_metadata(global_step=1),
        ):
            pass
    logged = sorted(read(tmp_path), key=lambda row: row[0])
    assert logged == [("a", 3, 1.0), ("a", 0, 2.0), ("h", 3, 0.0), ("m", 3, 1.0)]


def test_without_disk_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels, points = np.zeros((3, 4, 4)), np.zeros((1, 3, 3))
    with fastlog.SummaryWriter("/", write_to_disk=False) as writer:
        writer.add_scalar("a", 1.0)
        writer.add_scalars("m", {"a": 1.0})
        writer.add_histogram("h", [1.0])
        writer.add_histogram("h", [1.0], bins="auto")
        writer.add_histogram_raw("h", 0, 1, 1, 1, 1, [1.0], [1])
        writer.add_image("i", pixels)
        writer.add_images("i", [pixels], dataformats="CHW")
        writer.add_image_with_boxes("i", pixels, np.zeros((1, 4)))
        writer.add_audio("s", np.zeros(5))
        writer.add_text("t", "x")
        writer.add_embedding(np.eye(2))
        writer.add_pr_curve("p", [1, 0], [0.5, 0.1])
        writer.add_pr_curve_raw("p", *[[1.0]] * 6)
        writer.add_mesh("m", points)
        writer.add_tensor("x", torch.ones(2))
        writer.add_hparams({"a": 1}, {"b": 2})
        writer.add_custom_scalars({"c": {"t": ["Multiline", ["a"]]}})
        writer.file_writer.add_openvino_graph(None)
        writer.flush()
        with writer.use_metadata(global_step=1):
            writer.add_scalar("a", 1.0)
        with pytest.raises(TypeError):
            writer.add_scalar("a", "b")
    assert not any(tmp_path.iterdir())
    assert not Path("/00000").exists() and not Path("/m").exists()


def test_max_queue_only_raises_the_limit(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path, max_queue=10) as writer:
        assert writer.outbox.settings.queue["queue_events"] > 1000
    with fastlog.SummaryWriter(tmp_path, max_queue=10**6) as writer:
        assert writer.outbox.settings.queue["queue_events"] == 10**6
    with pytest.raises(TypeError, match="flush_seconds"):
        fastlog.SummaryWriter(tmp_path, flush_seconds=3)
    with pytest.raises(ValueError, match="overflow"):
        fastlog.SummaryWriter(tmp_path, overflow="explode")  # type: ignore[arg-type]


def test_json_export(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        for step in (1, 2):
            writer.add_scalars("m", {"a": torch.tensor(step / 2), "b": 3}, np.int64(step), 5)
        writer.export_scalars_to_json(tmp_path / "all.json")
        assert writer.scalar_dict == {}
    assert json.loads((tmp_path / "all.json").read_text()) == {
        f"{tmp_path}/m/a": [[5.0, 1, 0.5], [5.0, 2, 1.0]],
        f"{tmp_path}/m/b": [[5.0, 1, 3.0], [5.0, 2, 3.0]],
    }


def test_many_sessions_do_not_keep_their_files_open(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        descriptors = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            writer.add_hparams({"a": number}, {"b": number}, f"trial{number}")
        writer.flush()
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
    assert len(read(tmp_path)) == 50 * 4


def test_thousands_of_files_leave_descriptors_to_the_program(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    limit = 2 * (highest + 50)
    tags = [f"tag{number}" for number in range(2 * limit)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with fastlog.SummaryWriter(tmp_path, on_error="raise") as writer:
            for step in range(3):
                writer.add_scalars("many", dict.fromkeys(tags, step), step)
                writer.flush()
                assert len(os.listdir("/proc/self/fd")) < 0.6 * limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for tag in tags:
        assert [event.step for path in files(tmp_path / "many" / tag) for event in events(path)] == [0, 1, 2]
    assert len(files(tmp_path)) == 1 + len(tags)


TAGS = [
    "..",
    "../../up",
    "/etc/absolute",
    "a/../../b",
    ".",
    "",
    "\x00\x01\n",
    "x" * 10_000,
    "y/" * 5_000,
    "😀" * 300,
]
TAGS += ["\ud800", "C:\\x", "~", "a\\..\\b", "-rf", "con", " ", "ü" * 200, "a//b", "pid-1"]

MAKE_PATHS: dict[str, Callable[[Any, str], object]] = {
    "add_scalars": lambda w, tag: (w.add_scalars(tag, {"a": 1.0}), w.add_scalars("a", {tag: 1.0})),
    "add_hparams": lambda w, tag: w.add_hparams({"a": 1}, {tag: 1.0}, tag),
    "add_embedding": lambda w, tag: w.add_embedding(np.eye(2), tag=tag),
}


def test_a_log_directory_that_is_a_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a file is in the place of the log directory.*notes\.txt"):
        fastlog.SummaryWriter(tmp_path / "notes.txt")
    with pytest.raises(NotADirectoryError, match=r"notes\.txt"):
        fastlog.SummaryWriter(tmp_path / "notes.txt/below")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:add_hparams.*outside of the log directory")
@pytest.mark.filterwarnings("ignore:.*tag has characters that no file can hold")
@pytest.mark.parametrize("method", MAKE_PATHS)
def test_no_tag_leads_outside_the_log_directory(method: str, tmp_path: Path) -> None:
    logdir = tmp_path / "one/two/three/logs"
    with fastlog.SummaryWriter(logdir, on_error="raise") as writer:
        for tag in TAGS:
            MAKE_PATHS[method](writer, tag)
            writer.flush()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(logdir in path.parents for path in written)
    assert not Path("/etc/absolute").exists()
    for path in files(logdir):
        events(path)  # can be read
    if method == "add_scalars":
        assert len(read(logdir)) == 2 * len(TAGS)
    if method == "add_embedding":
        from google.protobuf import text_format
        from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

        config = text_format.Parse((logdir / "projector_config.pbtxt").read_text(), ProjectorConfig())
        assert len(config.embeddings) == len(TAGS)
        assert all((logdir / embedding.tensor_path).is_file() for embedding in config.embeddings)


class FakeComet:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append(name)


def test_comet_hears_of_every_call(tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path, comet_config={"disabled": False})
    comet = writer._comet_logger = FakeComet()
    pixels = np.zeros((3, 4, 4))
    writer.add_scalar("a", 1.0, 1)
    writer.add_scalars("m", {"a": 1.0})
    writer.add_histogram("h", torch.ones(3))
    writer.add_histogram_raw("h", 0, 1, 1, 1, 1, [1.0], [1])
    writer.add_image("i", pixels)
    writer.add_images("i", pixels[None])
    writer.add_image_with_boxes("b", pixels, np.array([[1, 1, 2, 2]]))
    writer.add_text("t", "x")
    writer.add_embedding(np.eye(2))
    writer.add_pr_curve("p", np.array([1, 0]), np.array([0.5, 0.1]))
    writer.add_pr_curve_raw("p", *[np.ones(3)] * 6)
    writer.add_mesh("x", pixels)
    writer.add_hparams({"a": 1}, {"b": 2})
    writer.close()
    assert comet.calls == [
        *["log_metric", "log_metrics", "log_histogram", "log_histogram_raw", "log_image_encoded"],
        *["log_image_encoded", "log_image_encoded", "log_text", "log_embedding", "log_pr_data"],
        *["log_pr_raw_data", "log_mesh", "log_parameters", "end"],
    ]
    assert {"a", "h", "i", "b", "t/text_summary", "p", "x_1"} <= {tag for tag, _, _ in read(tmp_path)}


def test_points_kept_for_export_are_bounded_and_go_with_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlog.writer.scalars._KEPT_POINTS", 3)
    writer = fastlog.SummaryWriter(tmp_path / "ours")
    for step in range(5):
        writer.add_scalars("m", {"a": step}, step)
    writer.export_scalars_to_json(tmp_path / "all.json")
    (points,) = json.loads((tmp_path / "all.json").read_text()).values()
    assert [point[1:] for point in points] == [[2, 2.0], [3, 3.0], [4, 4.0]]
    writer.add_scalars("m", {"a": 1}, 9)
    writer.close()
    assert writer.scalar_dict == {}
    with fastlog.TorchSummaryWriter(str(tmp_path / "torchs")) as torchs:  # torch keeps nothing
        torchs.add_scalars("m", {"a": 1}, 1)
        assert torchs.scalar_dict == {}
