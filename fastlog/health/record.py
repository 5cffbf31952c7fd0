"""The compact record of one logged step that health keeps in the event file.

It is an event of a plugin of its own, without a value, so that TensorBoard passes over it: tag ``TAG``,
plugin ``PLUGIN``; the data of the plugin are

    uint8 version | uint32 length | JSON, so long | the numbers of its tables, in their order

Names, which seldom change, are written with the first record and every ``_REPEAT`` records; the others refer
to them by a number. A reader passes over versions and over keys of the JSON that it does not know.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

from fastlog.health import columns
from fastlog.health.history import Floats, Inventory, Parameter
from fastlog.summaries.packed import Heads

TAG: Final = "fastlog/health/record"
PLUGIN: Final = "fastlog_health"
VERSION: Final = 1

_PREFIX = struct.Struct("<BI")
_REPEAT = 100  # records from one that has all names to the next

Names = tuple[str, ...]


@dataclass(frozen=True)
class Observation:
    """What is known of one logged step.

    Attributes:
        kinds: names and heads of the summaries, by kind.
        measures: names and further numbers (NaN: none), by measure:
            "without_gradient": 1 where a trainable parameter's gradient is None, else 0;
            "idle_units": share of the units of a bias without gradient in all of the last observations;
            "equal_rows": 1 where the rows that were looked at are all the same;
            "saturated", "passing": of tanh and sigmoid: share of outputs near the limits, and how much of the
            gradient passes through them;
            "moved_frozen": 1 where the optimizer's step has changed a parameter that is not trainable;
            "apart": 1 where two parameters that began as copies of each other differ;
            "kept_gradient": 1 where a gradient held what was there before the backward pass;
            "replicas_differ", "replicas_alike": 1 where ranks hold what they should not.
        inventory: what the model is made of; None: as before.
        lr: of each optimizer group.
        loss_scale, optimizer_steps: None: not known.
    """

    step: int
    wall_time: float
    kinds: Mapping[str, tuple[Names, Heads]] = field(default_factory=dict)
    measures: Mapping[str, tuple[Names, Floats]] = field(default_factory=dict)
    inventory: Inventory | None = None
    lr: tuple[float, ...] = ()
    loss_scale: float | None = None
    optimizer_steps: float | None = None


class RecordWriter:
    """Observations of one process as events.

    Args:
        prefix: of the tag: which of several models in one file it is.
    """

    def __init__(self, prefix: str = "") -> None:
        self._tag = prefix + TAG
        self._written = 0
        self._tables: dict[Names, int] = {}
        self._inventory: Inventory | None = None

    def event(self, seen: Observation) -> bytes:
        """The serialized ``Event``."""
        plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN, content=self._encode(seen))
        value = Summary.Value(tag=self._tag, metadata=SummaryMetadata(plugin_data=plugin))
        event = Event(step=seen.step, wall_time=seen.wall_time, summary=Summary(value=[value]))
        return bytes(event.SerializeToString())

    def _encode(self, seen: Observation) -> bytes:
        if self._written % _REPEAT == 0:
            self._tables.clear()
        new_names: dict[str, list[str]] = {}
        parts: list[bytes] = []
        header: dict[str, Any] = {"names": new_names, "kinds": [], "measures": []}
        for kind, (names, heads) in seen.kinds.items():
            codes, part = columns.write_heads(heads)
            header["kinds"].append([kind, self._number(names, new_names), codes])
            parts.append(part)
        for measure, (names, values) in seen.measures.items():
            code, part = columns.write(np.asarray(values, np.float64))
            header["measures"].append([measure, self._number(names, new_names), code])
            parts.append(part)
        header |= {"lr": seen.lr, "loss_scale": seen.loss_scale, "optimizer_steps": seen.optimizer_steps}
        inventory = seen.inventory or self._inventory
        if inventory is not None and (inventory is not self._inventory or self._written % _REPEAT == 0):
            header["inventory"] = _plain(inventory)
        self._inventory = inventory
        self._written += 1
        text = json.dumps(header, separators=(",", ":")).encode()
        return b"".join([_PREFIX.pack(VERSION, len(text)), text, *parts])

    def _number(self, names: Names, new: dict[str, list[str]]) -> int:
        number = self._tables.get(names)
        if number is None:
            number = self._tables[names] = zlib.crc32("\0".join(names).encode(errors="surrogatepass"))
            new[str(number)] = list(names)
        return number


class RecordReader:
    """Observations from the events of one file, in their order."""

    def __init__(self) -> None:
        self._tables: dict[int, Names] = {}

    def read(self, step: int, wall_time: float, content: bytes) -> Observation | None:
        """What ``content`` says; None for another version, or bytes that are no record."""
        try:
            version, length = _PREFIX.unpack_from(content)
            if version != VERSION:
                return None
            text, data = content[_PREFIX.size :][:length], memoryview(content)[_PREFIX.size + length :]
            return self._decode(step, wall_time, json.loads(text), data)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error):
            return None

    def _decode(self, step: int, wall_time: float, header: dict[str, Any], data: memoryview) -> Observation:
        self._tables.update({int(number): tuple(names) for number, names in header["names"].items()})
        kinds: dict[str, tuple[Names, Heads]] = {}
        measures: dict[str, tuple[Names, Floats]] = {}
        for kind, number, codes in header["kinds"]:
            names = self._tables[number]
            heads, data = columns.read_heads(codes, data, len(names))
            kinds[kind] = names, heads
        for measure, number, code in header["measures"]:
            names = self._tables[number]
            values, data = columns.read(code, data, len(names), "<f8")
            measures[measure] = names, values
        inventory = header.get("inventory")
        return Observation(
            step,
            wall_time,
            kinds,
            measures,
            None if inventory is None else _inventory(inventory),
            tuple(map(float, header.get("lr", ()))),
            header.get("loss_scale"),
            header.get("optimizer_steps"),
        )


def _plain(inventory: Inventory) -> dict[str, Any]:
    return {
        "step": inventory.step,
        "parameters": [list(asdict(parameter).values()) for parameter in inventory.parameters.values()],
        "groups": [{key: _finite(value) for key, value in group.items()} for group in inventory.groups],
        "modules": dict(inventory.modules),
    }


def _inventory(plain: dict[str, Any]) -> Inventory:
    parameters = [
        Parameter(name, tuple(shape), dtype, trainable, group, module, tuple(aliases))
        for name, shape, dtype, trainable, group, module, aliases, *_ in plain["parameters"]
    ]
    by_name = {parameter.name: parameter for parameter in parameters}
    return Inventory(plain["step"], by_name, tuple(plain["groups"]), plain["modules"])


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return (
        [_finite(one) for one in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )
