"""The CPU core under ThreadSanitizer, AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from native import build


def _needs(mode: str) -> None:
    reason = build.why_not(mode)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def threads_program() -> str:
    _needs("tsan")
    return str(build.program(build.HERE / "sanitize_main.cpp", "tsan"))


@pytest.fixture(scope="module")
def core_path() -> str:
    _needs("asan")
    return str(build.extension("asan"))


def _run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def _drive_core(path: str, fault: str) -> subprocess.CompletedProcess[str]:
    return _run(
        [sys.executable, str(build.HERE / "sanitize_core.py"), path, fault],
        LD_PRELOAD=build.libraries(),
        ASAN_OPTIONS="detect_leaks=0",  # the interpreter keeps much until its end
        UBSAN_OPTIONS="print_stacktrace=1",
        PYTHONMALLOC="malloc",  # else small objects share blocks, and a read beyond one is not seen
        OPENBLAS_NUM_THREADS="1",
    )


def test_threads_that_summarize_and_encode_at_once_do_not_race(threads_program):
    run = _run([threads_program], TSAN_OPTIONS="halt_on_error=0")
    assert (run.returncode, run.stdout, run.stderr) == (0, "right\n", "")


def test_a_race_in_the_pool_would_be_reported(threads_program):
    run = _run([threads_program, "race"], TSAN_OPTIONS="halt_on_error=0")
    assert run.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in run.stderr


def test_the_extension_reads_and_computes_nothing_undefined(core_path):
    run = _drive_core(core_path, "none")
    assert (run.returncode, run.stdout) == (0, "right\n"), run.stderr
    assert "runtime error" not in run.stderr


def test_a_value_read_beyond_its_buffer_would_be_reported(core_path):
    run = _drive_core(core_path, "overread")
    assert run.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in run.stderr


def test_what_fuzzing_has_found_is_read_without_fault(tmp_path):
    _needs("asan")
    inputs = build.unpack_corpus(tmp_path)
    assert len(inputs) > 300
    run = _run([str(build.replay()), *map(str, inputs)])
    assert (run.returncode, run.stdout, run.stderr) == (0, "right\n", "")


def test_a_histogram_without_buckets_is_no_fault(tmp_path):
    """A null pointer went to memcpy, as fuzzing found."""
    _needs("asan")
    (tmp_path / "input").write_bytes(b"\x0b2\x00\n\x08")
    run = _run([str(build.replay()), str(tmp_path / "input")])
    assert (run.returncode, run.stdout, run.stderr) == (0, "right\n", "")
