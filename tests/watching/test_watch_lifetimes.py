"""What `fastlog.watch` keeps alive, and what it leaves in copies and exports of a model: nothing."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from watch_oracle import read, steps

import fastlog
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


def make() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What dies dies with its last reference."""
    model = make()
    train(model, torch.optim.Adam(model.parameters()), 1)  # torch's own first time
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("end", ["remove", "remove, and hold the watcher", "nothing", "close", "unfinished"])
def test_model_and_optimizer_die_with_their_last_reference(
    writer: SummaryWriter, no_collector: None, end: str, every: int
) -> None:
    model = make()
    optimizer = torch.optim.Adam(model.parameters())
    watcher = watch(model, writer, optimizer, every=every, log="all")
    train(model, optimizer, 4)
    if end == "unfinished":
        model(torch.randn(3, 4)).sum().backward()
        watcher.gradients()
    references = [weakref.ref(model), weakref.ref(optimizer), weakref.ref(model[0].weight)]
    if end.startswith("remove"):
        watcher.remove()
    if end == "close":
        writer.close()
    if end != "remove, and hold the watcher":
        references.append(weakref.ref(watcher))
        del watcher
    del model, optimizer
    assert [reference() for reference in references] == [None] * len(references)


def test_an_ended_watcher_takes_calls_and_does_nothing(tmp_path: Path, writer: SummaryWriter) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, writer, optimizer, every=1, log=("weights", "activations"))
    train(model, optimizer, 1)
    watcher.remove()
    watcher.step(5)
    watcher.gradients()
    watcher.log_next()
    watcher.hurry()
    train(model, optimizer, 2)
    assert watcher.is_over and watcher.every == 1 and "removed" in repr(watcher)
    writer.close()
    assert steps(tmp_path, "weight_norm/global") == [0]


def traces(exported: nn.Module, model: nn.Module) -> list[tuple[int, ...]]:
    """How many hooks the modules of an export have, and whether their calls are replaced. torch.fx gives the
    model's own modules in a new order.
    """
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = set(model.modules())
    return [
        (*(len(getattr(module, kind)) for kind in kinds), module._compiled_call_impl is not None)
        for module in exported.modules()
        if module not in own
    ]


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    assert b"fastlog" not in file.getvalue(), "it can be read where fastlog is not"
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript
@pytest.mark.parametrize(
    "export",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        saved,
        torch.jit.script,
        lambda model: torch.jit.trace(model, torch.ones(3, 4)),
        torch.fx.symbolic_trace,
        lambda model: torch.export.export(model, (torch.ones(3, 4),)).module(),
        lambda model: torch.export.export(model, (torch.ones(3, 4),), strict=True).module(),
    ],
    ids=["deepcopy", "pickle", "torch.save", "jit.script", "jit.trace", "fx", "export", "strict export"],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.(script|trace)(_method)?. is deprecated")  # torch 2.14
def test_a_watched_model_is_copied_and_exported_without_hooks(
    tmp_path: Path, writer: SummaryWriter, export: Callable[[nn.Module], nn.Module]
) -> None:
    """Between two steps that are logged, as where a checkpoint is made."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log=("weights", "activations", "activation_gradients"))
    train(model, optimizer, 1)
    x = torch.randn(3, 4)
    other = export(model)
    plain = make()
    assert traces(other, model) == traces(export(plain), plain)
    torch.testing.assert_close(other(x), model.eval().requires_grad_(False)(x))
    model.train().requires_grad_(True)
    train(model, optimizer, 1)
    writer.close()
    assert steps(tmp_path, "activation_norm/0") == [0, 1]


def test_training_a_copy_is_not_seen(tmp_path: Path, writer: SummaryWriter) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log=("activations", "activation_gradients"))
    other = copy.deepcopy(model)
    other_optimizer = copy.deepcopy(optimizer)
    assert pickle.loads(pickle.dumps(optimizer)).param_groups
    train(other, other_optimizer, 1)
    train(model, optimizer, 1)
    writer.close()
    for kind in ("activations", "activation_gradients"):
        assert [e.histogram_value.num for e in read(tmp_path).Histograms(f"{kind}/2")] == [6]


class HoldsItsWatcher(nn.Module):
    """As LightningModules do."""

    def __init__(self, logdir: Path) -> None:
        super().__init__()
        self.body = make()
        self.optimizer = torch.optim.SGD(self.body.parameters(), lr=0.1)
        self.writer = SummaryWriter(str(logdir))
        self.watcher = fastlog.watch(self, self.writer, self.optimizer, every=1, log="all")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_that_holds_its_watcher_can_be_copied(tmp_path: Path, copied: Any) -> None:
    model = HoldsItsWatcher(tmp_path)
    train(model, model.optimizer, 1)
    other = copied(model)
    assert other.watcher.is_over and not model.watcher.is_over
    train(other, other.optimizer, 1)
    train(model, model.optimizer, 1)
    model.writer.close()
    other.writer.close()
    assert steps(tmp_path, "activation_norm/global") == [0, 1]


def test_replicas_of_data_parallel_are_seen(tmp_path: Path, writer: SummaryWriter) -> None:
    """As ``DataParallel`` makes them for each device: their hooks are their original's."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations")

    def replica() -> nn.Module:
        made = model._replicate_for_data_parallel()
        for name, child in model.named_children():
            made._modules[name] = child._replicate_for_data_parallel()
            for key, param in child.named_parameters():
                setattr(made._modules[name], key, param * 1.0)
        return made

    for count in (2, 3):
        replica()(torch.ones(count, 4)).sum().backward()
    optimizer.step()
    assert not any(module._forward_hooks for module in model.modules())
    writer.close()
    assert [e.histogram_value.num for e in read(tmp_path).Histograms("activations/2")] == [2 * (2 + 3)]


def test_a_module_that_raises_leaves_no_hook(tmp_path: Path, writer: SummaryWriter) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.ones(3, 5))
    train(model, optimizer, 1)
    assert not any(module._forward_hooks for module in model.modules())
    writer.close()
    assert [e.histogram_value.num for e in read(tmp_path).Histograms("activations/0")] == [12]


class WithState(nn.Linear):
    """Its state has all that it has."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()


def test_modules_that_make_their_own_state_can_be_copied(tmp_path: Path, writer: SummaryWriter) -> None:
    model = nn.Sequential(WithState(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=1, log="activations")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), saved(model)):
        assert other[0]._compiled_call_impl is None
        other(torch.ones(3, 4))
    train(model, optimizer, 1)
    writer.close()
    assert [e.histogram_value.num for e in read(tmp_path).Histograms("activations/0")] == [6]


def test_a_module_that_is_compiled_meanwhile_stays_compiled(tmp_path: Path, writer: SummaryWriter) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, writer, optimizer, every=2, log="activations")
    model[0].compile(backend="eager")
    call = model[0]._compiled_call_impl
    train(model, optimizer, 4)
    assert model[0]._compiled_call_impl is call
    writer.close()
    assert steps(tmp_path, "activation_norm/2") == [0, 2]


def test_two_watchers_see_one_module(tmp_path: Path, writer: SummaryWriter) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = watch(model, writer, optimizer, every=1, log="activations", prefix="first")
    watch(model, writer, optimizer, every=2, log="activations", prefix="second")
    train(model, optimizer, 2)
    first.remove()
    train(model, optimizer, 2)
    writer.close()
    assert steps(tmp_path, "first/activation_norm/0") == [0, 1]
    assert steps(tmp_path, "second/activation_norm/0") == [0, 2]
