"""Histories from event files that others wrote, and from files that are torn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorboardX
import tensorboardX.proto.event_pb2 as tbx
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

import fastlog
from fastlog.health import files, rules
from fastlog.runs.event_file import EventFile


def write(writer: tensorboardX.SummaryWriter, steps: int) -> None:
    for step in range(steps):
        writer.add_scalar("train/loss", 2.0 - 0.01 * step, step)
        writer.add_histogram("weights/a.weight", np.random.default_rng(step).normal(size=500), step)
        writer.add_histogram("gradients/a.weight", np.random.default_rng(step).normal(size=500), step)
        writer.add_histogram("gradients/b.weight", np.zeros(40), step)
    writer.close()


def test_histograms_of_tensorboardx_become_kinds_with_exact_sums(tmp_path: Path) -> None:
    write(tensorboardX.SummaryWriter(str(tmp_path)), 5)
    ((_, history),) = files.read(tmp_path)
    assert (history.source, history.loss_tag, history.steps.tolist()) == (
        "other",
        "train/loss",
        [0, 1, 2, 3, 4],
    )
    values = np.random.default_rng(3).normal(size=500)
    kind = history.kinds["gradients"]
    assert kind.names == ("a.weight", "b.weight")
    assert kind.stat("norm")[0, 3] == pytest.approx(np.linalg.norm(values))
    assert kind.heads["num"][:, 3].tolist() == [500, 40]
    assert kind.stat("zeros")[1].tolist() == [1.0] * 5


def test_a_foreign_log_shows_a_gradient_of_zeros_and_says_what_was_not_checked(tmp_path: Path) -> None:
    write(tensorboardX.SummaryWriter(str(tmp_path)), 12)
    ((_, history),) = files.read(tmp_path)
    health = rules.run(history)
    assert [(finding.rule, finding.tensors) for finding in health.findings] == [
        ("no-gradient", ("b.weight",))
    ]
    assert "not-updating" in health.not_checked and "lr-zero" in health.not_checked
    assert set(health.checked) | set(health.not_checked) == {rule.id for rule in rules.RULES}
    assert rules.run(history, {"no-gradient:^b": "meant"}).verdict == "ok"


def test_a_torn_file_is_read_up_to_where_it_is_torn(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        fastlog.watch(model, writer, optimizer, every=1, health=True, histograms=False)
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).square().sum().backward()
            optimizer.step()
    (path,) = tmp_path.glob("*tfevents*")
    ((_, whole),) = files.read(tmp_path)
    assert whole.source == "fastlog" and len(whole.steps) == 6
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ((_, torn),) = files.read(tmp_path)
    assert 0 < len(torn.steps) < 6
    assert torn.steps.tolist() == whole.steps[: len(torn.steps)].tolist()


def test_histograms_of_keras_become_kinds(tmp_path: Path) -> None:
    kernels = [np.random.default_rng(step).normal(size=400) for step in range(3)]
    writer = EventFileWriter(str(tmp_path))
    for step, kernel in enumerate(kernels):
        for tag, values in (("dense/kernel_0", kernel), ("dense/bias_0", np.zeros(4))):
            event = Event(step=step, wall_time=100.0 + step, summary=histogram_pb(tag, values))
            writer.add_event(event)
    writer.close()
    ((run, history),) = files.read(tmp_path)
    kind = history.kinds["weights"]
    assert kind.names == ("dense/kernel_0", "dense/bias_0") and history.wall_times.tolist() == [100, 101, 102]
    for step, kernel in enumerate(kernels):
        assert kind.stat("max")[0, step] == pytest.approx(kernel.max())
        assert kind.stat("abs_max")[0, step] == pytest.approx(np.abs(kernel).max())
        assert kind.stat("norm")[0, step] == pytest.approx(np.linalg.norm(kernel), rel=0.02)
    assert kind.stat("zeros").tolist() == [[0.0] * 3, [1.0] * 3]
    read = run.histograms("dense/kernel_0")
    for limits, counts, kernel in zip(read.limits, read.counts, kernels, strict=True):
        expected, edges = np.histogram(kernel, 30)
        assert counts.tolist() == expected.tolist() and limits == pytest.approx(edges[1:])


@pytest.mark.parametrize("zeros", [0, 3, 500])
def test_zeros_are_counted_from_the_narrow_bucket_at_zero(tmp_path: Path, zeros: int) -> None:
    values = np.random.default_rng(zeros).normal(size=500)
    values[:zeros] = 0
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        writer.add_histogram("weights/a.weight", values, 0)
    ((_, history),) = files.read(tmp_path)
    (head,) = history.kinds["weights"].heads[0]
    summary = fastlog.summarize(torch.from_numpy(values))
    assert (head["zeros"], head["num"], head["abs_max"]) == (zeros, 500, summary.abs_max)


def test_a_histogram_that_is_malformed_costs_itself_alone(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        for step in range(600):  # more than are read at once
            limits, counts = [1.0, 2.0], [3, 4]
            if step == 300:
                limits = [1.0]
            event = tbx.Event(step=step)
            for tag, far in (("weights/a.weight", limits), ("gradients/a.weight", [1.0, 2.0])):
                histo = {"min": 0.5, "max": 2.0, "num": 7, "bucket_limit": far, "bucket": counts}
                event.summary.value.add(tag=tag, histo=histo)
            writer.file_writer.add_event(event)
    ((_, history),) = files.read(tmp_path)
    assert history.steps.tolist() == list(range(600))
    assert np.flatnonzero(~history.kinds["weights"].present[0]).tolist() == [300]
    assert history.kinds["gradients"].present.all()
    assert (history.kinds["gradients"].heads["num_finite"] == 7).all()


def test_a_report_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("a", "b"):
        write(tensorboardX.SummaryWriter(str(tmp_path / run)), 3)
    opened: list[str] = []
    update = EventFile.update
    monkeypatch.setattr(EventFile, "update", lambda self: (opened.append(self.path), update(self))[1])
    made = fastlog.report(tmp_path)
    assert len(opened) == len(set(opened)) == 2
    assert [run.run for run in made.runs] == ["a", "b"] and "b.weight" in made.html()
