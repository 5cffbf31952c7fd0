"""What nvcc makes of the kernels: resources, machine code, and an extension that loads without a GPU.

FASTLOG_TEST_CUDA_ARCHS names the architectures ("all", or for example "80,90"; the default is those two).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from cuda_on_cpu import sass

_ASKED = os.environ.get("FASTLOG_TEST_CUDA_ARCHS", "80,90")
ARCHITECTURES = sass.ALL_ARCHITECTURES if _ASKED == "all" else tuple(_ASKED.split(","))
REGISTERS_OF_A_MULTIPROCESSOR = 65536

# What the sources may call: all of it is in CUDA 12.0.
CUDA_12_0 = {
    "cudaDeviceGetAttribute",
    "cudaEventCreateWithFlags",
    "cudaEventDestroy",
    "cudaEventElapsedTime",
    "cudaEventQuery",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaFuncSetAttribute",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaHostGetDevicePointer",
    "cudaMemcpyAsync",
    "cudaMemsetAsync",
    "cudaSetDevice",
    "cudaThreadExchangeStreamCaptureMode",
}

needs_nvcc = pytest.mark.skipif(sass.find_tool("nvcc") is None, reason="nvcc is not installed")
needs_cuobjdump = pytest.mark.skipif(
    sass.find_tool("nvcc") is None or sass.find_tool("cuobjdump") is None,
    reason="nvcc or cuobjdump is not installed (pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm)",
)


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_spills_and_full_blocks(architecture: str) -> None:
    kernels = sass.compile_kernels(architecture)[1]
    assert len(kernels) == 3
    for name, resources in kernels.items():
        assert resources.spilled_bytes == resources.stack_bytes == 0, name
        threads = 1024 if "summarize" in name else 256 * 4
        assert resources.registers * threads <= REGISTERS_OF_A_MULTIPROCESSOR, name


@needs_cuobjdump
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture: str) -> None:
    for name, code in sass.instructions(architecture).items():
        text = [step for _, step in code]
        assert not sass.count(text, r"\b(LDL|STL)\b"), name
        if "summarize" in name:
            assert sass.count(text, r"LDG\S*\.128") >= 21  # every element type's loop
            # The increment that merges equal addresses of a warp; the compiler uses it from 8.0 on.
            increment = r"ATOMS\.ADD" if architecture == "75" else r"ATOMS\.POPC\.INC"
            assert sass.count(text, increment)
        assert not sass.count(text, r"\b(ATOM|RED)\S*\.F(32|64)")  # no floating-point atomics
    costs = {kind: total for kind, (total, _) in sass.per_value(architecture).items()}
    assert set(costs) == {"8-bit", "fp16", "bf16", "fp32"}
    if architecture == "120":  # converts to double precision by integers
        return
    # An H100 at 80 % of a copy's bandwidth has 25 issue slots for a 2-byte value, 50 for 4, 12 for 1.
    assert costs["8-bit"] <= 7 and costs["bf16"] <= 17 and costs["fp16"] <= 17 and costs["fp32"] <= 20


def _build(tmp_path: Path, script: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that has imported build_cuda. Settings: ``nvcc`` and ``smi``, shell scripts in place of
    these programs, and environment variables."""
    (tmp_path / "bin").mkdir(parents=True)
    for program, name in (("nvcc", "nvcc"), ("smi", "nvidia-smi")):
        if body := settings.pop(program, None):
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("FASTLOG_CUDA", "CUDA"))
    }
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    environment = {**kept, "PYTHONPATH": str(sass.CSRC.parent), "PATH": path, "CUDA_HOME": str(tmp_path)}
    command = [sys.executable, "-c", f"import build_cuda as b\n{script}"]
    return subprocess.run(command, cwd=tmp_path, env=environment | settings, capture_output=True, text=True)


_NVCC = "echo sm_75 sm_80 sm_90 sm_120"
_NVCC_13 = 'test "$1" = --version && echo "Cuda compilation tools, release 13.0, V13.0.88" || echo sm_90'


def _smi(cuda: str) -> str:
    """nvidia-smi of a machine with an H100 and a driver for this CUDA."""
    return f'test $# = 0 && echo "| NVIDIA-SMI 550.54   CUDA Version: {cuda}  |" || echo 9.0'


_DECIDE = (
    "made = b.cuda_extensions()\n"
    "flags = b.architecture_flags(b.find_nvcc()) if made else []\n"
    "print(*(ext.optional for ext in made), *(flag.split('code=')[-1] for flag in flags))"
)


@pytest.mark.parametrize(
    ("settings", "built", "said"),
    [
        ({"nvcc": _NVCC}, "", "no GPU that nvcc knows"),
        ({"nvcc": _NVCC, "smi": "echo 9.0"}, "True e=sm_90 compute_90", ""),
        ({"nvcc": _NVCC, "smi": "echo 8.0; echo 12.1"}, "True sm_80 sm_120 compute_80 compute_120", ""),
        ({"nvcc": _NVCC, "smi": "echo 6.1"}, "", "no GPU that nvcc knows"),
        ({"nvcc": _NVCC, "smi": "exit 9"}, "", "no GPU that nvcc knows"),
        ({"nvcc": "exit 1", "smi": "echo 9.0"}, "", "no GPU that nvcc knows"),
        ({"smi": "echo 9.0"}, "", "nvcc was not found"),
        ({"nvcc": _NVCC, "FASTLOG_CUDA_ARCHS": "80,90"}, "True sm_80 sm_90 compute_80 compute_90", ""),
        ({"nvcc": _NVCC, "FASTLOG_CUDA_ARCHS": "75"}, "True sm_75 compute_75", ""),
        (
            {"nvcc": _NVCC, "FASTLOG_CUDA": "on"},
            "False sm_75 sm_80 sm_90 sm_120 compute_80 compute_120",
            "",
        ),
        ({"nvcc": _NVCC_13, "smi": _smi("13.0")}, "True sm_90 compute_90", ""),
        (
            {"nvcc": _NVCC_13, "smi": _smi("12.4")},
            "",
            "nvcc is of CUDA 13.0, the driver here runs up to 12.4",
        ),
        (
            {"nvcc": _NVCC_13, "smi": _smi("12.4"), "FASTLOG_CUDA": "on"},
            "False sm_90 compute_90",
            "nvcc is of CUDA 13.0, the driver here runs up to 12.4",
        ),
        ({"nvcc": _NVCC, "smi": "echo 9.0", "FASTLOG_CUDA": "off"}, "", "FASTLOG_CUDA=off"),
    ],
)
def test_what_is_built(tmp_path: Path, settings: dict[str, str], built: str, said: str) -> None:
    done = _build(tmp_path, _DECIDE, **settings)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"True|False|(?:sm|compute)_\d+", done.stdout)
    assert found == re.findall(r"True|False|(?:sm|compute)_\d+", built)
    assert said in done.stderr and (said or not done.stderr)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"FASTLOG_CUDA": "on"}, "FASTLOG_CUDA=on: nvcc was not found"),
        (
            {"nvcc": _NVCC, "FASTLOG_CUDA": "on", "FASTLOG_CUDA_ARCHS": "90 61"},
            "knows 75, 80, 90, 120, not 61",
        ),
        ({"nvcc": _NVCC, "FASTLOG_CUDA": "on", "FASTLOG_CUDA_ARCHS": "native"}, "not any GPU here"),
        ({"FASTLOG_CUDA": "yes"}, "use auto, on or off"),
    ],
)
def test_what_cannot_be_built_is_said(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    done = _build(tmp_path, _DECIDE, **settings)
    assert done.returncode == 1 and said in done.stderr


def test_auto_goes_on_without_the_engine_where_nvcc_fails(tmp_path: Path) -> None:
    run = (
        "import setuptools\n"
        "made = setuptools.Distribution({'name': 'x', 'ext_modules': b.cuda_extensions()})\n"
        "command = b.BuildExtensions(made)\n"
        "command.ensure_finalized()\n"
        "command.run()\n"
    )
    nvcc = 'test "$1" = --list-gpu-code && echo sm_90 || exit 3'
    done = _build(tmp_path, run, nvcc=nvcc, smi="echo 9.0")
    assert done.returncode == 0 and "nvcc failed: no CUDA engine" in done.stderr
    done = _build(tmp_path / "on", run, nvcc=nvcc, FASTLOG_CUDA="on")
    assert done.returncode == 1 and "fastlog._cuda: " in done.stderr


def test_only_calls_of_cuda_12_0() -> None:
    for path in sorted((sass.CSRC / "cuda").iterdir()):
        source = re.sub(r"//.*", "", path.read_text())
        assert set(re.findall(r"\b(cuda[A-Z]\w+)\(", source)) <= CUDA_12_0, path


@needs_nvcc
def test_the_extension_loads_without_a_gpu(tmp_path: Path) -> None:
    import pybind11

    nvcc = sass.find_tool("nvcc")
    assert nvcc
    module = tmp_path / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    includes = [f"-I{sass.CSRC}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    sources = [str(sass.CSRC / name) for name in ("cuda/launch.cu", "python/cuda_module.cpp")]
    flags = ["-std=c++17", "-arch=sm_80", "-shared", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall"]
    subprocess.run([nvcc, *flags, "--cudart=static", *includes, *sources, "-o", str(module)], check=True)
    needed = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in needed.replace(str(tmp_path), "").lower()
    script = (
        "import _cuda\n"
        "assert len(_cuda.device_tables()) == 557056\n"
        "try: _cuda.prepare_device(99)\n"
        "except _cuda.CudaError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "on CUDA device 99: " in done.stdout
