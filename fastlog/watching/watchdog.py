"""Says so where nothing is logged: the hooks of a watcher are never called, or not any more."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from fastlog.watching.copies import Copies
from fastlog.watching.steps import Steps
from fastlog.watching.voice import Voice

PATIENCE = 20  # gradients that come and go; the first steps of a GradScaler may be skipped

_orphans: weakref.WeakSet[Watchdog] = weakref.WeakSet()


class Watchdog:
    """Looks at gradients as long as the watcher sees no step, and remembers whether it has logged any.

    A gradient that has been reset since the backward pass before has been used for a step. Where that happens
    ``PATIENCE`` times and no step is seen, the hooks are never called.

    Args:
        model, optimizers: not kept alive.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], steps: Steps, voice: Voice) -> None:
        self._steps = steps
        self._voice = voice
        self._has_seen_steps = False
        self._copies: Copies | None = Copies(model)
        self._handles: list[RemovableHandle] = []
        self._versions: dict[int, int] = {}  # of the gradient of each parameter, when it was seen last
        self._used = 0  # gradients
        self._params = [weakref.ref(param) for param in _samples(model, optimizers)]
        self._optimizers = {weakref.ref(optimizer, self._optimizer_gone) for optimizer in optimizers}
        names = ", ".join(sorted({type(optimizer).__name__ for optimizer in optimizers}))
        self._silent = (
            f"nothing is logged: there are gradients, and step() of {names} is never called. Pass the"
            " optimizer whose step() the training calls; or pass none, and call Watcher.step() in each step"
            if optimizers
            else "nothing is logged: there is no optimizer, and Watcher.step() is never called. Pass the"
            " optimizer, or call step() of what watch returns in each step"
        )
        self._look()

    def step_seen(self) -> None:
        """The hooks work."""
        self._has_seen_steps = True
        self._look_away()

    def sum_up(self) -> None:
        """Says that nothing has been logged, where training has gone on."""
        steps = self._steps
        if self._handles and self._versions:
            self._voice.say(self._silent, self._silent)
        elif not self._has_seen_steps:
            self._say_copied()
        elif not steps.has_logged:
            self._voice.say(
                "unlogged",
                f"nothing was logged: step {steps.due} would have been the first, and the last was"
                f" {steps.number - 1}. Choose a smaller every, or call Watcher.log_next()",
            )

    def _say_copied(self) -> None:
        optimizer = None if self._copies is None else self._copies.optimizer()
        if optimizer is not None:
            self._voice.say(
                "copy",
                f"nothing is logged: the model that is watched has not been trained. {optimizer} has"
                " parameters of the same shapes: those of a copy (copy.deepcopy), which is not watched. Call"
                " watch with the copy and its optimizer",
            )

    def end(self) -> None:
        """Nothing comes any more."""
        self.sum_up()
        self._look_away()
        self._optimizers.clear()
        self._has_seen_steps = False
        self._copies = None

    def _optimizer_gone(self, optimizer: weakref.ref[Optimizer]) -> None:
        self._optimizers.discard(optimizer)
        if self._optimizers or sys.is_finalizing():
            return
        self._silent = (
            "nothing is logged any more: there are gradients, and the optimizer that was watched is gone."
            " Call watch again, with the new one"
        )
        self._look()
        _orphans.add(self)

    def _look(self) -> None:
        self._look_away()
        self._used = 0
        for param in [param for ref in self._params if (param := ref()) is not None]:
            if not param.requires_grad:  # frozen meanwhile
                continue
            hook = param.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]
            self._handles.append(hook)

    def _look_away(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._versions.clear()

    def _on_gradient(self, param: torch.Tensor) -> None:
        grad = param.grad
        if grad is None or grad.is_inference() or not self._handles:
            return
        before, now = self._versions.get(id(param)), grad._version
        self._versions[id(param)] = now
        if before is not None and now != before + 1:  # not the same one, with more added to it
            self._used += 1
            if self._used > PATIENCE * len(self._handles):
                self._voice.say(self._silent, self._silent)
                self._look_away()


def settle(model: nn.Module) -> None:
    """The model is watched again: an optimizer that is gone is not missed any more."""
    params = set(model.parameters())
    for dog in list(_orphans):
        if any(ref() in params for ref in dog._params):
            dog.end()
            _orphans.discard(dog)


def _samples(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[nn.Parameter]:
    """The first and the last parameter that is trained."""
    owned = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    trained = [
        param
        for param in model.parameters()
        if param.requires_grad
        and not is_lazy(param)
        and param.is_leaf
        and (not optimizers or id(param) in owned)
    ]
    return [*trained[:1], *trained[1:][-1:]]
