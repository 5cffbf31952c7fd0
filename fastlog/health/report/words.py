"""What is said of a run and of a finding, the same in a terminal, on the page and in TensorBoard."""

from __future__ import annotations

from fastlog.health.findings import SEVERITIES, Finding, RunHealth
from fastlog.health.report.numbers import plural, share

SIGNS = {"error": "✕", "warning": "!", "info": "i", "ok": "✓"}
_NOUNS = {"error": "error", "warning": "warning", "info": "note"}


def headline(health: RunHealth) -> str:
    """What to know of a run if it is one sentence."""
    if health.verdict != "ok":
        return sentence(health.findings[0])
    return "Nothing wrong was found." if health.checked else "Nothing could be checked."


def sentence(finding: Finding) -> str:
    """The title with a capital letter, unless it begins with the name of a layer or a tensor."""
    first, space, rest = finding.title.partition(" ")
    is_name = not first.isalpha() or any(name.partition(".")[0] == first for name in finding.tensors)
    return finding.title if is_name else first[:1].upper() + first[1:] + space + rest


def tally(health: RunHealth) -> str:
    """How many findings there are of each severity."""
    amounts = [(sum(f.severity == s for f in health.findings), _NOUNS[s]) for s in SEVERITIES]
    found = [plural(amount, noun) for amount, noun in amounts if amount]
    return ", ".join(found) or "no findings"


def checks_run(health: RunHealth) -> str:
    """How many checks looked at the run."""
    return f"{plural(len(health.checked), 'check')} ran, {len(health.not_checked)} could not"


def where(finding: Finding) -> str:
    """Since when, and how much of the model."""
    if finding.last_step > finding.first_step:
        parts = [f"steps {finding.first_step:,} to {finding.last_step:,}"]
    else:
        parts = [f"step {finding.first_step:,}"]
    if finding.tensors:
        parts.append(plural(len(finding.tensors), "tensor"))
    if finding.share > 0:
        parts.append(f"{share(finding.share)} of the parameters")
    return " · ".join(parts)


def reasons(health: RunHealth) -> dict[str, list[str]]:
    """Why checks did not run, or findings are not shown: the rules, by reason."""
    by_reason: dict[str, list[str]] = {}
    muted = {key: f"muted: {why}" for key, why in health.muted.items()}
    for rule, why in {**health.not_checked, **muted}.items():
        by_reason.setdefault(why, []).append(rule)
    return by_reason
