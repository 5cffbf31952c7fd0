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
        self._is_armed = False
        self._by_demand = False
        self._called = False

    def say_unseen(self, step: int, is_sudden: bool) -> None:
        """Says why no module has been seen to run in a step, where there are any to look at.

        Args:
            is_sudden: another thread has asked for the step, at any time.
        """
        if self._called or not (self._tapped or (not self._is_armed and not is_sudden and self._choose())):
            return
        if not self._is_armed:
            why = (
                "its forward pass was over when it turned out that the step is to be logged. Call"
                " Watcher.step(number) before the forward pass"
            )
        elif tap.has_compiled():
            why = "its forward pass was inside of what torch.compile has compiled, where nothing is seen"
        elif self._by_demand:
            why = "no forward pass came after Watcher.log_next() or step(number). Call them before it"
        else:
            why = (
                "no module that is looked at has run, in training mode or with gradients, since the step"
                " before. Call the model itself, not functions of its parameters; or leave activations out"
                " of log="
            )
        self._recorder.voice.say("unseen", f"no activations were seen in step {step}: {why}")

    def arm(self, by_demand: bool = False) -> None:
        """Begins to look, unless it does.

        Args:
            by_demand: in the middle of a step, perhaps.
        """
        if not self._is_armed:
            self._is_armed, self._by_demand = True, by_demand
            for name, module in self._choose():
                tap.listen(module, self, name)
                self._tapped.append(module)

    def disarm(self) -> None:
        """Looks no more; graphs that are still alive are not listened to."""
        for module in self._tapped:
            tap.leave(module, self)
        self._tapped.clear()
        self.seen = []
        self._is_armed = self._called = False

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
