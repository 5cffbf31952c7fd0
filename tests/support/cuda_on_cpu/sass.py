"""Compiles the kernels with nvcc for one architecture and reads ptxas's report and the machine code.

``python tests/support/cuda_on_cpu/sass.py 80 90`` prints the table of docs/cuda.md.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parents[3] / "csrc"
ALL_ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")


def find_tool(name: str) -> str | None:
    """nvcc, cuobjdump: from CUDA_HOME, the PATH, or NVIDIA's wheels."""
    home = os.environ.get("CUDA_HOME")
    wheels = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "*", "bin", name))
    candidates = [os.path.join(home, "bin", name)] if home else []
    candidates += [shutil.which(name) or "", *wheels]
    return next((path for path in candidates if path and os.path.exists(path)), None)


@dataclass(frozen=True)
class Resources:
    """What ptxas says of one kernel."""

    registers: int
    stack_bytes: int
    spilled_bytes: int


@functools.cache
def compile_kernels(architecture: str) -> tuple[bytes, dict[str, Resources]]:
    """The cubin of csrc/cuda/launch.cu for ``sm_<architecture>``, and the resources of each kernel."""
    nvcc = find_tool("nvcc")
    assert nvcc, "nvcc was not found"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernels.cubin")
        flags = [
            "-std=c++17",
            "-O3",
            f"-I{CSRC}",
            f"-arch=sm_{architecture}",
            "-Xptxas",
            "-v",
            "-Werror",
            "all-warnings",
        ]
        command = [nvcc, *flags, "-cubin", "-o", str(cubin), str(CSRC / "cuda" / "launch.cu")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        report = done.stdout + done.stderr
        pattern = (
            r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads.*?Used (\d+) registers"
        )
        kernels = {
            name: Resources(int(registers), int(stack), int(stores) + int(loads))
            for name, stack, stores, loads, registers in re.findall(pattern, report, re.DOTALL)
        }
        return cubin.read_bytes(), kernels


@functools.cache
def instructions(architecture: str) -> dict[str, list[tuple[int, str]]]:
    """(address, text) of every instruction, by kernel."""
    cuobjdump = find_tool("cuobjdump")
    assert cuobjdump, "cuobjdump was not found"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compile_kernels(architecture)[0])
        cubin.flush()
        text = subprocess.run(
            [cuobjdump, "-sass", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    kernels: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] = []
    for line in text.splitlines():
        if function := re.search(r"Function : (\w+)", line):
            current = kernels.setdefault(function[1], [])
        elif instruction := re.match(r"\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", line):
            current.append((int(instruction[1], 16), instruction[2].strip()))
    return kernels


def loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """The shortest way round every loop that loads 16-byte vectors: no value is special there."""
    index = {address: i for i, (address, _) in enumerate(code)}
    found = []
    for end, (address, text) in enumerate(code):
        target = _branch_target(text)
        if target is not None and target < address:
            path = _shortest_path(code, index, index[target], end)
            if any("LDG" in step and ".128" in step for step in path):
                found.append(path)
    return found


def _branch_target(text: str) -> int | None:
    branch = re.match(r"(?:@!?U?P\d+ )?BRA\S* (?:!?\S+, )?0x([0-9a-f]+)", text)
    return int(branch[1], 16) if branch else None


def _shortest_path(code: list[tuple[int, str]], index: dict[int, int], start: int, end: int) -> list[str]:
    came_from = {start: -1}
    queue = [start]
    for at in queue:
        if at == end:
            break
        text = code[at][1]
        target = _branch_target(text)
        following = [] if text.startswith(("BRA", "EXIT")) else [at + 1]
        following += [index[target]] if target is not None else []
        for step in following:
            if start <= step <= end and step not in came_from:
                came_from[step] = at
                queue.append(step)
    if end not in came_from:
        return []
    path = [end]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return [code[i][1] for i in reversed(path)]


def count(path: list[str], pattern: str) -> int:
    """How many instructions of a path match."""
    return sum(bool(re.search(pattern, step)) for step in path)


def kind_of(path: list[str]) -> str | None:
    """Which element type a loop is for, of those that are told apart by their machine code."""
    atoms, loads = count(path, "ATOMS"), count(path, r"LDG.*\.128")
    if atoms % 16 == 0 and atoms == 16 * loads and not count(path, "DFMA"):
        return "8-bit"
    if count(path, r"\bLDS") != atoms or count(path, r"I2F"):
        return None
    if count(path, r"HADD2\.F32"):
        return "fp16"
    return {4: "fp32", 8: "bf16"}.get(atoms // loads)


def per_value(architecture: str) -> dict[str, tuple[float, float]]:
    """By element type: instructions for a value, and those of double precision among them."""
    result = {}
    name = next(
        name for name in instructions(architecture) if "summarize_kernel" in name and "6Tuning" in name
    )
    for path in loops(instructions(architecture)[name]):
        kind = kind_of(path)
        if kind:
            values = {"8-bit": 16, "fp32": 4}.get(kind, 8) * count(path, r"LDG.*\.128")
            doubles = count(path, r"\b(DADD|DFMA|DMUL|DSETP|F2F)")
            result[kind] = (len(path) / values, doubles / values)
    return result


def main() -> None:
    """Prints resources and instructions for a value."""
    for architecture in sys.argv[1:] or ALL_ARCHITECTURES:
        for name, resources in compile_kernels(architecture)[1].items():
            print(f"sm_{architecture} {name[:60]:60} {resources}")
        for kind, (total, doubles) in sorted(per_value(architecture).items()):
            print(
                f"sm_{architecture} {kind:6} {total:6.2f} instructions a value, {doubles:5.2f} of them fp64"
            )


if __name__ == "__main__":
    main()
