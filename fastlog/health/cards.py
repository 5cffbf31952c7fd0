"""A finding as text: one line for a console, a card in Markdown for TensorBoard."""

from __future__ import annotations

from typing import Any

from fastlog.health.findings import Finding

_SHOWN = 5  # tensors of a card


def line(finding: Finding) -> str:
    """One line: what, since when, and what to do."""
    return f"{finding.title} (since step {finding.first_step}; {finding.rule}). {finding.advice}"


def card(finding: Finding) -> str:
    """The finding with its evidence, likely cause, advice, and how to mute it, in Markdown."""
    rows = [
        f"### {finding.severity}: {_escaped(finding.title)}",
        f"**Since** step {finding.first_step}, last seen at step {finding.last_step}, "
        f"{finding.share:.1%} of the parameters.",
    ]
    if finding.tensors:
        shown = ", ".join(f"`{name.replace('`', '')}`" for name in finding.tensors[:_SHOWN])
        more = len(finding.tensors) - _SHOWN
        rows.append(f"**Tensors:** {shown}" + (f" and {more} more" if more > 0 else ""))
    if finding.evidence:
        rows.append(
            "**Evidence:** " + "; ".join(f"{key}: {number(value)}" for key, value in finding.evidence.items())
        )
    rows += [
        f"**Likely cause:** {finding.cause}",
        f"**What to do:** {finding.advice}",
        f"**Judged by** {finding.judged_by}.",
        f"**To mute it:** `{finding.mute}`",
    ]
    return "\n\n".join(rows)


def number(value: Any) -> str:
    """A number of the evidence as people read it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _escaped(", ".join(map(number, value)) if isinstance(value, (list, tuple)) else str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
