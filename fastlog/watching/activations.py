"""What modules put out, and its gradients."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fastlog.distributed.parts import Record
from fastlog.watching import selection, tap
from fastlog.watching.reading import Reading
from fastlog.watching.recorder import Recorder
from fastlog.watching.series import ACTIVATION_GRADIENTS, ACTIVATIONS


class ActivationReader:
    """Reads the outputs of the chosen modules, by a tap on each, from ``arm`` to ``disarm``.

    Where a module runs several times in between (gradient accumulation, shared modules), each time counts.
    Forward passes of evaluation (neither training mode nor gradients), those that only trace a model or ask
    for shapes, and the recomputation of checkpointed layers do not.

    Args:
        model: whose modules; looked up at each ``arm``.
        names, chosen: see ``selection.modules``.
        kinds: ``ACTIVATIONS``, ``ACTIVATION_GRADIENTS`` or both.
        recorder: summarises what is seen.

    Attributes:
        seen: the summaries since ``arm``.
    """

    def __init__(
        self,
        model: nn.Module,
        names: selection.Names,
        chosen: selection.Names | None,
        kinds: frozenset[str],
        recorder: Recorder,
    ) -> None:
        self.seen: list[Record] = []
        self._choose = partial(selection.modules, model, names, chosen)
        self._kinds = kinds
        self._recorder = recorder
        self._tapped: list[nn.Module] = []
        self._called = False

    @property
    def idle(self) -> bool:
        """Whether it looks at modules, none of which has run."""
        return bool(self._tapped) and not self._called

    def arm(self) -> None:
        """Begins to look, unless it does."""
        if not self._tapped:
            for name, module in self._choose():
                tap.listen(module, self, name)
                self._tapped.append(module)

    def disarm(self) -> None:
        """Looks no more; graphs that are still alive are not listened to."""
        for module in self._tapped:
            tap.leave(module, self)
        self._tapped.clear()
        self.seen = []
        self._called = False

    def before(self, module: nn.Module) -> None:
        """A module is about to run."""

    def see(self, module: nn.Module, name: str, output: Any) -> None:
        """A module has run."""
        with self._recorder.guarded():
            if self._tapped and (module.training or torch.is_grad_enabled()):
                self._look(name, output)

    def see_gradient(self, name: str, gradient: torch.Tensor) -> None:
        """The backward pass has come to a module's output."""
        with self._recorder.guarded():
            if self._tapped:
                self._summarize(ACTIVATION_GRADIENTS, name, gradient)

    def _look(self, name: str, output: Any) -> None:
        tensor = _first_tensor(output)
        if tensor is not None and (tensor.is_meta or type(tensor).__name__ == "FakeTensor"):
            return
        self._called = True
        if tensor is None:
            kind = type(output).__name__
            self._leave_out("output", f"{name}: its output, a {kind}, has no floating-point tensor")
        elif torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            self._leave_out("functorch", f"{name}: it runs in a transform of torch.func (vmap, grad, jvp)")
        else:
            recomputed = torch._C._current_graph_task_id() != -1  # inside of backward: a checkpointed layer
            if ACTIVATIONS in self._kinds and not recomputed:
                self._summarize(ACTIVATIONS, name, tensor)
            if ACTIVATION_GRADIENTS in self._kinds and tensor.requires_grad:
                hook = partial(_pass_gradient, weakref.ref(self), name)
                tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def _summarize(self, kind: str, name: str, tensor: torch.Tensor) -> None:
        self.seen += self._recorder.records([Reading(kind, name, tensor)])

    def _leave_out(self, cause: str, why: str) -> None:
        self._recorder.voice.say(cause, f"activations are left out, as of {why}")


def _pass_gradient(reader: weakref.ref[ActivationReader], name: str, gradient: torch.Tensor) -> None:
    if (present := reader()) is not None:
        present.see_gradient(name, gradient)


def _first_tensor(output: Any, depth: int = 8) -> torch.Tensor | None:
    """The first floating-point tensor in an output of whatever form."""
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    parts: Iterable[Any] = ()
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, (tuple, list)):
        parts = output
    elif dataclasses.is_dataclass(output):
        parts = [getattr(output, field.name, None) for field in dataclasses.fields(output)]
    if depth == 0:
        return None
    return next((found for part in parts if (found := _first_tensor(part, depth - 1)) is not None), None)
