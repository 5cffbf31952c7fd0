"""``stop_on=``: a finding that ends the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

from fastlog.common.notices import Notices
from fastlog.health.findings import SEVERITIES, Finding
from fastlog.health.rules import RULES

_SEVERITIES = SEVERITIES[:-1]  # nobody is told of the mildest while a training goes on


class StopOn:
    """Waits for a finding that is to end the training.

    Args:
        stop_on: rules, and severities: "warning" means what is worse, too.
        options: further arguments of ``fastlog.watch``; ``on_finding`` gets each finding first.
    """

    def __init__(self, stop_on: str | Iterable[str], options: dict[str, Any]) -> None:
        self._names = (stop_on,) if isinstance(stop_on, str) else tuple(stop_on)
        known = (*_SEVERITIES, *(rule.id for rule in RULES))
        if unknown := [name for name in self._names if name not in known]:
            raise ValueError(
                f"stop_on: there is no rule {unknown[0]!r}; severities: {', '.join(_SEVERITIES)};"
                f" rules: {', '.join(known[len(_SEVERITIES) :])}"
            )
        if self._names and not options.get("health", True):
            raise ValueError("stop_on needs health=True: without it nothing is found")
        self._on_finding: Callable[[Finding], None] | None = options.get("on_finding")
        worst = [SEVERITIES.index(name) for name in _SEVERITIES if name in self._names]
        self._severities = SEVERITIES[: max(worst, default=-1) + 1]
        self._finding: Finding | None = None
        self._has_stopped = False

    def __bool__(self) -> bool:
        return bool(self._names)

    @property
    def watch_options(self) -> dict[str, Any]:
        """What ``fastlog.watch`` has to get so that findings come."""
        return {"health": True, "on_finding": self._hear} if self else {}

    def begin(self) -> None:
        """A training begins."""
        self._finding, self._has_stopped = None, False

    def due(self, step: int) -> bool:
        """Whether the training has to end now; says why, once. ``step``: the one that is over."""
        if self._finding is None or self._has_stopped:
            return False
        self._has_stopped = True
        said = Notices("warn")
        said.tell(
            "stop_on",
            f"fastlog: the training stops after step {step}, because of stop_on={list(self._names)}:"
            f" {self._finding.rule}: {self._finding.title}",
        )
        said.warn()
        return True

    def _hear(self, finding: Finding) -> None:
        if self._finding is None and (finding.rule in self._names or finding.severity in self._severities):
            self._finding = finding
        if self._on_finding is not None:
            self._on_finding(finding)


def any_rank(decision: bool, device: torch.device) -> bool:
    """The decision of all ranks together, where there are several: each of them has to ask."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return decision
    decided = torch.tensor(int(decision), device=device)
    dist.all_reduce(decided, dist.ReduceOp.MAX)
    return bool(decided.item())
