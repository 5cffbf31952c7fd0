"""Warnings and errors of background threads, kept until a thread of the program's own can say them."""

from __future__ import annotations

import sys
import sysconfig
import threading
import warnings
from collections import deque
from types import FrameType
from typing import Any, Literal, NamedTuple

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


class Line(NamedTuple):
    """A line of a program, as ``warnings.warn_explicit`` takes it.

    Attributes:
        registry: of the warnings that were issued in its module.
        is_users: outside of libraries.
    """

    filename: str
    number: int
    module: str
    registry: dict[Any, Any]
    is_users: bool


class Notices:
    """Warnings, one for each cause, and under ``on_error="raise"`` the latest error.

    The worker tells; the next call on another thread warns or raises, so that Python's warning filters and
    the user's ``except`` see them where the user's code is. At the end of a program that is where these were
    made. Thread-safe.
    """

    def __init__(self, on_error: Literal["warn", "raise"]) -> None:
        self._on_error = on_error
        self._told: set[str] = set()
        self._messages: deque[tuple[str, Line | None]] = deque()
        self._made_at = users_line()
        self._to_raise: deque[BaseException] = deque(maxlen=1)
        self.errors = 0
        self.last_error: str | None = None

    @property
    def pending(self) -> bool:
        """Whether ``warn`` or ``raise_error`` has something to do."""
        return bool(self._messages or self._to_raise)

    def tell(self, cause: str, message: str, line: Line | None = None) -> None:
        """Keeps a warning unless this cause has been told.

        Args:
            line: that it is about; None: where the program is when the warning is issued.
        """
        if cause not in self._told:
            self._told.add(cause)
            self._messages.append((message, line))

    def error(self, failure: str, error: BaseException, then: str) -> None:
        """Counts an error; keeps it to be raised, or a warning about its kind: type, ``errno``, ``place``."""
        self.errors += 1
        self.last_error = f"{failure}: {type(error).__name__}: {error}"[:_LONGEST]
        if self._on_error == "raise":
            self._to_raise.append(error)
        else:
            kind = [str(getattr(error, name, "")) for name in ("errno", "place")]
            cause = " ".join([failure, type(error).__name__, *kind])
            self.tell(cause, f"fastlog: {self.last_error}. {then}")

    def warn(self) -> None:
        """Issues the warnings kept, at the user's line of code."""
        while self._messages and not _in_background():
            try:
                message, line = self._messages.popleft()
            except IndexError:  # another thread was faster
                return
            here = users_line()
            known = [place for place in (line, here, self._made_at) if place is not None and place.is_users]
            warn_at(known[0] if known else here, message)

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


def warn_at(line: Line, message: str) -> None:
    """Issues a warning."""
    warnings.warn_explicit(message, FastlogWarning, line.filename, line.number, line.module, line.registry)


def users_line() -> Line:
    """The line of the program that has called: of the first frame outside of libraries; where all are inside,
    of the first outside of this package."""
    frame = sys._getframe(1)
    outside: FrameType | None = None
    while is_library(frame) and frame.f_back is not None:
        if outside is None and _package(frame) not in _OURS:
            outside = frame
        frame = frame.f_back
    is_users = not is_library(frame)
    if not is_users:
        frame = outside or frame
    names = frame.f_globals
    registry = names.setdefault("__warningregistry__", {})
    return Line(frame.f_code.co_filename, frame.f_lineno, names.get("__name__", "?"), registry, is_users)


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
