"""`fastlog.watch` with scaled losses, autocast and narrow weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_net import LAYERS, Net, gradients, loss_of, weights
from torch import nn
from watch_oracle import Expected, copy, expect_step, read, texts

from fastlog.common.notices import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler(tmp_path: Path, writer: SummaryWriter, fused: bool, clip: bool) -> None:
    """Gradients are logged unscaled, even where a fused optimizer unscales them in its kernel."""
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    watch(model, writer, optimizer, every=2)
    expected = Expected()
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(model)
        scaler.scale(loss).backward()
        grads = {name: grad / scaler.get_scale() for name, grad in gradients(model).items()}
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
            grads = gradients(model)
        scaler.step(optimizer)
        scaler.update()
        if step % 2 == 0:
            expect_step(expected, step, grads, weights(model))
    writer.close()
    expected.assert_logged(tmp_path)


def test_a_step_that_the_scaler_skips_is_none(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    iteration = 0
    watch(model, writer, optimizer, every=2, step=lambda: iteration)
    expected = Expected()
    for iteration in range(6):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        if iteration == 2:
            model.head.bias.grad[0] = float("inf")
        scaler.unscale_(optimizer)
        grads = gradients(model)
        scaler.step(optimizer)
        scaler.update()
        if iteration in (0, 3, 4):
            expect_step(expected, iteration, grads, weights(model))
    writer.close()
    expected.assert_logged(tmp_path)
    assert not texts(tmp_path)


def test_a_fused_optimizer_is_given_inf(tmp_path: Path, writer: SummaryWriter) -> None:
    """It is called with them, and skips by itself: the gradients are there to see."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    watch(model, writer, optimizer, every=1)
    before = weights(model)
    scaler.scale(loss_of(model)).backward()
    model.head.bias.grad[0] = float("inf")
    scaler.step(optimizer)
    writer.close()
    assert all(torch.equal(before[name], now) for name, now in weights(model).items())
    assert [event.value for event in read(tmp_path).Scalars("grad_inf/global")] == [1.0]
    place = "from head.bias to head.bias; last clean before: head.weight; first clean after: none"
    assert place in texts(tmp_path)[0][1]


def test_autocast_bfloat16(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    seen: list[Any] = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    watch(model, writer, optimizer, every=1, log=("gradients", "weights", "activations"), modules="^head$")
    expected = Expected()
    for step in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model)
        loss.backward()
        grads = gradients(model)
        optimizer.step()
        expect_step(expected, step, grads, weights(model))
        assert seen[step].dtype == torch.bfloat16
        expected.add(step, "activations", "activation", {"head": seen[step]}, {})
    writer.close()
    expected.assert_logged(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_other_dtypes(tmp_path: Path, writer: SummaryWriter, dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-4)
    watch(model, writer, optimizer, every=1, log=("gradients", "weights", "updates", "optimizer_state"))
    wide = torch.promote_types(dtype, torch.float32)
    expected = Expected()
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model).backward()
        grads, before = gradients(model), weights(model)
        optimizer.step()
        after = weights(model)
        expect_step(expected, step, grads, after)
        updates = {name: copy(after[name].to(wide) - before[name].to(wide)) for name in after}
        expected.add(step, "updates", "update", updates, LAYERS)
        expected.add_ratios(step, after, updates, LAYERS)
        for key in ("exp_avg", "exp_avg_sq"):
            state = {name: optimizer.state[param][key] for name, param in model.named_parameters()}
            expected.add(step, key, key, state, LAYERS)
    writer.close()
    expected.assert_logged(tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["AdamW8bit", "Lion8bit"])
def test_eight_bit_optimizers(tmp_path: Path, writer: SummaryWriter, name: str) -> None:
    """Theirs are codes for large tensors, which are left out, and floats for small ones."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 900, bias=False))
    layers = {"0": ["0.weight", "0.bias"], "1": ["1.weight"]}
    optimizer = getattr(bitsandbytes.optim, name)(model.parameters(), lr=1e-2)
    watch(model, writer, optimizer, every=2, log=("weights", "gradients", "updates", "optimizer_state"))
    expected = Expected()
    with pytest.warns(FastlogWarning, match=r"optimizer state in codes, as of 1\.weight") as caught:
        for step in range(5):
            optimizer.zero_grad()
            model(torch.randn(4, 6)).square().mean().backward()
            grads, before = gradients(model), weights(model)
            optimizer.step()
            if step % 2 == 0:
                after = weights(model)
                expected.add(step, "gradients", "grad", grads, layers)
                expected.add(step, "weights", "weight", after, layers)
                updates = {name: copy(after[name] - before[name]) for name in after}
                assert all(update.any() for update in updates.values())
                expected.add(step, "updates", "update", updates, layers)
                expected.add_ratios(step, after, updates, layers)
                state = optimizer.state[model[1].weight]
                assert state["state1"].dtype == torch.uint8
                for key in {"state1", "state2"} & state.keys():
                    small = {f"0.{n}": optimizer.state[p][key] for n, p in model[0].named_parameters()}
                    expected.add(step, key, key, small, layers)
    assert len(caught) == 1
    writer.close()
    expected.assert_logged(tmp_path)


def test_optimizer_state_in_packed_tensors(tmp_path: Path, writer: SummaryWriter) -> None:
    """As torchao keeps it: it looks like floats."""

    class State(torch.Tensor):
        __module__ = "torchao.optim"

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for param in model.parameters():
        optimizer.state[param] = {"exp_avg": torch.zeros_like(param).as_subclass(State)}
    watch(model, writer, optimizer, every=1, log="optimizer_state")
    with pytest.warns(FastlogWarning, match=r"optimizer state in codes, as of embed\.weight") as caught:
        for _ in range(2):
            loss_of(model).backward()
            optimizer.step()
    assert len(caught) == 1
    writer.close()
    assert not read(tmp_path).Tags()["scalars"]
