"""A training that logs no more: whether it is stuck, and where."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np

from fastlog.common.notices import BackgroundThread, is_library
from fastlog.health.rules.pace import limit_of

_STEPS = 64  # whose intervals say what is usual
_LOOKS, _BETWEEN, _ALIKE = 20, 3.0, 0.8  # looks at the thread, seconds between, share that shows the same
_AGAIN = 600.0  # seconds, where it was not stuck


class Loop(NamedTuple):
    """Where a program trains: a thread, and the outermost of the program's own frames in it. (Inner ones come
    and go, such as that of a function for a single step.)
    """

    thread: int
    frame: int
    code: CodeType | None


class Sight(NamedTuple):
    """What a thread does at one moment: equal to another where nothing has moved in between."""

    state: tuple[Any, ...]
    where: str


def loop_here() -> Loop:
    """The loop that has called."""
    frame: FrameType | None = sys._getframe(1)
    outermost = frame
    while frame is not None:
        if not is_library(frame):
            outermost = frame
        frame = frame.f_back
    return Loop(threading.get_ident(), id(outermost), outermost and outermost.f_code)


def look_at(loop: Loop) -> Sight | None:
    """What the loop does now; None where the program has left it."""
    frame = sys._current_frames().get(loop.thread)
    state: list[Any] = []
    where, is_inside = "", False
    while frame is not None:
        state.append((id(frame), frame.f_lasti, *(id(value) for value in list(frame.f_locals.values()))))
        if not where and not is_library(frame):
            where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        is_inside |= id(frame) == loop.frame and frame.f_code is loop.code
        frame = frame.f_back
    return Sight(tuple(state), where) if is_inside else None


class Stall:
    """Tells of a training whose thread stands still, long after a step should have been logged.

    A program that evaluates or saves a checkpoint logs no steps either, but it moves: several looks at its
    frames and variables differ. One that has left its loop is not looked at.

    Args:
        tell: gets the time and where the program waits, on a thread of its own; once until a step comes.
        clock: seconds since the epoch.
        look: see ``look_at``.
    """

    def __init__(
        self,
        tell: Callable[[float, str], None],
        clock: Callable[[], float] = time.time,
        look: Callable[[Loop], Sight | None] = look_at,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._look = look
        self._seen: deque[float] = deque(maxlen=_STEPS)
        self._loop: Loop | None = None
        self._has_told = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def step_seen(self) -> None:
        """A step is logged; call it on the thread that trains."""
        self._seen.append(self._clock())
        self._loop = loop_here()
        self._has_told = False
        if self._thread is None or not self._thread.is_alive():  # a fork has none
            self._ended.clear()
            self._thread = BackgroundThread(target=self._run, name="fastlog-stall", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """No more steps are expected."""
        self._ended.set()

    def until_look(self) -> float:
        """Seconds until it is time to look."""
        limit = limit_of(np.array(self._seen))
        silent = self._clock() - self._seen[-1]
        return limit - silent if silent < limit else _AGAIN

    def look(self) -> None:
        """Tells where it is time to, and the training is stuck."""
        loop, since = self._loop, self._seen[-1]
        if self._has_told or loop is None or self._clock() - since < limit_of(np.array(self._seen)):
            return
        sights: list[Sight] = []
        while len(sights) < _LOOKS:
            sight = self._look(loop)
            if sight is None or self._ended.wait(_BETWEEN) or self._seen[-1] != since:
                return
            sights.append(sight)
        sight, times = Counter(sights).most_common(1)[0]
        if times >= _ALIKE * _LOOKS:
            self._has_told = True
            self._tell(self._clock(), sight.where)

    def _run(self) -> None:
        while not self._ended.wait(self.until_look()):
            self.look()
