"""tools/gpu_check.py keeps what there is: of steps that fail or hang, without a network."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from scripts import ROOT, load_script


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    return load_script("tools/gpu_check.py")


def _check(gpu_check: ModuleType, out: Path, script: str, limit: float = 60.0, **how: bool) -> object:
    return gpu_check.Step(out.name, [sys.executable, "-u", "-c", script], limit, **how)


def test_what_fails_or_hangs_leaves_its_output_and_time_for_the_others(
    gpu_check: ModuleType, tmp_path: Path
) -> None:
    check = gpu_check.Check(tmp_path, 120.0, dict(os.environ), tmp_path)
    child = "import subprocess, time; print('begun'); subprocess.run(['sleep', '1000'])"
    steps = [
        _check(gpu_check, Path("fails"), "print('half'); raise SystemExit(7)"),
        _check(gpu_check, Path("hangs"), child, limit=5.0),
        gpu_check.Step("is missing", ["/nowhere/ncu"], 60.0),
        _check(gpu_check, Path("passes"), "print('whole')"),
    ]
    failed = check.run(steps)
    assert [problem.split(":")[0] for problem in failed] == ["fails", "hangs", "is missing"]
    assert "exit code 7" in failed[0] and "ended after 5 s" in failed[1]
    kept = {path.stem: path.read_text() for path in tmp_path.glob("*.txt")}
    assert (kept["fails"], kept["hangs"], kept["passes"]) == ("half\n", "begun\n", "whole\n")


def test_what_the_others_need_ends_the_check(gpu_check: ModuleType, tmp_path: Path) -> None:
    check = gpu_check.Check(tmp_path, 120.0, dict(os.environ), tmp_path)
    steps = [
        _check(gpu_check, Path("build"), "raise SystemExit(1)", needed=True),
        _check(gpu_check, Path("tests"), "print('ran')"),
    ]
    assert len(check.run(steps)) == 1 and not (tmp_path / "tests.txt").exists()


def test_no_step_begins_when_the_time_is_over(gpu_check: ModuleType, tmp_path: Path) -> None:
    check = gpu_check.Check(tmp_path, 0.0, dict(os.environ), tmp_path)
    assert check.run([_check(gpu_check, Path("late"), "print('ran')")]) == ["late: no time was left"]


def test_what_is_missing_comes_from_wheels_or_is_named(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "NEEDED", {"numpy": "numpy", "brought_along": "Brought-Along"})
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "missing here: Brought-Along." in said and "pip download" in said
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = "brought_along-1.0.dist-info"
    with zipfile.ZipFile(wheels / "brought_along-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought_along.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: brought-along\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    assert gpu_check.missing(tmp_path / "site", wheels) == []


def test_only_test_files_with_tests_for_a_device_are_collected(gpu_check: ModuleType) -> None:
    found = {Path(path).name for path in gpu_check.tests_on_a_device(ROOT / "tests")}
    assert "test_cuda_device.py" in found and len(found) < 5


def test_the_steps_run_in_a_copy_of_the_checkout(
    gpu_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import build_cuda, os; print(build_cuda.__file__, os.environ['FASTLOG_CUDA'])"
    monkeypatch.setattr(gpu_check, "steps", lambda *_: [_check(gpu_check, Path("build"), script)])
    assert gpu_check.main(["--out", str(tmp_path)]) == 0
    where, switch = (tmp_path / "build.txt").read_text().split()
    assert switch == "on" and not Path(where).is_relative_to(gpu_check.ROOT) and not Path(where).exists()
