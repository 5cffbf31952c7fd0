"""Event files: their names, their bytes, and how a sink goes on after trouble."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
import tensorboardX
from queue_doubles import scalar
from sink_files import event_size, events_in, files_in, scalars_in, steps_in
from tensorboardX.event_file_writer import EventFileWriter

from fastlog._core import encode_events
from fastlog.events.items import HISTOGRAM, RAW
from fastlog.events.sinks import outputs
from fastlog.events.sinks.event_files import EventFileSink
from fastlog.events.sinks.sink import InvalidItems, PartialWrite


@pytest.fixture(params=[True, False], ids=["stays open", "open for each write"], autouse=True)
def stays_open(request, monkeypatch):
    """Whether files stay open, or the process has so many of them that they do not."""
    if not request.param:
        monkeypatch.setattr(outputs.resource, "getrlimit", lambda _: (0, 0))


def scalars(first: int, last: int) -> list:
    return [scalar(i) for i in range(first, last)]


def test_the_file_is_there_at_once_and_named_as_tensorboardx_names_it(tmp_path):
    sink = EventFileSink(str(tmp_path / "new" / "run"), "_suffix")
    (path,) = files_in(tmp_path / "new" / "run")
    host = re.escape(socket.gethostname())
    assert re.fullmatch(
        rf"events\.out\.tfevents\.\d{{10}}\.{host}\.\d{{6,}}\.{os.getpid()}_suffix", path.name
    )
    (version,) = events_in(path)
    assert version.file_version == "brain.Event:2"
    assert abs(version.wall_time - time.time()) < 60
    assert sink.get_logdir() == str(tmp_path / "new" / "run")
    sink.close()


def test_the_same_bytes_as_tensorboardx(tmp_path):
    theirs = EventFileWriter(str(tmp_path / "theirs"))
    ours = EventFileSink(str(tmp_path / "ours"))
    for item in scalars(0, 20):
        event = tensorboardX.proto.event_pb2.Event(step=item[3])
        event.summary.value.add(tag=item[1], simple_value=item[2])
        theirs.add_event(event)
    ours.write(scalars(0, 20))
    theirs.close()
    ours.close()
    (their_path,), (our_path,) = files_in(tmp_path / "theirs"), files_in(tmp_path / "ours")
    version = event_size(events_in(their_path)[0])
    assert our_path.read_bytes()[version:] == their_path.read_bytes()[version:]


def test_names_never_clash_and_sort_in_the_order_of_their_making(tmp_path):
    sinks = [EventFileSink(str(tmp_path)) for _ in range(100)]
    names = [Path(sink._output._path).name for sink in sinks]
    assert names == sorted(set(names))
    for sink in sinks:
        sink.close()


def test_the_clock_may_go_back(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    for i in range(3):
        sink.write([scalar(i)])
        sink.close()
    assert steps_in(tmp_path) == [0, 1, 2]
    assert len(files_in(tmp_path)) == 3


def test_a_name_that_is_taken_is_left_alone(tmp_path, monkeypatch):
    taken = []
    real = outputs.LocalOutput.__init__

    def init(self, path):
        if not taken:
            Path(path).write_bytes(b"mine")
            taken.append(Path(path))
        real(self, path)

    monkeypatch.setattr(outputs.LocalOutput, "__init__", init)
    sink = EventFileSink(str(tmp_path))
    assert taken[0].read_bytes() == b"mine"
    assert len(files_in(tmp_path)) == 2
    sink.close()


def test_close_then_write_again_within_the_second_keeps_both_files(tmp_path):
    sink = EventFileSink(str(tmp_path))
    for i in range(5):
        sink.write([scalar(i)])
        sink.close()
        sink.close()
    assert steps_in(tmp_path) == [0, 1, 2, 3, 4]
    assert len(files_in(tmp_path)) == 5


def test_what_stands_in_the_way_raises_at_once(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    for logdir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="file"):
            EventFileSink(str(logdir))


def test_one_write_a_batch_and_nothing_buffered(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    writes = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *args: writes.append(1) or real(*args))
    sink.write(scalars(0, 500))
    assert len(writes) == 1
    assert steps_in(tmp_path) == list(range(500))
    sink.close()


def test_short_writes_are_completed(tmp_path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    sink = EventFileSink(str(tmp_path))
    sink.write(scalars(0, 10))
    sink.close()
    assert steps_in(tmp_path) == list(range(10))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize(("before", "whole"), [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_a_failed_write_leaves_whole_records_and_says_how_many(tmp_path, monkeypatch, code, before, whole):
    sink = EventFileSink(str(tmp_path))
    if before:
        sink.write(scalars(1, 1 + before))
    done = 1 + before + whole
    record = len(encode_events([scalar(2)]))
    room = [whole * record + 5]
    real = os.pwrite

    def pwrite(fd, data, at):
        if not room[0]:
            raise OSError(code, os.strerror(code))
        done = real(fd, data[: room[0]], at)
        room[0] -= done
        return done

    with monkeypatch.context() as patched, pytest.raises(PartialWrite) as caught:
        patched.setattr(os, "pwrite", pwrite)
        sink.write(scalars(1 + before, 9))
    assert caught.value.errno == code
    assert caught.value.written == whole
    assert steps_in(tmp_path) == list(range(1, done))
    sink.write(scalars(done, 9))
    sink.close()
    assert steps_in(tmp_path) == list(range(1, 9))
    one_file = code in (errno.ENOSPC, errno.EDQUOT) or before + whole == 0
    assert len(files_in(tmp_path)) == (1 if one_file else 2)


def test_where_truncation_fails_too_a_new_file_is_begun(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    sink.write(scalars(0, 2))
    real = os.pwrite
    calls = []

    def pwrite(fd, data, at):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data[:-3], at)

    def ftruncate(fd, size):
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched, pytest.raises(PartialWrite) as caught:
        patched.setattr(os, "pwrite", pwrite)
        patched.setattr(os, "ftruncate", ftruncate)
        sink.write(scalars(2, 5))
    assert caught.value.written == 2
    sink.write(scalars(4, 6))
    sink.close()
    assert len(files_in(tmp_path)) == 2
    assert scalars_in(files_in(tmp_path)[1]) == [(4, 4.0), (5, 5.0)]
    assert steps_in(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_an_event_that_no_file_can_hold_is_invalid_and_files_do_not_pile_up(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    real = os.pwrite

    def pwrite(fd, data, at):
        if at + len(data) > 2000:
            raise OSError(errno.EFBIG, "File too large")
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    sink.write([scalar(0)])
    huge = (RAW, bytes(3000))
    with pytest.raises(PartialWrite):
        sink.write([huge, scalar(1)])
    for _ in range(3):
        with pytest.raises(InvalidItems) as caught:
            sink.write([huge, scalar(1)])
        assert caught.value.indices == [0]
    sink.write([scalar(1)])
    sink.close()
    assert steps_in(tmp_path) == [0, 1]
    assert len(files_in(tmp_path)) == 2


def test_a_failed_fsync_is_raised_and_a_new_file_begun(tmp_path, monkeypatch):
    sink = EventFileSink(str(tmp_path))
    sink.write([scalar(0)])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="broken"):
            sink.flush()
    sink.write([scalar(1)])
    sink.flush()
    sink.close()
    assert steps_in(tmp_path) == [0, 1]
    assert len(files_in(tmp_path)) == 2


def test_a_deleted_directory_is_said_and_made_again(tmp_path):
    logdir = tmp_path / "run"
    sink = EventFileSink(str(logdir))
    sink.write([scalar(0)])
    shutil.rmtree(logdir)
    with pytest.raises(FileNotFoundError, match="was deleted"):
        sink.write([scalar(1)])
    sink.write([scalar(1)])
    sink.close()
    assert steps_in(logdir) == [1]


@pytest.mark.parametrize("stays_open", [True], indirect=True)
def test_a_moved_directory_is_followed(tmp_path):
    sink = EventFileSink(str(tmp_path / "run"))
    sink.write([scalar(0)])
    (tmp_path / "run").rename(tmp_path / "renamed")
    sink.write([scalar(1)])
    sink.flush()
    sink.close()
    assert steps_in(tmp_path / "renamed") == [0, 1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stays_open", [True], indirect=True)
def test_a_descriptor_that_somebody_else_closed_and_reused_is_not_written_to(tmp_path):
    sink = EventFileSink(str(tmp_path / "run"))
    sink.write([scalar(0)])
    fd = sink._output._fd
    other = os.open(tmp_path / "precious", os.O_RDWR | os.O_CREAT)
    os.dup2(other, fd)
    with pytest.raises(FileNotFoundError):
        sink.write([scalar(1)])
    sink.write([scalar(1)])
    sink.close()
    assert (tmp_path / "precious").read_bytes() == b""
    assert steps_in(tmp_path / "run") == [0, 1]
    os.write(fd, b"still open")
    os.close(fd)
    os.close(other)


@pytest.mark.parametrize("stays_open", [False], indirect=True)
def test_a_file_that_another_one_has_replaced_is_not_written_to(tmp_path):
    sink = EventFileSink(str(tmp_path / "run"))
    sink.write([scalar(0)])
    (path,) = files_in(tmp_path / "run")
    descriptors = len(os.listdir("/proc/self/fd"))
    path.rename(tmp_path / "moved")
    path.write_bytes(b"precious")
    sink.flush()
    with pytest.raises(FileNotFoundError, match="was deleted"):
        sink.write([scalar(1)])
    assert path.read_bytes() == b"precious"
    path.unlink()
    sink.write([scalar(1)])
    sink.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert steps_in(tmp_path / "run") == [1]


def test_items_that_cannot_be_encoded_are_named_and_nothing_is_written(tmp_path):
    sink = EventFileSink(str(tmp_path))
    bad = (HISTOGRAM, "w", b"nonsense", 1, 0.0)
    with pytest.raises(InvalidItems, match="malformed") as caught:
        sink.write([scalar(0), bad, scalar(1), bad])
    assert caught.value.indices == [1, 3]
    sink.write(scalars(0, 2))
    sink.close()
    assert steps_in(tmp_path) == [0, 1]


def test_a_pickled_sink_writes_beside_the_original_in_a_directory_of_its_own(tmp_path):
    sink = EventFileSink(str(tmp_path), ".end")
    copied = pickle.loads(pickle.dumps(sink))
    assert [path.name for path in tmp_path.iterdir()] == [files_in(tmp_path)[0].name]
    sink.write([scalar(0)])
    copied.write([scalar(1)])
    sink.close()
    copied.close()
    assert steps_in(tmp_path) == [0]
    assert steps_in(tmp_path / f"pid-{os.getpid()}") == [1]
    assert copied.get_logdir() == str(tmp_path)


def test_no_descriptor_is_left(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for i in range(50):
        sink = EventFileSink(str(tmp_path))
        sink.write([scalar(i)])
        if i % 2:
            sink.close()
    del sink
    assert len(os.listdir("/proc/self/fd")) == before
