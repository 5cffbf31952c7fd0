"""Which tensors of a model are looked at, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

from fastlog.watching.tap import is_compiled

# What wrappers put into the names of the modules inside them.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\.|$)")


class Names:
    """Names that match any ``include`` (all without one) and no ``exclude``; regular expressions, searched.

    Raises:
        TypeError, ValueError: no regular expression.
    """

    def __init__(self, include: str | Iterable[str] | None, exclude: str | Iterable[str] | None) -> None:
        self._include = None if include is None else _compiled("include", include)
        self._exclude = _compiled("exclude", exclude or ())

    def __contains__(self, name: str) -> bool:
        if self._include is not None and not any(pattern.search(name) for pattern in self._include):
            return False
        return not any(pattern.search(name) for pattern in self._exclude)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``DataParallel``, ``DistributedDataParallel`` and ``torch.compile``."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def compiled(model: nn.Module) -> set[nn.Module]:
    """The modules that ``torch.compile`` has compiled, with all inside of them. They take no hooks: a change
    of hooks makes torch compile again.
    """
    return {part for module in model.modules() if is_compiled(module) for part in module.modules()}


def scripted(model: nn.Module) -> dict[nn.Module, str]:
    """The modules of TorchScript, with all inside of them, and their names. They take no hooks."""
    return {
        module: _plain(name)
        for name, module in unwrap(model).named_modules()
        if isinstance(module, torch.jit.ScriptModule)
    }


def parameters(model: nn.Module, names: Names) -> list[tuple[str, nn.Parameter]]:
    """The chosen parameters in the order of the model, shared ones once, under their first names without
    wrappers.
    """
    model = unwrap(model)
    adapted = _adapter_prefix(model)
    found = ((_plain(name).removeprefix(adapted), param) for name, param in model.named_parameters())
    return [(name, param) for name, param in found if name in names]


def owned_parameters(model: nn.Module, names: Names) -> list[tuple[str, nn.Parameter, nn.Module]]:
    """As ``parameters``, but shared ones under all of their names, and each with the module that owns it."""
    model = unwrap(model)
    adapted = _adapter_prefix(model)
    found = (
        (_plain(f"{prefix}.{name}" if prefix else name).removeprefix(adapted), param, module)
        for prefix, module in model.named_modules()
        for name, param in module._parameters.items()
        if param is not None
    )
    return [(name, param, module) for name, param, module in found if name in names]


def modules(model: nn.Module, names: Names, chosen: Names | None) -> list[tuple[str, nn.Module]]:
    """The modules that ``names`` and ``chosen`` let through; without ``chosen``, those without children. None
    of those that are compiled or scripted.
    """
    hidden = compiled(model) | scripted(model).keys()
    model = unwrap(model)
    adapted = _adapter_prefix(model)
    found = ((_plain(name).removeprefix(adapted), module) for name, module in model.named_modules())
    return [
        (name, module)
        for name, module in found
        if module not in hidden
        and name in names
        and (next(module.children(), None) is None if chosen is None else name in chosen)
    ]


def _adapter_prefix(model: nn.Module) -> str:
    """What PEFT puts before the names of the model inside."""
    inside = getattr(model, "get_base_model", None)
    if not hasattr(model, "peft_config") or not callable(inside):
        return ""
    return "base_model." if inside() is model.base_model else "base_model.model."


def _plain(name: str) -> str:
    return _WRAPPERS.sub("", name).rstrip(".")


def _compiled(argument: str, patterns: str | Iterable[str]) -> list[re.Pattern[str]]:
    if not isinstance(patterns, (str, Iterable)):
        raise TypeError(f"{argument} must be regular expressions, not {patterns!r}")
    try:
        return [re.compile(pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    except re.error as error:
        raise ValueError(f"{argument}: {error.pattern!r} is no regular expression: {error}") from error
