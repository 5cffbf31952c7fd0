"""Instructions per value of the hot loops, counted by valgrind: shows a slow-down without any clock."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastlog.common.native import core

VALUES = 1 << 20

# Runs under valgrind without torch and NumPy, whose import alone would take minutes there.
DRIVER = """
import ctypes, importlib.util, sys
spec = importlib.util.spec_from_file_location("_core", sys.argv[1])
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
data = open(sys.argv[2], "rb").read()
core.choose_cpu_path("baseline")
address = ctypes.cast(data, ctypes.c_void_p).value
core.summarize_one(address, int(sys.argv[3]), int(sys.argv[4]), 0, 1)
"""


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the bounds are those of x86-64 code")
@pytest.mark.parametrize(("dtype", "code", "bound"), [(torch.float32, 1, 15.3), (torch.bfloat16, 3, 6.0)])
def test_instructions_per_value_stay_low(dtype: torch.dtype, code: int, bound: float, tmp_path: Path) -> None:
    values = torch.randn(VALUES, generator=torch.Generator().manual_seed(0)).to(dtype)
    (tmp_path / "values").write_bytes(values.view(torch.uint8).numpy().tobytes())
    (tmp_path / "driver.py").write_text(DRIVER)
    run = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            "--toggle-collect=fastlog::cpu::summarize*",
            *(sys.executable, "-S", "-E", str(tmp_path / "driver.py"), core.__file__),
            *(str(tmp_path / "values"), str(VALUES), str(code)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    collected = re.search(r"Collected : (\d+)", run.stderr)
    assert collected is not None, run.stderr
    per_value = int(collected[1]) / VALUES
    assert 1 < per_value < bound, f"{per_value:.2f} instructions per value, at most {bound} allowed"
