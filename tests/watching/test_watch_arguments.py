"""What `fastlog.watch` refuses: each error names the argument that is wrong, and what to pass."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tensorboardX
import torch
import torch.utils.tensorboard
from tiny_net import Net, loss_of
from torch import nn
from watch_oracle import steps

from fastlog.watching import watch
from fastlog.writer import SummaryWriter

ARGUMENTS = ("every", "offset", "budget", "top_k", "snapshot_bytes", "optimizer", "writer", "model", "prefix")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"every": 0}, ValueError, "every=0 must be a whole number of at least 1"),
        ({"every": "x"}, TypeError, "every must be a whole number of at least 1, not 'x'"),
        ({"every": 2.5}, TypeError, "every must be a whole number of at least 1, not 2.5"),
        ({"offset": None}, TypeError, "offset must be a whole number, not None"),
        ({"top_k": -1}, ValueError, "top_k=-1 must be a whole number of at least 0"),
        ({"top_k": "5"}, TypeError, "top_k must be a whole number of at least 0, not '5'"),
        ({"snapshot_bytes": -1}, ValueError, "snapshot_bytes=-1 must be"),
        ({"budget": 5}, ValueError, "budget=5 must be a share .* between 0 and 1, such as 0.05 for 5 %"),
        ({"budget": 0}, ValueError, "budget=0 must be a share"),
        ({"budget": "1%"}, TypeError, "budget='1%' must be a share .* such as 0.05 for 5 %"),
        ({"log": None}, TypeError, "log must be some of weights, gradients, .*, not None"),
        ({"scalars": 3}, TypeError, "scalars must be some of norm, rms, .*, not 3"),
        ({"include": 3}, TypeError, "include must be regular expressions, not 3"),
        (
            {"group": "layers"},
            ValueError,
            "group must be \"layer\", a function of a name, or None, not 'layers'",
        ),
        ({"group": 3}, TypeError, "group must be a function, not 3"),
        ({"step": 3}, TypeError, "step must be a function, not 3"),
        ({"prefix": 3}, TypeError, "prefix must be a string, not 3"),
        (
            {"model": [Net(), Net()]},
            TypeError,
            "model must be a torch.nn.Module, not list: call watch for each",
        ),
        ({"model": Net}, TypeError, "model must be a torch.nn.Module, not type"),
        ({"writer": "runs/x"}, TypeError, r"not 'runs/x': pass fastlog\.SummaryWriter\('runs/x'\)"),
        ({"writer": Path("runs")}, TypeError, r"pass fastlog\.SummaryWriter\('runs'\)"),
        ({"writer": None}, TypeError, "writer must be a fastlog.SummaryWriter, not None: only those ranks"),
        ({"optimizer": "sgd"}, TypeError, "optimizer must be a torch.optim.Optimizer, or several, not 'sgd'"),
        ({"optimizer": Net().parameters()}, TypeError, "or several, not torch.nn.parameter.Parameter"),
    ],
)
def test_an_error_names_the_argument_its_value_and_what_to_pass(
    writer: SummaryWriter, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = Net()
    arguments = {"model": model, "writer": writer, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    with pytest.raises(error, match=message) as raised:
        watch(**{**arguments, **change})
    named = {argument for argument in ARGUMENTS if re.search(rf"\b{argument}\b", str(raised.value))}
    assert named <= {*change, "model", "prefix"}


@pytest.mark.parametrize("several", [False, True])
def test_a_scheduler_is_no_optimizer(writer: SummaryWriter, several: bool) -> None:
    model = Net()
    scheduler: Any = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(model.parameters(), lr=0.1), 1)
    with pytest.raises(TypeError, match=r"not torch\.optim\.lr_scheduler\.StepLR: pass the optimizer"):
        watch(model, writer, [scheduler] if several else scheduler)


@pytest.mark.parametrize("theirs", [torch.utils.tensorboard.SummaryWriter, tensorboardX.SummaryWriter])
def test_the_writer_of_another_package_is_named(tmp_path: Path, theirs: Any) -> None:
    other = theirs(str(tmp_path))
    message = rf"not {theirs.__module__}\.SummaryWriter: import .* from fastlog, or call fastlog\.install\(\)"
    with pytest.raises(TypeError, match=message):
        watch(Net(), other)
    other.close()


def test_numbers_of_numpy_and_paths_of_prefixes_are_well(tmp_path: Path, writer: SummaryWriter) -> None:
    numpy = pytest.importorskip("numpy")
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=numpy.int64(2), budget=numpy.float32(0.5), prefix="a/b/")
    watcher.step(numpy.int32(4))
    loss_of(model).backward()
    optimizer.step()
    with pytest.raises(TypeError, match=r"number must be a whole number, not 1\.5"):
        watcher.step(1.5)  # type: ignore[arg-type]
    writer.close()
    assert steps(tmp_path, "a/b/grad_norm/global") == [4]


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another one, as libraries have them: without ``Optimizer.__init__``."""

    def __init__(self, inner: torch.optim.Optimizer, attribute: str, has_hooks: bool) -> None:
        if has_hooks:
            self._optimizer_step_pre_hooks = {}
            self._optimizer_step_post_hooks = {}
        setattr(self, attribute, inner)
        self._wrapped = inner
        self.param_groups = inner.param_groups
        self.state = inner.state

    def step(self, closure: Any = None) -> Any:
        return self._wrapped.step(closure)


@pytest.mark.parametrize("attribute", ["optimizer", "base_optimizer", "_base_optimizer"])
@pytest.mark.parametrize("has_hooks", [False, True])
def test_the_optimizer_inside_of_a_wrapper_is_watched(
    tmp_path: Path, writer: SummaryWriter, attribute: str, has_hooks: bool
) -> None:
    model = Net()
    optimizer = Wrapper(torch.optim.SGD(model.parameters(), lr=0.1), attribute, has_hooks)
    watch(model, writer, optimizer, every=1)
    for _ in range(2):
        loss_of(model).backward()
        optimizer.step()
    writer.close()
    assert steps(tmp_path) == [0, 1]


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimisation, as it is commonly written."""

    def __init__(self, params: Any, base: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.moved: list[tuple[nn.Parameter, torch.Tensor]] = []

    @torch.no_grad()
    def first_step(self) -> None:
        norm = torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()
        for group in self.param_groups:
            for param in group["params"]:
                away = param.grad * (group["rho"] / (norm + 1e-12))
                param.add_(away)
                self.moved.append((param, away))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for param, away in self.moved:
            param.sub_(away)
        self.moved.clear()
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


@pytest.mark.parametrize("by_closure", [False, True])
def test_both_ways_to_step_sharpness_aware_are_seen(
    tmp_path: Path, writer: SummaryWriter, by_closure: bool
) -> None:
    model = Net()
    optimizer = Sam(model.parameters(), torch.optim.SGD, lr=0.1)
    watch(model, writer, optimizer, every=1)
    for _ in range(2):
        loss_of(model).backward()
        if by_closure:
            optimizer.step(lambda: loss_of(model).backward())
        else:
            optimizer.first_step()
            loss_of(model).backward()
            optimizer.second_step()
    writer.close()
    assert steps(tmp_path) == [0, 1]
