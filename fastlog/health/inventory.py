"""What a model and its optimizers are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fastlog.health.history import Inventory, Parameter

Owned = Sequence[tuple[str, nn.Parameter, nn.Module]]
"""All names of all parameters, those of shared ones too, with the modules that own them."""

_SIMPLE = (bool, int, float, str, type(None))


def take_inventory(
    step: int, owned: Owned, optimizers: Iterable[Optimizer], modules: Mapping[str, str]
) -> Inventory:
    """The parameters of a model, and the groups of its optimizers in their order."""
    group_of: dict[int, int] = {}
    groups: list[dict[str, Any]] = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group_of.update({id(param): len(groups) for param in group["params"]})
            groups.append({"optimizer": type(optimizer).__name__, **_options(group)})
    names: dict[int, list[str]] = {}
    for name, param, _ in owned:
        names.setdefault(id(param), []).append(name)
    parameters: dict[str, Parameter] = {}
    for name, param, module in owned:
        first, *others = names[id(param)]
        if name == first:
            parameters[name] = Parameter(
                name,
                tuple(param.shape),
                str(param.dtype).removeprefix("torch."),
                param.requires_grad,
                group_of.get(id(param)),
                type(module).__name__,
                tuple(others),
            )
    return Inventory(step, parameters, tuple(groups), modules)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in group.items()
        if key not in ("params", "lr") and _is_simple(value)
    }


def _is_simple(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= 4 and all(isinstance(one, _SIMPLE) for one in value)
    return isinstance(value, _SIMPLE)


def fingerprint(params: Iterable[torch.Tensor], optimizers: Iterable[Optimizer]) -> tuple[int, ...]:
    """Changes when the inventory may have changed: other parameters are trained, or by other groups."""
    in_groups = (
        len(group["params"]) * 2**48 ^ hash(tuple(map(id, group["params"])))
        for optimizer in optimizers
        for group in optimizer.param_groups
    )
    return (*map(id, params), *in_groups)
