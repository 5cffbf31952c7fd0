"""How often logging may happen so that it stays within its share of the time."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastlog.watching.device_time import DeviceTime

FREE_SECONDS = 1.0  # of logging, for which ``every`` does not grow: short trainings keep all their points
_REMEMBERED = 5  # moments; a pause for evaluation or a slow first call does not move their median


class Settled(NamedTuple):
    """What logging cost since the moment before (a share of the rest of the time), and the steps until the
    next."""

    overhead: float
    every: int


class Budget:
    """Stretches ``every`` to a multiple of itself so that logging costs at most ``share`` of the training's
    time.

    Cost is the time of the calling thread, and what CUDA devices take beyond it, which is known and counted
    later. The first ``FREE_SECONDS`` of logging do not stretch anything, so that neither a short training nor
    a slow first look leaves a run with two points. They, and all else that is overspent, are paid back by
    the moments that follow, at most one moment's cost at a time; what was saved is not kept.

    Args:
        every: steps between logged steps, at least.
        offset: number of a step that is to be among them, and of all that are multiples of ``every`` away.
        share: the budget, such as 0.01; None: no limit.
        clock: seconds.

    Attributes:
        every: steps from one logged step to the next.
        cost: seconds that the last logged moment took the calling thread.
        on_devices: says what devices took.
    """

    def __init__(self, every: int, offset: int, share: float | None, clock: Callable[[], float]) -> None:
        self.every = every
        self.share = share
        self.clock = clock
        self.cost = 0.0
        self.on_devices = DeviceTime()
        self._asked = every
        self._offset = offset
        self._spent = self._total = 0.0
        self._debt = 0.0
        self._last: tuple[int, float] | None = None
        self._costs: deque[float] = deque(maxlen=_REMEMBERED)
        self._step_seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def first_due(self, step: int) -> int:
        """The first step to be logged, from ``step`` on."""
        return step + (self._offset - step) % self._asked

    def next_due(self, step: int) -> int:
        """The next step to be logged after ``step``."""
        return (step - self._offset + self.every) // self._asked * self._asked + self._offset

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """What is inside counts as logging."""
        start = self.clock()
        if self.share is not None:
            self.on_devices.begin()
        try:
            yield
        finally:
            spent = self.clock() - start
            self._spent += spent
            if self.share is not None:
                self.on_devices.end(spent)

    def settle(self, step: int) -> Settled | None:
        """Ends a logged moment; None where there is no budget, or no moment before to measure from."""
        now, cost = self.clock(), self._spent
        self._spent, self.cost = 0.0, cost
        cost += self.on_devices.beyond_host()
        self._total += cost
        last, self._last = self._last, (step, now)
        if self.share is None:
            return None
        if last is None or step <= last[0]:
            self._debt += cost
            return None
        steps, seconds = step - last[0], max(now - last[1] - cost, 1e-9)
        self._costs.append(cost)
        self._step_seconds.append(seconds / steps)
        usual_cost = statistics.median(self._costs)
        allowed = self.share * statistics.median(self._step_seconds)
        self._debt = max(0.0, self._debt + cost - allowed * steps)
        if self._total <= FREE_SECONDS:
            return Settled(cost / seconds, self.every)
        needed = (usual_cost + min(self._debt, usual_cost)) / allowed
        self.every = self._asked * max(1, math.ceil(needed / self._asked - 1e-6))
        return Settled(cost / seconds, self.every)
