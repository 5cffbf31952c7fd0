"""What is noted of a logged step on the thread that trains, and what the worker makes of it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from fastlog.health.history import Floats, Inventory
from fastlog.health.inventory import Owned, fingerprint, take_inventory
from fastlog.health.record import Names
from fastlog.health.samples import ClearingProbe, IdleUnits, Looks, Named, Sampler, is_plain, local
from fastlog.writer.encode.snapshots import Snapshot, take

_MOST_UNITS = 4096  # of a bias whose units are looked at
_SEARCHES = 3  # steps at which a GradScaler is looked for
_PROBES = 10  # first steps at which is seen whether gradients are cleared; then one in so many
_UNITS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Weakly:
    """Named parameters that may go: what is left of them."""

    def __init__(self, params: Named = ()) -> None:
        self._references = [(name, weakref.ref(param)) for name, param in params]

    def __call__(self) -> list[tuple[str, nn.Parameter]]:
        found = ((name, reference()) for name, reference in self._references)
        return [(name, param) for name, param in found if param is not None]


Measures = dict[str, tuple[Names, Floats]]
Number = float | Snapshot | None


@dataclass
class Note:
    """What is known of a logged step beside its summaries."""

    inventory: Inventory | None = None
    lr: list[Number] = field(default_factory=list)
    loss_scale: Number = None
    optimizer_steps: float | None = None
    expected: frozenset[str] = frozenset()  # trainable, and stepped by now, if by anybody
    unowned: dict[str, bool] = field(default_factory=dict)  # trainable, in no optimizer: has a gradient?
    looks: Looks | None = None
    frozen: frozenset[str] = frozenset()  # of what was looked at
    units: tuple[Names, tuple[int, ...], Snapshot] | None = None
    kept: tuple[str, Snapshot] | None = None
    apart: dict[str, Snapshot] = field(default_factory=dict)


class Notebook:
    """Notes of each logged step what has to be looked at while the model stands still.

    Args:
        owned: gives the parameters of the model.
        optimizers: that train it.
        modules: gives the classes of the modules whose activations are seen.
        probe: whether hooks may be put on parameters (not where torch.compile has compiled).
    """

    def __init__(
        self,
        owned: Callable[[], Owned],
        optimizers: Sequence[Optimizer],
        modules: Callable[[], Mapping[str, str]],
        probe: bool,
    ) -> None:
        self._owned = owned
        self._held = [weakref.ref(optimizer) for optimizer in optimizers]
        self._modules = modules
        self._probing = probe
        self._probe = ClearingProbe()
        self._sampler = Sampler()
        self._fingerprint: tuple[int, ...] | None = None
        self._inventory: Inventory | None = None
        self._looked_at = Weakly()
        self._frozen: frozenset[str] = frozenset()
        self._biases = self._unowned = self._owned_by_optimizers = Weakly()
        self._heads = self._embeddings = Weakly()
        self._before: torch.Tensor | None = None
        self._scaler: weakref.ref[Any] | None = None
        self._count = 0

    @property
    def _optimizers(self) -> list[Optimizer]:
        return [optimizer for held in self._held if (optimizer := held()) is not None]

    def before(self, step: int, params: Named) -> None:
        """A step that is logged begins."""
        fingerprint_now = fingerprint((param for _, param in params), self._optimizers)
        self._changed = fingerprint_now != self._fingerprint
        if self._changed:
            self._fingerprint = fingerprint_now
            self._look_around(step, params)
        self._before = self._sampler.look(self._looked_at())
        if self._scaler is None and self._count < _SEARCHES:
            self._scaler = _scaler_above(sys._getframe())

    def after(self, params: Named, stepped: Collection[Optimizer]) -> Note:
        """It is over, and these optimizers have stepped (none: there are none)."""
        note = Note(self._inventory if self._changed else None)
        note.lr = [
            _number(group["lr"]) for one in self._optimizers for group in one.param_groups if "lr" in group
        ]
        scaler = None if self._scaler is None else self._scaler()
        note.loss_scale = None if scaler is None else _number(getattr(scaler, "_scale", None))
        note.optimizer_steps = _steps_of(self._optimizers)
        note.expected = self._expected(params, stepped)
        note.unowned = {name: param.grad is not None for name, param in self._unowned()}
        note.looks = self._sampler.looks(self._before, self._looked_at())
        note.frozen = self._frozen
        note.units = IdleUnits.read(self._biases())
        heads, embeddings = self._heads(), self._embeddings()
        if len(heads) == len(embeddings):
            pairs = zip(heads, embeddings, strict=True)
            note.apart = {name: _differ(one, other) for (name, one), (_, other) in pairs}
        self._before = None
        self._probe_clearing(note)
        self._count += 1
        return note

    def _probe_clearing(self, note: Note) -> None:
        if not self._probing:
            return
        kept = self._probe.stop()
        if kept is not None:
            note.kept = (self._probe.name, kept)
        if self._count < _PROBES or self._count % _PROBES == 0:
            self._probe.start(self._owned_by_optimizers())

    def stop(self) -> None:
        """Takes away what is hooked into the model."""
        self._probe.stop()

    def _expected(self, params: Named, stepped: Collection[Optimizer]) -> frozenset[str]:
        trainable = [(name, param) for name, param in params if param.requires_grad]
        if len(self._optimizers) > 1:
            mine = {id(p) for one in stepped for group in one.param_groups for p in group["params"]}
            trainable = [(name, param) for name, param in trainable if id(param) in mine]
        return frozenset(name for name, _ in trainable)

    def _look_around(self, step: int, params: Named) -> None:
        """The model is another than before: learns it anew."""
        owned = self._owned()
        inventory = take_inventory(step, owned, self._optimizers, self._modules())
        self._inventory = inventory
        by_name = {name: param for name, param, _ in owned}
        in_groups = {name for name, p in inventory.parameters.items() if p.group is not None}
        trained = [(n, by_name[n]) for n in in_groups if inventory.parameters[n].trainable]
        self._owned_by_optimizers = Weakly(trained)
        self._frozen = frozenset(n for n in in_groups if not inventory.parameters[n].trainable)
        frozen = [(name, by_name[name]) for name in sorted(self._frozen)]
        self._looked_at = Weakly([*params, *frozen])
        biases = [
            (name, param)
            for name, param, module in owned
            if isinstance(module, _UNITS) and param is module.bias
            if param.requires_grad and param.numel() <= _MOST_UNITS
        ]
        self._biases = Weakly(biases)
        unowned = [
            (name, by_name[name])
            for name, p in inventory.parameters.items()
            if p.trainable and p.group is None and self._optimizers
        ]
        self._unowned = Weakly(unowned)
        if self._count == 0:
            twins = _twins(owned)
            self._heads = Weakly([(name, head) for name, head, _ in twins])
            self._embeddings = Weakly([(name, embedding) for name, _, embedding in twins])


class NoteReader:
    """Turns notes into measures, on the worker."""

    def __init__(self) -> None:
        self._idle = IdleUnits()

    def measures(self, note: Note, with_gradient: Collection[str] | None) -> Measures:
        """``with_gradient``: the tensors whose gradients were summarised; None: gradients are not logged."""
        found: Measures = {}
        without = dict.fromkeys(sorted(note.expected), 0.0) if with_gradient is not None else {}
        without.update({name: 1.0 for name in without if name not in (with_gradient or ())})
        without.update({name: float(not has) for name, has in note.unowned.items()})
        if without:
            found["without_gradient"] = tuple(without), np.array(list(without.values()))
        if note.looks is not None:
            found["equal_rows"] = note.looks.names, note.looks.equal_rows()
            frozen = [i for i, name in enumerate(note.looks.names) if name in note.frozen]
            if frozen:
                names = tuple(note.looks.names[i] for i in frozen)
                found["moved_frozen"] = names, note.looks.moved()[frozen]
        if note.units is not None:
            names, sizes, flows = note.units
            found["idle_units"] = names, self._idle.shares(names, sizes, flows)
        if note.kept is not None:
            name, kept = note.kept
            found["kept_gradient"] = (name,), np.array([float(kept.array())])
        if note.apart:
            apart = [float(differ.array()) for differ in note.apart.values()]
            found["apart"] = tuple(note.apart), np.array(apart)
        return found


def number(value: Number) -> float | None:
    """What was noted as a number; waits for a device."""
    return float(value.array().reshape(())) if isinstance(value, Snapshot) else value


def _number(value: Any) -> Number:
    if isinstance(value, torch.Tensor):
        return take(value.detach(), "value") if value.device.type != "cpu" else float(value)
    return None if value is None else float(value)


def _steps_of(optimizers: Iterable[Optimizer]) -> float | None:
    """How often the first optimizer says that it has stepped; None where it does not say."""
    for optimizer in optimizers:
        state: Any = next(iter(optimizer.state.values()), None)
        step = state.get("step") if isinstance(state, dict) else None
        if isinstance(step, torch.Tensor):
            return float(step) if step.device.type == "cpu" and step.numel() == 1 else None
        return float(step) if isinstance(step, (int, float)) else None
    return None


def _scaler_above(frame: FrameType | None) -> weakref.ref[Any] | None:
    """The ``GradScaler`` whose ``step`` has called the optimizer's."""
    for _ in range(24):
        if frame is None:
            return None
        caller = frame.f_locals.get("self") if frame.f_code.co_name in ("step", "_maybe_opt_step") else None
        if isinstance(caller, torch.amp.GradScaler):
            return weakref.ref(caller)
        frame = frame.f_back
    return None


def _twins(owned: Owned) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
    """Embeddings and output layers that hold the same values, but are not the same: once they were tied, or
    were meant to be.
    """
    embeddings = [
        (n, p) for n, p, m in owned if isinstance(m, nn.Embedding) and p.requires_grad and is_plain(p)
    ]
    heads = [
        (n, p)
        for n, p, m in owned
        if isinstance(m, nn.Linear) and p is m.weight and p.requires_grad and is_plain(p)
    ]
    return [
        (name, head, embedding)
        for _, embedding in embeddings
        for name, head in heads
        if head is not embedding and head.shape == embedding.shape and head.device == embedding.device
        if head.dtype == embedding.dtype and torch.equal(local(head), local(embedding))
    ]


def _differ(one: torch.Tensor, other: torch.Tensor) -> Snapshot:
    """Whether the first values of two matrices differ."""
    differ = (local(one)[:4] != local(other)[:4]).any()
    return Snapshot(differ.numpy()) if differ.device.type == "cpu" else take(differ, "differ")
