"""The bytes of a summary depend on the values alone: not on threads, CPU path, alignment or other callers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from oracles import DTYPES, assert_summary, random_tensor

import fastlog
from fastlog.common.native import core
from fastlog.summaries.engines import pack_many, pack_one
from fastlog.summaries.tensors import view_of

SIZES = [5, 3000, 65536, 131072, 300_001]


def on_each_path(row: tuple[int, int, int, int], threads: tuple[int, ...] = (1, 2, 5)) -> set[bytes]:
    chosen = core.cpu_path()
    try:
        packed = set()
        for path in core.cpu_paths():
            core.choose_cpu_path(path)
            packed |= {core.summarize_one(*row, count) for count in threads}
        return packed
    finally:
        core.choose_cpu_path(chosen)


@pytest.mark.parametrize("content", ["normal", "zeros", "bits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bytes_for_any_threads_and_path(dtype, content):
    for size in SIZES:
        tensor = random_tensor(dtype, content, size, seed=size)
        packed = on_each_path(view_of(tensor)[:4])
        assert len(packed) == 1
        if size == SIZES[-1]:
            assert_summary(fastlog.TensorSummary.from_packed(packed.pop()), tensor)


def test_same_bytes_where_partial_sums_overflow():
    values = np.random.default_rng(0).choice([1e308, -1e308, 1.0, np.inf, np.nan], 300_000)
    assert len(on_each_path(view_of(values)[:4])) == 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bytes_for_many_tensors_in_one_call(threads):
    tensors = [random_tensor(DTYPES[i % len(DTYPES)], "normal", SIZES[i % 5], seed=i) for i in range(40)]
    rows = [view_of(tensor)[:4] for tensor in tensors]
    assert core.summarize(rows, threads) == [core.summarize_one(*row, 1) for row in rows]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_same_bytes_wherever_the_values_lie(dtype):
    values = random_tensor(dtype, "normal", 150_000, seed=0)
    packed = set()
    for offset in range(9):
        moved = torch.empty(150_000 + offset, dtype=dtype)[offset:]
        moved.copy_(values)
        packed.add(pack_one(moved))
    assert len(packed) == 1


def test_torch_set_num_threads_is_followed():
    tensor = random_tensor(torch.float32, "normal", 400_000, seed=0)
    before = torch.get_num_threads()
    packed = set()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            packed |= {pack_one(tensor), *pack_many([tensor])}
    finally:
        torch.set_num_threads(before)
    assert len(packed) == 1


@pytest.mark.parametrize("threads", [-1, 0])
def test_fewer_than_one_thread_is_one(threads):
    view = view_of(torch.ones(200_000))
    assert core.summarize_one(*view[:4], threads) == core.summarize_one(*view[:4], 1)


def test_several_python_threads_at_once():
    tensors = [random_tensor(DTYPES[i % len(DTYPES)], "normal", 140_000 + i, seed=i) for i in range(12)]
    expected = [pack_one(tensor) for tensor in tensors]
    rows = [view_of(tensor)[:4] for tensor in tensors]
    start = threading.Barrier(6)

    def summarize_all(i: int) -> list[list[bytes]]:
        start.wait()
        return [core.summarize(rows, 1 + (i + j) % 5) for j in range(8)]

    with ThreadPoolExecutor(6) as executor:
        for results in executor.map(summarize_all, range(6)):
            assert all(packed == expected for packed in results)


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Python 3.12 and later warn of any fork with threads, whether it is prepared for or not.
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


FORK = """
import os, threading
import torch
from fastlog.common.native import core
from fastlog.summaries.tensors import view_of

values = torch.randn(400_000)
row = view_of(values)[:4]
expected = core.summarize_one(*row, 4)  # the pool has started

stop = threading.Event()
def keep_busy():
    while not stop.is_set():
        core.summarize_one(*row, 4)

def fork_and_summarize(depth):
    child = os.fork()
    if child == 0:
        right = all(core.summarize_one(*row, threads) == expected for threads in (1, 2, 5, 4))
        right = right and threading.active_count() == 1
        if depth > 1:
            fork_and_summarize(depth - 1)
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert core.summarize_one(*row, 4) == expected

fork_and_summarize(2)
busy = threading.Thread(target=keep_busy)
busy.start()
for _ in range(10):  # in the middle of another thread's job
    fork_and_summarize(1)
stop.set()
busy.join()
print("done")
"""


def test_forked_children_have_a_pool_of_their_own():
    result = run_python(FORK)
    assert result.stdout == "done\n", result.stderr


THREADS = """
import os
import torch
from fastlog.common.native import core
from fastlog.summaries.tensors import view_of

torch.set_num_threads(3)
values = torch.randn(400_000)
row = view_of(values)[:4]
expected = core.summarize_one(*row, 1)
values.mul_(1.0)
threads_of_torch = os.listdir("/proc/self/task")

def summarize_until(enough, jobs=2000):
    for _ in range(jobs):
        assert core.summarize_one(*row, 3) == expected
        if enough(os.listdir("/proc/self/task")):
            return True
    return False
"""


def test_the_threads_of_torch_are_used():
    script = THREADS + 'assert summarize_until(lambda threads: threads == threads_of_torch)\nprint("done")'
    result = run_python(script)
    assert result.stdout == "done\n", result.stderr


def test_own_threads_take_over_where_those_of_torch_come_late():
    starved = """
import subprocess, sys, threading

cpu = {min(os.sched_getaffinity(0))}
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    os.sched_setaffinity(busy.pid, cpu)
    for thread in map(int, threads_of_torch):
        if thread != threading.get_native_id():
            os.sched_setaffinity(thread, cpu)
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    assert summarize_until(lambda threads: len(threads) == len(threads_of_torch) + 2)
finally:
    busy.kill()
    busy.wait()
print("done")
"""
    result = run_python(THREADS + starved)
    assert result.stdout == "done\n", result.stderr


# The extension by itself, which knows no torch.
CORE_ALONE = f"""
import ctypes, sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader

loader = ExtensionFileLoader("_core", {core.__file__!r})
core = module_from_spec(spec_from_loader("_core", loader))
loader.exec_module(core)
assert "torch" not in sys.modules
values = ctypes.create_string_buffer(bytes(range(256)) * 4096)
row = (ctypes.addressof(values), len(values), 13, 0)
assert core.summarize_one(*row, 3) == core.summarize_one(*row, 1)
print(core.cpu_path())
"""


@pytest.mark.parametrize("path", ["", *core.cpu_paths()])
def test_cpu_path_is_forced_by_the_environment(path):
    result = run_python(CORE_ALONE, FASTLOG_CPU_ISA=path)
    assert result.stdout.strip() == (path or core.cpu_paths()[-1]), result.stderr


def test_unknown_cpu_path_is_an_error_that_names_the_choices():
    script = "import fastlog; fastlog.summarize([1.0])"
    result = run_python(script, FASTLOG_CPU_ISA="sse9")
    assert result.returncode == 1
    assert "FASTLOG_CPU_ISA" in result.stderr and "sse9" in result.stderr
    assert all(path in result.stderr for path in core.cpu_paths())
    for name in ("sse9", "", "AVX2"):
        with pytest.raises(ValueError, match="there are: " + ", ".join(core.cpu_paths())):
            core.choose_cpu_path(name)


def test_baseline_is_always_there():
    assert core.cpu_paths()[0] == "baseline"
    assert core.cpu_path() in core.cpu_paths()
