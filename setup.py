"""Builds the compiled core. Needs a C++17 compiler and pybind11; never imports torch."""

import os
import sys
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from build_cuda import BuildExtensions, cuda_extensions

_BINDINGS = ["csrc/python/core_module.cpp", "csrc/python/events.cpp", "csrc/python/reading.cpp"]

ParallelCompile("FASTLOG_BUILD_JOBS", default=0).install()  # 0: as many as there are cores

setup(
    ext_modules=[
        Pybind11Extension(
            "fastlog._core",
            sorted([*_BINDINGS, *glob("csrc/cpu/*.cpp"), *glob("csrc/events/*.cpp")]),
            include_dirs=["csrc"],
            depends=sorted(glob("csrc/**/*.h", recursive=True)),
            cxx_std=17,
            # No contraction: sums must be the same on every CPU. No -march: paths are chosen at run time.
            extra_compile_args=["-O3", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi"],
        ),
        *cuda_extensions(),
    ],
    cmdclass={"build_ext": BuildExtensions},
)
