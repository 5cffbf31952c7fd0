"""`fastlog.watch` on models inside of other things: DDP, torch.compile, checkpointing, LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint
from watch_oracle import (
    Expected,
    Net,
    copy,
    expect_step,
    gradients,
    loss_of,
    one_thread,
    read,
    weights,
    writer,
)

from fastlog.faults import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter

__all__ = ["one_thread", "writer"]  # fixtures


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def train(model: nn.Module, inner: nn.Module, logdir: Path, writer: SummaryWriter) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=2)
    expected = Expected()
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        grads = gradients(inner)
        optimizer.step()
        if step % 2 == 0:
            expect_step(expected, step, grads, weights(inner))
    writer.close()
    expected.assert_logged(logdir)


@pytest.mark.parametrize("as_views", [False, True])
def test_ddp(tmp_path: Path, writer: SummaryWriter, process_group: None, as_views: bool) -> None:
    model = Net()
    train(
        nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=as_views), model, tmp_path, writer
    )


def test_compile(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    train(torch.compile(model, backend="aot_eager"), model, tmp_path, writer)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # of torch.compile itself
def test_a_compiled_part(tmp_path: Path, writer: SummaryWriter) -> None:
    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.layers[0] = torch.compile(model.layers[0], backend="aot_eager")
    watch(model, writer, optimizer, every=1)
    expected = Expected()
    loss_of(model).backward()
    grads = {name.replace("_orig_mod.", ""): grad for name, grad in gradients(model).items()}
    optimizer.step()
    expect_step(expected, 0, grads, {n.replace("_orig_mod.", ""): w for n, w in weights(model).items()})
    writer.close()
    expected.assert_logged(tmp_path)


def test_activations_of_a_compiled_model_are_refused(writer: SummaryWriter) -> None:
    model = torch.compile(Net(), backend="eager")
    with pytest.warns(FastlogWarning, match=r"torch\.compile has compiled cannot be seen"):
        watch(model, writer, torch.optim.SGD(model.parameters(), lr=0.1), log="activations").remove()
    model = Net()
    model.layers[1].compile(backend="eager")
    with pytest.warns(FastlogWarning, match=r"torch\.compile has compiled cannot be seen"):
        watch(model, writer, log="activations")


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_count_once(tmp_path: Path, writer: SummaryWriter, reentrant: bool) -> None:
    class Checkpointed(Net):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens)
            for layer in self.layers:
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return self.head(x)

    def run(model: nn.Module, logdir: Path) -> dict[str, list[np.ndarray]]:
        torch.manual_seed(1)
        with SummaryWriter(str(logdir)) as to:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            watch(model, to, optimizer, every=1, log=("activations", "activation_gradients"))
            for _ in range(2):
                optimizer.zero_grad()
                loss_of(model).backward()
                optimizer.step()
        events = read(logdir)
        return {
            tag: [
                np.array([*e.histogram_value.bucket, e.histogram_value.num]) for e in events.Histograms(tag)
            ]
            for tag in events.Tags()["histograms"]
        }

    model, plain = Checkpointed(), Net()
    plain.load_state_dict(model.state_dict())
    found, wanted = run(model, tmp_path / "checkpointed"), run(plain, tmp_path / "plain")
    assert found.keys() == wanted.keys() and len(found) == 12
    for tag, histograms in wanted.items():
        assert len(found[tag]) == 2
        for ours, theirs in zip(found[tag], histograms, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=tag)


def test_lora(tmp_path: Path, writer: SummaryWriter) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=["head"], init_lora_weights=False)
    model = peft.get_peft_model(Net(), config)
    trainable = [name for name, param in model.named_parameters() if param.requires_grad]
    assert len(trainable) == 6
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    watch(model, writer, optimizer, every=1, log=("weights", "gradients", "updates"))
    layers = {f"base_model.model.layers.{i}": [n for n in trainable if f"layers.{i}" in n] for i in (0, 1)}
    head = [name for name in trainable if "head" in name]
    layers[head[0].rpartition(".")[0]] = head
    expected = Expected()
    for step in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        grads, before = gradients(model), weights(model)
        optimizer.step()
        after = {name: weights(model)[name] for name in trainable}
        expected.add(step, "gradients", "grad", grads, layers)
        expected.add(step, "weights", "weight", after, layers)
        updates = {name: copy(after[name] - before[name]) for name in trainable}
        expected.add(step, "updates", "update", updates, layers)
        expected.add_ratios(step, after, updates, layers)
    writer.close()
    expected.assert_logged(tmp_path)
