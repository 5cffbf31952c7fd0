"""How setup.py builds the CUDA engine: ``fastlog._cuda``, by nvcc alone, with the CUDA runtime inside.

FASTLOG_CUDA: ``auto`` (default) builds it for the GPUs of this machine where nvcc is found too, and goes on
without it where that fails; ``on`` builds it, for all architectures, or fails; ``off`` does not.
FASTLOG_CUDA_ARCHS: compute capabilities to build for instead, for example "80,90", or "native".
CUDA_HOME: a toolkit; else nvcc is taken from the PATH or from NVIDIA's wheels.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

import pybind11
from pybind11.setup_helpers import build_ext
from setuptools import Extension
from setuptools.errors import CompileError

ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
_SOURCES = ["csrc/cuda/launch.cu", "csrc/python/cuda_module.cpp"]
_PLAIN_TORCH = "CUDA tensors use the pure-torch reference"


def cuda_extensions() -> list[Extension]:
    """The CUDA extension, or nothing; says which on stderr."""
    switch = os.environ.get("FASTLOG_CUDA", "auto")
    if switch not in ("auto", "on", "off"):
        sys.exit(f"FASTLOG_CUDA={switch!r}: use auto, on or off")
    missing = _missing(switch)
    if missing and switch == "on":
        sys.exit(f"FASTLOG_CUDA=on: {missing}")
    if missing:
        _say(f"no CUDA engine ({missing}); {_PLAIN_TORCH}")
        return []
    if too_new := _too_new(find_nvcc()):
        _say(f"the CUDA engine is for other machines: {too_new}")
    depends = [*glob("csrc/cuda/*"), *glob("csrc/core/*"), *glob("csrc/python/*")]
    return [Extension("fastlog._cuda", _SOURCES, depends=sorted(depends), optional=switch == "auto")]


def _missing(switch: str) -> str | None:
    """Why the engine is not built."""
    if switch == "off":
        return "FASTLOG_CUDA=off"
    nvcc = find_nvcc()
    if nvcc is None:
        return "nvcc was not found; set CUDA_HOME, put nvcc on the PATH, or pip install nvidia-cuda-nvcc"
    if switch == "auto" and "FASTLOG_CUDA_ARCHS" not in os.environ and not _native(nvcc):
        return "no GPU that nvcc knows was found; FASTLOG_CUDA=on or FASTLOG_CUDA_ARCHS builds it anyway"
    if switch == "auto" and "FASTLOG_CUDA_ARCHS" not in os.environ:
        return _too_new(nvcc)
    return None


def _too_new(nvcc: str | None) -> str | None:
    """Why what nvcc makes cannot run with the driver here; None also where there is no driver."""
    if nvcc is None:
        return None
    try:
        driver = re.search(r"CUDA Version: *(\d+)\.(\d+)", _output(["nvidia-smi"]))
        compiler = re.search(r"release (\d+)\.(\d+)", _output([nvcc, "--version"]))
    except (OSError, subprocess.CalledProcessError):
        return None
    if not driver or not compiler or int(compiler[1]) <= int(driver[1]):
        return None
    return (
        f"nvcc is of CUDA {compiler[1]}.{compiler[2]}, the driver here runs up to {driver[1]}.{driver[2]}; "
        f"take a toolkit of CUDA {driver[1]} (CUDA_HOME names it), or a newer driver (CUDA 13 needs 580)"
    )


def find_nvcc() -> str | None:
    """From CUDA_HOME, the PATH, or a wheel (nvidia-cuda-nvcc 13 and later)."""
    home = os.environ.get("CUDA_HOME")
    if home:
        found = os.path.join(home, "bin", "nvcc")
        return found if os.path.exists(found) else None
    # In an isolated build sys.path lacks the packages of the environment that is built for.
    folders = [sysconfig.get_path("purelib"), *sys.path]
    wheels = [
        found for folder in folders for found in glob(os.path.join(folder, "nvidia", "*", "bin", "nvcc"))
    ]
    return shutil.which("nvcc") or next(iter(wheels), None)


def architecture_flags(nvcc: str) -> list[str]:
    """Machine code for each architecture; PTX of the newest for those to come, and of the oldest (from 8.0
    on, where there is one: increments merge there) for those between that have no machine code here."""
    asked = os.environ.get("FASTLOG_CUDA_ARCHS")
    known = _known(nvcc)
    if asked == "native" or (not asked and os.environ.get("FASTLOG_CUDA", "auto") == "auto"):
        chosen = _native(nvcc)
    elif asked:
        chosen = asked.replace(",", " ").split()
    else:
        chosen = [a for a in ARCHITECTURES if a in known]
    unknown = sorted(set(chosen) - set(known))
    if unknown or not chosen:
        sys.exit(
            f"FASTLOG_CUDA_ARCHS: this nvcc knows {', '.join(known)}, "
            f"not {', '.join(unknown) or 'any GPU here'}"
        )
    by_age = sorted(chosen, key=int)
    oldest = next((a for a in by_age if int(a) >= 80), by_age[0])
    code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in chosen]
    ptx = dict.fromkeys((oldest, by_age[-1]))
    return [*code, *(f"-gencode=arch=compute_{a},code=compute_{a}" for a in ptx)]


def _known(nvcc: str) -> list[str]:
    return re.findall(r"sm_(\d+)\b", _output([nvcc, "--list-gpu-code"]))


def _native(nvcc: str) -> list[str]:
    """The architectures of the GPUs here; for one that is newer than nvcc, the newest that nvcc knows."""
    try:
        listed = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
        known = [int(architecture) for architecture in _known(nvcc)]
    except (OSError, subprocess.CalledProcessError):
        return []
    here = {int(major + minor) for major, minor in re.findall(r"(\d+)\.(\d)", listed)}
    return [str(a) for a in sorted({a if a in known else max(known) for a in here if a >= min(known)})]


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
        try:
            subprocess.run(self._nvcc_command(nvcc, target), check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            target.unlink(missing_ok=True)
            if ext.optional:
                _say(f"nvcc failed: no CUDA engine; {_PLAIN_TORCH}")
            raise CompileError(f"fastlog._cuda: {error}") from error

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
