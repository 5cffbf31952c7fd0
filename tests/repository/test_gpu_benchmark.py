"""benchmarks/gpu.py runs from end to end: on the CPU engine, and with the CUDA engine on fake devices."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cuda_on_cpu.late_torch import FakeCuda
from scripts import load_script

import fastlog.summaries.cuda.devices


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return load_script("benchmarks/gpu.py")


def _rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_on_the_cpu(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MODELS", {"small": gpu.decoder(2, 256, 512)})
    monkeypatch.setattr(gpu, "LAPS", 1)
    out = tmp_path / "gpu.md"
    gpu.main(["--device", "cpu", "--values", "5000", "--shrink", "32", "--out", str(out)])
    assert out.read_text() in capsys.readouterr().out
    rows = _rows(out.read_text())
    assert [row[:3] for row in rows if row[0] == "small"] == [
        ["small", "bfloat16", "21"],
        ["small", "float8_e4m3fn", "21"],
    ]
    timed = [row for row in rows if row[1:2] == ["Gaussian"] and row[0] == "float32"]
    assert [row[2] for row in timed] == list(gpu.contenders(gpu.Device("cpu")))
    assert all(float(row[3]) > 0 for row in timed)
    assert [row[1] for row in rows if row[0].endswith(" B") and row[2].endswith(" ms")] == [
        "nothing",
        "weights and gradients, every 10",
        "weights and gradients, every 1",
    ]


def test_with_the_cuda_engine(gpu: ModuleType, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake(gpu.Device):  # type: ignore[misc, name-defined]
        name = "a fake"
        engine = property(lambda self: fastlog.summaries.cuda.devices.report(0))

        def gaussian(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
            return fake_cuda.tensor((torch.randn(tuple(shape)) * 0.02).to(dtype))

        def edges(self) -> torch.Tensor:
            return fake_cuda.tensor(torch.tensor(gpu.EDGES, dtype=torch.float32))

        def synchronize(self) -> None:
            fake_cuda.ordinals[0].device.synchronize()

        @contextlib.contextmanager
        def without_waiting(self) -> Iterator[Any]:
            fake_cuda.training_threads.add(threading.current_thread())
            yield
            fake_cuda.training_threads.clear()

    monkeypatch.setattr(gpu, "MODELS", {"small": gpu.decoder(1, 256, 512)})
    monkeypatch.setattr(gpu, "LAPS", 1)
    monkeypatch.setattr(gpu, "DTYPES", (torch.float32, torch.bfloat16))
    text = gpu.page(Fake("cpu"), values=500, shrink=32)
    assert "# fastlog on a fake" in text and "made by the CUDA engine" in text
    rows = _rows(text)
    assert {row[0] for row in rows} >= {"small", "float32", "bfloat16"}
    assert all(float(row[3]) > 0 for row in rows if row[2:3] == ["fastlog"])
