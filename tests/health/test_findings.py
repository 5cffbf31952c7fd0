"""Findings as data: the verdict of a run, and the JSON that other programs read."""

import json

from fastlog.health.findings import Chart, Finding, RunHealth, Severity, report_to_json


def finding(severity: Severity) -> Finding:
    return Finding(
        rule="no-gradient",
        severity=severity,
        title="2 tensors get no gradient",
        tensors=("a.weight", "a.bias"),
        share=0.25,
        first_step=20,
        last_step=90,
        evidence={"observations": 8},
        cause="They may be detached.",
        advice="Look for `.detach()`.",
        judged_by="gradient None or zero in 3 of 3 observations",
        chart=Chart("norm", (20, 30), (0.0, 0.0)),
    )


def health(*severities: Severity) -> RunHealth:
    found = tuple(map(finding, severities))
    return RunHealth("bert", 0, 90, found, ("no-gradient",), {"lr-zero": "the learning rate is not known"})


def test_the_verdict_is_the_worst_severity_and_info_is_fine() -> None:
    assert health().verdict == "ok"
    assert health("info").verdict == "ok"
    assert health("info", "warning").verdict == "warning"
    assert health("info", "warning", "error").verdict == "error"


def test_json_has_the_promised_fields_and_no_others() -> None:
    document = json.loads(json.dumps(report_to_json([health("warning")])))
    assert document["version"] == 1
    (run,) = document["runs"]
    assert list(run) == [
        *("run", "first_step", "last_step", "verdict", "findings", "checked", "not_checked", "muted")
    ]
    assert run["verdict"] == "warning"
    assert run["not_checked"] == {"lr-zero": "the learning rate is not known"}
    (written,) = run["findings"]
    assert list(written) == [
        *("rule", "severity", "title", "tensors", "share", "first_step", "last_step"),
        *("evidence", "cause", "advice", "judged_by"),
    ]
    assert written["tensors"] == ["a.weight", "a.bias"]
    assert written["evidence"] == {"observations": 8}


def test_a_finding_says_how_to_mute_it() -> None:
    assert eval(finding("info").mute.removeprefix("mute=")).keys() == {"no-gradient"}
