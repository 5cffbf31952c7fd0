"""Fixtures and settings for all tests. What a test changes in the process must not reach the next one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

import fastlog
from fastlog.common.native import core

if TYPE_CHECKING:
    from cuda_on_cpu.device import LateRuntime
    from cuda_on_cpu.late_torch import FakeCuda

# A shell starts its background jobs deaf to Ctrl-C, and children inherit that; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "fastlog", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True, max_examples=60
)
settings.load_profile("fastlog")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        if os.environ.get("FASTLOG_REQUIRE_CUDA") == "1":
            pytest.fail("FASTLOG_REQUIRE_CUDA=1, but torch sees no CUDA device")
        pytest.skip("no CUDA device")


@pytest.fixture(scope="module", params=core.cpu_paths())
def cpu_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once on every compiled CPU path that this machine can run."""
    chosen = core.cpu_path()
    core.choose_cpu_path(request.param)
    yield request.param
    core.choose_cpu_path(chosen)


@pytest.fixture(scope="session")
def cuda_module() -> ModuleType:
    """``fastlog._cuda`` whose kernels run on the CPU."""
    from cuda_on_cpu.device import load_module

    return load_module()


@pytest.fixture
def late_runtime(cuda_module: ModuleType) -> Iterator[LateRuntime]:
    """A device that runs late; the test's own thread must not wait for it."""
    from cuda_on_cpu.device import LateRuntime

    made = LateRuntime(cuda_module)
    made.training_threads.add(threading.current_thread())
    yield made
    made.device.close()


@pytest.fixture
def fake_cuda(cuda_module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """Two CUDA devices that are none, in use already; fails a test whose training threads wait for one."""
    from cuda_on_cpu.late_torch import FakeCuda

    fake = FakeCuda(cuda_module)
    with monkeypatch.context() as patched:
        fake.patch(patched)
        fastlog.summarize([fake.tensor(torch.ones(3), device) for device in (0, 1)])
        fake.calls.clear()
        yield fake
        fake.close()
        assert fake.violations == []


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny models, where more threads only wait for each other. Seeds torch, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def _process_state() -> dict[str, object]:
    smallest, one = torch.tensor([5e-324, 1.0], dtype=torch.float64)
    return {
        "torch.get_num_threads()": torch.get_num_threads(),
        "denormals are flushed": bool(smallest * one == 0),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "CPU path": core.cpu_path(),
    }


@pytest.fixture(autouse=True)
def process_state_stays() -> Iterator[None]:
    """Fails a test that leaves a process-wide setting behind."""
    before = _process_state()
    yield
    assert _process_state() == before
