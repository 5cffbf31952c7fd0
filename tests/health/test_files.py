"""Histories from event files that others wrote, and from files that are torn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorboardX
import torch

import fastlog
from fastlog.health import files, rules


def write(writer: tensorboardX.SummaryWriter, steps: int) -> None:
    for step in range(steps):
        writer.add_scalar("train/loss", 2.0 - 0.01 * step, step)
        writer.add_histogram("weights/a.weight", np.random.default_rng(step).normal(size=500), step)
        writer.add_histogram("gradients/a.weight", np.random.default_rng(step).normal(size=500), step)
        writer.add_histogram("gradients/b.weight", np.zeros(40), step)
    writer.close()


def test_histograms_of_tensorboardx_become_kinds_with_exact_sums(tmp_path: Path) -> None:
    write(tensorboardX.SummaryWriter(str(tmp_path)), 5)
    (history,) = files.read(tmp_path)
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
    (history,) = files.read(tmp_path)
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
    (whole,) = files.read(tmp_path)
    assert whole.source == "fastlog" and len(whole.steps) == 6
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (torn,) = files.read(tmp_path)
    assert 0 < len(torn.steps) < 6
    assert torn.steps.tolist() == whole.steps[: len(torn.steps)].tolist()
