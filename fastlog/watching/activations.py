"""What modules put out, and its gradients: seen by hooks that live for one step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from fastlog.watching import selection
from fastlog.watching.series import ACTIVATION_GRADIENTS, ACTIVATIONS

See = Callable[[str, str, torch.Tensor], None]


class Taps:
    """Forward hooks on the chosen modules, from ``arm`` to ``disarm``.

    Where a module runs several times in between (gradient accumulation, shared modules), each time counts.
    Forward passes of evaluation (neither training mode nor gradients) and the recomputation of checkpointed
    layers do not.

    Args:
        model: whose modules; looked up at each ``arm``.
        names, chosen: see ``selection.modules``.
        kinds: ``ACTIVATIONS``, ``ACTIVATION_GRADIENTS`` or both.
        see: gets kind, module name and tensor, which does not outlive the call.
    """

    def __init__(
        self,
        model: nn.Module,
        names: selection.Names,
        chosen: selection.Names | None,
        kinds: frozenset[str],
        see: See,
    ) -> None:
        self._model = model
        self._names = names
        self._chosen = chosen
        self._kinds = kinds
        self._see = see
        self._handles: list[RemovableHandle] = []
        self._called = False

    @property
    def idle(self) -> bool:
        """Whether there are hooks, none of which has been called."""
        return bool(self._handles) and not self._called

    def arm(self) -> None:
        """Puts the hooks in place, unless they are."""
        if not self._handles:
            for name, module in selection.modules(self._model, self._names, self._chosen):
                self._handles.append(module.register_forward_hook(_Tap(name, self._kinds, self._pass_on)))

    def disarm(self) -> None:
        """Takes the hooks away; graphs that are still alive are not listened to any more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._called = False

    def _pass_on(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        if self._handles:
            self._called = True
            self._see(kind, name, tensor)


class _Tap:
    """The forward hook of one module. A module that is copied or pickled takes an idle one with it."""

    def __init__(self, name: str, kinds: frozenset[str], see: See) -> None:
        self._name = name
        self._kinds = kinds
        self._see = see

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():  # it would break the graph, at every step
            return
        tensor = _first_tensor(output)
        if tensor is None or not (module.training or torch.is_grad_enabled()):
            return
        recomputed = torch._C._current_graph_task_id() != -1  # inside of backward: a checkpointed layer
        if ACTIVATIONS in self._kinds and not recomputed:
            self._see(ACTIVATIONS, self._name, tensor)
        if ACTIVATION_GRADIENTS in self._kinds and tensor.requires_grad:
            tensor.register_hook(self._on_gradient)  # type: ignore[no-untyped-call]

    def _on_gradient(self, gradient: torch.Tensor) -> None:
        self._see(ACTIVATION_GRADIENTS, self._name, gradient)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tap, (self._name, frozenset(), _ignore)


def _ignore(kind: str, name: str, tensor: torch.Tensor) -> None:
    pass


def _first_tensor(output: Any) -> torch.Tensor | None:
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, dict):
        output = tuple(output.values())
    parts = output if isinstance(output, (tuple, list)) else ()
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)
