"""Fixtures of the benchmarks, and what the JSON says of the machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import targets_table
from pytest_benchmark.fixture import BenchmarkFixture
from race import Race

from fastlog.common.native import core

sys.path.append(str(Path(__file__).parents[1] / "examples"))  # the training step is the example's
PACKAGES = (
    "torch-fastlog",
    "torch",
    "numpy",
    "tensorboardX",
    "tensorboard",
    "wandb",
    "pytorch-lightning",
    "boost-histogram",
    "fast-histogram",
    "transformers",
)
_targets = pytest.StashKey[list[dict[str, Any]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="few rounds, no large tensors: under two minutes")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_targets] = []
    config.addinivalue_line("markers", "large: much memory or time; left out by --quick")
    # It complains of a benchmark that failed before its timing: that failure is the message.
    config.addinivalue_line("filterwarnings", "default::pytest_benchmark.logger.PytestBenchmarkWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        large = [item for item in items if item.get_closest_marker("large")]
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine_info["cores"] = len(os.sched_getaffinity(0))
    machine_info["load"] = os.getloadavg()[0]
    machine_info["cpu_path"] = core.cpu_path()
    machine_info["quick"] = config.getoption("--quick")
    machine_info["packages"] = {name: _version(name) for name in PACKAGES}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    targets = config.stash[_targets]
    if targets and config.getoption("--benchmark-enable"):
        quick = config.getoption("--quick")
        terminalreporter.section("targets" + " (quick: sizes are smaller than they say)" * quick)
        terminalreporter.write_line(targets_table(targets))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Removed afterwards: some benchmarks write gigabytes."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def race(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, quick: bool) -> Race:
    return Race(benchmark, quick, request.config.stash[_targets])


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Parametrise indirectly: torch's thread count, which fastlog follows, during the benchmark."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
