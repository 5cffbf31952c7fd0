"""Flushing before a signal ends the process; asked for, never by itself."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Sequence
from types import FrameType

from fastlog.async_queue import _queues
from fastlog.faults import FastlogWarning

_FLUSH_SECS = 5.0  # per signal: schedulers kill soon after they have asked

_previous: dict[int, object] = {}  # what each signal did before ours: what signal.getsignal gave


def flush_on_signals(signals: Sequence[int] = (signal.SIGTERM, signal.SIGINT)) -> None:
    """Flushes all writers of this process when one of ``signals`` arrives, then does what it did before.

    A previous Python handler is called; the default ends the process by the same signal, so that its exit
    status tells the truth; an ignored signal flushes and goes on. Ctrl-C still raises KeyboardInterrupt.
    Sinks that do not finish within five seconds in all are left behind with a warning. Idempotent; a handler
    that was installed later is chained when asked again. A child of fork inherits the handlers.

    Args:
        signals: signal numbers.

    Raises:
        RuntimeError: not on the main thread, the only one on which Python lets handlers be installed.
        ValueError: no such signal, or its present handler was not installed by Python and cannot be chained.
        OSError: the system lets nobody handle this signal (SIGKILL, SIGSTOP).
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("flush_on_signals must be called on the main thread: Python handles signals there")
    for number in signals:
        previous = signal.getsignal(number)
        if previous is None:
            raise ValueError(
                f"the handler of {signal.Signals(number).name} is not Python's: it cannot be chained"
            )
        if previous is not _flush_and_pass_on:
            signal.signal(number, _flush_and_pass_on)
            _previous[number] = previous


def _flush_and_pass_on(number: int, frame: FrameType | None) -> None:
    _flush_all(_FLUSH_SECS)
    previous = _previous[number]
    if callable(previous):
        previous(number, frame)
    elif previous == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Only a signal whose default does not end the process comes back here.
        signal.signal(number, _flush_and_pass_on)


def _flush_all(seconds: float) -> None:
    import time

    give_up = time.monotonic() + seconds
    for queue in list(_queues):
        try:
            queue.flush(max(0.0, give_up - time.monotonic()))
        except Exception as error:  # the signal must reach its handler, whatever became of the files
            warnings.warn(f"fastlog: flushing on a signal: {error}", FastlogWarning, stacklevel=2)
