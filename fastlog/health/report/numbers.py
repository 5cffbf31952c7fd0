"""How numbers, steps and names are spelled, the same in a terminal, on the page and in pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """U+FFFD for what is no text (control characters, lone surrogates) or turns the text around it."""
    return _UNPRINTABLE.sub("\ufffd", text)


def number(value: float, digits: int = 3) -> str:
    """So many significant digits: ``0.0123``, ``1,230``, ``1.23e-5``; integers under a million in full."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if not -3 <= power < 6:
        return f"{mantissa}e{power}"
    return f"{float(f'{mantissa}e{power}'):,.{max(0, digits - 1 - power)}f}"


def short(value: float) -> str:
    """As ``number``, without zeros at the end: for a value that stands alone."""
    digits, e, power = number(value).partition("e")
    return f"{digits.rstrip('0').rstrip('.')}{e}{power}" if "." in digits else f"{digits}{e}{power}"


def tick(value: float) -> str:
    """A round value beside an axis, as short as it goes: ``0.2``, ``1e-5``, ``2,000``."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.10g}"
    mantissa, _, power = f"{value:.6e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"


def count(value: int) -> str:
    """Large counts in short: ``812``, ``22.7 M``."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= 9999.5 and value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:,}"


def share(value: float) -> str:
    """A share as per cent, never rounded to none or all: ``12 %``, ``< 0.1 %``, ``> 99.9 %``."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.2g} %" if percent < 99.5 else f"{percent:.3g} %"


def factor(value: float) -> str:
    """A ratio of two numbers: ``× 3.2``, ``÷ 10``, ``=`` where it rounds to one."""
    if not math.isfinite(value) or value < 0:
        return "–"
    if value == 0:
        return "→ 0"
    larger = max(value, 1 / value)
    if larger < 1.05:
        return "="
    text = f"{larger:.1f}" if larger < 10 else f"{larger:,.0f}" if larger < 1e4 else f"{larger:.0e}"
    return f"{'×' if value > 1 else '÷'} {text}"


def duration(seconds: float) -> str:
    """A time in its largest unit, rounded down: ``12 s``, ``5 min``, ``3 h``, ``2 days``."""
    for size, unit in ((172_800, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // (86_400 if unit == 'days' else size))} {unit}"
    return f"{int(seconds)} s"


def plural(amount: int, noun: str) -> str:
    """``1 error``, ``2 errors``."""
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def steps(first: int, last: int) -> str:
    """``step 20`` or ``steps 20–990``."""
    return f"step {first:,}" if first == last else f"steps {first:,}–{last:,}"


def names(all_names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    text = ", ".join(all_names[:shown])
    more = len(all_names) - shown
    return f"{text} and {more:,} more" if more > 0 else text


def evidence_text(value: Any) -> str:
    """A piece of evidence in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        return short(float(value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {evidence_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return names([evidence_text(item) for item in value], 6)
    return str(value)
