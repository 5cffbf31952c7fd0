"""How long a rank takes by itself, before others have to wait for it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastlog.watching import tap

BEFORE_FORWARD = "before_forward_seconds"


class Pace:
    """Takes the time from the end of a step to the next forward pass: of loading data, mostly.

    Later than that ranks wait for each other (collectives in the forward and the backward pass), so that the
    times of all are those of the slowest.

    Args:
        model: as the training calls it; not kept alive. One that is compiled cannot be listened to.
        note: gets seconds by name.
    """

    def __init__(self, model: nn.Module, note: Callable[[dict[str, float]], None]) -> None:
        self._model = weakref.ref(model)
        self._note = note
        self._since: float | None = None

    def begin(self) -> None:
        """A step is over, and the next one is to be logged."""
        model = self._model()
        if model is not None and not tap.is_compiled(model):
            tap.listen(model, self, "")
            self._since = time.perf_counter()

    def before(self, module: nn.Module) -> None:
        """A forward pass begins."""
        if self._since is not None and (module.training or torch.is_grad_enabled()):
            self._note({BEFORE_FORWARD: time.perf_counter() - self._since})
            self.end()

    def see(self, module: nn.Module, name: str, output: Any) -> None:
        """It is over."""

    def end(self) -> None:
        """Listens no more."""
        self._since = None
        model = self._model()
        if model is not None:
            tap.leave(model, self)
