"""Findings in a terminal: the same facts as on the page, in plain text or in colours."""

from __future__ import annotations

import io
import math
import sys

import pytest
from made_up_runs import CHECKED, NOT_CHECKED, bert, fast, frozen, health
from test_report_page import hostile

from fastlog.health.findings import Chart, RunHealth
from fastlog.health.report.terminal import show, spark


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(*runs: RunHealth, file: io.StringIO | None = None) -> str:
    file = file or io.StringIO()
    show(runs, file)
    return file.getvalue()


@pytest.fixture(params=["with rich", "without rich"])
def rich(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether `rich` can be imported."""
    if request.param == "without rich":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    else:
        pytest.importorskip("rich")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return bool(request.param == "with rich")


def sick() -> RunHealth:
    history, error = frozen(bert(), layer=3, since=20)
    history, warning = fast(history)
    return health(history, error, warning)


def test_a_sick_run_is_told_worst_finding_first(rich: bool) -> None:
    found = sick()
    text = shown(found)
    lines = text.splitlines()
    assert lines[0] == "✕ error        bert: 1 error, 1 warning"
    assert lines[1].strip() == f"steps 0–990 · {len(CHECKED)} checks ran, 3 could not"
    titles = [i for i, line in enumerate(lines) if line[15:] in {finding.title for finding in found.findings}]
    assert [lines[i] for i in titles] == [
        f"✕ error        {found.findings[0].title}",
        f"! warning      {found.findings[1].title}",
    ]
    folded = " ".join(text.split())
    for finding in found.findings:
        for part in (finding.cause, finding.advice, finding.judged_by, finding.mute):
            assert part in folded
    assert "steps 200 to 990 · 16 tensors · 7.8 % of the parameters" in folded
    assert "median of update to weight 0.214 · matrices 38" in folded
    assert "(threshold 0.1)" in folded
    assert f"checked {', '.join(CHECKED)}" in folded
    assert all(f"{rule}: {why}" in folded for rule, why in NOT_CHECKED.items())


def test_checks_that_did_not_run_for_one_reason_stand_together(rich: bool) -> None:
    found = RunHealth(
        "x", 0, 9, (), ("a",), {"b": "no loss", "c": "no steps", "d": "no loss"}, {"e": "meant"}
    )
    folded = " ".join(shown(found).split())
    assert folded.endswith("checked a not checked b, d: no loss c: no steps e: muted: meant")


def test_a_healthy_run_says_no_more_than_that(rich: bool) -> None:
    text = shown(health(bert()))
    assert text.startswith("✓ ok           bert: nothing wrong was found\n")
    assert shown(RunHealth("x", -1, -1, (), (), {"a": "b"})).startswith(
        "✓ ok           x: nothing could be checked\n"
    )


def test_a_pipe_gets_neither_colours_nor_long_lines(rich: bool) -> None:
    lines = shown(sick()).splitlines()
    assert not any("\x1b" in line for line in lines)
    assert max(map(len, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)


def test_a_terminal_gets_colours_from_rich_unless_they_are_not_wanted(
    rich: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    coloured = shown(sick(), file=Terminal())
    assert ("\x1b[1;31m✕ error" in coloured) == rich
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(sick(), file=Terminal())
    assert "\x1b[3" not in plain and "31m" not in plain
    assert max(len(line) for line in plain.splitlines() if "\x1b" not in line and "▁" not in line) <= 64


def test_hostile_names_do_not_reach_the_terminal(rich: bool) -> None:
    _, found = hostile()
    text = shown(found)
    assert "\x1b" not in text and "\x00" not in text and "层.权重" in text
    text.encode()


def test_a_spark_shows_rise_fall_and_nan() -> None:
    rising = Chart("", tuple(range(8)), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0))
    assert spark(rising) == "▁▂▃▄▅▆▇█"
    assert spark(Chart("", (0, 1, 2), (1.0, math.nan, 100.0), logarithmic=True)) == "▁×█"
    assert spark(Chart("", (), ())) == ""
    long = Chart("", tuple(range(1000)), tuple(float(i >= 500) for i in range(1000)))
    assert len(spark(long)) == 32 and set(spark(long)[:15]) == {"▁"} and set(spark(long)[17:]) == {"█"}
