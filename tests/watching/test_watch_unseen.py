"""`fastlog.watch` says why no activations have been seen: each cause has words of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny_net import Net, loss_of, train
from watch_oracle import steps

from fastlog import FastlogWarning
from fastlog.watching import Watcher, watch
from fastlog.writer import SummaryWriter


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def gradients_without_a_forward_pass(model: Net) -> None:
    for param in model.parameters():
        param.grad = torch.ones_like(param)


def forward_pass_of_evaluation(model: Net) -> None:
    model.eval()
    with torch.no_grad():
        loss_of(model)
    gradients_without_a_forward_pass(model)


@pytest.mark.parametrize("backward", [gradients_without_a_forward_pass, forward_pass_of_evaluation])
def test_a_step_without_a_forward_pass_is_not_called_compiled(
    writer: SummaryWriter, backward: Callable[[Net], None]
) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations")
    with pytest.warns(FastlogWarning, match=r"in step 0: no module that is looked at has run, in tr") as said:
        for _ in range(3):
            backward(model)
            optimizer.step()
    assert len(said) == 1 and said[0].filename == __file__


def test_numbers_that_leap_over_the_step_that_is_due_are_said(tmp_path: Path, writer: SummaryWriter) -> None:
    """Numbers of samples: that a step is due is known when its forward pass is over."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers = [0]
    watch(model, writer, optimizer, every=64, log="activations", step=lambda: numbers[-1])
    with pytest.warns(FastlogWarning, match=r"in step 64: its forward pass was over when.*Call Watcher\.st"):
        for number in range(0, 200, 32):
            numbers.append(number)
            train(model, optimizer, 1)
    writer.close()
    assert steps(tmp_path, "activation_norm/global") == [0]


@pytest.mark.parametrize("ask", [Watcher.log_next, lambda watcher: watcher.step(50)])
def test_a_step_that_is_asked_for_after_its_forward_pass_is_said(
    writer: SummaryWriter, ask: Callable[[Watcher], None]
) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=50, log="activations")
    train(model, optimizer, 2)
    loss_of(model).backward()
    ask(watcher)
    with pytest.warns(FastlogWarning, match=r"no forward pass came after Watcher\.log_next\(\) or step"):
        optimizer.step()


def test_a_step_that_another_thread_asks_for_is_logged_without_a_word(
    tmp_path: Path, writer: SummaryWriter
) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=50, log=("weights", "activations"))
    train(model, optimizer, 2)
    loss_of(model).backward()
    watcher.hurry()
    optimizer.step()
    writer.close()
    assert steps(tmp_path, "weight_norm/global") == [0, 2]
    assert steps(tmp_path, "activation_norm/global") == [0]


def test_a_model_without_modules_to_look_at_is_said_once(writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(FastlogWarning, match="leave no module whose activations could be seen") as said:
        watch(model, writer, optimizer, every=1, log="activations", modules="nothing")
        train(model, optimizer, 3)
    assert len(said) == 1
