"""Values that cannot be logged, or not as they are: counted; one warning for each place and kind of error."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from fastlog.common.notices import Notices, SinkError
from fastlog.summaries.engines import PinnedMemoryFull

_LONGEST_LIST = 5  # places that are named in the total
_MOST_REASONS = 5  # that are said of one place
# What differs from value to value in the text of one kind of error: what is quoted, numbers and rows of them.
_VARYING = re.compile(r"""'[^']*'|"[^"]*"|(?<!\w)\(?[+-]?\d[\w.+-]*(, *[+-]?\d[\w.+-]*)*,?\)?|\(\)""")


class BadValues(Notices):
    """What was wrong with the values logged; the worker may ``tell`` as well.

    Args:
        on_error: "warn" or "raise".
    """

    def __init__(self, on_error: Literal["warn", "raise"]) -> None:
        super().__init__(on_error)
        self.count = 0
        self._by_place: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()  # said of each place
        self._swallowed = 0  # of these: without a warning of their own

    def report(self, place: str, error: Exception, values: int = 1, cause: str | None = None) -> None:
        """Counts values that cannot be logged. Raises ``error`` under "raise"; else each kind of error is one
        warning per cause.

        Args:
            values: how many.
            cause: None: the place.
        """
        self.count += values
        if self._on_error == "raise":
            raise at_place(place, error)
        self._by_place[place] += values
        self._swallowed += values
        cause = cause or place
        reason = f"{cause} {kind_of(error)}"
        if reason not in self._told and self._reasons[cause] < _MOST_REASONS:
            self._reasons[cause] += 1
            self._swallowed -= 1
            problem = f"{place}: nothing is logged: {type(error).__name__}: {error}"
            self.tell(reason, f"{problem} (this warning is shown once)")
        self.warn()

    def tell_total(self) -> None:
        """Keeps a warning that says how many values of which place were not logged, unless each was said."""
        total = self._by_place.total()
        if self._swallowed:
            places = [
                f"{place} \u00d7 {count:,}" for place, count in self._by_place.most_common(_LONGEST_LIST)
            ]
            if len(self._by_place) > len(places):
                places.append(f"and {len(self._by_place) - len(places):,} more")
            message = f"fastlog: {total:,} values were not logged: {', '.join(places)}; see stats()"
            self.tell(f"total {total}", message)


def kind_of(error: Exception) -> str:
    """The type of the error, and its text without what differs from value to value."""
    return f"{type(error).__name__} {_VARYING.sub('#', str(error))}"


def at_place(place: str, error: Exception) -> Exception:
    """The error with ``place``, the method and its tag, in front of its text."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{place}: {error.args[0]}",)
    return error


class Guard:
    """A ``with`` block whose errors are bad values, but for TypeError, which is wrong use: it passes, with
    ``place`` in front of its text.

    Gives the ``time.monotonic()`` at which it began. Warnings that are pending are issued before and after
    the block: one that a filter turns into an error must not look like a bad value.

    Args:
        refuse: called where there was no room for a value on its way from a device.
    """

    def __init__(self, bad_values: BadValues, place: str, refuse: Callable[[], None]) -> None:
        self._bad_values = bad_values
        self._place = place
        self._refuse = refuse

    def __enter__(self) -> float:
        if self._bad_values.pending:
            self._bad_values.warn()
        return time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None and self._bad_values.pending:
            self._bad_values.warn()
        if not isinstance(error, Exception) or isinstance(error, SinkError):
            return False
        if isinstance(error, TypeError):
            at_place(self._place, error)
            return False
        if isinstance(error, PinnedMemoryFull):
            self._refuse()
        else:
            self._bad_values.report(self._place, error)
        return True
