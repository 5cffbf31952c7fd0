"""Metrics as frameworks hand them on: of any type."""

from __future__ import annotations

from typing import Any

from fastlog.writer import SummaryWriter


def log_metric(
    writer: SummaryWriter, method: str, tag: str, value: Any, step: int | None, **options: Any
) -> bool:
    """Logs a text or a number, and says whether it was a number.

    Any other value is left out: the writer counts it, and warns once per tag.

    Args:
        method: what the warning names.
        options: further arguments of ``add_text`` or ``add_scalar``.
    """
    if isinstance(value, str):
        writer.add_text(tag, value, step, **options)
        return False
    try:
        writer.add_scalar(tag, value, step, **options)
    except TypeError:
        leave_out(writer, f"{method}({tag!r})", value)
        return False
    return value is not None


def leave_out(writer: SummaryWriter, place: str, value: Any) -> None:
    """Counts a metric that is no number, and warns once per place."""
    kind = type(value).__name__
    error = TypeError(f"the metric is a {kind}; log numbers or texts, each under its own name")
    writer.outbox.bad_values.report(place, error)
