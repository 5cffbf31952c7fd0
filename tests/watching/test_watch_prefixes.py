"""Several models with one writer: their tags are told apart."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from tiny_net import Net, loss_of, train
from torch import nn
from watch_oracle import read, steps, texts

from fastlog import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


class Generator(Net):
    pass


class Discriminator(Net):
    pass


def norm(model: nn.Module) -> float:
    return float(torch.stack([param.detach().double().norm() for param in model.parameters()]).norm())


def test_each_tag_begins_with_the_prefix(tmp_path: Path, writer: SummaryWriter) -> None:
    plain, prefixed = SummaryWriter(str(tmp_path / "plain")), SummaryWriter(str(tmp_path / "prefixed"))
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.warns(FastlogWarning), plain, prefixed:  # of NaN, and of the budget
        for to, prefix in ((plain, None), (prefixed, "net/")):
            watch(model, to, optimizer, every=1, log="all", prefix=prefix, budget=1e-9)
        for scale in (1.0, float("nan")):
            optimizer.zero_grad()
            (loss_of(model) * scale).backward()
            optimizer.step()
    without, with_prefix = read(plain.logdir).Tags(), read(prefixed.logdir).Tags()
    for kind in ("scalars", "histograms", "tensors"):
        assert without[kind] and {f"net/{tag}" for tag in without[kind]} == set(with_prefix[kind])


def test_a_second_model_has_tags_of_its_own(tmp_path: Path, writer: SummaryWriter) -> None:
    """A generator and a discriminator, and nobody has thought of a prefix."""
    models = [Generator(), Discriminator(), Discriminator()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    watch(models[0], writer, optimizers[0], every=1)
    for model, optimizer, prefix in zip(models[1:], optimizers[1:], ("D", "D_2"), strict=True):
        name = prefix.replace("D", "Discriminator")
        with pytest.warns(FastlogWarning, match=rf"the tags of this one begin with {name}/.*prefix=") as said:
            watch(model, writer, optimizer, every=1)
        assert said[0].filename == __file__
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 2)
    writer.close()
    events = read(tmp_path)
    for prefix, model in zip(("", "Discriminator/", "Discriminator_2/"), models, strict=True):
        assert steps(tmp_path, f"{prefix}grad_norm/global") == [0, 1]
        assert events.Scalars(f"{prefix}weight_norm/global")[1].value == pytest.approx(norm(model), rel=1e-6)


def test_chosen_prefixes_need_no_word(tmp_path: Path, writer: SummaryWriter) -> None:
    models = {"generator": Generator(), "discriminator": Discriminator()}
    for name, model in models.items():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch(model, writer, optimizer, every=1, prefix=name)
        train(model, optimizer, 1)
    writer.close()
    assert {tag.partition("/")[0] for tag in read(tmp_path).Tags()["histograms"]} == set(models)


def test_a_cell_that_makes_everything_anew_takes_the_tags_over(tmp_path: Path, writer: SummaryWriter) -> None:
    gc.disable()
    try:
        for _ in range(3):
            model = Net()
            optimizer = torch.optim.Adam(model.parameters())
            watcher = watch(model, writer, optimizer, every=1)
            train(model, optimizer, 1)
            assert not watcher.is_over
    finally:
        gc.enable()
    writer.close()
    assert steps(tmp_path) == [0, 0, 0]


def test_watching_both_again_keeps_their_tags(tmp_path: Path, writer: SummaryWriter) -> None:
    models = [Generator(), Discriminator()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    with pytest.warns(FastlogWarning) as said:
        for _ in range(2):
            for model, optimizer in zip(models, optimizers, strict=True):
                watch(model, writer, optimizer, every=1)
    assert [("already" in str(w.message), "begin with" in str(w.message)) for w in said] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 2)
    writer.close()
    assert steps(tmp_path) == steps(tmp_path, "Discriminator/grad_norm/global") == [0, 1]


def test_each_model_has_its_own_word_of_nan(tmp_path: Path, writer: SummaryWriter) -> None:
    models = [Generator(), Discriminator()]
    with pytest.warns(FastlogWarning, match="NaN or Inf") as said:
        for model in models:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            watch(model, writer, optimizer, every=1, log="gradients", prefix=type(model).__name__)
            (loss_of(model) * float("nan")).backward()
            optimizer.step()
        writer.close()
    assert len(said) == 2
    assert len(texts(tmp_path, "Generator/fastlog/nonfinite/text_summary")) == 1
