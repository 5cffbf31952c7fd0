"""The example notebook, run as Jupyter runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from watch_oracle import read, steps

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def assert_logged(logdir: Path) -> None:
    assert steps(logdir, "loss") == list(range(100))
    assert steps(logdir) == list(range(0, 100, 10))
    assert len(read(logdir).Tags()["histograms"]) == 2 * 4


def test_its_cells_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    namespace: dict[str, object] = {}
    for source in code:
        exec(compile(source, str(NOTEBOOK), "exec"), namespace)
    assert_logged(tmp_path / "runs" / "notebook")


def test_it_comes_without_outputs_and_jupyter_shows_summaries_and_writers_in_it(tmp_path: Path) -> None:
    pytest.importorskip("nbconvert")
    pytest.importorskip("ipykernel")
    assert not any(cell.get("outputs") for cell in json.loads(NOTEBOOK.read_text())["cells"])
    copy = shutil.copy(NOTEBOOK, tmp_path)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", copy]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    executed = {cell["id"]: cell for cell in json.loads(Path(copy).read_text())["cells"]}
    assert_logged(tmp_path / "runs" / "notebook")
    for cell, shown in (("summarize", "TensorSummary"), ("writer", "runs/notebook")):
        (output,) = executed[cell]["outputs"]
        assert shown in "".join(output["data"]["text/html"])
