"""Builds the compiled core. Needs a C++17 compiler and pybind11; never imports torch."""

import os
import sys
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup


def cuda_switch() -> str:
    """FASTLOG_CUDA: ``auto`` (default), ``on`` or ``off``."""
    switch = os.environ.get("FASTLOG_CUDA", "auto")
    if switch not in ("auto", "on", "off"):
        sys.exit(f"FASTLOG_CUDA={switch!r}: use auto, on or off")
    return switch


if cuda_switch() == "on":
    sys.exit("FASTLOG_CUDA=on: this version has no CUDA part yet; use auto or off")
print("fastlog: building the CPU core; CUDA tensors will use the pure-torch reference", file=sys.stderr)

ParallelCompile("FASTLOG_BUILD_JOBS", default=0).install()  # 0: as many as there are cores

setup(
    ext_modules=[
        Pybind11Extension(
            "fastlog._core",
            sorted(["csrc/module.cpp", *glob("csrc/cpu/*.cpp"), *glob("csrc/events/*.cpp")]),
            include_dirs=["csrc"],
            depends=sorted(glob("csrc/**/*.h", recursive=True)),
            cxx_std=17,
            # No contraction: sums must be the same on every CPU. No -march: paths are chosen at run time.
            extra_compile_args=["-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi"],
        )
    ]
)
