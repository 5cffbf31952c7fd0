"""``python -m fastlog tail``: what it shows, and a real terminal that it gives back."""

from __future__ import annotations

import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fastlog
from fastlog.__main__ import main
from fastlog.health.tail import Tail


def write(folder: Path, steps: range = range(40), bad_from: int | None = None) -> fastlog.SummaryWriter:
    writer = fastlog.SummaryWriter(folder)
    for step in steps:
        bad = bad_from is not None and step >= bad_from
        writer.add_scalar("loss/train", math.nan if bad else 2 / (1 + step), step, walltime=1000 + step / 4)
        writer.add_scalar("loss/val", 3 / (1 + step), step, walltime=1000 + step / 4)
        writer.add_scalar("grad_norm/layer.0", 7.0, step)
        writer.add_scalar("grad_norm/global", 1.5, step)
        writer.add_scalar("optimizer/lr", 0.001, step)
    writer.flush()
    return writer


def tail(*arguments: Any) -> int:
    try:
        main(["tail", *map(str, arguments)])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def test_one_look_shows_loss_gradient_norm_rate_and_speed(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path / "run").close()
    assert tail(tmp_path / "run", "--once") == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"run · step 39 · written \d+ s ago", lines[0])
    by_label = {line.split("  ")[0]: line for line in lines[1:] if line}
    assert "0.05" in by_label["loss/train"] and "0.05 … 2" in by_label["loss/train"]
    assert "0.075" in by_label["loss/val"]
    assert " 1.5 " in by_label["grad_norm/global"] and "grad_norm/layer.0" not in by_label
    assert "0.001" in by_label["optimizer/lr"]
    assert " 4 " in by_label["steps per second"]


def test_findings_stand_below(tmp_path: Path, capsys: Any) -> None:
    write(tmp_path, bad_from=20).close()
    assert tail(tmp_path, "--once") == 0
    out = capsys.readouterr().out
    (finding,) = fastlog.check(tmp_path)[0].findings[:1]
    assert finding.rule == "nonfinite" and finding.title[1:] in out and "(step 20)" in out
    assert "×" in out  # in the line of the loss


def test_the_run_that_was_written_last_is_shown_and_others_are_named(tmp_path: Path, capsys: Any) -> None:
    for number, name in enumerate(["old", "new", "older"]):
        write(tmp_path / name, range(number + 2)).close()
        for file in (tmp_path / name).iterdir():
            written = {"older": 1e9, "old": 2e9 - 1e9 + 60, "new": 1.6e9}[name]
            os.utime(file, (written, written))
    assert tail(tmp_path, "--once") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("new · step 2") and lines[-1] == "2 other runs: old, older"
    assert tail(tmp_path, "--once", "--run", "older") == 0
    assert capsys.readouterr().out.startswith("older · step 3")
    assert tail(tmp_path, "--once", "--run", "none") == 2
    assert "'none'" in capsys.readouterr().err


def test_what_is_written_while_it_looks_is_seen(tmp_path: Path) -> None:
    now = [1000.0]
    shown = Tail(str(tmp_path), clock=lambda: now[0])
    shown.look()
    assert shown.lines(80, 24) == [f"waiting for event files in {tmp_path}"[:80]]
    writer = write(tmp_path / "run", range(5))
    now[0] += 10  # seconds between two looks for new runs
    shown.look()
    assert shown.lines(80, 24)[0].startswith("run · step 4")
    writer.add_scalar("loss/train", 9.0, 5)
    writer.flush()
    shown.look()
    assert shown.lines(80, 24)[0].startswith("run · step 5")
    writer.close()


def test_a_picture_keeps_to_the_terminal_and_names_do_not_command_it(tmp_path: Path) -> None:
    with fastlog.TorchSummaryWriter(str(tmp_path / "run")) as writer:
        for step in range(30):
            writer.add_scalar("\x1b[2J" + "very/" * 20 + "loss", 1.0, step)
    shown = Tail(str(tmp_path))
    shown.look()
    shown.check_now()
    for width, height in ((40, 5), (80, 24), (200, 50)):
        lines = shown.lines(width, height)
        assert len(lines) <= height and all(len(line) <= width for line in lines)
        assert "\x1b" not in "".join(lines)


def test_a_run_without_these_series_says_what_it_has(tmp_path: Path, capsys: Any) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_text("note", "x", 0)
    assert tail(tmp_path, "--once") == 0
    out = capsys.readouterr().out
    assert "among 0 series of scalars" in out and "not checked yet" in out


def test_nothing_to_read_has_status_2(tmp_path: Path, capsys: Any) -> None:
    assert tail(tmp_path, "--once") == 2
    assert "no event file" in capsys.readouterr().err


def test_in_a_terminal_it_redraws_follows_and_gives_the_screen_back(tmp_path: Path) -> None:
    writer = write(tmp_path / "run", range(5))
    parent, child = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "fastlog", "tail", str(tmp_path)], stdin=child, stdout=child, stderr=child
    )
    os.close(child)
    seen = read_until(parent, "step 4")
    writer.add_scalar("loss/train", 0.1, 77)
    writer.flush()
    seen += read_until(parent, "step 77")
    seen += read_until(parent, "✓")  # the check beside it is over
    program.send_signal(signal.SIGINT)
    seen += read_until(parent, "\x1b[?1049l")
    assert program.wait(30) == 0
    os.close(parent)
    writer.close()
    assert seen.startswith("\x1b[?1049h") and seen.count("\x1b[H") >= 3 and "Traceback" not in seen


def read_until(terminal: int, text: str, seconds: float = 60.0) -> str:
    seen, give_up = b"", time.monotonic() + seconds
    while text.encode() not in seen:
        assert time.monotonic() < give_up, seen.decode(errors="replace")
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 65536)
    return seen.decode(errors="replace")
