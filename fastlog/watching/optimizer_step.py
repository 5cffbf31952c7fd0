"""What is particular about an optimizer's step: a step inside of a step, and closures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch.optim import Optimizer


def is_nested(optimizer: Optimizer) -> bool:
    """Whether its ``step`` was called by its ``step``, as in many subclasses: the hooks run around both.

    To be asked by a hook, directly.
    """
    frame: FrameType | None = sys._getframe(2).f_back
    while frame is not None:
        of_torch = frame.f_globals.get("__name__") == "torch.optim.optimizer"
        if of_torch and frame.f_code.co_name == "wrapper" and frame.f_locals["args"][0] is optimizer:
            return True
        frame = frame.f_back
    return False


def then_once(closure: Callable[[], Any], after: Callable[[], None]) -> Callable[[], Any]:
    """The closure, with ``after`` behind its first call."""
    pending = [after]

    def call() -> Any:
        result = closure()
        while pending:
            pending.pop()()
        return result

    return call
