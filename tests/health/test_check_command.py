"""From a log directory to findings: ``fastlog.check``, ``fastlog.report`` and the commands of these names."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import torch
from browser import PROGRAMS, Browser, program
from torch.utils.tensorboard import SummaryWriter as TorchWriter

import fastlog
from fastlog.__main__ import main
from fastlog.health import command
from fastlog.health.findings import RunHealth
from fastlog.health.rules import RULES

RULE_IDS = {rule.id for rule in RULES}


def train(writer: Any, steps: range = range(30), nan_from: int | None = None) -> None:
    """Logs what a loop logs by hand; from a step on the loss and a gradient are NaN."""
    rng = np.random.default_rng(0)
    for step in steps:
        bad = nan_from is not None and step >= nan_from
        writer.add_scalar("loss/train", math.nan if bad else 1 / (1 + step) + 0.5, step)
        writer.add_scalar("learning_rate", 1e-3, step)
        for layer in range(3):
            writer.add_histogram(f"weights/layer.{layer}.weight", rng.normal(size=500), step)
            writer.add_histogram(f"gradients/layer.{layer}.weight", rng.normal(size=500) * 0.01, step)
    writer.flush()


def write(folder: Path, make: Any = fastlog.SummaryWriter, nan_from: int | None = None) -> Path:
    writer = make(str(folder))
    train(writer, nan_from=nan_from)
    writer.close()
    return folder


def run(*arguments: str | Path) -> int:
    """The exit status of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


@pytest.mark.parametrize("make", [fastlog.SummaryWriter, tensorboardX.SummaryWriter, TorchWriter])
def test_anybodys_directory_is_checked(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "good", make)
    write(tmp_path / "bad", make, nan_from=20)
    bad, good = fastlog.check(tmp_path)
    assert (good.run, good.verdict, good.findings) == ("good", "ok", ())
    assert (good.first_step, good.last_step) == (0, 29)
    assert (bad.run, bad.verdict) == ("bad", "error")
    assert [finding.rule for finding in bad.findings] == ["nonfinite"] and bad.findings[0].first_step == 20
    for health in (bad, good):
        assert {*health.checked, *health.not_checked} == RULE_IDS
        assert not set(health.checked) & set(health.not_checked)
        assert all(health.not_checked.values())


def test_json_is_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "bad", nan_from=20)
    assert run("check", tmp_path, "--json") == 1
    said = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert said["version"] == 1
    (of_run,) = said["runs"]
    assert {
        "run",
        "first_step",
        "last_step",
        "verdict",
        "findings",
        "checked",
        "not_checked",
    } <= of_run.keys()
    assert (of_run["run"], of_run["last_step"], of_run["verdict"]) == ("bad", 29, "error")
    (finding,) = of_run["findings"]
    assert finding.keys() == {
        *("rule", "severity", "title", "tensors", "share", "first_step", "last_step"),
        *("evidence", "cause", "advice", "judged_by"),
    }
    (expected,) = fastlog.check(tmp_path)[0].findings
    assert finding["title"] == expected.title and finding["first_step"] == 20
    assert isinstance(of_run["checked"], list) and isinstance(of_run["not_checked"], dict)


def test_numbers_that_json_lacks_become_text() -> None:
    numbers = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], 3: np.float64(2.5), "c": (np.int64(7), None)}
    assert command.finite(numbers) == {
        "a": "NaN",
        "b": ["Infinity", "-Infinity", 1.5],
        "3": 2.5,
        "c": [7, None],
    }


@pytest.mark.parametrize(
    ("verdict", "fail_on", "status"),
    [
        *(("error", "error", 1), ("warning", "error", 0), ("ok", "error", 0)),
        *(("error", "warning", 1), ("warning", "warning", 1), ("ok", "warning", 0)),
        *(("error", "never", 0), ("warning", "never", 0), ("ok", "never", 0)),
    ],
)
def test_the_status_says_whether_to_go_on(
    monkeypatch: pytest.MonkeyPatch, verdict: str, fail_on: str, status: int
) -> None:
    class Judged(RunHealth):
        verdict = property(lambda self: verdict_of[self.run])  # type: ignore[assignment]

    verdict_of = {"a": "ok", "b": verdict}
    runs = [Judged(name, 0, 9, (), ("nonfinite",), {}) for name in verdict_of]
    monkeypatch.setattr(command, "check", lambda logdir, mute: runs)
    assert run("check", "runs", "--json", "--fail-on", fail_on) == status
    if fail_on == "error":
        assert run("check", "runs", "--json") == status


@pytest.mark.parametrize("name", ["check", "report"])
def test_what_cannot_be_read_is_status_2(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("missing", "empty"):
        assert run(name, tmp_path / folder) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"python -m fastlog {name}: {tmp_path / folder} ")
        assert len(err.splitlines()) == 1
    with pytest.raises(FileNotFoundError, match="missing does not exist"):
        fastlog.check(tmp_path / "missing")


def test_a_muted_rule_finds_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, nan_from=20)
    assert run("check", tmp_path, "--mute", "nonfinite=I know") == 0
    assert "nonfinite: muted: I know" in " ".join(capsys.readouterr().out.split())
    assert fastlog.check(tmp_path, mute={"nonfinite": "I know"})[0].verdict == "ok"
    for wrong, said in (("no-such-rule", "there is no rule"), ("nonfinite:(", "no regular expression")):
        assert run("check", tmp_path, "--mute", wrong) == 2
        assert said in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, nan_from=20)
    command_line = f'"{sys.executable}" -m fastlog check "{tmp_path}" | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command_line], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[0].startswith("✕ error") and done.stdout.splitlines()[1] == "1"
    assert done.stderr == ""


def test_a_report_is_written_at_once_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "runs" / "bad", tensorboardX.SummaryWriter, nan_from=20)
    page = tmp_path / "out.html"
    page.write_text("old")
    assert run("report", tmp_path / "runs", "-o", page) == 0
    title = fastlog.check(tmp_path / "runs")[0].findings[0].title
    assert f"bad: error: {title}" in capsys.readouterr().out
    assert title in page.read_text() and 'http-equiv="refresh"' not in page.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.html"]
    assert run("report", tmp_path / "runs", "-o", "-") == 0
    assert capsys.readouterr().out == page.read_text()
    assert run("report", tmp_path / "runs", "-o", tmp_path / "no" / "such" / "folder.html") == 2


def test_a_report_opens_in_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "runs")
    opened: list[str] = []
    monkeypatch.setattr(command.webbrowser, "open", opened.append)
    monkeypatch.chdir(tmp_path)
    assert run("report", "runs", "--open") == 0
    assert opened == [(tmp_path / "report.html").as_uri()]


def test_a_report_follows_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logdir, page = tmp_path / "runs", tmp_path / "report.html"
    writer = fastlog.SummaryWriter(str(logdir))
    train(writer, range(20))
    seen: list[str] = []

    def sleep(seconds: float) -> None:
        seen.append(page.read_text())
        if len(seen) == 1:
            train(writer, range(20, 30), nan_from=20)
        elif len(seen) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    assert run("report", logdir, "-o", page, "--follow") == 0
    writer.close()
    card = 'class="finding error" id="run0-finding1" data-rule="nonfinite"'
    first, second, third = (text.replace("\n", "") for text in seen)
    assert 'http-equiv="refresh" content="10"' in first and "steps 0–19" in first and card not in first
    assert 'http-equiv="refresh"' in second and "steps 0–29" in second and card in second
    assert second == third
    assert 'http-equiv="refresh"' not in page.read_text() and card in page.read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = program()
    assert path is not None
    browser = Browser(path, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.skipif(program() is None, reason=f"none of {', '.join(PROGRAMS)} on the PATH")
def test_a_notebook_shows_the_report_in_a_frame_of_its_own(browser: Browser, tmp_path: Path) -> None:
    report = fastlog.report(write(tmp_path / "runs" / "</iframe><script>bad()</script>", nan_from=20).parent)
    assert repr(report).splitlines()[1].endswith(report.runs[0].findings[0].title)
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!DOCTYPE html><html data-ready=yes><body>{report._repr_html_()}</body></html>")
    with browser.page(notebook) as shown:
        assert shown.number("iframe") == 1 and shown.number("script") == 0
        inside = shown.evaluate("document.querySelector('iframe').srcdoc")
        assert inside == report.html()
        assert shown.complaints() == []


def test_the_page_of_a_real_run_has_its_histograms(tmp_path: Path) -> None:
    report = fastlog.report(write(tmp_path, nan_from=20))
    text = report.html()
    assert text.count('class="atlas"') == 2 and 'data-kind="weights"' in text
    data = text.partition('id="data">')[2].partition("</script>")[0]
    (atlas, _) = json.loads(data)[0]["atlases"]
    assert atlas["names"] == [f"layer.{layer}.weight" for layer in range(3)]
    assert all(len(steps) == 12 and (steps[0], steps[-1]) == (0, 29) for steps in atlas["steps"])


def test_a_single_event_file_is_a_run(tmp_path: Path) -> None:
    write(tmp_path, nan_from=20)
    assert fastlog.check(tmp_path)[0].run == tmp_path.name
    (file,) = tmp_path.glob("*tfevents*")
    assert [health.verdict for health in fastlog.check(file)] == ["error"]
    assert 'class="atlas"' in fastlog.report(file).html()


def test_a_run_of_watch_is_shown_with_its_parameters(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with (
        fastlog.SummaryWriter(str(tmp_path)) as writer,
        fastlog.watch(model, writer, optimizer, every=1, health=True),
    ):
        for step in range(20):
            optimizer.zero_grad()
            loss = (model(torch.ones(16, 4)) - 1).square().mean()
            loss.backward()
            optimizer.step()
            writer.add_scalar("loss", loss, step)
    text = fastlog.report(tmp_path).html()
    assert "4 tensors, 49 values" in text and "update / weight" in text and "learning rate" in text
