"""`fastlog.watch` of models on CUDA devices: on a fake torch.cuda whose devices run late."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_on_cpu.late_torch import FakeCuda, LateTensor, limit_pinned_memory, on_device
from event_files import assert_same_files, histograms
from torch import nn

import fastlog
import fastlog.summaries.cuda.devices
from fastlog import FastlogWarning, SummaryWriter, watch
from fastlog.summaries import engines


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.head = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(x))
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)


def _train(model: nn.Module, batches: list[torch.Tensor], writer: SummaryWriter, **settings: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    watcher = watch(model, writer, optimizer, every=2, log="all", **settings)
    for batch in batches:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    watcher.remove()


def test_watch(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batches = Net(), [torch.randn(12, 6) for _ in range(4)]
    late_model = on_device(fake_cuda, copy.deepcopy(model))
    writer, expected = SummaryWriter(tmp_path / "late"), SummaryWriter(tmp_path / "host")
    with fake_cuda.held_back():  # the host runs through all of training while the device has not begun
        _train(late_model, [fake_cuda.tensor(batch) for batch in batches], writer)
        assert all(isinstance(param, LateTensor) for param in late_model.parameters())
    _train(model, batches, expected)
    writer.close()
    expected.close()
    for param, late in zip(model.parameters(), late_model.parameters(), strict=True):
        assert torch.equal(param.detach(), late.detach().cpu())
    assert len(histograms(tmp_path / "late")) > 50
    assert_same_files(tmp_path / "late", tmp_path / "host")
    # A launch for the gradients, one for all that is read after the step, twice; and the activations.
    assert sum(rows > 1 for rows in fake_cuda.calls) == 4


@pytest.mark.parametrize("engine", ["auto", "off"])
def test_watch_of_gradients_that_are_still_scaled(
    fake_cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """The engine divides as it reads: nothing is allocated but one number for each device."""
    monkeypatch.setenv("FASTLOG_CUDA", engine)
    fastlog.summaries.cuda.devices._engines.clear()
    model, expected = Net(), Net()
    for param in expected.parameters():
        param.grad = torch.randn(param.shape)
    for module, device in ((model.embed, 0), (model.layers, 0), (model.head, 1)):
        on_device(fake_cuda, module, device)
    for param, other in zip(model.parameters(), expected.parameters(), strict=True):
        param.grad = fake_cuda.tensor(other.grad * 1024, param.get_device())
    fastlog.summarize(list(model.parameters()))  # the first use allocates
    fake_cuda.allocated.clear()
    for place, net in (("late", model), ("host", expected)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, foreach=False)
        with SummaryWriter(tmp_path / place) as writer:
            watch(net, writer, optimizer, every=1, log="gradients")
            optimizer.register_step_pre_hook(lambda optimizer, *_: delattr(optimizer, "grad_scale"))
            optimizer.grad_scale = fake_cuda.tensor(torch.tensor(1024.0)) if net is model else None
            with fake_cuda.held_back():
                optimizer.step()  # of an optimizer that is not fused, which wants no scale
    assert_same_files(tmp_path / "late", tmp_path / "host")
    assert len(histograms(tmp_path / "late")) == 8
    if engine == "auto":
        assert set(fake_cuda.allocated) == {()}


def test_watch_of_a_model_on_two_devices(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    model = Net()
    on_device(fake_cuda, model.embed, 0)
    on_device(fake_cuda, model.layers, 1)
    writer = SummaryWriter(tmp_path)
    watcher = watch(model, writer, every=1, log="weights")
    fake_cuda.calls.clear()
    with fake_cuda.held_back():
        watcher.step(0)
    writer.close()
    assert fake_cuda.calls == [2, 4]  # the head is in host memory
    assert len(histograms(tmp_path)) == 8


def test_watch_under_back_pressure_drops_and_counts(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    limit_pinned_memory(1 << 16)
    model = on_device(fake_cuda, Net())
    writer = SummaryWriter(tmp_path, overflow="drop_newest")
    watcher = watch(model, writer, every=1, log="weights")
    with fake_cuda.held_back(), pytest.warns(FastlogWarning, match="pinned memory"):
        for step in range(3):
            watcher.step(step)
    with pytest.warns(FastlogWarning, match="2 of 5 events were dropped"):
        writer.close()
    assert writer.stats()["dropped"] == {"overflow": 2}
    assert {step for _, step in histograms(tmp_path)} == {0}


def test_activations_of_many_passes_do_not_wait_for_each_other(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    """Their launches are in nobody's queue before the step ends: the ring is emptied without the worker."""
    limit_pinned_memory(1 << 15)
    model = on_device(fake_cuda, Net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = SummaryWriter(tmp_path, block_timeout=None)
    watch(model, writer, optimizer, every=1, log="activations")
    for _ in range(10):
        model(fake_cuda.tensor(torch.randn(12, 6))).mean().backward()
    optimizer.step()
    writer.close()
    counts = {tag: histo.num for (tag, _), histo in histograms(tmp_path).items()}
    assert counts["activations/head"] == 120 and writer.stats()["dropped"] == {}


def _steps(
    optimizer: torch.optim.Optimizer, fake_cuda: FakeCuda, watcher: Any, clock: list[float], count: int
) -> int:
    """Training steps of one second each, and what two launches take; how many of them were logged."""
    logged = 0
    for _ in range(count):
        clock[0] += 1.0
        due = watcher._steps.due
        optimizer.step()
        if watcher._steps.due != due:
            logged += 1
            clock[0] += 2 * fake_cuda.launch_seconds  # the device holds up what follows
        for ordinal in fake_cuda.ordinals:
            ordinal.device.synchronize()
    return logged


@pytest.mark.parametrize("engine", ["auto", "off"])
def test_the_budget_sees_what_logging_takes_on_the_device(
    fake_cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """The calling thread takes no time here; two launches take 0.3 s of each logged step."""
    if engine == "off":  # a launch is what is enqueued for one moment
        monkeypatch.setenv("FASTLOG_CUDA", "off")
        fastlog.summaries.cuda.devices._engines.clear()
        start_plain = engines.start_plain

        def slow(tensors: Any, device: int) -> Any:
            def launch() -> None:
                ordinal.device.seconds += fake_cuda.launch_seconds

            ordinal = fake_cuda.ordinals[device]
            ordinal.device.put(fake_cuda.stream_of(device), launch)
            return start_plain(tensors, device)

        monkeypatch.setattr(engines, "start_plain", slow)
    model, clock = on_device(fake_cuda, Net()), [0.0]
    for param in model.parameters():
        param.grad = fake_cuda.tensor(torch.randn(param.shape))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = SummaryWriter(tmp_path)
    watcher = watch(model, writer, optimizer, every=1, budget=0.01, clock=lambda: clock[0])
    fake_cuda.launch_seconds = 0.15
    with pytest.warns(FastlogWarning, match=r"stay within 1\.0%"):
        logged = _steps(optimizer, fake_cuda, watcher, clock, 120)
    free = 4  # logged steps, the last of which begins within the first second of logging
    assert watcher.every >= 30 and (logged - free) * 0.3 <= 0.01 * 120 + 0.3
    writer.close()


def test_a_device_that_is_late_or_broken_is_not_waited_for_by_the_budget(
    fake_cuda: FakeCuda, tmp_path: Path
) -> None:
    model, clock = on_device(fake_cuda, Net()), [0.0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = SummaryWriter(tmp_path)
    watcher = watch(model, writer, optimizer, every=1, budget=0.5, log="weights", clock=lambda: clock[0])
    fake_cuda.launch_seconds = 2.0
    with fake_cuda.held_back():
        for _ in range(3):
            clock[0] += 1.0
            optimizer.step()
        assert watcher.every == 1
    fake_cuda.ordinals[0].device.synchronize()
    clock[0] += 6.0
    with pytest.warns(FastlogWarning, match="stay within"):
        _steps(optimizer, fake_cuda, watcher, clock, 5)
    assert watcher.every > 1
    writer.flush()
    fake_cuda.ordinals[0].failure = fake_cuda.module.CudaError("an illegal memory access")
    with pytest.warns(FastlogWarning, match="illegal memory access"):
        _steps(optimizer, fake_cuda, watcher, clock, 60)
        writer.flush()
    watcher.remove()
    with pytest.warns(FastlogWarning, match="were dropped"):
        writer.close()
