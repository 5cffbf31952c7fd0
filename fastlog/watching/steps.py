"""Which step of training it is, and which one is logged next."""

from __future__ import annotations

import operator
from collections.abc import Callable

from fastlog.watching.budget import Budget
from fastlog.watching.voice import Voice


class Steps:
    """Numbers of steps.

    Args:
        budget: says which steps are due.
        asked: gives the number of the step in progress; None: they are counted.

    Attributes:
        asked: as given.
        number: of the step in progress.
        due: the first step to be logged; negative where the number of the first one is not known yet.
        last: the step logged last; -1: none since training began, or began anew.
        has_logged: whether any step has been logged.
    """

    __slots__ = ("_budget", "_started", "_voice", "asked", "due", "has_logged", "last", "number")

    def __init__(self, budget: Budget, asked: Callable[[], int] | None, voice: Voice) -> None:
        self._budget = budget
        self.asked = asked
        self._voice = voice
        self._started = False
        self.number = 0
        self.due = self.last = -1
        self.has_logged = False

    @property
    def is_due(self) -> bool:
        """Whether the step in progress is to be logged."""
        return self.number >= self.due

    def begin(self, taken: Callable[[], int]) -> None:
        """A step is in progress. ``taken`` tells how many the optimizers have taken before."""
        if self.asked is not None:
            self.ask()
        elif not self._started:
            self.number = max(self.number, taken())
        self._started = True
        if self.number < self.last:  # training starts anew
            self.due = self.last = -1
        if self.due < 0:
            self.due = self._budget.first_due(self.number)

    def starts_due(self, taken: Callable[[], int]) -> bool:
        """Whether the first step will be logged, as far as can be told before it."""
        if self.asked is not None:
            self.ask()
        first = self.number if self._started or self.asked is not None else taken()
        return first == self._budget.first_due(first)

    def set(self, number: int) -> None:
        """Tells the number of the step in progress."""
        self.number, self._started = number, True

    def follow(self, other: Steps) -> None:
        """Counts on from there."""
        self.number = max(self.number, other.number)

    def hurry(self) -> None:
        """The next step is logged, whatever ``every`` says. For any thread."""
        self.due = 0

    def logged(self, number: int) -> None:
        """That one is."""
        self.last, self.due = number, self._budget.next_due(number)
        self.has_logged = True

    def ask(self) -> None:
        """Learns the number of the step in progress."""
        try:
            self.number = operator.index(self.asked())  # type: ignore[misc]
        except Exception as error:
            self._voice.say(
                "step",
                f"step= must give the number of the step in progress; it gave {type(error).__name__}:"
                f" {error}; such a step is counted on from the last number",
            )
