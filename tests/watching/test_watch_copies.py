"""`fastlog.watch` says so where a copy of the model is trained in place of the model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_net import Net, train
from torch import nn
from watch_oracle import steps

from fastlog import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


@pytest.mark.parametrize("how", ["writer.close", "watcher.remove"])
@pytest.mark.parametrize("has_optimizer", [True, False])
@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_copy_that_is_trained_in_place_of_the_model_is_said(
    writer: SummaryWriter, how: str, has_optimizer: bool, is_replaced: bool
) -> None:
    model = Net()
    model.head.bias.requires_grad_(False)
    watcher = watch(model, writer, torch.optim.SGD(model.parameters(), lr=0.1) if has_optimizer else None)
    trained = copy.deepcopy(model)
    if is_replaced:
        del model
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    train(trained, optimizer, 2)
    with pytest.warns(
        FastlogWarning, match=r"AdamW has parameters of the same shapes.*deepcopy.*Call watch with the copy"
    ) as said:
        writer.close() if how == "writer.close" else watcher.remove()
    writer.close()
    watcher.remove()
    assert len(said) == 1


def test_copies_that_are_no_replacement_are_not_said(tmp_path: Path, writer: SummaryWriter) -> None:
    """A teacher that is never trained, a copy beside a model that is, one that is watched itself, and another
    model.
    """
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    teacher, beside = copy.deepcopy(model).requires_grad_(False), copy.deepcopy(model)
    trained = torch.optim.SGD(beside.parameters(), lr=0.1)
    train(beside, trained, 1)
    train(model, optimizer, 1)
    writer.close()
    watch(teacher, writer, frozen=True, prefix="teacher")
    watch(beside, writer, trained, prefix="beside")
    other = torch.optim.SGD(nn.Linear(2, 2).parameters())
    writer.close()
    assert steps(tmp_path) == [0] and other.param_groups
