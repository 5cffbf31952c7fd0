"""Warnings and errors of background threads, kept until a thread of the program's own can say them."""

from __future__ import annotations

import sys
import sysconfig
import threading
import warnings
from collections import deque
from types import FrameType
from typing import Literal

_OURS = ("fastlog", "tensorboardX")  # whose methods we inherit
_LIBRARIES = (sysconfig.get_path("stdlib"), "<frozen ")
_LONGEST = 500  # characters of an error: some libraries put all that they were given into theirs
# Packages that call us on the user's behalf, from hooks, callbacks and `with` blocks.
_FRAMEWORKS = frozenset({"transformers", "trl", "accelerate", "lightning", "pytorch_lightning"})
_BETWEEN = frozenset({*_OURS, "torch", "contextlib"}) | _FRAMEWORKS


class FastlogWarning(UserWarning):
    """Something was not logged, or not as asked; training goes on."""

    __module__ = "fastlog"


class SinkError(RuntimeError):
    """What the calling thread gets under ``on_error="raise"``; ``__cause__`` is what the sink raised."""


class BackgroundThread(threading.Thread):
    """A thread on which nothing is warned or raised: that waits for one of the program's own."""


class Notices:
    """Warnings, one for each cause, and under ``on_error="raise"`` the latest error.

    The worker tells; the next call on another thread warns or raises, so that Python's warning filters and
    the user's ``except`` see them where the user's code is. Thread-safe.
    """

    def __init__(self, on_error: Literal["warn", "raise"]) -> None:
        self._on_error = on_error
        self._told: set[str] = set()
        self._messages: deque[str] = deque()
        self._to_raise: deque[BaseException] = deque(maxlen=1)
        self.errors = 0
        self.last_error: str | None = None

    @property
    def pending(self) -> bool:
        """Whether ``warn`` or ``raise_error`` has something to do."""
        return bool(self._messages or self._to_raise)

    def tell(self, cause: str, message: str) -> None:
        """Keeps a warning unless this cause has been told."""
        if cause not in self._told:
            self._told.add(cause)
            self._messages.append(message)

    def error(self, failure: str, error: BaseException, then: str) -> None:
        """Counts an error; keeps it to be raised, or a warning about its kind."""
        self.errors += 1
        self.last_error = f"{failure}: {type(error).__name__}: {error}"[:_LONGEST]
        if self._on_error == "raise":
            self._to_raise.append(error)
        else:
            cause = f"{failure} {type(error).__name__} {getattr(error, 'errno', '')}"
            self.tell(cause, f"fastlog: {self.last_error}. {then}")

    def warn(self) -> None:
        """Issues the warnings kept, at the user's line of code."""
        while self._messages and not _in_background():
            try:
                message = self._messages.popleft()
            except IndexError:  # another thread was faster
                return
            warnings.warn(message, FastlogWarning, stacklevel=_level_outside())

    def raise_error(self) -> None:
        """Raises SinkError from the error kept, once."""
        if _in_background():
            return
        try:
            error = self._to_raise.popleft()
        except IndexError:
            return
        raise SinkError(self.last_error) from error


def _in_background() -> bool:
    return isinstance(threading.current_thread(), BackgroundThread)


def _level_outside() -> int:
    """The ``stacklevel``, for the caller, of the user's line: the first frame outside of libraries; where all
    are inside, the first outside of this package."""
    level, ours, first = 0, True, 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        level += 1
        ours = ours and _package(frame) in _OURS
        if not ours:
            first = first or level
            if not is_library(frame):
                return level
        frame = frame.f_back
    return first or level


def is_library(frame: FrameType | None) -> bool:
    """Whether this is code that is installed, or Python's, and not the program."""
    if frame is None:
        return True
    path = frame.f_code.co_filename
    installed = "site-packages" in path or "dist-packages" in path
    return installed or path.startswith(_LIBRARIES) or _package(frame) in _BETWEEN


def outer_frame() -> FrameType | None:
    """The frame that has called into this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package(frame) in _OURS:
        frame = frame.f_back
    return frame


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
