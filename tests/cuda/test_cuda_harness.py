"""The harness that executes kernels on the CPU finds every kind of mistake that it is there to find."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest
from cuda_on_cpu import build

SEEDS = (0, 1, 2)

# Mistake, and the builds in which it has to be noticed: by the runtime's own message, by a sanitizer, or
# by a wrong result under some schedule.
FAULTS = {
    "missing_barrier": {"plain": "wrong", "tsan": "ThreadSanitizer: data race"},
    "missing_syncwarp": {"tsan": "ThreadSanitizer: data race"},
    "plain_add": {"tsan": "ThreadSanitizer: data race"},
    "missing_fence": {"tsan": "ThreadSanitizer: data race"},
    "divergent_barrier": {"plain": "divergent barrier: threads of a block meet at lines"},
    "barrier_after_exit": {"plain": "divergent barrier: "},
    "exited_lane_in_mask": {"plain": "exited"},
    "shuffle_outside_mask": {"plain": "outside of mask"},
    "uninitialised_shared": {"plain": "wrong"},
    "shared_past_the_end": {"asan": "heap-buffer-overflow"},
    "misaligned_vector": {"asan": "misaligned address"},
    "cast_overflow": {"asan": "outside the range of representable values"},
}


@functools.cache
def _program(mode: str) -> Path:
    return build.program(build.HERE / "faults.cpp", mode)


def _run(mode: str, fault: str, variant: str, seed: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
    command = [str(_program(mode)), fault, variant, str(seed)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


@pytest.mark.parametrize(
    ("fault", "mode"), [(fault, mode) for fault, found in FAULTS.items() for mode in found]
)
def test_a_seeded_fault_is_found(fault: str, mode: str) -> None:
    runs = [_run(mode, fault, "faulty", seed) for seed in SEEDS]
    outputs = [run.stdout + run.stderr for run in runs]
    assert any(FAULTS[fault][mode] in output for output in outputs), outputs


@pytest.mark.parametrize("mode", list(build.MODES))
@pytest.mark.parametrize("fault", list(FAULTS))
def test_the_same_kernel_without_the_fault_passes(fault: str, mode: str) -> None:
    for seed in SEEDS:
        run = _run(mode, fault, "right", seed)
        assert (run.returncode, run.stdout) == (0, "right\n"), run.stderr
