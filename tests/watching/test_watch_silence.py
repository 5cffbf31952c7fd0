"""`fastlog.watch` says so where nothing, or not all, is logged: once, with the remedy, at the user's line."""

from __future__ import annotations

import gc
import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_net import Net, loss_of, train
from torch import nn
from watch_oracle import read, steps

from fastlog import FastlogWarning
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


def backward(model: nn.Module, times: int) -> None:
    """Gradients that come and go, as in a training."""
    for _ in range(times):
        model.zero_grad()
        loss_of(model).backward()


def test_a_model_watched_twice_is_logged_once(tmp_path: Path, writer: SummaryWriter) -> None:
    """As a notebook's cell does that is run again."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = watch(model, writer, optimizer, every=1)
    train(model, optimizer, 2)
    with pytest.warns(FastlogWarning, match=r"this Net is watched already.*remove\(\)") as said:
        watch(model, writer, optimizer, every=1)
    assert len(said) == 1 and said[0].filename == __file__
    assert first.is_over
    train(model, optimizer, 2)
    writer.close()
    assert steps(tmp_path) == [0, 1, 2, 3]


def test_other_kinds_other_writers_and_ended_watchers_are_no_second_watching(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with SummaryWriter(str(tmp_path / "a")) as one, SummaryWriter(str(tmp_path / "b")) as other:
        with watch(model, one, optimizer, every=1):
            train(model, optimizer, 1)
        watch(model, one, optimizer, every=2)
        watch(model, one, optimizer, every=3, log="activations")
        watch(model, other, optimizer, every=1)
        train(model, optimizer, 4)
    assert steps(tmp_path / "a") == [0, 0, 2] and steps(tmp_path / "b") == [0, 1, 2, 3]
    assert steps(tmp_path / "a", "activation_norm/global") == [0, 3]


def test_an_optimizer_of_another_model_is_said(writer: SummaryWriter) -> None:
    other = torch.optim.AdamW(Net().parameters())
    with pytest.warns(
        FastlogWarning, match="AdamW steps none of the parameters of this Net.*after the model"
    ):
        watch(Net(), writer, other)


def test_gradients_without_a_step_are_said_while_training_goes_on(writer: SummaryWriter) -> None:
    """The steps of a class that calls no hooks, as some that wrap another optimizer."""

    class Own(torch.optim.SGD):
        def update(self) -> None:
            for group in self.param_groups:
                for param in group["params"]:
                    param.data -= 0.1 * param.grad

    model = Net()
    optimizer = Own(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for set_to_none in (True, False):
            for _ in range(40):
                optimizer.zero_grad(set_to_none)
                loss_of(model).backward()
                optimizer.update()
    assert [str(w.message) for w in said if w.category is FastlogWarning] == [
        "fastlog.watch: nothing is logged: there are gradients, and step() of Own is never called. Pass the"
        " optimizer whose step() the training calls; or pass none, and call Watcher.step() in each step"
    ]
    assert said[0].filename.startswith(str(Path(__file__).parents[1]))
    assert not any(param._post_accumulate_grad_hooks for param in model.parameters()), "it has looked away"


def test_given_numbers_do_not_hide_that_no_step_is_seen(writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=1, log="all")
    with pytest.warns(FastlogWarning, match=r"step\(\) of SGD is never called"):
        for number in range(30):
            watcher.step(number)
            backward(model, 1)


def test_numbers_that_begin_late_are_seen(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=50, log=("weights", "activations"))
    for number in range(1, 101):
        watcher.step(number)
        train(model, optimizer, 1)
    writer.close()
    assert steps(tmp_path, "weight_norm/global") == steps(tmp_path, "activation_norm/global") == [50, 100]


def test_accumulated_gradients_are_no_steps(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    for _ in range(100):
        loss_of(model).backward()
    optimizer.step()
    assert not any(param._post_accumulate_grad_hooks for param in model.parameters())
    writer.close()
    assert steps(tmp_path) == [0]


@pytest.mark.parametrize("how", ["writer.close", "watcher.remove"])
def test_a_watcher_that_never_steps_says_so_at_the_end(writer: SummaryWriter, how: str) -> None:
    model = Net()
    watcher = watch(model, writer)
    backward(model, 3)
    with pytest.warns(
        FastlogWarning, match=r"there is no optimizer, and Watcher\.step\(\) is never called"
    ) as said:
        writer.close() if how == "writer.close" else watcher.remove()
    writer.close()
    assert len(said) == 1


def test_a_watcher_without_training_says_nothing(writer: SummaryWriter) -> None:
    watch(Net(), writer).remove()
    model = Net()
    watch(model, writer, torch.optim.SGD(model.parameters(), lr=0.1))
    writer.close()


def test_steps_that_end_before_the_first_one_due_are_said(writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=50, offset=49)
    train(model, optimizer, 30)
    with pytest.warns(FastlogWarning, match="step 49 would have been the first, and the last was 29. Choose"):
        writer.close()


def test_an_optimizer_that_is_replaced_is_said(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    train(model, optimizer, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)  # the second stage
    train(model, optimizer, 2)
    with pytest.warns(FastlogWarning, match="nothing is logged any more.*is gone. Call watch again"):
        writer.close()
    assert steps(tmp_path) == [0, 1]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_optimizer_may_go_when_the_model_has_been_frozen(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    train(model, optimizer, 2)
    model.requires_grad_(False)
    del optimizer
    gc.collect()
    writer.close()
    assert steps(tmp_path) == [0, 1]


def test_a_replaced_optimizer_that_is_watched_is_well(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=1)
    train(model, optimizer, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    again = watch(model, writer, optimizer, every=1, step=lambda: 7)
    train(model, optimizer, 1)
    writer.close()
    assert steps(tmp_path) == [0, 1, 7]
    assert watcher.is_over and not again.is_over


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"include": "lyers"}, r"leave none of the 11 parameters, such as embed\.weight.*gradients, weights"),
        ({"exclude": "."}, "leave none of the 11 parameters"),
        ({"log": "activations", "modules": r"\.mlp$"}, "leave no module whose activations"),
        ({"histograms": False, "scalars": (), "tensor_scalars": ()}, "nothing will be logged.*Choose one"),
        ({"top_k": 0, "scalars": ()}, r"nothing will be logged with top_k=0 and scalars=\(\)"),
    ],
)
def test_a_choice_of_nothing_is_said_at_once(
    writer: SummaryWriter, options: dict[str, Any], match: str
) -> None:
    model = Net()
    with pytest.warns(FastlogWarning, match=match) as said:
        watch(model, writer, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    assert len(said) == 1 and said[0].filename == __file__


def test_a_frozen_model_is_said_at_once(writer: SummaryWriter) -> None:
    model = Net().requires_grad_(False)
    with pytest.warns(FastlogWarning, match="all 11 parameters are frozen.*Pass frozen=True"):
        watch(model, writer)
    watch(Net().requires_grad_(False), writer, frozen=True, prefix="frozen")
    with pytest.warns(FastlogWarning, match="this Tanh has no parameters"):
        watch(nn.Tanh(), writer, prefix="none")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_parameters_without_elements_are_said_in_one_sentence(writer: SummaryWriter, count: int) -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.full = nn.Parameter(torch.ones(2))
            for number in range(count):
                self.register_parameter(f"p{number}", nn.Parameter(torch.ones(0, 4)))

    model = Empty()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = {1: "p0 has", 3: "p0, p1, p2 have", 5: "p0, p1, p2 and 2 more have"}[count]
    with pytest.warns(FastlogWarning, match=rf"^fastlog\.watch: {names} no elements") as said:
        watch(model, writer, optimizer, every=1)
        for _ in range(2):
            model.full.sum().backward()
            optimizer.step()
        writer.close()
    assert len(said) == 1 and said[0].filename == __file__
    assert "exclude=" in str(said[0].message)


def test_parameters_without_elements_that_are_excluded_are_not_said(writer: SummaryWriter) -> None:
    model = nn.ModuleDict({"full": nn.Linear(2, 2)})
    model.register_parameter("nothing", nn.Parameter(torch.ones(0)))
    watch(model, writer, exclude="nothing").remove()


def test_gradients_that_are_gone_before_the_step_are_said(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    with pytest.warns(
        FastlogWarning, match=r"no parameter had a gradient when step 0.*zero_grad\(\) after"
    ) as said:
        for _ in range(2):
            loss_of(model).backward()
            optimizer.zero_grad()
            optimizer.step()
    assert len(said) == 1
    writer.close()
    assert steps(tmp_path, "weight_norm/global") == [0, 1]


def test_gradients_in_main_grad_are_said(writer: SummaryWriter) -> None:
    """As Megatron accumulates them: ``grad`` is None."""
    model = Net()
    for param in model.parameters():
        param.main_grad = torch.ones_like(param)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    with pytest.warns(FastlogWarning, match="they are in main_grad, where watch does not look"):
        optimizer.step()


def test_a_closed_writer_is_said_by_the_watcher_alone(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    train(model, optimizer, 1)
    writer.close()
    with pytest.warns(FastlogWarning) as said:
        train(model, optimizer, 2)
        writer.add_scalar("loss", 1.0)
        writer.close()
        writer.add_scalar("loss", 1.0)
    (text,) = [str(warning.message) for warning in said]
    assert re.search(r"fastlog.watch: .*closed before step 1, which opens a new file.*remove\(\)", text)
    writer.close()
    assert steps(tmp_path) == [0, 1, 2]


def test_an_unfinished_round_is_logged_where_the_writer_is_closed(
    tmp_path: Path, writer: SummaryWriter
) -> None:
    model = Net()
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.head, model.layers)]
    watch(model, writer, optimizers, every=1)
    loss_of(model).backward()
    optimizers[0].step()
    writer.close()
    assert steps(tmp_path, "grad_norm/head.bias") == [0]


def test_step_numbers_that_start_anew_are_logged(tmp_path: Path, writer: SummaryWriter) -> None:
    """Numbers of batches, which begin again with each epoch."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers = [0]
    watch(model, writer, optimizer, every=2, step=lambda: numbers[-1])
    for number in (*range(5), *range(5)):
        numbers.append(number)
        train(model, optimizer, 1)
    writer.close()
    assert steps(tmp_path) == [0, 2, 4, 0, 2, 4]


@pytest.mark.parametrize("given", [None, 1.5, "3", ZeroDivisionError])
def test_step_numbers_that_are_none_are_said_and_counted_on(
    tmp_path: Path, writer: SummaryWriter, given: Any
) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = 0

    def step() -> Any:
        nonlocal calls
        calls += 1
        if given is ZeroDivisionError:
            raise given("in the user's function")
        return given

    with pytest.warns(FastlogWarning, match="step= must give the number of the step in progress") as said:
        watch(model, writer, optimizer, every=1, step=step)
        train(model, optimizer, 3)
    assert len(said) == 1 and calls >= 3
    writer.close()
    assert steps(tmp_path) == [0, 1, 2]


def test_the_budget_names_the_line_of_the_training(writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, budget=0.01, clock=itertools.count().__next__)
    with pytest.warns(FastlogWarning, match=r"to stay within 1\.0%\. Raise budget=") as said:
        loss_of(model).backward()
        for _ in range(3):
            optimizer.step()
    assert [w.filename for w in said] == [__file__]


def test_nan_in_weights_and_gradients_are_two_words(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1)
    with pytest.warns(FastlogWarning, match="NaN or Inf in 11 of 11 tensors") as said:
        for _ in range(3):
            optimizer.zero_grad()
            (loss_of(model) * float("nan")).backward()
            optimizer.step()
        writer.close()
    assert sorted(str(w.message).split(":")[2].strip() for w in said) == ["gradients", "weights"]


def test_inf_that_a_scaler_handles_is_none_to_warn_of(tmp_path: Path, writer: SummaryWriter) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    watch(model, writer, optimizer, every=1)
    scaler.scale(loss_of(model)).backward()
    model.head.bias.grad[0] = float("inf")
    scaler.step(optimizer)
    writer.close()
    assert [event.value for event in read(tmp_path).Scalars("grad_inf/global")] == [1.0]
