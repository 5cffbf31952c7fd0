"""Values on a device that are encoded later are not looked at by the thread that logs them.

A meta tensor stands for one on a device: whoever reads it, on whatever thread, gets an error. Its values are
in what stands for the copy to pinned memory, which only the worker may wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from event_files import log

from fastlog.writer.encode import snapshots
from fastlog.writer.encode.snapshots import Snapshot

Calls = Callable[[Any, Callable[[torch.Tensor], torch.Tensor]], object]

one = torch.tensor(2.5, requires_grad=True)
pixels = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0))
batch = torch.stack([pixels, pixels / 2])
points, colors, faces = torch.rand(1, 4, 3), torch.zeros(1, 4, 3).int(), torch.tensor([[[0, 1, 2]]])
scores = torch.linspace(0, 1, 50)
labels = torch.arange(50) % 2
counts = torch.arange(7.0)

CALLS: dict[str, Calls] = {
    "add_histogram with bins": lambda w, d: w.add_histogram("t", d(scores), 1, bins=5),
    "add_histogram_raw": lambda w, d: w.add_histogram_raw("t", *[d(one)] * 5, d(counts), d(counts), 1),
    "add_image": lambda w, d: w.add_image("t", d(pixels), 1),
    "add_images": lambda w, d: w.add_images("t", d(batch), 1),
    "add_images of a list": lambda w, d: w.add_images("t", [d(pixels), d(pixels)], 1, dataformats="CHW"),
    "add_image_with_boxes": lambda w, d: w.add_image_with_boxes(
        "t", d(pixels), d(torch.tensor([[0, 0, 3, 2]])), 1
    ),
    "add_audio": lambda w, d: w.add_audio("t", d(scores), 1, 8000),
    "add_pr_curve": lambda w, d: w.add_pr_curve("t", d(labels), d(scores), 1, weights=d(scores)),
    "add_pr_curve_raw": lambda w, d: w.add_pr_curve_raw("t", *[d(counts)] * 6, 1, 7),
    "add_mesh": lambda w, d: w.add_mesh("t", d(points), d(colors), d(faces), global_step=1),
    "add_tensor": lambda w, d: w.add_tensor("t", d(pixels), 1),
    "add_embedding": lambda w, d: w.add_embedding(d(pixels[0]), d(labels[:6]), tag="t"),
    "add_embedding with a list of labels": lambda w, d: w.add_embedding(
        d(pixels[0]), [d(labels[1])] * 6, tag="t"
    ),
}


def logged(logdir: Path, calls: Calls, on_device: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    found = log(logdir, lambda writer: calls(writer, on_device), on_error="raise")
    files = {str(path.relative_to(logdir)): path.read_bytes() for path in logdir.rglob("*.tsv")}
    return {**found, **files}


@pytest.mark.parametrize("name", CALLS)
def test_only_the_worker_waits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logged(tmp_path / "host", CALLS[name], lambda tensor: tensor)

    hosts: dict[tuple[Any, ...], torch.Tensor] = {}
    waited: list[threading.Thread] = []

    class Event:
        def synchronize(self) -> None:
            waited.append(threading.current_thread())

    def on_device(tensor: torch.Tensor) -> torch.Tensor:
        stand_in = torch.empty_like(tensor, device="meta")
        hosts[stand_in.shape, stand_in.dtype] = tensor.detach()
        return stand_in

    def start_copy(value: torch.Tensor, argument: str) -> Snapshot:
        if value.device.type == "cpu":
            return take_tensor(value, argument)
        host = hosts.get((value.shape, value.dtype))
        if host is None:  # stacked from a list
            rows = hosts[value.shape[1:], value.dtype]
            host = torch.stack([rows] * len(value))
        return Snapshot(host, Event())

    take_tensor = snapshots._take_tensor
    monkeypatch.setattr(snapshots, "_take_tensor", start_copy)
    assert logged(tmp_path / "device", CALLS[name], on_device) == expected
    assert waited and threading.current_thread() not in waited
