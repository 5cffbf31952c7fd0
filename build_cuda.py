"""How setup.py builds the CUDA engine: ``fastlog._cuda``, by nvcc alone, with the CUDA runtime inside.

FASTLOG_CUDA: ``on`` builds it, or fails; ``auto`` (default) and ``off`` do not: the engine has not run on a
GPU yet, and nothing uses it until it has.
FASTLOG_CUDA_ARCHS: compute capabilities, for example "80,90", or "native" for those of the GPUs at hand.
CUDA_HOME: a toolkit; else nvcc is taken from the PATH or from NVIDIA's wheels.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

import pybind11
from pybind11.setup_helpers import build_ext
from setuptools import Extension

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
_SOURCES = ["csrc/cuda/launch.cu", "csrc/cuda/module.cpp"]


def cuda_extensions() -> list[Extension]:
    """The CUDA extension, or nothing; says which on stderr."""
    switch = os.environ.get("FASTLOG_CUDA", "auto")
    if switch not in ("auto", "on", "off"):
        sys.exit(f"FASTLOG_CUDA={switch!r}: use auto, on or off")
    if switch != "on":
        _say(f"FASTLOG_CUDA={switch}: no CUDA engine; CUDA tensors use the pure-torch reference")
        return []
    if find_nvcc() is None:
        sys.exit("FASTLOG_CUDA=on: nvcc was not found; set CUDA_HOME, or put nvcc on the PATH")
    depends = [*glob("csrc/cuda/*"), *glob("csrc/core/*")]
    return [Extension("fastlog._cuda", _SOURCES, depends=sorted(depends))]


def find_nvcc() -> str | None:
    """From CUDA_HOME, the PATH, or a wheel (nvidia-cuda-nvcc 13 and later)."""
    home = os.environ.get("CUDA_HOME")
    if home:
        found = os.path.join(home, "bin", "nvcc")
        return found if os.path.exists(found) else None
    wheels = [
        found for folder in sys.path for found in glob(os.path.join(folder, "nvidia", "*", "bin", "nvcc"))
    ]
    return shutil.which("nvcc") or next(iter(wheels), None)


def architecture_flags(nvcc: str) -> list[str]:
    """Machine code for each architecture, and PTX of the newest for those to come."""
    asked = os.environ.get("FASTLOG_CUDA_ARCHS")
    if asked == "native":
        return ["-arch=native"]
    known = re.findall(r"sm_(\d+)\b", _output([nvcc, "--list-gpu-code"]))
    chosen = asked.replace(",", " ").split() if asked else [a for a in ARCHITECTURES if a in known]
    unknown = sorted(set(chosen) - set(known))
    if unknown or not chosen:
        sys.exit(
            f"FASTLOG_CUDA_ARCHS: this nvcc knows {', '.join(known)}, not {', '.join(unknown) or 'nothing'}"
        )
    newest = max(chosen, key=int)
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in chosen]
    return [*code, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


class BuildExtensions(build_ext):
    """Hands ``fastlog._cuda`` to nvcc and leaves the rest to the C++ compiler."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name != "fastlog._cuda":
            super().build_extension(ext)
            return
        nvcc = find_nvcc()
        assert nvcc is not None
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(self._nvcc_command(nvcc, target), check=True)

    def _nvcc_command(self, nvcc: str, target: Path) -> list[str]:
        includes = ["csrc", pybind11.get_include(), *(self.compiler.include_dirs or []), *self.include_dirs]
        return [
            *(nvcc, "-std=c++17", "-O3", "-shared", "--cudart=static", "--threads=0"),
            *("-Xcompiler", "-fPIC,-fvisibility=hidden", *architecture_flags(nvcc)),
            *(f"-I{folder}" for folder in dict.fromkeys(includes)),
            *(*_SOURCES, "-o", str(target)),
        ]


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _say(message: str) -> None:
    print(f"fastlog: {message}", file=sys.stderr)
