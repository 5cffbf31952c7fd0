"""The tensors that a moment of training is made of: gradients, weights, updates and optimizer state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from fastlog.summaries.tensors import is_packed
from fastlog.watching.series import GRADIENTS, UPDATES, WEIGHTS

Named = Sequence[tuple[str, nn.Parameter]]


class Reading(NamedTuple):
    """A tensor to be summarised, and where it belongs (see ``distributed.parts.Record``)."""

    kind: str
    name: str
    tensor: torch.Tensor
    part: int = 0
    whole: int = 0


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
            state = {k: v for k, v in optimizer.state.get(param, {}).items() if _is_array(v)}
            if all(value.is_floating_point() and not is_packed(value) for value in state.values()):
                readings += [Reading(str(key), name, value) for key, value in state.items()]
            else:
                left_out.append(name)
    return sorted(readings, key=lambda reading: reading.kind), left_out


def steps_taken(optimizers: Iterable[Optimizer]) -> int:
    """How often the optimizers have stepped, as far as their state says: more than 0 where training is
    resumed.
    """
    for optimizer in optimizers:
        for state in optimizer.state.values():
            if isinstance(state, dict) and "step" in state:
                return int(state["step"])
    return 0


def owned_by(params: Named, optimizer: Optimizer) -> Named:
    """Those that the optimizer steps."""
    mine = {id(param) for group in optimizer.param_groups for param in group["params"]}
    return [(name, param) for name, param in params if id(param) in mine]


class Snapshots:
    """Copies of weights from before a step, from which its updates are computed.

    Takes at most ``max_bytes`` (at least one tensor): where that is too little for all, each moment takes the
    next ones in turn.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._first = 0
        self._taken: list[tuple[str, nn.Parameter, torch.Tensor]] = []

    def take(self, params: Named) -> None:
        """Copies the weights: in their own dtype, in float32 where that is wider."""
        self.drop()
        left = self._max_bytes
        start = self._first % max(len(params), 1)
        for name, param in [*params[start:], *params[:start]]:
            dtype = torch.promote_types(param.dtype, torch.float32)
            left -= param.numel() * dtype.itemsize
            if left < 0 and self._taken:
                break
            self._taken.append((name, param, param.detach().to(dtype, copy=True)))
        self._first = start + len(self._taken)

    def updates(self) -> list[Reading]:
        """Weight now minus weight then, in the order of the model; the copies turn into them."""
        with torch.no_grad():
            for _, param, then in self._taken:
                then.neg_().add_(param)
        return [Reading(UPDATES, name, then) for name, _, then in self._taken]

    def drop(self) -> None:
        """Gives the memory back."""
        self._taken = []


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 0
