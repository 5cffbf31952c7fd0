"""The events of one histogram: beside it the numbers of what is in no bucket, and the warning about them."""

from __future__ import annotations

from fastlog.common.notices import Line
from fastlog.events.items import HISTOGRAM, SCALAR, Item
from fastlog.summaries.engines import Packed
from fastlog.summaries.packed import NONFINITE
from fastlog.writer.bad_values import BadValues


def histogram_tags(name: str) -> list[str]:
    """The tags of the events of a histogram."""
    return [name, f"{name}/nan", f"{name}/inf"]


def pending_items(
    bad_values: BadValues, name: str, pending: Packed, step: int | None, wall_time: float
) -> list[Item]:
    """All events of a summary that comes from a device; waits for it."""
    packed = bytes(pending)
    nan, pos_inf, neg_inf, num = NONFINITE.unpack_from(packed)
    beside = nonfinite_items(bad_values, name, num, nan, pos_inf + neg_inf, step, wall_time)
    return [(HISTOGRAM, name, packed, step, wall_time), *beside]


def nonfinite_items(
    bad_values: BadValues,
    name: str,
    num: int,
    nan: int,
    inf: int,
    step: int | None,
    wall_time: float,
    line: Line | None = None,
) -> list[Item]:
    """Scalars with the numbers of NaN and infinite values beside a tag, and the one warning about them.

    Args:
        line: of the call, where the worker tells.
    """
    if nan or inf:
        bad_values.tell(
            f"{name} non-finite",
            f"add_histogram({name!r}): {nan} NaN and {inf} infinite of {num} values; their numbers are "
            f"logged as {name}/nan and {name}/inf",
            line,
        )
    counts = {"nan": nan, "inf": inf}
    return [
        (SCALAR, f"{name}/{kind}", float(count), step, wall_time) for kind, count in counts.items() if count
    ]
