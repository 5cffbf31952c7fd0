"""How long callers wait for the worker: as long as it gets on, and no longer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

_BUSY = 0.01  # of the time; a thread that computes less hangs, or waits for something that does


class WorkerThread(threading.Thread):
    """Marks the threads that must never wait for a queue. A finalizer may log on any of them to any queue."""

    _cpu_clock: int | None = None

    def run(self) -> None:
        """Runs the target."""
        if hasattr(time, "pthread_getcpuclockid"):
            self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        super().run()

    def cpu_seconds(self) -> float:
        """What the thread has computed so far; 0 where that cannot be known (any more)."""
        if self._cpu_clock is None:
            return 0.0
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:
            return 0.0


class ProgressTimeout:
    """Time to wait that begins anew whenever something is finished, or was computed for.

    Args:
        timeout: seconds; None: as long as it takes.
        progress: how many things have been finished, and how many seconds were computed.
    """

    def __init__(
        self, timeout: float | None, progress: Callable[[], tuple[int, float]], clock: Callable[[], float]
    ) -> None:
        self._timeout = math.inf if timeout is None else timeout
        self._progress = progress
        self._clock = clock
        self._since = clock()
        self._seen: tuple[int, float] | None = None

    def left(self) -> float:
        """Seconds to wait from now on; none: give up."""
        now = self._clock()
        if self._timeout > 0:
            self._look(now)
        return self._since + self._timeout - now

    def _look(self, now: float) -> None:
        finished, computed = progress = self._progress()
        if self._seen is None:
            self._seen = progress
        waited = now - self._since
        busy = waited >= self._timeout and computed - self._seen[1] > _BUSY * waited
        if finished != self._seen[0] or busy:
            self._since, self._seen = now, progress
