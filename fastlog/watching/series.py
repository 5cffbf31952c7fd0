"""From the summaries of one moment to the events that show them. Runs on the worker thread."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from tensorboardX import summary as tbx
from tensorboardX.proto.event_pb2 import Event

from fastlog.distributed.parts import Record
from fastlog.events.items import HISTOGRAM, RAW, SCALAR, Item
from fastlog.health.names import layer_of
from fastlog.summaries.packed import Heads, heads_of, merge_heads, merge_packed
from fastlog.summaries.stats import STATS
from fastlog.writer.tags import clean_tag

WEIGHTS: Final = "weights"
GRADIENTS: Final = "gradients"
UPDATES: Final = "updates"
OPTIMIZER_STATE: Final = "optimizer_state"
ACTIVATIONS: Final = "activations"
ACTIVATION_GRADIENTS: Final = "activation_gradients"
LOGGABLE: Final = (WEIGHTS, GRADIENTS, UPDATES, OPTIMIZER_STATE, ACTIVATIONS, ACTIVATION_GRADIENTS)

# Scalars of a kind are called like one of its tensors; the rest (optimizer state) already is.
_SINGULAR = {
    WEIGHTS: "weight",
    GRADIENTS: "grad",
    UPDATES: "update",
    ACTIVATIONS: "activation",
    ACTIVATION_GRADIENTS: "activation_grad",
}


class Summaries(NamedTuple):
    """The tensors of one kind, in the order of the model.

    Attributes:
        heads: of the packed summaries: all their fields but the counts.
        packed: the summaries themselves.
    """

    names: list[str]
    heads: Heads
    packed: list[bytes]


Observe = Callable[[dict[str, Summaries]], list[Item]]
"""Gets the summaries of a moment by kind, on the worker; what it returns is logged, too."""


@dataclass(frozen=True)
class SeriesOptions:
    """Which events a summary turns into.

    Attributes:
        histograms: one for every tensor.
        scalars: names of ``STATS``, for the layers and the whole model.
        tensor_scalars: the same for every tensor.
        group: which layer a tensor belongs to; None: no layers.
        top_k: only so many tensors of a kind get series of their own: first those with NaN or Inf, then those
            with the largest norms.
        hidden: kinds that get no series; others need them (the ratio of the updates needs the weights).
        prefix: what all tags begin with: nothing, or a name and a slash.
    """

    histograms: bool
    scalars: tuple[str, ...]
    tensor_scalars: tuple[str, ...]
    group: Callable[[str], str | None] | None = layer_of
    top_k: int | None = None
    hidden: frozenset[str] = frozenset()
    prefix: str = ""


def tags(records: Sequence[Record], options: SeriesOptions) -> set[str]:
    """What the tags of ``items`` begin with; those of observers with "fastlog/", whatever the prefix."""
    if options.prefix:
        return {"fastlog/", clean_tag(options.prefix.partition("/")[0]) + "/"}
    kinds = {record.kind for record in records}
    stats = {*options.scalars, *options.tensor_scalars}
    scalars = [f"{_SINGULAR.get(kind, kind)}_{stat}" for kind in kinds for stat in stats]
    return {clean_tag(f"{head}/") for head in (*kinds, *scalars, "update_ratio", "fastlog")}


def items(
    records: Sequence[Record],
    extra: dict[str, float],
    step: int | None,
    wall_time: float,
    options: SeriesOptions,
    observers: Sequence[Observe] = (),
    tell: Callable[[str, str], object] = lambda kind, text: None,
) -> list[Item]:
    """Events of all records, of the scalars ``extra`` by tag, and of the observers. A record's kind is one of
    ``LOGGABLE``, or the key of an optimizer's state; those of the same kind and name are merged. Where a kind
    has NaN or Inf ``tell`` gets kind and text.
    """
    scalars = dict(extra)
    made: list[Item] = []
    heads_of: dict[str, dict[str, Any]] = {}
    kinds = {kind: _summaries(named) for kind, named in _by_kind(records).items()}
    for kind, (names, heads, packed) in kinds.items():
        wider_names, wider = _wider(names, heads, options.group)
        heads_of[kind] = dict(zip(names + wider_names, np.concatenate([heads, wider]), strict=True))
        if kind in options.hidden:
            continue
        if kind == UPDATES:  # of a part of the tensors only, perhaps: then layers and model are not whole
            whole = [
                i
                for i, n in enumerate(wider_names)
                if heads_of[WEIGHTS][n]["num"] == heads_of[UPDATES][n]["num"]
            ]
            wider_names, wider = [wider_names[i] for i in whole], wider[whole]
        shown = _stand_out(heads, options.top_k)
        shown_names = [names[i] for i in shown]
        if options.histograms:
            tags = [clean_tag(f"{options.prefix}{kind}/{name}") for name in shown_names]
            made += [(HISTOGRAM, tags[n], packed[i], step, wall_time) for n, i in enumerate(shown)]
        title = _SINGULAR.get(kind, kind)
        scalars |= _scalars(title, shown_names, heads[shown], options.tensor_scalars)
        scalars |= _scalars(title, wider_names, wider, options.scalars)
        if kind == UPDATES:
            scalars |= _update_ratios(shown_names + wider_names, heads_of)
        if text := _trouble(kind, names, heads):
            made.append((RAW, _text_event(f"{options.prefix}fastlog/nonfinite", text, step, wall_time)))
            remedy = "this warning is shown once; see grad_nan/…, and the text fastlog/nonfinite"
            tell(kind, f"step {step}: {text} ({remedy})")
    for observe in observers:
        made += observe(kinds)
    tagged = ((clean_tag(options.prefix + tag), value) for tag, value in scalars.items())
    return made + [(SCALAR, tag, value, step, wall_time) for tag, value in tagged]


def _by_kind(records: Sequence[Record]) -> dict[str, dict[str, bytes]]:
    kinds: dict[str, dict[str, bytes]] = defaultdict(dict)
    for kind, name, record, *_ in records:
        packed = bytes(record)  # waits for a device
        named = kinds[kind]
        if name in named:
            packed = merge_packed([named[name], packed])
        named[name] = packed
    return kinds


def _summaries(named: dict[str, bytes]) -> Summaries:
    packed = list(named.values())
    return Summaries(list(named), heads_of(packed), packed)


def _stand_out(heads: Heads, top_k: int | None) -> list[int]:
    if top_k is None or top_k >= len(heads):
        return list(range(len(heads)))
    order = np.lexsort((-heads["sum_squares"], heads["num_finite"] == heads["num"]))
    return sorted(order[:top_k].tolist())


def _wider(
    names: list[str], heads: Heads, group: Callable[[str], str | None] | None
) -> tuple[list[str], Heads]:
    """Heads of the layers and, last, of the whole model."""
    layers = [group(name) for name in names] if group else []
    # A layer that is a single tensor by name would share that tensor's tags.
    layer_names = list(dict.fromkeys(layer for layer in layers if layer is not None and layer not in names))
    place = {layer: i for i, layer in enumerate(layer_names)}
    grouped = [(place[layer], i) for i, layer in enumerate(layers) if layer in place]
    into = [to for to, _ in grouped] + [len(place)] * len(names)
    parts = heads[[i for _, i in grouped] + list(range(len(names)))]
    return [*layer_names, "global"], merge_heads(parts, into, len(place) + 1)


def _scalars(title: str, names: list[str], heads: Heads, stats: Sequence[str]) -> dict[str, float]:
    scalars = {}
    with np.errstate(all="ignore"):
        for stat in stats:
            values = STATS[stat](heads).tolist()
            scalars.update(
                {f"{title}_{stat}/{name}": value for name, value in zip(names, values, strict=True)}
            )
    return scalars


def _update_ratios(names: list[str], heads_of: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Norm of the update over the norm of the weight after it."""
    norms = {
        name: (float(heads_of[UPDATES][name]["sum_squares"]), float(heads_of[WEIGHTS][name]["sum_squares"]))
        for name in names
    }
    return {f"update_ratio/{name}": math.sqrt(u / w) for name, (u, w) in norms.items() if w > 0}


def _trouble(kind: str, names: list[str], heads: Heads) -> str | None:
    """One line that says where the NaN and Inf are, and the nearest layers without."""
    bad = np.flatnonzero(heads["num_finite"] < heads["num"])
    if not len(bad):
        return None
    first, last = int(bad[0]), int(bad[-1])
    before = names[first - 1] if first else "none"
    after = names[last + 1] if last + 1 < len(names) else "none"
    return (
        f"{kind}: NaN or Inf in {len(bad)} of {len(names)} tensors, from {names[first]} to {names[last]}; "
        f"last clean before: {before}; first clean after: {after}"
    )


def _text_event(tag: str, text: str, step: int | None, wall_time: float) -> bytes:
    event = Event(step=step, wall_time=wall_time, summary=tbx.text(clean_tag(tag), text))
    return bytes(event.SerializeToString())
