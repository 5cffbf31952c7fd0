"""What the rules find: plain data, to be shown by a page, a terminal, TensorBoard or another program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Severity = Literal["error", "warning", "info"]
Verdict = Literal["error", "warning", "ok"]

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")
"""From the worst to the mildest."""

JSON_VERSION: Final = 1
"""Version of what ``report_to_json`` gives: it rises when a field changes its meaning or goes."""


@dataclass(frozen=True)
class Chart:
    """The statistic that shows a finding best, to be drawn as a small line.

    Attributes:
        label: what the values are, such as "norm of all gradients".
        steps, values: the line.
        threshold: where the finding begins; None where there is no such number.
        logarithmic: whether the values belong on a logarithmic axis.
    """

    label: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    threshold: float | None = None
    logarithmic: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a run.

    Attributes:
        rule: id of the rule, such as "no-gradient".
        severity: "error": the run does not do what it is meant to. "warning": a part of it does not, or it
            will not for long. "info": worth knowing.
        title: the fact, in one sentence.
        tensors: which tensors, the worst first; () for the whole run.
        share: of the model's parameters (values) that are concerned, from 0 to 1.
        first_step, last_step: steps of the first and the last observation that show it.
        evidence: the numbers, by name.
        cause: what is likely to be behind it.
        advice: what to do, with a line of code where there is one.
        judged_by: rule, threshold and observations.
        chart: the statistic that shows it.
    """

    rule: str
    severity: Severity
    title: str
    tensors: tuple[str, ...]
    share: float
    first_step: int
    last_step: int
    evidence: Mapping[str, Any]
    cause: str
    advice: str
    judged_by: str
    chart: Chart | None = None

    @property
    def mute(self) -> str:
        """The argument of ``fastlog.watch`` and ``fastlog.check`` that silences it."""
        return f'mute={{"{self.rule}": "why this is meant to be so"}}'

    def to_json(self) -> dict[str, Any]:
        """The finding as ``python -m fastlog check --json`` writes it."""
        written = asdict(self)
        del written["chart"]
        written["tensors"] = list(self.tensors)
        written["evidence"] = dict(self.evidence)
        return written


@dataclass(frozen=True)
class RunHealth:
    """What the rules say of one run.

    Attributes:
        run: name of the run: its directory below the log directory.
        first_step, last_step: of the observations; -1 where there is none.
        findings: the worst first.
        checked: ids of the rules that looked at the run.
        not_checked: why the others did not, by id.
        muted: why findings were silenced, by id.
    """

    run: str
    first_step: int
    last_step: int
    findings: tuple[Finding, ...]
    checked: tuple[str, ...]
    not_checked: Mapping[str, str]
    muted: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The severity of the worst finding; "ok" where none is worse than "info"."""
        severities = {finding.severity for finding in self.findings}
        return "error" if "error" in severities else "warning" if "warning" in severities else "ok"

    def to_json(self) -> dict[str, Any]:
        """One element of "runs" of ``python -m fastlog check --json``."""
        return {
            "run": self.run,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "checked": list(self.checked),
            "not_checked": dict(self.not_checked),
            "muted": dict(self.muted),
        }


def report_to_json(runs: list[RunHealth]) -> dict[str, Any]:
    """What ``python -m fastlog check --json`` writes."""
    return {"version": JSON_VERSION, "runs": [run.to_json() for run in runs]}
