"""Compiles the CPU core, under sanitizers or for aarch64; every object and product cached by content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sysconfig
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[2] / "csrc"

_BASE = [
    "-std=c++17",
    "-g1",
    "-O1",
    "-fPIC",
    "-pthread",
    "-ffp-contract=off",
    "-Wno-psabi",
    f"-I{CSRC}",
]
MODES = {
    "asan": ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"],
    "tsan": ["-fsanitize=thread"],
    "host": ["-O3", "-Wall", "-Wextra", "-Werror"],
    "aarch64": ["-O3", "-Wall", "-Wextra", "-Werror"],
}
AARCH64 = "aarch64-linux-gnu-g++"
_CACHE = Path(tempfile.gettempdir()) / "fastlog-sanitized"


def why_not(mode: str) -> str:
    """Why programs cannot be compiled and run with this sanitizer here; empty where they can."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/program"
        command = ["g++", *MODES[mode], "-x", "c++", "-", "-o", program]
        try:
            built = subprocess.run(command, input="int main() {}", capture_output=True, text=True)
        except FileNotFoundError:
            return "no g++"
        if built.returncode:
            return f"g++ has no {mode}: {built.stderr.strip()}"
        ran = subprocess.run([program], capture_output=True, text=True)
        return f"{mode} does not run here: {ran.stderr.strip()}" if ran.returncode else ""


def program(source: Path, mode: str) -> Path:
    """An executable of ``source`` and the core, without Python."""
    sources = [path for room in ("cpu", "events") for path in sorted((CSRC / room).glob("*.cpp"))]
    return _link(_objects([source, *sources], mode, []), mode, "program", [])


def replay() -> Path:
    """The fuzz target as a program that reads files of a corpus, under ``asan``."""
    sources = [HERE / "fuzz_scan.cpp", *sorted((CSRC / "events").glob("*.cpp"))]
    return _link(_objects(sources, "asan", ["-DFASTLOG_REPLAY"]), "asan", "replay", [])


def fuzzer() -> Path:
    """The fuzz target with libFuzzer; needs clang++."""
    sources = [HERE / "fuzz_scan.cpp", *sorted((CSRC / "events").glob("*.cpp"))]
    flags = ["-fsanitize=fuzzer,address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
    command = ["clang++", *_BASE, *flags, *map(str, sources)]
    headers = b"".join(path.read_bytes() for path in [*sorted(CSRC.rglob("*.h")), *sources])
    return _made(_CACHE / _digest(headers, " ".join(command).encode()) / "fuzz", command)


def unpack_corpus(folder: Path) -> list[Path]:
    """Writes what fuzzing has found so far, a file for each input."""
    with zipfile.ZipFile(HERE / "fuzz_corpus.zip") as corpus:
        corpus.extractall(folder)
        return [folder / name for name in corpus.namelist()]


def extension(mode: str) -> Path:
    """The extension module ``_core``."""
    import pybind11

    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}", "-fvisibility=hidden"]
    sources = [
        *(CSRC / "python" / name for name in ("core_module.cpp", "events.cpp", "reading.cpp")),
        *sorted((CSRC / "cpu").glob("*.cpp")),
        *sorted((CSRC / "events").glob("*.cpp")),
    ]
    return _link(
        _objects(sources, mode, includes), mode, f"_core{sysconfig.get_config_var('EXT_SUFFIX')}", ["-shared"]
    )


def libraries() -> str:
    """What LD_PRELOAD needs before an interpreter can load the extension under ``asan``."""
    # libstdc++: AddressSanitizer looks for __cxa_throw when it starts, and Python itself does not bring it.
    names = ("libasan.so", "libubsan.so", "libstdc++.so")
    found = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names
    ]
    return ":".join(os.path.realpath(path) for path in found)


def _compiler(mode: str) -> str:
    return AARCH64 if mode == "aarch64" else "g++"


def _objects(sources: list[Path], mode: str, extra: list[str]) -> list[Path]:
    headers = b"".join(path.read_bytes() for path in sorted(CSRC.rglob("*.h")))

    def compiled(source: Path) -> Path:
        command = [_compiler(mode), *_BASE, *MODES[mode], *extra, "-c", str(source)]
        target = _CACHE / f"{_digest(headers, source.read_bytes(), ' '.join(command).encode())}.o"
        return _made(target, command)

    # The kernels take as long as all the others together.
    slowest_first = sorted(sources, key=lambda source: source.name != "kernels.cpp")
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compiled, slowest_first))


def _link(objects: list[Path], mode: str, name: str, extra: list[str]) -> Path:
    command = [_compiler(mode), "-pthread", *MODES[mode], *extra, *map(str, objects)]
    return _made(_CACHE / _digest(" ".join(command).encode()) / name, command)


def _made(target: Path, command: list[str]) -> Path:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        subprocess.run([*command, "-o", str(unfinished)], check=True)
        unfinished.rename(target)
    return target


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]
