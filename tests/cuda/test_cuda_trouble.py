"""CUDA tensors where something is wrong: refused launches, broken devices, graph capture, no engine."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_on_cpu.late_torch import FakeCuda, on_device
from event_files import assert_same_files, histograms, simple_values

import fastlog
import fastlog.summaries.cuda.devices
from fastlog import FastlogWarning, SummaryWriter
from fastlog.summaries.engines import pack_many


def test_a_refused_launch_is_said_once_and_the_next_one_works(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    error = fake_cuda.module.CudaError(
        "launching summarize_kernel on CUDA device 0: too many resources requested"
    )
    with pytest.warns(
        FastlogWarning, match=r"add_histogram\('w'\).*summarize_kernel on CUDA device 0: too"
    ) as caught:
        for step in range(2):
            fake_cuda.refuse_launch = error
            writer.add_histogram("w", fake_cuda.tensor(torch.ones(5)), step)
    assert len(caught) == 1
    writer.add_histogram("w", fake_cuda.tensor(torch.ones(5)), 2)
    with pytest.warns(FastlogWarning, match="2 values were not logged"):
        writer.close()
    assert list(histograms(tmp_path)) == [("w", 2)]
    assert writer.stats()["bad_values"] == 2
    with pytest.raises(RuntimeError, match=r"values\[0\] and 1 more: launching summarize_kernel"):
        fake_cuda.refuse_launch = error
        fastlog.summarize([fake_cuda.tensor(torch.ones(5))] * 2)


def test_a_device_that_fails_later_is_an_error_of_the_queue(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    with fake_cuda.held_back():
        fake_cuda.ordinals[0].failure = fake_cuda.module.CudaError(
            "waiting for summaries on CUDA device 0: illegal access"
        )
        writer.add_histogram("w", fake_cuda.tensor(torch.ones(5)), 0)
        writer.add_histogram("v", fake_cuda.tensor(torch.ones(5)), 0)
        writer.add_histogram("other device", fake_cuda.tensor(torch.ones(5), 1), 0)
    with (
        pytest.warns(FastlogWarning, match=r"add_histogram\('[wv]'\).*on CUDA device 0: illegal access"),
        pytest.warns(FastlogWarning, match="2 of 3 events were dropped: invalid 2"),
    ):
        writer.close()
    assert list(histograms(tmp_path)) == [("other_device", 0)]
    assert writer.stats()["dropped"] == {"invalid": 2}


def test_a_captured_stream_is_refused(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    fake_cuda.capturing = True
    for values in (torch.ones(5), torch.tensor(1.0)):
        with pytest.raises(RuntimeError, match="log after its replay"):
            fastlog.summarize(fake_cuda.tensor(values))
    with pytest.warns(FastlogWarning, match="captured into a CUDA graph"):
        writer.add_histogram("w", fake_cuda.tensor(torch.ones(5)), 0)
        writer.add_scalar("s", fake_cuda.tensor(torch.tensor(1.0)), 0)
    fake_cuda.capturing = False
    writer.add_scalar("s", fake_cuda.tensor(torch.tensor(1.0)), 1)
    writer.close()
    assert simple_values(tmp_path) == {("s", 1): 1.0}


def test_a_capture_records_nothing_of_what_is_refused(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    """Else each replay would repeat the copies that tensors of these layouts need."""
    late = fake_cuda.tensor(torch.randn(6, 8))
    sliced, flipped = late[:, ::3], torch._neg_view(late)
    writer = SummaryWriter(tmp_path)
    fake_cuda.capturing = True
    for tensors in ([sliced], [flipped, late], [torch.ones(3), sliced]):
        with pytest.raises(RuntimeError, match="log after its replay"):
            fastlog.summarize(tensors)
    with pytest.warns(FastlogWarning, match="captured into a CUDA graph"):
        writer.add_histogram("sliced", sliced, 0)
        writer.add_histogram("bins", late, 0, bins="auto")
        writer.add_scalar("one", late[1, 2], 0)
        writer.add_image("image", late[None], 0)
    fake_cuda.capturing = False
    writer.close()
    assert fake_cuda.recorded == [] and histograms(tmp_path) == {}


def test_a_watched_step_is_captured_as_it_is(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    """Nothing of the watcher is in the graph: no copies of weights, no update, no division of gradients."""
    recorded: list[list[str]] = []
    writer = SummaryWriter(tmp_path)
    for watched in (False, True):
        model = on_device(fake_cuda, torch.nn.Linear(6, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        watcher = fastlog.watch(model, writer, optimizer, every=1, log="all") if watched else None
        batch = fake_cuda.tensor(torch.ones(3, 6))

        def step(model: Any = model, batch: Any = batch, optimizer: Any = optimizer) -> None:
            model(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        fake_cuda.capturing, fake_cuda.recorded = True, []
        with contextlib.ExitStack() as stack:
            if watched:
                stack.enter_context(pytest.warns(FastlogWarning, match="captured into a CUDA graph"))
            step()
        fake_cuda.capturing = False
        recorded.append(fake_cuda.recorded)
        step()
        if watcher is not None:
            watcher.remove()
    with pytest.warns(FastlogWarning, match="2 values were not logged"):
        writer.close()
    assert recorded[0] == recorded[1] != []
    steps = {step for tag, step in histograms(tmp_path) if tag == "weights/weight"}
    assert steps == {0, 2}


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastlog.summaries.cuda.devices, "_engines", {})


def _missing() -> Any:
    raise ImportError("no module named fastlog._cuda")


@pytest.mark.parametrize(
    "why", ["not built", "an old driver", "too little shared memory", "wrong results", "no memory left"]
)
def test_without_the_engine_plain_torch_does_it_and_says_why_once(
    fake_cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    _forget(monkeypatch)
    match = {
        "not built": "no module named fastlog._cuda.*FASTLOG_CUDA=on pip install",
        "an old driver": "driver version is insufficient",
        "too little shared memory": "loading summarize_kernel on CUDA device 0: invalid argument",
        "no memory left": "Tried to allocate 2.00 MiB",
        "wrong results": r"self-check found wrong results \(dtype codes \[\d",
    }[why]
    if why == "not built":
        monkeypatch.setattr(fastlog.summaries.cuda.devices, "_module", _missing)
    elif why == "an old driver":
        fake_cuda.refuse_prepare = fake_cuda.module.CudaError("CUDA driver version is insufficient")
    elif why == "no memory left":
        fake_cuda.refuse_prepare = torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 MiB"
        )
    elif why == "too little shared memory":
        monkeypatch.setenv("CUDA_ON_CPU_SHARED_BYTES", str(48 << 10))
    else:
        monkeypatch.setattr(fastlog.summaries.cuda.devices, "_agree", lambda *pair: False)
    writer = SummaryWriter(tmp_path)
    tensor = torch.randn(500)
    with pytest.warns(FastlogWarning, match=f"plain torch.*{match}") as caught:
        for step in range(2):
            writer.add_histogram("w", fake_cuda.tensor(tensor), step)
            writer.add_scalar("s", fake_cuda.tensor(torch.tensor(2.0)), step)
    writer.close()
    assert len(caught) == 1
    assert len(histograms(tmp_path)) == len(simple_values(tmp_path)) == 2
    assert fastlog.summarize(fake_cuda.tensor(tensor)).num == 500
    assert writer.stats()["cuda"] == {}
    assert "plain torch" in fastlog.summaries.cuda.devices.report(0)


def test_plain_torch_does_not_make_the_calling_thread_wait(
    fake_cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for its first use, as the engine."""
    _forget(monkeypatch)
    monkeypatch.setenv("FASTLOG_CUDA", "off")
    fastlog.summarize([fake_cuda.tensor(torch.ones(3), device) for device in (0, 1)])
    nan = float("nan")
    values = [torch.randn(3000) * 100, torch.tensor([nan, 1e300, -2.0], dtype=torch.float64), torch.empty(0)]
    values += [values[0].bfloat16(), torch.arange(-9, 90), values[0].reshape(50, 60)[:, ::7]]
    expected = [fastlog.summarize(tensor) for tensor in values]
    late, host = SummaryWriter(tmp_path / "late"), SummaryWriter(tmp_path / "host")
    with fake_cuda.held_back():
        tensors = [fake_cuda.tensor(tensor, i % 2) for i, tensor in enumerate(values)]
        packed = pack_many(tensors)
        for step, tensor in enumerate(tensors[3:]):
            late.add_histogram("w", tensor, step)
            tensor.zero_()  # after the call: it must not show
    found = [fastlog.TensorSummary.from_packed(bytes(one)) for one in packed]
    assert all(
        fastlog.summaries.cuda.devices._agree(a.to_packed(), b.to_packed())
        for a, b in zip(found, expected, strict=True)
    )
    for step, tensor in enumerate(values[3:]):
        host.add_histogram("w", tensor, step)
    late.close()
    host.close()
    assert_same_files(tmp_path / "late", tmp_path / "host")


def test_a_device_that_fails_under_plain_torch_is_an_error_of_the_tensor(
    fake_cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forget(monkeypatch)
    monkeypatch.setenv("FASTLOG_CUDA", "off")
    fastlog.summarize(fake_cuda.tensor(torch.ones(3)))
    writer = SummaryWriter(tmp_path)
    with fake_cuda.held_back():
        fake_cuda.ordinals[0].failure = fake_cuda.module.CudaError("illegal access")
        writer.add_histogram("w", fake_cuda.tensor(torch.ones(5)), 0)
    with (
        pytest.warns(FastlogWarning, match=r"add_histogram\('w'\).*illegal access"),
        pytest.warns(FastlogWarning, match="1 of 1 events were dropped: invalid 1"),
    ):
        writer.close()


def test_the_switch(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    late = fake_cuda.tensor(torch.randn(500))
    _forget(monkeypatch)
    monkeypatch.setenv("FASTLOG_CUDA", "off")
    assert fastlog.summarize(late).num == 500 and fake_cuda.calls == []
    assert fastlog.summaries.cuda.devices.report(0).endswith("(FASTLOG_CUDA=off)")
    _forget(monkeypatch)
    monkeypatch.setenv("FASTLOG_CUDA", "on")
    assert fastlog.summarize(late).num == 500 and fake_cuda.calls
    _forget(monkeypatch)
    monkeypatch.setattr(fastlog.summaries.cuda.devices, "_module", _missing)
    with pytest.raises(RuntimeError, match="FASTLOG_CUDA=on: the CUDA engine is not built"):
        fastlog.summarize(late)
    monkeypatch.setenv("FASTLOG_CUDA", "yes")
    with pytest.raises(ValueError, match="FASTLOG_CUDA='yes': use auto, on or off"):
        fastlog.summarize(late)


def test_a_forked_child_does_not_wait_for_the_parents_locks(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    writer.add_histogram("w", fake_cuda.tensor(torch.ones(5)), 0)
    locks = [engine.transfers._lock for engine in fastlog.summaries.cuda.devices._engines.values()]
    for lock in (*locks, fastlog.summaries.cuda.devices._preparing):
        lock.acquire()  # as another thread of the parent might hold it at the fork
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(
            0
            if writer.stats()["cuda"] == {} and fastlog.summaries.cuda.devices._preparing.acquire(timeout=5)
            else 1
        )
    for lock in (*locks, fastlog.summaries.cuda.devices._preparing):
        lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert writer.stats()["cuda"]["launches"] > 0
    writer.close()


# ---- the fake itself


def test_the_fake_notices_a_wait(fake_cuda: FakeCuda) -> None:
    late = fake_cuda.tensor(torch.ones(()))
    with fake_cuda.held_back():
        with pytest.raises(AssertionError, match="a training thread waits"):
            late.item()
        with pytest.raises(AssertionError, match="a training thread waits"):
            late.cpu()
        with pytest.raises(AssertionError, match="a training thread waits"):
            fastlog.summarize(late)
    assert len(fake_cuda.violations) == 3
    fake_cuda.violations.clear()


def test_the_fake_overwrites_memory_that_is_gone(fake_cuda: FakeCuda) -> None:
    late = fake_cuda.tensor(torch.ones(10))
    host = late.host
    with fake_cuda.held_back():
        twice = late * 2
        del late
        assert host.tolist() == [1.0] * 10
    fake_cuda.ordinals[0].device.synchronize()
    assert host.tolist() != [1.0] * 10 and twice.cpu().tolist() == [2.0] * 10
