"""Builds, tests and measures the CUDA engine on a machine with an NVIDIA GPU; `make gpu-check` runs it.

    python tools/gpu_check.py [--wheels FOLDER] [--out build/gpu] [--seconds 1500] [--steps build,tests]

It uses the Python that runs it, with its torch, and asks no network. What that Python lacks comes from wheels
in ``--wheels``; without them it says which are needed, and how to get them elsewhere. Every step has a limit
of time. What it printed is kept in ``--out`` as it comes, also when the step fails, hangs or the machine goes
away. The measurements become docs/gpu.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Modules by the distributions that bring them.
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "setuptools": "setuptools",
    "pybind11": "pybind11",
    "tensorboardX": "tensorboardX",
    "google.protobuf": "protobuf",
    "crc32c": "crc32c",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "tensorboard": "tensorboard",
}
SOURCES = (
    "fastlog",
    "csrc",
    "tests",
    "benchmarks",
    "pyproject.toml",
    "README.md",
    "setup.py",
    "build_cuda.py",
)
# Without the plugins and the exact packages that the project's own settings want.
PYTEST = ["-m", "pytest", "-o", "addopts=", "-W", "default", "-p", "no:cacheprovider", "-m", "cuda"]
NCU = ["--clock-control", "none", "-k", "regex:summarize_kernel", "-s", "1", "-c", "3"]
NCU_SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "WarpStateStats")
COMPILER = "import build_cuda, subprocess; subprocess.run([build_cuda.find_nvcc(), '--version'], check=True)"
PROFILED = """
import torch, fastlog
for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn):
    fastlog.summarize(torch.empty(1 << 28, dtype=torch.float32, device="cuda").normal_(std=0.02).to(dtype))
"""


@dataclass
class Step:
    """A command, and the seconds after which it is ended. ``needed``: without it the others make no sense."""

    name: str
    command: Sequence[str]
    limit: float
    needed: bool = False


@dataclass
class Check:
    """Runs steps one after the other, within ``seconds`` for all of them."""

    out: Path
    seconds: float
    environment: dict[str, str]
    folder: Path
    began: float = field(default_factory=time.monotonic)

    def run(self, steps: Sequence[Step]) -> list[str]:
        """What failed, and how; a step without time left counts."""
        failed = []
        for step in steps:
            problem = self._run(step)
            if problem:
                failed.append(f"{step.name}: {problem}")
                if step.needed:
                    break
        return failed

    def _run(self, step: Step) -> str | None:
        left = self.seconds - (time.monotonic() - self.began)
        limit = min(step.limit, left)
        if limit <= 1:
            return "no time was left"
        report = self.out / f"{step.name}.txt"
        print(f"{step.name} (at most {limit:.0f} s) > {report}", flush=True)
        with report.open("w") as kept:
            try:
                process = subprocess.Popen(
                    step.command,
                    cwd=self.folder,
                    env=self.environment,
                    stdout=kept,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                kept.write(f"{error}\n")
                return str(error)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                return f"ended after {limit:.0f} s; what it had printed is in {report}"
        print("".join(report.read_text(errors="replace").splitlines(True)[-12:]), flush=True)
        return f"exit code {code}; see {report}" if code else None


def tests_on_a_device(folder: Path) -> list[str]:
    """The test files that have some; others are not even looked at, for they may want more packages."""
    return [str(path) for path in sorted(folder.rglob("test_*.py")) if "mark.cuda" in path.read_text()]


def steps(python: str, tree: Path, out: Path, values: int, page: Path) -> list[Step]:
    """All there are, in order."""
    of_sanitizer = [str(tree / "tests/cuda/test_cuda_device.py"), "-k", "sanitizer"]
    found = [
        Step("machine", ["nvidia-smi"], 60),
        Step("compiler", [python, "-c", COMPILER], 60),
        Step("build", [python, "setup.py", "-q", "build_ext", "--inplace"], 600, needed=True),
        Step("info", [python, "-m", "fastlog", "info"], 120),
        Step("tests", [python, *PYTEST, "-v", *tests_on_a_device(tree / "tests")], 300),
        Step("measurements", [python, "benchmarks/gpu.py", "--values", str(values), "--out", str(page)], 600),
    ]
    if shutil.which("compute-sanitizer"):
        for tool in ("memcheck", "racecheck", "synccheck"):
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
            found.append(Step(tool, [*command, python, *PYTEST, *of_sanitizer], 180))
    if shutil.which("ncu"):
        sections = [word for section in NCU_SECTIONS for word in ("--section", section)]
        found.append(Step("profile", ["ncu", *NCU, *sections, python, "-c", PROFILED], 180))
    return found


def missing(site: Path, wheels: Path | None) -> list[str]:
    """Installs the wheels into ``site``, without a network; what is missing still."""
    files = sorted(map(str, wheels.glob("*.whl"))) if wheels else []
    if files:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
        subprocess.run([*pip, "--target", str(site), *files], check=True)
        sys.path.insert(0, str(site))
    return [name for module, name in NEEDED.items() if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is missing here")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "gpu.md")
    parser.add_argument("--seconds", type=float, default=1500, help="for all steps together")
    parser.add_argument("--values", type=int, default=1 << 28, help="of the measured tensors")
    parser.add_argument("--steps", help="only these, by commas")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tree, site = Path(folder, "fastlog"), Path(folder, "site")
        if lacking := missing(site, options.wheels):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            print(
                f"missing here: {', '.join(lacking)}. Where there is a network:\n"
                f"  pip download --no-deps --only-binary=:all: --python-version {version} -d wheels "
                f"{' '.join(lacking)}\nThen: make gpu-check ARGS='--wheels wheels'",
                file=sys.stderr,
            )
            return 3
        tree.mkdir()
        for name in SOURCES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, tree / name)
        environment = {
            "FASTLOG_CUDA": "on",
            "FASTLOG_CUDA_ARCHS": "native",
            **os.environ,
            "FASTLOG_REQUIRE_CUDA": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": f"{tree}{os.pathsep}{site}",
        }
        chosen = steps(sys.executable, tree, out, options.values, options.page.resolve())
        if options.steps:
            chosen = [step for step in chosen if step.name in options.steps.split(",")]
        failed = Check(out, options.seconds, environment, tree).run(chosen)
    print("\n".join(failed) or "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
