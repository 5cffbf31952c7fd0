"""The record of a logged step: what is read back is what was written, and nobody else stumbles over it."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.proto.event_pb2 import Event

import fastlog
from fastlog.events.items import RAW
from fastlog.health import columns
from fastlog.health.history import Inventory, Parameter
from fastlog.health.record import PLUGIN, TAG, Observation, RecordReader, RecordWriter
from fastlog.summaries.packed import HEAD, Heads

INTEGERS = [name for name in HEAD.names or () if HEAD[name].kind == "i"]


def heads_of(*tensors: torch.Tensor) -> Heads:
    packed = b"".join(fastlog.summarize(tensor).to_packed()[: HEAD.itemsize] for tensor in tensors)
    return np.frombuffer(packed, HEAD)


def observation(step: int = 7, inventory: Inventory | None = None) -> Observation:
    names = ("a.weight", "a.bias")
    return Observation(
        step,
        123.5,
        {
            "weights": (names, heads_of(torch.randn(4, 3), torch.zeros(5))),
            "gradients": (
                names[:1],
                heads_of(torch.tensor([float("nan"), 1e300, -0.0], dtype=torch.float64)),
            ),
        },
        {"idle_units": (names[1:], np.array([0.25])), "without_gradient": (names, np.array([0.0, np.nan]))},
        inventory,
        (1e-3, 0.0),
        65536.0,
        None,
    )


def content_of(event: bytes) -> bytes:
    parsed = Event.FromString(event)
    (value,) = parsed.summary.value
    assert (value.tag, value.metadata.plugin_data.plugin_name) == (TAG, PLUGIN)
    return bytes(value.metadata.plugin_data.content)


def assert_same(one: Observation, other: Observation) -> None:
    assert one.kinds.keys() == other.kinds.keys()
    for kind, (names, heads) in one.kinds.items():
        assert other.kinds[kind][0] == names
        assert other.kinds[kind][1].tobytes() == heads.tobytes(), kind
    assert one.measures.keys() == other.measures.keys()
    for measure, (names, values) in one.measures.items():
        assert other.measures[measure][0] == names
        np.testing.assert_array_equal(other.measures[measure][1], values)
    for name in ("step", "wall_time", "lr", "loss_scale", "optimizer_steps"):
        assert getattr(one, name) == getattr(other, name)


INVENTORY = Inventory(
    0,
    {
        "a.weight": Parameter("a.weight", (4, 3), "bfloat16", True, 0, "Linear", ("b.weight",)),
        "a.bias": Parameter("a.bias", (5,), "float32", False, None, "Linear"),
    },
    ({"optimizer": "AdamW", "eps": 1e-8, "betas": [0.9, 0.999], "maximize": False, "foreach": None},),
    {"act": "Tanh"},
)


def test_what_is_written_is_read_back_bit_for_bit() -> None:
    writer, reader = RecordWriter(), RecordReader()
    first = observation(7, INVENTORY)
    read = reader.read(7, 123.5, content_of(writer.event(first)))
    assert read is not None
    assert_same(first, read)
    assert read.inventory == INVENTORY
    second = observation(8)
    again = reader.read(8, 123.5, content_of(writer.event(second)))
    assert again is not None and again.inventory is None
    assert_same(second, again)


@given(arrays(HEAD, st.integers(0, 5), elements={"allow_subnormal": True}))
def test_heads_of_any_numbers_come_back(heads: Heads) -> None:
    codes, data = columns.write_heads(heads)
    read, rest = columns.read_heads(codes, memoryview(data), len(heads))
    assert not rest
    for name in HEAD.names or ():
        np.testing.assert_array_equal(read[name], heads[name])
        if name not in INTEGERS:
            np.testing.assert_array_equal(np.signbit(read[name]), np.signbit(heads[name]))


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([0, 0], "0"),
        ([1, 255], "u1"),
        ([1, 256], "u2"),
        ([0, 65536], "u4"),
        ([-1, 2], "i8"),
        ([2**40, 1], "i8"),
        ([0.5, -3.0], "f4"),
        ([0.1, 0.0], "f8"),
        ([1e300, 0.0], "f8"),
        ([math.nan, 1.5], "f4"),
        ([-0.0, 0.0], "f4"),
    ],
)
def test_a_column_takes_the_narrowest_dtype_that_holds_it(numbers: list[float], code: str) -> None:
    column = np.array(numbers)
    found, data = columns.write(column)
    assert found == code
    read, _ = columns.read(found, memoryview(data), len(column), column.dtype.str)
    np.testing.assert_array_equal(read, column)


def test_names_and_inventory_come_again_so_that_a_reader_may_begin_later() -> None:
    writer, reader = RecordWriter(), RecordReader()
    read = []
    for step in range(230):
        content = content_of(writer.event(observation(step, INVENTORY if step == 0 else None)))
        if step >= 30:
            read.append(reader.read(step, 123.5, content))
    known = [seen for seen in read if seen is not None]
    assert [seen.step for seen in known] == list(range(100, 230))
    assert [seen.step for seen in known if seen.inventory == INVENTORY] == [100, 200]


def test_a_record_refers_to_names_that_were_written_before() -> None:
    writer = RecordWriter()
    first, second = (len(writer.event(observation(step))) for step in (1, 2))
    assert second < first - 20


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 30, -1])
def test_a_torn_record_is_passed_over(cut: int) -> None:
    content = content_of(RecordWriter().event(observation()))
    assert RecordReader().read(7, 0.0, content[:cut]) is None
    assert RecordReader().read(7, 0.0, content) is not None


def test_an_unknown_version_is_passed_over_and_unknown_keys_are_ignored() -> None:
    content = content_of(RecordWriter().event(observation()))
    assert RecordReader().read(7, 0.0, bytes([2]) + content[1:]) is None
    (length,) = struct.unpack_from("<I", content, 1)
    header = {**json.loads(content[5 : 5 + length]), "from the future": [1, 2]}
    text = json.dumps(header).encode()
    newer = content[:1] + struct.pack("<I", len(text)) + text + content[5 + length :]
    read, expected = (RecordReader().read(7, 123.5, one) for one in (newer, content))
    assert read is not None and expected is not None
    assert_same(expected, read)


def test_numbers_that_json_lacks_are_allowed_in_the_options_of_an_optimizer() -> None:
    odd = Inventory(0, {}, ({"optimizer": "Odd", "limit": math.inf, "betas": (0.9, math.nan)},))
    read = RecordReader().read(0, 0.0, content_of(RecordWriter().event(Observation(0, 0.0, inventory=odd))))
    assert read is not None and read.inventory is not None
    assert read.inventory.groups[0]["limit"] == "inf"


def test_tensorboard_passes_over_records(tmp_path: Path) -> None:
    records = RecordWriter()
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        for step in range(3):
            writer.add_scalar("loss", float(step), step)
            event = records.event(observation(step, INVENTORY))
            writer._get_file_writer().put((RAW, event), len(event))
    found: Any = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    tags = found.Tags()
    assert tags["scalars"] == ["loss"]
    assert not any(tags[kind] for kind in ("tensors", "histograms", "images", "audio"))
    assert [event.step for event in found.Scalars("loss")] == [0, 1, 2]
