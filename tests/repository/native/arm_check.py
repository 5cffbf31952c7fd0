"""``make arm-check``: the core for aarch64, under qemu, makes the same bytes as on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from native import build

LIBRARIES = "/usr/aarch64-linux-gnu"
QEMU = ("qemu-aarch64", "-L", LIBRARIES)
SOURCE = build.HERE / "portable_main.cpp"
VALUES = 65536


def why_not() -> str:
    """What is missing for building and running programs of aarch64; empty where nothing is."""
    packages = {build.AARCH64: "g++-aarch64-linux-gnu", QEMU[0]: "qemu-user", "g++": "g++"}
    missing = [package for command, package in packages.items() if shutil.which(command) is None]
    return f"not installed (Debian's packages): {', '.join(missing)}" if missing else ""


def cases(command: Iterable[str]) -> tuple[str, dict[str, str]]:
    """What a program says of its CPU, and the bytes of each case."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = build.unpack_corpus(Path(folder))
        run = subprocess.run([*command, *map(str, corpus)], stdout=-1, text=True, timeout=600)
    lines = run.stdout.splitlines()
    if run.returncode:
        raise SystemExit(f"{lines[-1] if lines else 'no output'}; exit status {run.returncode}")
    return lines[0].removeprefix("# "), dict(line.split(": ") for line in lines[1:])


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """The cases that are not in both, or not with the same bytes."""
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def instructions(program: str, dtype: str, content: str) -> float:
    """Those of the loops over the values, for each value."""
    command = [*QEMU, "-singlestep", "-d", "exec,nochain", program, "count", dtype, content, str(VALUES), "1"]
    with subprocess.Popen(command, stderr=-1, text=True) as run:
        assert run.stderr is not None
        return sum("3cpu8baseline5chunk" in line for line in run.stderr) / VALUES


def main() -> int:
    if reason := why_not():
        print(f"make arm-check cannot run here: {reason}", file=sys.stderr)
        return 2
    program = str(build.program(SOURCE, "aarch64"))
    here, expected = cases([str(build.program(SOURCE, "host"))])
    there, found = cases([*QEMU, program])
    different = differences(expected, found)
    print(f"this machine: {here}\naarch64: {there}")
    print(f"{len(expected)} cases, {len(different)} with other bytes", *different[:20], sep="\n  ")
    for dtype in ("float32", "bfloat16", "float64"):
        for content in ("gaussian", "zeros"):
            print(f"{dtype} {content}: {instructions(program, dtype, content):.2f} instructions a value")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
