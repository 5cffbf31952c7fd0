"""What ``fastlog.watch`` is given: each error names the one argument that is wrong, and what to pass."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fastlog.health.names import layer_of
from fastlog.writer import SummaryWriter

# Where wrappers have the optimizer that they wrap.
_INNER = ("optimizer", "base_optimizer", "_base_optimizer", "_optimizer", "optim")


def checked_model(model: Any) -> nn.Module:
    """Raises TypeError where it is no module."""
    if isinstance(model, nn.Module):
        return model
    several = isinstance(model, (list, tuple, dict)) or hasattr(model, "__next__")
    remedy = ": call watch for each, with a prefix=, or pass torch.nn.ModuleList(...)" if several else ""
    raise TypeError(f"model must be a torch.nn.Module, not {_shown(model)}{remedy}")


def checked_writer(writer: Any) -> SummaryWriter:
    """Raises TypeError where it is no writer of ours."""
    if isinstance(writer, SummaryWriter):
        return writer
    remedy = ""
    if isinstance(writer, (str, os.PathLike)):
        remedy = f": pass fastlog.SummaryWriter({str(writer)!r})"
    elif type(writer).__name__ == "SummaryWriter":
        remedy = ": import SummaryWriter from fastlog, or call fastlog.install() before the other is imported"
    elif writer is None:
        remedy = ": only those ranks of a job need none for which another one logs"
    raise TypeError(f"writer must be a fastlog.SummaryWriter, not {_shown(writer)}{remedy}")


def checked_optimizers(given: Any) -> list[Optimizer]:
    """The optimizers whose step hooks run, of one or several.

    Raises:
        TypeError: something else.
    """
    if given is None:
        return []
    several = isinstance(given, Iterable) and not (hasattr(given, "param_groups") or isinstance(given, str))
    return [_hooked(optimizer) for optimizer in (given if several else [given])]


def _hooked(given: Any) -> Optimizer:
    """The optimizer itself, or the one inside of it where hooks of its own step would never run."""
    optimizer = given
    while not _runs_hooks(optimizer):
        inner = (getattr(optimizer, name, None) for name in _INNER)
        found = next((one for one in inner if hasattr(one, "param_groups")), None)
        if found is None or not hasattr(optimizer, "param_groups"):
            break
        optimizer = found
    if isinstance(optimizer, Optimizer) and "_optimizer_step_pre_hooks" in optimizer.__dict__:
        return optimizer
    scheduled = getattr(given, "optimizer", None)
    remedy = ": pass the optimizer that it schedules" if isinstance(scheduled, Optimizer) else ""
    raise TypeError(f"optimizer must be a torch.optim.Optimizer, or several, not {_shown(given)}{remedy}")


def _runs_hooks(optimizer: Any) -> bool:
    """Whether a training that uses it calls the ``step`` that runs its hooks. Not so in wrappers that call
    no ``Optimizer.__init__``, and in those of sharpness-aware minimisation, stepped by ``second_step``.
    """
    has_hooks = "_optimizer_step_pre_hooks" in getattr(optimizer, "__dict__", ())
    calls_them = hasattr(getattr(type(optimizer), "step", None), "hooked")
    return has_hooks and calls_them and not hasattr(optimizer, "second_step")


def checked_number(argument: str, value: Any, least: int | None = None) -> int:
    """A whole number.

    Raises:
        TypeError: it is none.
        ValueError: less than ``least``.
    """
    wanted = "a whole number" if least is None else f"a whole number of at least {least}"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be {wanted}, not {_shown(value)}") from None
    if least is not None and number < least:
        raise ValueError(f"{argument}={number} must be {wanted}")
    return number


def checked_budget(budget: Any) -> float | None:
    """A share of the time.

    Raises:
        TypeError: no number.
        ValueError: none between 0 and 1.
    """
    if budget is None:
        return None
    wanted = "must be a share of the training's time between 0 and 1, such as 0.05 for 5 %"
    try:
        share = float(budget + 0)
    except (TypeError, ValueError):
        raise TypeError(f"budget={_shown(budget)} {wanted}") from None
    if not 0 < share < 1:
        raise ValueError(f"budget={budget} {wanted}")
    return share


def checked_callable(argument: str, value: Any) -> Any:
    """A function, or None.

    Raises:
        TypeError: something else.
    """
    if value is None or callable(value):
        return value
    raise TypeError(f"{argument} must be a function, not {_shown(value)}")


def checked_group(group: Any) -> Callable[[str], str | None] | None:
    """How names are grouped.

    Raises:
        TypeError, ValueError: neither "layer" nor a function nor None.
    """
    if group == "layer":
        return layer_of
    if isinstance(group, str):
        raise ValueError(f'group must be "layer", a function of a name, or None, not {group!r}')
    grouping: Callable[[str], str | None] | None = checked_callable("group", group)
    return grouping


def checked_names(argument: str, names: Any, known: Sequence[str] | dict[str, Any]) -> tuple[str, ...]:
    """Names out of those that are known.

    Raises:
        TypeError: no names.
        ValueError: an unknown one.
    """
    if not isinstance(names, (str, Iterable)):
        raise TypeError(f"{argument} must be some of {', '.join(known)}, not {_shown(names)}")
    chosen = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"{argument}: {unknown} is none of {', '.join(known)}")
    return chosen


def checked_prefix(prefix: Any) -> str | None:
    """What all tags begin with.

    Raises:
        TypeError: no string.
    """
    if prefix is None or isinstance(prefix, str):
        return prefix and prefix.strip("/")
    raise TypeError(f"prefix must be a string, not {_shown(prefix)}")


def _shown(value: Any) -> str:
    """A value as errors name it: by itself where that is short, else by its class."""
    if value is None or isinstance(value, (str, int, float, os.PathLike)):
        return f"{value!r}"[:80]
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
