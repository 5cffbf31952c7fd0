"""Compiles the harness and what runs on it with g++, plainly or under sanitizers; cached by content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CSRC = ROOT / "csrc"

_BASE = [
    "g++",
    "-std=c++17",
    "-g",
    "-Wall",
    "-Wextra",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-pthread",
]
# Shared memory is read and written through casts, as on the device: hence no strict aliasing.
MODES: dict[str, list[str]] = {
    "plain": ["-O2"],
    "asan": ["-O1", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"],
    "tsan": ["-O1", "-fsanitize=thread"],
}
# The fiber runtime orders nothing by itself, so ThreadSanitizer must not look into it.
_RUNTIME_MODE = {"plain": ["-O2"], "asan": ["-O1", "-fsanitize=address"], "tsan": ["-O1"]}
_CACHE = Path(tempfile.gettempdir()) / "fastlog-cuda-on-cpu"


def _fingerprint(command: list[str], csrc: Path) -> str:
    digest = hashlib.sha256(" ".join(command).encode())
    for folder in (csrc / "core", csrc / "cuda", csrc / "python", HERE):
        for path in sorted(folder.rglob("*")):
            if path.suffix in {".h", ".cuh", ".cu", ".cpp"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def _compile(command: list[str], suffix: str, csrc: Path = CSRC) -> Path:
    target = _CACHE / (_fingerprint(command, csrc) + suffix)
    if not target.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f"{target.suffix}.{os.getpid()}")
        subprocess.run([*command, "-o", str(unfinished)], check=True)
        unfinished.rename(target)
    return target


def _includes(csrc: Path) -> list[str]:
    return [f"-I{HERE / 'include'}", f"-I{csrc}"]


def _runtime(mode: str, extra: list[str]) -> Path:
    return _compile([*_BASE, *_RUNTIME_MODE[mode], *extra, "-c", str(HERE / "runtime.cpp")], ".o")


def program(source: Path, mode: str, csrc: Path = CSRC) -> Path:
    """An executable of ``source``, the kernels of ``csrc`` and the fiber runtime."""
    only = [] if mode == "plain" else ["-DONLY_LITTLE"]
    command = [*_BASE, *MODES[mode], *only, *_includes(csrc), str(source), str(_runtime(mode, []))]
    return _compile(command, "", csrc)


def extension(name: str, sources: list[Path]) -> Path:
    """A Python extension module ``name`` of ``sources`` and the fiber runtime; its folder is its own."""
    import pybind11

    files = [argument for source in sources for argument in ("-x", "c++", str(source))]
    includes = [*_includes(CSRC), f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    command = [*_BASE, "-O2", "-fPIC", "-shared", "-fvisibility=hidden", *includes, *files, "-x", "none"]
    command.append(str(_runtime("plain", ["-fPIC"])))
    built = _compile(command, ".so")
    folder = built.with_suffix("")
    folder.mkdir(exist_ok=True)
    module = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not module.exists():
        module.symlink_to(built)
    return module
