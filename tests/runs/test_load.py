"""Event files are read back as TensorBoard reads them, whoever wrote them, and whatever their bytes are."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import fsspec
import numpy as np
import pandas
import pytest
import tensorboardX
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter as TorchWriter

import fastlog
from fastlog.common.native import core
from fastlog.runs import Run, load
from fastlog.runs.event_file import EventFile


def event_file(directory: Path) -> Path:
    (found,) = directory.glob("*tfevents*")
    return found


def accumulated(directory: Path) -> EventAccumulator:
    """TensorBoard's own reader, that keeps everything."""
    accumulator = EventAccumulator(
        str(directory), size_guidance={"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    )
    return accumulator.Reload()


def loaded(directory: Path, **options: bool) -> Run:
    run = load(directory, **options)
    assert isinstance(run, Run)
    return run


def log_everything(writer: tensorboardX.SummaryWriter) -> None:
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        writer.add_scalar("loss", 1 / (1 + step), step)
        writer.add_scalar("acc@5/é", step, 2 * step)
    for step in range(4):
        writer.add_histogram("weights", torch.randn(500, generator=generator), step)
        writer.add_text("note", f"step {step} — größer", step)
        writer.add_image("picture", torch.rand(3, 5, 7, generator=generator), step)


@pytest.mark.parametrize(
    "make",
    [fastlog.SummaryWriter, tensorboardX.SummaryWriter, TorchWriter],
    ids=["fastlog", "tensorboardX", "torch"],
)
def test_a_run_is_what_tensorboard_reads(make, tmp_path):
    writer = make(str(tmp_path))
    log_everything(writer)
    writer.close()
    run, expected = loaded(tmp_path), accumulated(tmp_path)
    assert sorted(run.tags["scalars"]) == sorted(expected.Tags()["scalars"])
    for tag in run.tags["scalars"]:
        series = run.scalars(tag)
        assert series.steps.tolist() == [event.step for event in expected.Scalars(tag)]
        assert series.values.tolist() == [event.value for event in expected.Scalars(tag)]
        assert series.wall_times.tolist() == [event.wall_time for event in expected.Scalars(tag)]
    histograms = run.histograms("weights")
    for i, event in enumerate(expected.Histograms("weights")):
        value = event.histogram_value
        assert histograms.limits[i].tolist() == list(value.bucket_limit)
        assert histograms.counts[i].tolist() == list(value.bucket)
        assert (histograms.min[i], histograms.max[i], histograms.num[i]) == (value.min, value.max, value.num)
        assert (histograms.sum[i], histograms.sum_squares[i]) == (value.sum, value.sum_squares)
    assert run.texts("note").values == [f"step {step} — größer" for step in range(4)]
    images = run.images("picture")
    assert images.values == [event.encoded_image_string for event in expected.Images("picture")]
    assert (run.first_step, run.last_step) == (0, 58)


@pytest.mark.parametrize("compact", [True, False])
def test_bins_are_the_counts_of_the_summary(compact, tmp_path):
    tensors = [torch.randn(1000), torch.zeros(5), torch.tensor([1e30, -1e30, 1e-20, 0.3]), torch.ones(1)]
    with fastlog.SummaryWriter(str(tmp_path), compact=compact) as writer:
        for step, tensor in enumerate(tensors):
            writer.add_histogram("x", tensor, step)
    bins = loaded(tmp_path).histograms("x").bins
    for row, tensor in zip(bins, tensors, strict=True):
        summary = fastlog.summarize(tensor)
        expected = summary.counts.copy()
        expected[0] += summary.underflow
        expected[-1] += summary.overflow
        np.testing.assert_array_equal(row, expected)


def test_bins_of_other_edges_are_none(tmp_path):
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        writer.add_histogram("x", torch.randn(100), 0, bins=[-1.0, 0.0, 1.0])
    assert loaded(tmp_path).histograms("x").bins is None


def test_a_few_histograms_can_be_read_of_many(tmp_path):
    for part in range(2):
        with fastlog.SummaryWriter(str(tmp_path), filename_suffix=f".{part}") as writer:
            for step in range(part * 10, part * 10 + 10):
                writer.add_histogram("x", torch.full((3,), 1.0 + step), step)
    run = loaded(tmp_path)
    few, every = run.histograms("x", most=3), run.histograms("x")
    assert few.steps.tolist() == [0, 10, 19] and few.max.tolist() == [1, 11, 20]
    assert few.counts[1].tolist() == every.counts[10].tolist()
    assert len(run.histograms("x", most=20)) == len(run.histograms("x", most=99)) == len(every) == 20
    assert run.histograms("x", most=1).steps.tolist() == [0]
    with pytest.raises(ValueError, match="most=0"):
        run.histograms("x", most=0)


def test_quantiles_are_those_of_the_values(tmp_path):
    values = np.sort(np.random.default_rng(0).standard_normal(20_001))
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        writer.add_histogram("x", values, 0)
    histograms = loaded(tmp_path).histograms("x")
    for q in (0, 0.01, 0.25, 0.9, 1):
        (estimate,) = histograms.quantile(q)
        assert estimate == pytest.approx(np.quantile(values, q), rel=0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        histograms.quantile(1.5)


def test_a_restart_replaces_what_was_logged_after_its_step(tmp_path):
    for purge_step, value in ((0, 1.0), (5, 2.0), (3, 3.0)):
        with fastlog.SummaryWriter(str(tmp_path), purge_step=purge_step) as writer:
            for step in range(purge_step, 8):
                writer.add_scalar("x", value, step)
    run, expected = loaded(tmp_path), accumulated(tmp_path)
    assert run.scalars("x").values.tolist() == [event.value for event in expected.Scalars("x")]
    assert run.scalars("x").values.tolist() == [1.0] * 3 + [3.0] * 5
    assert len(loaded(tmp_path, purge=False).scalars("x")) == 8 + 3 + 5


def test_hyperparameters_come_back(tmp_path):
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        writer.add_hparams({"lr": 0.1, "name": "größer", "amp": True}, {"loss": 1.0}, name="trial")
    runs = load(tmp_path)
    assert isinstance(runs, dict)
    (with_hparams,) = [run for run in runs.values() if run.hparams]
    assert with_hparams.hparams == {"lr": 0.1, "name": "größer", "amp": True}


def test_runs_are_found_below_a_directory_as_tensorboard_finds_them(tmp_path):
    for name in ("b/c", "a", "."):
        with fastlog.SummaryWriter(str(tmp_path / name)) as writer:
            writer.add_scalar("x", 1.0, 0)
    (tmp_path / "empty").mkdir()
    runs = load(tmp_path)
    assert isinstance(runs, dict)
    assert list(runs) == [".", "a", "b/c"]
    assert all(run.scalars("x").values.tolist() == [1.0] for run in runs.values())


def test_a_growing_run_is_followed_into_new_files(tmp_path):
    first, second = fastlog.SummaryWriter(str(tmp_path)), None
    try:
        first.add_scalar("x", 0.0, 0)
        first.flush()
        run, stale = loaded(tmp_path, follow=True), loaded(tmp_path)
        first.add_scalar("x", 1.0, 1)
        first.flush()
        assert run.scalars("x").values.tolist() == [0.0, 1.0]
        first.close()
        second = fastlog.SummaryWriter(str(tmp_path))
        second.add_scalar("x", 2.0, 2)
        second.add_scalar("new", 1.0, 2)
        second.flush()
        assert run.scalars("x").values.tolist() == [0.0, 1.0, 2.0]
        assert stale.scalars("x").values.tolist() == [0.0]
        stale.update()
        assert stale.tags["scalars"] == ["x", "new"]
    finally:
        for writer in (first, second):
            if writer is not None:
                writer.close()


def test_what_is_whole_is_read_in_front_of_a_torn_record(tmp_path):
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        for step in range(10):
            writer.add_scalar("x", step, step)
    path = event_file(tmp_path)
    whole = path.read_bytes()
    for cut in range(1, 50):
        path.write_bytes(whole[:-cut])
        run = loaded(tmp_path)
        values = run.scalars("x").values.tolist()
        assert values == list(range(len(values)))
        assert (run.torn_bytes == 0) == (len(whole) - cut == EventFile(str(path))._scan.end)
        assert len(values) in (8, 9)


def test_a_corrupt_record_is_named_by_its_offset_and_can_be_passed_over(tmp_path):
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        for step in range(10):
            writer.add_scalar("x", step, step)
    path = event_file(tmp_path)
    contents = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", contents)
    second = 16 + length  # where the record behind the file's version begins
    for at in (second + 3, second + 9, second + 14):  # its length, the length's checksum, its event
        damaged = contents.copy()
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path.name}.*at byte {second}\b.*strict=False"):
            load(tmp_path)
        run = loaded(tmp_path, strict=False)
        assert run.scalars("x").values.tolist() == list(range(1, 10))
        assert run.files[0].skipped_bytes > 0


@given(
    seed=st.integers(0, 2**32 - 1),
    flips=st.integers(1, 20),
    valid_checksums=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_no_bytes_crash_the_reader(seed, flips, valid_checksums, tmp_path_factory):
    """Mutated events, framed with right checksums or not; lengths, varints and nesting are hit alike."""
    rng = np.random.default_rng(seed)
    event = Event(step=3, wall_time=1.0)
    value = event.summary.value.add(tag="x")
    value.histo.bucket.extend([1.0, 2.0])
    value.histo.bucket_limit.extend([1.0, 2.0])
    event.summary.value.add(tag="y", simple_value=1.0)
    value = event.summary.value.add(tag="t")
    value.tensor.string_val.append(b"text")
    value.metadata.plugin_data.plugin_name = "text"
    event_bytes = bytearray(event.SerializeToString())
    for at in rng.integers(0, len(event_bytes), flips):
        event_bytes[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))])
    head = struct.pack("<Q", len(event_bytes))
    framed = head + struct.pack("<I", core.masked_crc32c(head)) + bytes(event_bytes)
    framed += struct.pack("<I", core.masked_crc32c(bytes(event_bytes)))
    if not valid_checksums:
        mutable = bytearray(framed)
        mutable[int(rng.integers(len(mutable)))] ^= 1 << int(rng.integers(8))
        framed = bytes(mutable)
    directory = tmp_path_factory.mktemp("fuzz")
    path = directory / "events.out.tfevents.1"
    path.write_bytes(framed * 2 + framed[: int(rng.integers(len(framed)))])
    run = load(directory, strict=False)
    assert isinstance(run, Run)
    for kind, tags in run.tags.items():
        for tag in tags:
            if kind == "histograms":
                try:
                    run.histograms(tag)
                except ValueError as error:
                    assert "malformed" in str(error)
            elif kind == "scalars":
                run.scalars(tag)
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    "event",
    [
        b"\x2a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a summary of 2**63 - 1 bytes
        b"\x2a\x05\x0a\xff\xff\xff\x7f",  # a value longer than the summary that holds it
        b"\x10" + b"\xff" * 11,  # a varint that does not end
        b"\x0b" * 100_000,  # groups within groups
        b"\x00\x00",  # field number 0
        b"\x2a\x0c\x0a\x0a\x0a\x01x\x2a\x05\x3a\xff\xff\xff\x7f",  # more buckets than bytes
    ],
)
def test_hostile_events_are_errors(event, tmp_path):
    head = struct.pack("<Q", len(event))
    record = head + struct.pack("<I", core.masked_crc32c(head)) + event
    record += struct.pack("<I", core.masked_crc32c(event))
    (tmp_path / "events.out.tfevents.1").write_bytes(record)
    run = load(tmp_path, strict=False)
    assert isinstance(run, Run)
    if run.tags["histograms"]:
        with pytest.raises(ValueError, match="malformed"):
            run.histograms("x")
    else:
        assert run.files[0].skipped_events == 1
        with pytest.raises(ValueError, match="holds no event"):
            load(tmp_path)


def test_a_record_larger_than_the_read_buffer_is_read(tmp_path):
    text = "x" * (9 << 20)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("a", 1.0, 0)
        writer.add_text("long", text, 1)
        writer.add_scalar("a", 2.0, 2)
    run = loaded(tmp_path)
    assert run.texts("long").values == [text]
    assert run.scalars("a").values.tolist() == [1.0, 2.0]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no event file"):
        load(tmp_path)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("x", 1.0, 0)
    run = loaded(tmp_path)
    with pytest.raises(KeyError, match="'y' in the run"):
        run.scalars("y")
    with pytest.raises(KeyError, match="no histograms with the tag 'x'"):
        run.histograms("x")
    os.chmod(event_file(tmp_path), 0o000)
    if os.geteuid() != 0:  # root reads everything
        with pytest.raises(PermissionError, match="tfevents"):
            load(tmp_path)


def test_a_remote_directory_is_read_through_fsspec(tmp_path):
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        log_everything(writer)
    memory = fsspec.filesystem("memory")
    path = event_file(tmp_path)
    memory.makedirs("/logs/run", exist_ok=True)
    memory.pipe_file(f"/logs/run/{path.name}", path.read_bytes())
    try:
        runs = load("memory://logs")
        assert isinstance(runs, dict)
        run, local = runs["run"], loaded(tmp_path)
        assert run.scalars("loss").values.tolist() == local.scalars("loss").values.tolist()
        np.testing.assert_array_equal(run.histograms("weights").bins, local.histograms("weights").bins)
        assert run.texts("note").values == local.texts("note").values
    finally:
        memory.rm("/logs", recursive=True)


def test_a_frame_has_a_row_for_each_event(tmp_path):
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        log_everything(writer)
    run = loaded(tmp_path)
    frame = run.scalars("loss").frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["value"].tolist() == run.scalars("loss").values.tolist()
    assert len(run.histograms("weights").frame()) == 4
