"""What a writer says of its own life: a new file, another writer, odd arguments, and what was not logged."""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
from event_files import files, scalars
from tensorboardX.proto.summary_pb2 import Summary
from torch import nn

import fastlog
from fastlog.common.notices import Notices
from fastlog.writer import arguments


@pytest.fixture
def said() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def texts(said: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in said]


# ---- used again after close


def test_a_closed_writer_that_is_used_again_says_so_once_at_the_users_line(tmp_path, said):
    writer = fastlog.SummaryWriter(tmp_path)
    for step in range(3):
        writer.add_scalar("a", 1.0, step)
        writer.add_histogram("h", torch.ones(3), step)
        writer.close()
    (text,) = texts(said)
    assert "was closed and is used again" in text and str(tmp_path) in text and "flush()" in text
    assert said[0].filename == __file__
    assert [row[:2] for row in scalars(tmp_path)] == [(tag, step) for step in range(3) for tag in "ah"]


def test_a_watcher_that_goes_on_after_close_says_so_once(tmp_path, said):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    writer = fastlog.SummaryWriter(tmp_path)
    fastlog.watch(model, writer, optimizer, every=1)
    writer.close()
    for _ in range(2):
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    writer.flush()
    (text,) = texts(said)
    assert "the writer was closed before step 0" in text and "remove()" in text
    assert said[0].filename == __file__
    writer.close()


def test_a_library_may_close_a_writer_between_its_own_phases(tmp_path, said):
    # Lightning closes its logger's writer at the end of fit, and of test
    library: dict[str, Any] = {"__name__": "lightning.pytorch.loggers.tensorboard"}
    source = "def finalize(writer): writer.close()"
    exec(compile(source, "/venv/lib/python3/site-packages/lightning/loggers/tensorboard.py", "exec"), library)
    writer = fastlog.SummaryWriter(tmp_path)
    for step in range(2):
        writer.add_scalar("a", 1.0, step)
        library["finalize"](writer)
    assert texts(said) == []


def test_a_copy_and_a_forked_child_are_not_used_again(tmp_path, said):
    writer = fastlog.SummaryWriter(tmp_path)
    writer.add_scalar("a", 1.0)
    copy = pickle.loads(pickle.dumps(writer))
    copy.add_scalar("b", 1.0)
    copy.close()
    child = multiprocessing.get_context("fork").Process(target=writer.add_scalar, args=("c", 1.0))
    child.start()
    child.join(60)
    writer.close()
    assert [text for text in texts(said) if "SummaryWriter" in text] == []


# ---- another one in the same directory


def test_a_second_writer_in_a_directory_says_so_once_with_the_remedy(tmp_path, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = fastlog.SummaryWriter(tmp_path / "run")
    assert texts(said) == []
    second = fastlog.SummaryWriter("run")
    (text,) = texts(said)
    assert "another one of this process has a file open in run" in text
    assert "newest file" in text and "close() the older one" in text and "logdir of its own" in text
    assert said[0].filename == __file__
    for writer in (first, second, first):
        writer.add_scalar("a", 1.0)
        writer.flush()
    first.close()
    second.close()
    assert len(texts(said)) == 1


def test_a_writer_after_another_one_beside_it_or_below_it_says_nothing(tmp_path, said):
    with fastlog.SummaryWriter(tmp_path / "run") as writer:
        writer.add_scalars("m", {"a": 1.0})
        writer.add_hparams({"lr": 0.1}, {"loss": 1.0}, "trial")
    writers = [fastlog.SummaryWriter(tmp_path / name) for name in ("run", "run/below", "beside")]
    for writer in writers:
        writer.close()
    kept = fastlog.SummaryWriter(tmp_path / "forgotten")
    del kept
    with fastlog.SummaryWriter(tmp_path / "forgotten"):
        pass
    assert texts(said) == []


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"logdir": 5}, ["logdir", "int: 5"]),
        ({"log_dir": 5.0}, ["log_dir", "float: 5.0"]),
        ({"logdir": b"runs"}, ["logdir", "bytes"]),
        ({"logdir": ["runs"]}, ["logdir", "list"]),
        ({"comment": 5}, ["comment", "int: 5"]),
        ({"filename_suffix": None}, ["filename_suffix", "NoneType"]),
        ({"max_queue": "10"}, ["max_queue", "str: '10'"]),
        ({"max_queue": 1.5}, ["max_queue", "float"]),
    ],
)
def test_an_argument_of_another_type_is_named_and_nothing_is_made(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError) as error:
        fastlog.SummaryWriter(**arguments)
    assert all(word in str(error.value) for word in ["SummaryWriter", *words])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["five", [1, 2], 2**70])
def test_a_purge_step_that_is_no_step_is_named(step, tmp_path):
    with pytest.raises((TypeError, ValueError), match="purge_step"):
        fastlog.SummaryWriter(tmp_path, purge_step=step)
    assert files(tmp_path) == []


def test_a_purge_step_of_numpy_or_torch_is_one(tmp_path):
    fastlog.SummaryWriter(tmp_path, purge_step=torch.tensor(5)).close()
    assert len(files(tmp_path)) == 1


def test_a_negative_max_queue_is_no_limit_in_tensorboardX_and_here_it_says_so(tmp_path, said):
    for max_queue in (None, 0, 10, 10**6):
        fastlog.SummaryWriter(tmp_path, max_queue=max_queue).close()
    assert texts(said) == []
    fastlog.SummaryWriter(tmp_path, max_queue=-1).close()
    (text,) = texts(said)
    assert "max_queue=-1" in text and "65,536" in text and "queue_events" in text
    assert said[0].filename == __file__


def test_a_url_that_was_made_a_path_is_a_url_again(tmp_path):
    assert arguments.checked_directory(Path("s3://bucket/run"), "logdir") == "s3://bucket/run"
    assert arguments.checked_directory(Path("memory://bucket"), "logdir") == "memory://bucket"
    for path in (Path("/a/b"), Path("odd:/a"), Path("a:b/c"), tmp_path, "s3:/bucket"):
        assert arguments.checked_directory(path, "logdir") is path


# ---- what was not logged


def test_what_was_swallowed_is_added_up_at_close(tmp_path, said):
    writer = fastlog.SummaryWriter(tmp_path)
    for step in range(4):
        writer.add_scalar("a", [1.0, 2.0], step)
    writer.add_image("b", torch.ones(2), 0)
    writer.close()
    assert texts(said)[2:] == [
        "fastlog: 5 values were not logged: add_scalar('a') \u00d7 4, add_image('b') \u00d7 1; see stats()"
    ]
    assert said[-1].filename == __file__
    writer.close()
    assert len(said) == 3
    assert writer.stats()["bad_values"] == 5


def test_the_total_names_the_worst_places_only_and_is_not_said_where_each_was(tmp_path, said):
    with fastlog.SummaryWriter(tmp_path / "each") as writer:
        for number in range(9):
            writer.add_scalar(f"a{number}", [])
    assert len(said) == 9
    with fastlog.SummaryWriter(tmp_path / "more") as writer:
        for number in range(1, 9):
            for _ in range(number):
                writer.add_scalar(f"a{number}", [])
    places = ", ".join(f"add_scalar('a{number}') \u00d7 {number}" for number in (8, 7, 6, 5, 4))
    assert texts(said)[-1] == f"fastlog: 36 values were not logged: {places}, and 3 more; see stats()"


def test_each_kind_of_error_under_a_tag_is_said_once_and_the_total_has_them_all(tmp_path, said):
    values: list[Any] = [None, [], [1.0, 2.0], torch.ones(2, 3), None, 10**400, torch.ones(4)]
    writer = fastlog.SummaryWriter(tmp_path)
    for _ in range(2):
        for value in values:
            writer.add_scalar("a", value)
    writer.close()
    none, shape, large, total = texts(said)
    assert "is None" in none and "has shape (0,)" in shape and "too large" in large
    assert total == "fastlog: 14 values were not logged: add_scalar('a') \u00d7 14; see stats()"
    assert writer.stats()["bad_values"] == 14


def test_kinds_of_error_that_were_each_said_have_no_total(tmp_path, said):
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_histogram("a", None)
        writer.add_histogram("a", [], bins=[0.0, 1.0])
    assert len(said) == 2


def test_errors_whose_texts_all_differ_are_said_no_more_than_a_few_times(tmp_path, said):
    writer = fastlog.SummaryWriter(tmp_path)
    for length in range(1, 20):
        writer.outbox.bad_values.report("add_image('a')", ValueError("x" * length))
    writer.close()
    assert len(said) == 6 and "19 values were not logged" in texts(said)[-1]


@pytest.mark.parametrize("leave", ["", "del writer", "raise SystemExit"])
def test_a_program_that_leaves_its_writer_open_hears_the_total_too(leave, tmp_path):
    script = f"""
import fastlog
writer = fastlog.SummaryWriter({str(tmp_path)!r})
for step in range(3):
    writer.add_scalar("a", [], step)
{leave}
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert "3 values were not logged: add_scalar('a') \u00d7 3; see stats()" in done.stderr
    assert done.stderr.count("FastlogWarning") == 2


# ---- where warnings point to


def test_the_end_of_a_with_block_is_the_users_line(tmp_path, said):
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_scalar("a", [])
        writer.add_scalar("a", [])
    assert [warning.filename for warning in said] == [__file__, __file__]


def test_a_warning_out_of_a_hook_of_torch_is_the_users_line(said):
    notices = Notices("warn")
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], 0.1)
    namespace: dict[str, Any] = {"__name__": "fastlog.double", "notices": notices}
    exec("def hook(*arguments): notices.tell('cause', 'text'); notices.warn()", namespace)
    optimizer.register_step_post_hook(namespace["hook"])
    optimizer.step()
    assert [warning.filename for warning in said] == [__file__]


def call_in_a_library(notices: Notices) -> str:
    """Issues the warnings where no line of a program is; the path of the library."""
    path = "/venv/lib/python3/site-packages/somebody.py"
    source = "import threading\ndef call(): notices.warn()\nthread = threading.Thread(target=call)"
    library: dict[str, Any] = {"__name__": "somebody", "notices": notices}
    exec(compile(source, path, "exec"), library)
    library["thread"].start()
    library["thread"].join()
    return path


def test_where_all_is_in_libraries_a_warning_points_to_where_its_writer_was_made(said):
    notices = Notices("warn")
    notices.tell("cause", "text")
    call_in_a_library(notices)
    assert [warning.filename for warning in said] == [__file__]


def test_a_warning_about_a_call_that_only_libraries_know_points_to_the_library(said, monkeypatch):
    notices = Notices("warn")
    monkeypatch.setattr(notices, "_made_at", notices._made_at._replace(is_users=False))
    notices.tell("cause", "text", notices._made_at)
    path = call_in_a_library(notices)
    assert [warning.filename for warning in said] == [path]


Calls = Callable[[fastlog.SummaryWriter], object]
FAR = [*np.random.default_rng(1).standard_normal(1000).tolist(), 1e15]
TOLD_BY_THE_WORKER: dict[str, tuple[Calls, str]] = {
    "image": (lambda w: w.add_image("x", 3 * np.ones((3, 4, 4))), "add_image('x'): img_tensor has values"),
    "audio": (lambda w: w.add_audio("x", 3 * np.ones(100)), "add_audio('x'): snd_tensor has values"),
    "video": (lambda w: w.add_video("x", 3 * np.ones((1, 2, 3, 8, 8))), "add_video('x'): vid_tensor has"),
    "curve": (lambda w: w.add_pr_curve("x", [0, 1], [-3.0, 5.0]), "add_pr_curve('x'): predictions has"),
    "sprite": (
        lambda w: w.add_embedding(np.ones((4, 3)), None, 5 * np.ones((4, 3, 4, 4)), tag="x"),
        "add_embedding('x'): label_img has values",
    ),
    "bins": (lambda w: w.add_histogram("x", FAR, bins="fd"), "add_histogram('x'): bins='fd' would make"),
    "inf": (lambda w: w.add_histogram("x", [1.0, np.inf], bins=3), "add_histogram('x'): 0 NaN and 1 inf"),
}


@pytest.mark.parametrize("kind", TOLD_BY_THE_WORKER)
def test_what_the_worker_finds_is_said_at_the_line_of_the_call(kind, tmp_path, said, monkeypatch):
    monkeypatch.setattr(tensorboardX.summary, "make_video", lambda frames, fps: Summary.Image())
    call, text = TOLD_BY_THE_WORKER[kind]
    writer = fastlog.SummaryWriter(tmp_path)
    call(writer)
    writer.close()
    about = [warning for warning in said if str(warning.message).startswith(text)]
    lines = inspect.getsourcelines(call)
    assert [(w.filename, lines[1] <= w.lineno < lines[1] + len(lines[0])) for w in about] == [
        (__file__, True)
    ]


@pytest.mark.parametrize(("leave", "line"), [("", "3"), ("del writer", "6"), ("raise SystemExit", "3")])
def test_what_an_open_writer_says_at_the_end_is_said_at_lines_of_the_program(leave, line, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        f"""
import fastlog, numpy
writer = fastlog.SummaryWriter({str(tmp_path)!r})
writer.add_image("x", 3 * numpy.ones((3, 4, 4)))
writer.add_scalar("a", []); writer.add_scalar("a", [])
{leave}
"""
    )
    done = subprocess.run([sys.executable, script], timeout=60, capture_output=True, text=True)
    found = re.findall(r"^(.+):(\d+): FastlogWarning: (.{14})", done.stderr, re.MULTILINE)
    assert sorted(found, key=lambda each: each[2]) == [
        (str(script), "4", "add_image('x')"),
        (str(script), "5", "add_scalar('a'"),
        (str(script), line, "fastlog: 2 val"),
    ]


def test_each_call_that_the_worker_cannot_encode_is_said(tmp_path, said, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("the encoder is broken")

    monkeypatch.setattr(tensorboardX.summary, "make_image", fail)
    with fastlog.SummaryWriter(tmp_path) as writer:
        for _ in range(2):
            writer.add_image("a", np.ones((3, 4, 4)))
            writer.add_images("b", np.ones((2, 3, 4, 4)))
    failed = [text for text in texts(said) if "the encoder is broken" in text]
    assert len(failed) == 2
    assert any("add_image('a')" in text for text in failed)
    assert any("add_images('b')" in text for text in failed)
