"""Who looks at the logged steps of a watcher, beside the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from torch.optim import Optimizer

from fastlog.distributed.parts import Merged
from fastlog.events.items import Item
from fastlog.watching.reading import Named
from fastlog.watching.series import Observe, Summaries


@dataclass(frozen=True)
class LoggedStep:
    """A logged step as an observer gets it on the worker.

    Attributes:
        kinds: the summaries, by kind.
        noted: what ``Observer.after_step`` returned.
        merged: where ranks log together: what became of their summaries.
    """

    step: int
    wall_time: float
    kinds: dict[str, Summaries]
    noted: Any = None
    merged: Merged = field(default_factory=lambda: Merged([], {}, [], {}))


class Observer(Protocol):
    """Sees each logged step. ``observe`` runs on the worker, the others on the thread that trains.

    Where ranks log together, only the first one's observers see anything.
    """

    @property
    def wants_next(self) -> bool:
        """Whether the next step has to be logged, whatever ``every`` says."""

    def announce(self) -> None:
        """A step that is logged begins. What is raised here, training gets."""

    def before_step(self, step: int, params: Named) -> None:
        """The weights are those before the step."""

    def after_step(self, step: int, params: Named, stepped: Collection[Optimizer]) -> Any:
        """It is over, and these optimizers have stepped. What is returned comes to ``observe``."""

    def observe(self, logged: LoggedStep) -> list[Item]:
        """All of the step is known. What is returned is logged, too. Does not raise."""

    def end(self) -> None:
        """The watcher is removed."""


class Observers:
    """All observers of one watcher."""

    def __init__(self) -> None:
        self._all: list[Observer] = []

    def add(self, observer: Observer) -> None:
        """It sees the logged steps from now on."""
        self._all.append(observer)

    @property
    def want_next(self) -> bool:
        """Whether one of them wants the next step to be logged."""
        return any(observer.wants_next for observer in self._all)

    def announce(self) -> None:
        for observer in self._all:
            observer.announce()

    def end(self) -> None:
        for observer in self._all:
            observer.end()

    def before_step(self, step: int, params: Named) -> None:
        for observer in self._all:
            observer.before_step(step, params)

    def after_step(self, step: int, params: Named, stepped: Collection[Optimizer]) -> list[Any]:
        return [observer.after_step(step, params, stepped) for observer in self._all]

    def of_step(self, step: int, wall_time: float, noted: list[Any], merged: Merged) -> list[Observe]:
        """What the worker has to call with the summaries of a step; ``noted`` came from ``after_step``."""

        def observe(observer: Observer, note: Any, kinds: dict[str, Summaries]) -> list[Item]:
            return observer.observe(LoggedStep(step, wall_time, kinds, note, merged))

        return [partial(observe, one, note) for one, note in zip(self._all, noted, strict=False)]
