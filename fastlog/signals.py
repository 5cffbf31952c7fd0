"""Flushing before a signal ends the process; asked for, never by itself."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from fastlog.common.notices import users_line, warn_at
from fastlog.events.queue import live_queues

_FLUSH_SECS = 5.0  # for all writers together: schedulers kill soon after they have asked

_Handler = Callable[[int, FrameType | None], object]


def flush_on_signals(signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT)) -> None:
    """Flushes all writers when one of ``signals`` comes; then the signal does what it did before.

    A previous Python handler is called, so Ctrl-C still raises KeyboardInterrupt. Where there was none, the
    process ends by the signal itself, and its exit status says so. An ignored signal flushes and is ignored.
    What is not in the files after five seconds is left behind with a warning. Idempotent. Children of fork
    inherit it.

    As every Python handler it waits until the main thread is back from whatever C code it is in.

    Args:
        signals: signal numbers.

    Raises:
        RuntimeError: not called on the main thread, the only one that may install handlers.
        ValueError: no such signal, or its handler is not Python's, so that it cannot be chained.
        OSError: a signal that cannot be handled (SIGKILL, SIGSTOP).
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("flush_on_signals: only the main thread may install signal handlers")
    for number in signals:
        previous = signal.getsignal(number)
        if previous is None:
            raise ValueError(f"flush_on_signals: the handler of signal {number} is not Python's")
        if not isinstance(previous, _FlushFirst):
            signal.signal(number, _FlushFirst(previous))


class _FlushFirst:
    """A handler; each knows the one that it replaced, so that they chain in any order."""

    def __init__(self, previous: _Handler | int) -> None:
        self._previous = previous

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            _flush_all()
        finally:  # also where warnings are errors
            if callable(self._previous):
                self._previous(number, frame)
            elif self._previous == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
                # Still here: a signal that only stops the process, or does nothing.
                signal.signal(number, self)


def _flush_all() -> None:
    queues = live_queues()
    failures: list[Exception] = []
    for queue in queues:  # wakes all workers: one that hangs must not hold up the others
        with contextlib.suppress(Exception):
            queue.flush(0)
    give_up = time.monotonic() + _FLUSH_SECS
    for queue in queues:
        try:
            queue.flush(max(0.0, give_up - time.monotonic()))
        except Exception as error:
            failures.append(error)
    for failure in failures:
        warn_at(users_line(), f"fastlog: flushing on a signal: {failure}")
