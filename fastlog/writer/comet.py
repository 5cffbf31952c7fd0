"""What Comet, where it is on, needs of the methods that encode later."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import tensorboardX

P = ParamSpec("P")


def unless_comet(method: Callable[P, None]) -> Callable[P, None]:
    """With Comet on, tensorboardX's own method is called instead: it encodes at once and tells Comet."""
    plain = getattr(tensorboardX.SummaryWriter, method.__name__)

    @functools.wraps(method)
    def choose(*args: P.args, **kwargs: P.kwargs) -> None:
        (plain if args[0]._comet_on else method)(*args, **kwargs)  # type: ignore[attr-defined]

    return choose
