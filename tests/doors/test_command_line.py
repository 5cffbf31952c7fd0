"""``python -m fastlog`` beside what its commands do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastlog


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fastlog", *arguments], capture_output=True, text=True)


def test_a_thread_that_outlives_the_program_pickles_its_classes(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import pickle, threading, time\n"
        "class Thing: pass\n"
        "def late():\n"
        "    time.sleep(0.5)\n"
        "    print(type(pickle.loads(pickle.dumps(Thing()))).__name__)\n"
        "threading.Thread(target=late).start()\n"
    )
    for arguments in ([str(tmp_path / "late.py")], ["--", str(tmp_path / "late.py")]):
        done = run_command("run", *arguments)
        assert (done.stdout, done.stderr, done.returncode) == ("Thing\n", "", 0)
    done = subprocess.run(
        [sys.executable, "-m", "fastlog", "run", "-m", "late"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("Thing\n", "")


def test_info_is_quiet_where_nobody_reads_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "fastlog", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as info:
        assert info.stdout is not None and info.stderr is not None
        info.stdout.close()
        assert info.stderr.read() == b""
    assert info.returncode == 0


def test_a_checkout_that_is_not_built_says_so_in_a_sentence(tmp_path: Path) -> None:
    shutil.copytree(
        Path(fastlog.__file__).parent, tmp_path / "fastlog", ignore=shutil.ignore_patterns("*.so")
    )
    (tmp_path / "fastlog" / "_core.py").write_text("raise ImportError('no shared object')")
    command = [sys.executable, "-m", "fastlog", "info"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("fastlog's compiled core is missing") and done.stderr.count("\n") == 1
