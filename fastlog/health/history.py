"""What is known of a training run: arrays of tensor x observation, the same live and from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from fastlog.summaries.packed import Heads
from fastlog.summaries.stats import FURTHER, STATS

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# The kinds that `fastlog.watch` logs. Beside them the keys of an optimizer's state: "exp_avg", ...
WEIGHTS: Final = "weights"
GRADIENTS: Final = "gradients"
UPDATES: Final = "updates"
ACTIVATIONS: Final = "activations"
ACTIVATION_GRADIENTS: Final = "activation_gradients"
UPDATE_SAMPLES: Final = "update_samples"
"""Updates of a few values of each tensor, which need no copy of the weights."""


_ALL_STATS = STATS | FURTHER


@dataclass(frozen=True)
class Parameter:
    """A parameter of the model.

    Attributes:
        dtype: as torch spells it, without "torch.".
        trainable: its ``requires_grad``.
        group: number of its optimizer group, counted over all optimizers; None: in no optimizer.
        module: class of the module that owns it.
        aliases: other names of the same parameter (tied weights).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    trainable: bool = True
    group: int | None = 0
    module: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def numel(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Inventory:
    """What a model and its optimizers are made of, from one step on.

    Attributes:
        parameters: by name, in the order of the model.
        groups: options of each optimizer group ("optimizer" is the class; "eps", "betas", "momentum", ...).
        modules: classes of the modules whose activations are seen, by name.
    """

    step: int
    parameters: Mapping[str, Parameter]
    groups: tuple[Mapping[str, Any], ...] = ()
    modules: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One number a name and observation; NaN where there is none. ``values`` is float64 [names, T]."""

    names: tuple[str, ...]
    values: Floats

    def row(self, name: str) -> Floats:
        """The numbers of one name."""
        row: Floats = self.values[self.names.index(name)]
        return row


class Kind:
    """The summaries of one kind of tensor.

    Args:
        names: in the order of the model.
        heads: ``HEAD`` [names, T].
        present: bool [names, T]; where it is False the head says nothing.
    """

    def __init__(self, names: tuple[str, ...], heads: Heads, present: Bools) -> None:
        self.names = names
        self.heads = heads
        self.present = present
        self._made: dict[str, Floats] = {}

    @cached_property
    def index(self) -> dict[str, int]:
        """Row of each name."""
        return {name: row for row, name in enumerate(self.names)}

    def stat(self, name: str) -> Floats:
        """One of ``STATS`` or ``FURTHER``, float64 [names, T]; NaN where there is no summary."""
        if name not in self._made:
            with np.errstate(all="ignore"):
                values = _ALL_STATS[name](self.heads)
            self._made[name] = np.where(self.present, values, np.nan)
        return self._made[name]

    def total(self, name: str, rows: npt.NDArray[np.int64] | slice = slice(None)) -> Floats:
        """A field of the heads added up over rows, float64 [T]; NaN where none of them is there."""
        values = np.where(self.present[rows], self.heads[name][rows], 0).sum(axis=0, dtype=np.float64)
        return np.where(self.present[rows].any(axis=0), values, np.nan)


@dataclass
class History:
    """Observations of one run, by step; plain NumPy.

    Attributes:
        run: name of the run.
        model: prefix of its tags, where several models are watched with one writer; else "".
        steps: int64 [T], ascending.
        wall_times: float64 [T].
        kinds: summaries, by kind (``WEIGHTS``, ``GRADIENTS``, ...).
        inventories: at the start and whenever they changed; () where they are not known.
        lr: float64 [groups of the last inventory, T].
        loss_scale: of a ``GradScaler``, float64 [T]; NaN where there is none.
        optimizer_steps: how often the optimizer says that it has stepped, float64 [T]; NaN: not known.
        measures: further numbers by name, such as "idle_units" (see ``fastlog.health.record.Observation``).
        scalars: steps and values, by tag.
        loss_tag, validation_tag: which of the scalars are the losses; None: there is none.
        starts: observations (indices) with which a process began; more than one where training was resumed.
        now: time of the look at a run that goes on; None: it may be over.
        source: "fastlog": summaries are exact. "other": made from histograms, which know neither NaN nor what
            lies in low precision, and of zeros only about how many.
    """

    run: str
    steps: npt.NDArray[np.int64]
    wall_times: Floats
    kinds: dict[str, Kind] = field(default_factory=dict)
    inventories: tuple[Inventory, ...] = ()
    lr: Floats = field(default_factory=lambda: np.empty((0, 0)))
    loss_scale: Floats = field(default_factory=lambda: np.empty(0))
    optimizer_steps: Floats = field(default_factory=lambda: np.empty(0))
    measures: dict[str, Table] = field(default_factory=dict)
    scalars: dict[str, tuple[npt.NDArray[np.int64], Floats]] = field(default_factory=dict)
    loss_tag: str | None = None
    validation_tag: str | None = None
    starts: tuple[int, ...] = (0,)
    now: float | None = None
    source: Literal["fastlog", "other"] = "fastlog"
    model: str = ""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """By name, as in the last inventory; empty where there is none."""
        return self.inventories[-1].parameters if self.inventories else {}

    @property
    def groups(self) -> tuple[Mapping[str, Any], ...]:
        """Options of the optimizer groups, as in the last inventory."""
        return self.inventories[-1].groups if self.inventories else ()

    @property
    def without_gradient(self) -> Table | None:
        """1 where a trainable parameter's gradient is None, else 0; None where that is not known."""
        return self.measures.get("without_gradient")

    @property
    def loss(self) -> tuple[npt.NDArray[np.int64], Floats] | None:
        """Steps and values of the training loss."""
        return self.scalars.get(self.loss_tag) if self.loss_tag is not None else None

    def sizes(self) -> dict[str, int]:
        """Number of values of each parameter, from the inventory or else the summaries."""
        if self.parameters:
            return {name: parameter.numel for name, parameter in self.parameters.items()}
        sizes: dict[str, int] = {}
        for kind in (GRADIENTS, WEIGHTS):
            if kind in self.kinds:
                numbers = np.where(self.kinds[kind].present, self.kinds[kind].heads["num"], 0).max(
                    axis=1, initial=0
                )
                sizes.update(zip(self.kinds[kind].names, numbers.tolist(), strict=True))
        return sizes
