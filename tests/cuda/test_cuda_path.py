"""The whole way of CUDA tensors: from `summarize`, `add_histogram` and `add_scalar` to the file.

On a fake torch.cuda whose devices run late; the engine's kernels run on the CPU.
"""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import event_files
import pytest
import torch
from cuda_on_cpu.late_torch import FakeCuda, limit_pinned_memory
from event_files import assert_same_files, histograms, simple_values
from queue_doubles import until

import fastlog
import fastlog.summaries.cuda.devices
from fastlog import FastlogWarning, SummaryWriter, TensorSummary
from fastlog.summaries.engines import PendingSummary, pack_many


def _tensors() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3000, generator=generator)
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64, torch.int32)
    tensors = [(values[: 500 * (i + 1)] * 100).to(kind) for i, kind in enumerate(kinds)]
    return [*tensors, values > 0, torch.empty(0), values.reshape(50, 60).t(), values.reshape(50, 60)[:, ::7]]


def _assert_same(found: list[TensorSummary], expected: list[TensorSummary]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert fastlog.summaries.cuda.devices._agree(one.to_packed(), other.to_packed())


# ---- summarize


def test_summarize(fake_cuda: FakeCuda) -> None:
    tensors = _tensors()
    mixed: list[Any] = [
        fake_cuda.tensor(tensor, i % 2) if i % 3 else tensor for i, tensor in enumerate(tensors)
    ]
    _assert_same(fastlog.summarize(mixed), fastlog.summarize(tensors))
    assert fake_cuda.calls == [3, 3]  # one launch for each device
    for tensor in tensors:
        _assert_same([fastlog.summarize(fake_cuda.tensor(tensor))], [fastlog.summarize(tensor)])


def test_a_summary_that_is_sent_elsewhere_arrives_as_bytes(fake_cuda: FakeCuda) -> None:
    tensors = _tensors()
    later = pack_many([fake_cuda.tensor(tensor) for tensor in tensors])
    assert all(type(one) is PendingSummary for one in later)
    arrived = pickle.loads(pickle.dumps(later))
    assert arrived == [bytes(one) for one in later]
    _assert_same([TensorSummary.from_packed(packed) for packed in arrived], fastlog.summarize(tensors))


def test_more_tensors_than_a_launch_takes(fake_cuda: FakeCuda) -> None:
    for engine in fastlog.summaries.cuda.devices._engines.values():
        engine.transfers._max_tensors = 16
    tensors = [torch.full((3,), float(i)) for i in range(40)]
    summaries = fastlog.summarize([fake_cuda.tensor(tensor) for tensor in tensors])
    assert [summary.sum for summary in summaries] == [3.0 * i for i in range(40)]
    assert fake_cuda.calls == [16, 16, 8]


def test_the_operation_for_compiled_graphs(fake_cuda: FakeCuda) -> None:
    from fastlog.custom_op import from_tensors

    tensor = torch.randn(1000)
    record = fastlog.summarize(fake_cuda.tensor(tensor))
    assert from_tensors(*torch.ops.fastlog.summarize(tensor)) == fastlog.summarize(tensor)
    _assert_same([record], [fastlog.summarize(tensor)])


# ---- add_histogram and add_scalar


def test_the_calling_thread_never_waits(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "late")
    expected = SummaryWriter(tmp_path / "host")
    tensors = [tensor for tensor in _tensors() if tensor.numel()]
    with fake_cuda.held_back():
        for step, tensor in enumerate(tensors):
            late = fake_cuda.tensor(tensor, step % 2)
            writer.add_histogram("values", late, step)
            writer.add_histogram("fewer bins", late, step, max_bins=20)
            writer.add_scalar("host", step, step)
            late.zero_()  # after the call: it must not show
            del late
        assert writer.stats()["cuda"]["in_flight"] == 2 * len(tensors)
        until(lambda: writer.stats()["written"] == len(tensors))  # what was on the host waits for no device
        assert simple_values(tmp_path / "late") == {("host", step): step for step in range(len(tensors))}
    for step, tensor in enumerate(tensors):
        expected.add_histogram("values", tensor, step)
        expected.add_histogram("fewer bins", tensor, step, max_bins=20)
        expected.add_scalar("host", step, step)
    writer.close()
    expected.close()
    assert_same_files(tmp_path / "late", tmp_path / "host")
    assert fake_cuda.calls == [1] * 2 * len(tensors)
    stats = writer.stats()
    assert stats["dropped"] == {} and stats["cuda"]["in_flight"] == stats["cuda"]["in_flight_bytes"] == 0
    assert stats["cuda"]["device_bytes"] > 0 and stats["cuda"]["pinned_bytes"] > 0


def test_values_that_are_not_finite(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    odd = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])
    with pytest.warns(FastlogWarning) as caught:
        for place, make in (("late", fake_cuda.tensor), ("host", torch.clone)):
            writer = SummaryWriter(tmp_path / place)
            writer.add_histogram("odd", make(odd), 1)
            writer.add_histogram("empty", make(odd[:0]), 2)
            writer.add_histogram("empty", make(odd[:0]), 2, max_bins=5)
            writer.close()
            assert writer.stats()["bad_values"] == 2
    assert_same_files(tmp_path / "late", tmp_path / "host")
    assert simple_values(tmp_path / "late") == {("odd/nan", 1): 1.0, ("odd/inf", 1): 2.0}
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 6 and sorted(messages[:3]) == sorted(messages[3:])


NUMBERS = [
    *(torch.tensor(number) for number in (0.1, -3e38, float("nan"), float("inf"), -float("inf"), 7, True)),
    torch.tensor(1e300, dtype=torch.float64),
    torch.tensor([[2.5]], dtype=torch.bfloat16),
    torch.tensor(-0.5, dtype=torch.float8_e5m2),
]


def test_device_scalars(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    late, host = SummaryWriter(tmp_path / "late"), SummaryWriter(tmp_path / "host")
    with fake_cuda.held_back():
        for step, number in enumerate(NUMBERS):
            value = fake_cuda.tensor(number)
            late.add_scalar("plain", value, step)
            late.add_scalar("titled", value, step, display_name="title", summary_description="text")
            late.add_scalar("new style", value, step, new_style=True, double_precision=True)
            late.add_scalars("main", {"a": value, "b": step}, step)
            value.zero_()
    for step, number in enumerate(NUMBERS):
        host.add_scalar("plain", number, step)
        host.add_scalar("titled", number, step, display_name="title", summary_description="text")
        host.add_scalar("new style", number, step, new_style=True, double_precision=True)
        host.add_scalars("main", {"a": number, "b": step}, step)
    assert fake_cuda.calls == [1] * 4 * len(NUMBERS)
    for writer, name in ((late, "late"), (host, "host")):
        writer.export_scalars_to_json(tmp_path / f"{name}.json")
        writer.close()
    for folder in ("", "main/a", "main/b"):
        found, expected = (
            [
                event.summary.SerializeToString()
                for path in sorted((tmp_path / name / folder).glob("events.*"))
                for event in event_files.events(path)
            ]
            for name in ("late", "host")
        )
        assert found == expected
    with pytest.raises(ValueError, match="shape"):
        SummaryWriter(tmp_path / "raise", on_error="raise").add_scalar("two", fake_cuda.tensor(torch.ones(2)))


def test_the_order_of_calls_is_the_order_in_the_file(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path)
    with fake_cuda.held_back():
        for step in range(30):
            device = step % 3
            value = torch.tensor(float(step))
            writer.add_scalar("x", value if device == 2 else fake_cuda.tensor(value, device), step)
    writer.close()
    assert simple_values(tmp_path) == {("x", step): float(step) for step in range(30)}
    assert [step for _, step in simple_values(tmp_path)] == list(range(30))


@pytest.mark.parametrize("seed", range(3))
def test_threads_and_streams(fake_cuda: FakeCuda, tmp_path: Path, seed: int) -> None:
    writer = SummaryWriter(tmp_path)
    errors: list[BaseException] = []

    def log(thread: int) -> None:
        fake_cuda.training_threads.add(threading.current_thread())
        try:
            with fake_cuda.stream(fake_cuda.new_stream(thread % 2)):
                for step in range(6):
                    late = fake_cuda.tensor(torch.zeros(400), thread % 2)
                    late.add_(100 * thread + step)
                    writer.add_histogram(f"thread {thread}", late, step)
                    late.fill_(-1)
                    del late
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=log, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    writer.close()
    assert errors == []
    found = histograms(tmp_path)
    assert {key: histo.min for key, histo in found.items()} == {
        (f"thread_{i}", step): float(100 * i + step) for i in range(4) for step in range(6)
    }


# ---- back-pressure


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "block"])
def test_a_full_ring_drops_the_newcomer_and_counts_it(
    fake_cuda: FakeCuda, tmp_path: Path, overflow: Any
) -> None:
    limit_pinned_memory(1 << 15)
    writer = SummaryWriter(tmp_path, overflow=overflow, block_timeout=0.05)
    with (
        fake_cuda.held_back(),
        pytest.warns(FastlogWarning, match="pinned memory of a CUDA device is full") as caught,
    ):
        for step in range(5):
            writer.add_histogram("values", fake_cuda.tensor(torch.full((10,), float(step))), step)
        writer.add_scalar("loss", fake_cuda.tensor(torch.tensor(1.0)), 5)  # gets a copy of its own
        assert writer.stats()["dropped"] == {"overflow": 3}
    writer.flush()
    writer.add_scalar("loss", fake_cuda.tensor(torch.tensor(1.0)), 6)  # there is room again
    with pytest.warns(FastlogWarning, match="3 of 7 events were dropped: overflow 3"):
        writer.close()
    assert {key: histo.min for key, histo in histograms(tmp_path).items()} == {
        ("values", 0): 0.0,
        ("values", 1): 1.0,
    }
    assert {step for tag, step in simple_values(tmp_path) if tag == "loss"} == {5, 6}
    assert len(caught) == 1
    stats = writer.stats()
    assert stats["accepted"] == stats["written"] + 3 and stats["cuda"]["refused"] == 4


def test_block_waits_for_the_ring_and_loses_nothing(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    limit_pinned_memory(1 << 15)
    writer = SummaryWriter(tmp_path, block_timeout=None)
    for step in range(50):
        writer.add_histogram("values", fake_cuda.tensor(torch.full((10,), float(step))), step)
    writer.close()
    assert [histo.min for histo in histograms(tmp_path).values()] == list(range(50))
    assert writer.stats()["dropped"] == {}


def test_what_the_queue_drops_gives_its_pinned_memory_back(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path, queue_events=3, overflow="drop_oldest")
    with fake_cuda.held_back(), pytest.warns(FastlogWarning, match="the queue is full"):
        for step in range(40):
            writer.add_histogram("values", fake_cuda.tensor(torch.ones(10)), step)
    with pytest.warns(FastlogWarning, match="were dropped"):
        writer.close()
    late = fake_cuda.tensor(torch.ones(10))
    limit_pinned_memory(1 << 14)
    assert fastlog.summarize(late).num == 10
    assert writer.stats()["cuda"]["in_flight"] == 0
