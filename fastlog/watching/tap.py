"""A way to see what a module puts out that leaves nothing in copies of the module."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn


class Listener(Protocol):
    """Who sees outputs. Not kept alive."""

    def before(self, module: nn.Module) -> None:
        """A module is about to run, or a replica of it. Does not raise."""

    def see(self, module: nn.Module, name: str, output: Any) -> None:
        """A module has run, or a replica of it. Does not raise."""


class Tap:
    """Stands in the slot where a module has its compiled call, calls the module, and hands on the output.

    torch leaves this slot out where it copies, pickles or exports a module, and the compiler passes it by. A
    forward hook would be in all of these, and one for all modules of the process
    (``register_module_forward_hook``) would compile everything anew.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self._listeners: dict[weakref.ref[Listener], str] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(sys._getframe(1), args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()

    def as_function(self) -> Callable[..., Any]:
        """The same, for TorchScript, which passes by functions that it finds in a module."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(sys._getframe(1), args, kwargs)

        call.tap = self  # type: ignore[attr-defined]
        return call

    def add(self, listener: Listener, name: str) -> None:
        """From now on it sees the outputs, under this name."""
        self._listeners[weakref.ref(listener)] = name

    def remove(self, listener: Listener) -> bool:
        """It sees no more; returns whether anyone does."""
        self._listeners.pop(weakref.ref(listener), None)
        return any(reference() is not None for reference in self._listeners)

    def _call(self, caller: FrameType, args: Any, kwargs: Any) -> Any:
        module: Any = caller.f_locals.get("self")  # the module, or a replica of it by DataParallel
        if not isinstance(module, nn.Module) or _tap_of(module) is not self:
            module = self._module()
        if torch.compiler.is_compiling() or torch._C._get_tracing_state():
            return module._call_impl(*args, **kwargs)
        for listener, _ in self._present():
            listener.before(module)
        output = module._call_impl(*args, **kwargs)
        for listener, name in self._present():
            listener.see(module, name, output)
        return output

    def _present(self) -> list[tuple[Listener, str]]:
        return [(one, name) for ref, name in list(self._listeners.items()) if (one := ref()) is not None]


def listen(module: nn.Module, listener: Listener, name: str) -> None:
    """The listener sees what the module puts out."""
    tap = _tap_of(module)
    if tap is None:
        tap = Tap(module)
        # A state of another make may have the slot in it, and functions are not pickled.
        is_left_out = type(module).__getstate__ is nn.Module.__getstate__
        module._compiled_call_impl = tap.as_function() if is_left_out else tap
    tap.add(listener, name)


def leave(module: nn.Module, listener: Listener) -> None:
    """The listener sees no more of the module."""
    tap = _tap_of(module)
    if tap is not None and not tap.remove(listener):
        del module._compiled_call_impl


def is_compiled(module: nn.Module) -> bool:
    """Whether a call of the module runs what ``torch.compile`` has made of it."""
    call = vars(module).get("_compiled_call_impl")
    return hasattr(module, "_orig_mod") or (call is not None and _tap_of(module) is None)


def has_compiled() -> bool:
    """Whether ``torch.compile`` has compiled anything in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["stats"]["unique_graphs"] > 0


def _tap_of(module: nn.Module) -> Tap | None:
    call = vars(module).get("_compiled_call_impl")
    call = getattr(call, "tap", call)
    return call if isinstance(call, Tap) else None
