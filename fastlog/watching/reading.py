"""The tensors that a moment of training is made of: gradients, weights, updates and optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from fastlog.distributed.parts import Record
from fastlog.summaries.tensors import is_packed
from fastlog.watching.series import GRADIENTS, UPDATES, WEIGHTS

Named = Sequence[tuple[str, nn.Parameter]]
Report = Callable[[str, Exception], None]
"""Takes note of what cannot be read: where it belongs, and why."""

# State that torch's optimizers keep as a tensor without dimensions: of the step, not of a parameter's values.
_OF_STEPS = frozenset({"step", "mu_product", "eta", "mu"})


class Reading(NamedTuple):
    """A tensor to be summarised, and where it belongs (see ``distributed.parts.Record``)."""

    kind: str
    name: str
    tensor: torch.Tensor
    part: int = 0
    whole: int = 0

    @property
    def place(self) -> str:
        """How errors call it."""
        return f"{self.kind}/{self.name}"


@dataclass
class Moment:
    """One logged step in the making."""

    step: int
    params: Named
    records: list[Record] = field(default_factory=list)
    has_gradients: bool = False  # by an explicit call: the optimizer's step does not read them again
    found_gradients: bool = False
    is_scaled: bool = False  # its gradients may hold Inf, which a GradScaler finds
    read_for: set[Optimizer] = field(default_factory=set)
    noted: list[Any] = field(default_factory=list)  # by each observer


def weights(params: Named) -> list[Reading]:
    """The parameters as they are."""
    return [Reading(WEIGHTS, name, param) for name, param in params]


def gradients(params: Named) -> list[Reading]:
    """The gradients that there are."""
    return [Reading(GRADIENTS, name, param.grad) for name, param in params if param.grad is not None]


def optimizer_state(params: Named, optimizers: Iterable[Optimizer]) -> tuple[list[Reading], list[str]]:
    """The state tensors of each parameter (Adam's moments, momentum buffers, …) under their keys, and the
    names of parameters whose state is left out.

    That is what 8-bit optimizers keep: codes without their scales say nothing. Counters of steps are no part
    of it.
    """
    readings, left_out = [], []
    for optimizer in optimizers:
        for name, param in params:
            state = optimizer.state.get(param)
            state = state if isinstance(state, dict) else {}
            found = {key: value for key, value in state.items() if _is_of_values(key, value, param)}
            if any(_is_code(value) for value in found.values()):
                left_out.append(name)
            else:
                readings += [Reading(str(key), name, value) for key, value in found.items()]
    return sorted(readings, key=lambda reading: reading.kind), left_out


def steps_taken(optimizers: Iterable[Optimizer]) -> int:
    """How often the optimizers have stepped, as far as their state says: more than 0 where training is
    resumed.
    """
    for optimizer in optimizers:
        for state in optimizer.state.values():
            if isinstance(state, dict) and "step" in state:
                try:
                    return int(state["step"])
                except (TypeError, ValueError, OverflowError, RuntimeError):  # of several values, say
                    return 0
    return 0


def owned_by(params: Named, optimizer: Optimizer) -> Named:
    """Those that the optimizer steps."""
    mine = {id(param) for group in optimizer.param_groups for param in group["params"]}
    return [(name, param) for name, param in params if id(param) in mine]


class WeightCopies:
    """Copies of weights from before a step, from which its updates are computed.

    Takes at most ``max_bytes`` (at least one tensor): where that is too little for all, each moment takes the
    next ones in turn.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._first = 0
        self._taken: list[tuple[str, nn.Parameter, torch.Tensor | None]] = []

    def take(self, params: Named, report: Report) -> None:
        """Copies the weights: in their own dtype, in float32 where that is wider."""
        self.drop()
        params = [(name, param) for name, param in params if not is_packed(param)]
        left = self._max_bytes
        start = self._first % max(len(params), 1)
        for name, param in [*params[start:], *params[:start]]:
            dtype = _wide(param.dtype)
            left -= param.numel() * dtype.itemsize
            if left < 0 and self._taken:
                break
            copied = _made(UPDATES, name, partial(param.detach().to, dtype, copy=True), report)
            self._taken.append((name, param, copied and copied.tensor))
        self._first = start + len(self._taken)

    def updates(self, report: Report) -> list[Reading]:
        """Weight now minus weight then, in the order of the model; the copies turn into them."""

        def minus(param: torch.Tensor, then: torch.Tensor) -> torch.Tensor:
            return then.neg_().add_(param.detach().to(then.dtype))

        taken = ((name, partial(minus, param, then)) for name, param, then in self._taken if then is not None)
        with torch.no_grad():
            return [reading for name, make in taken if (reading := _made(UPDATES, name, make, report))]

    def drop(self) -> None:
        """Gives the memory back."""
        self._taken = []


def _made(kind: str, name: str, make: Callable[[], torch.Tensor], report: Report) -> Reading | None:
    """What ``make`` gives, to be summarised; what it raises is reported, and costs this tensor alone."""
    try:
        return Reading(kind, name, make())
    except Exception as error:
        report(f"{kind}/{name}", error)
        return None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """A dtype in which differences of the values are exact to one rounding."""
    narrow_float = dtype.is_floating_point and dtype.itemsize == 1  # which torch does not promote
    return torch.float32 if narrow_float else torch.promote_types(dtype, torch.float32)


def _is_of_values(key: Any, state: Any, param: torch.Tensor) -> bool:
    """Whether the state has numbers for the parameter's values. What has none or one is of the whole step,
    but for parameters of one value.
    """
    if not isinstance(state, torch.Tensor):
        return False
    return state.dim() > 0 or (param.dim() == 0 and key not in _OF_STEPS)


def _is_code(state: torch.Tensor) -> bool:
    return is_packed(state) or not (state.is_floating_point() or state.is_complex())
