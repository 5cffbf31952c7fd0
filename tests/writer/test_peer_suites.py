"""The tests that tensorboardX and torch have for their writers, with fastlog's in the place of theirs.

tensorboardX's come from its source distribution, torch's from its repository, or from the directory ``test``
of a checkout that FASTLOG_TORCH_TESTS names, each of the version that is installed. What they import and is
missing here (moviepy, soundfile, onnx, torchvision, boto3, moto<5, expecttest) makes a test fail with the
library's own writer as well; only tests that pass with that one are asked of ours.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

pytestmark = pytest.mark.soak

# Tests that pass with tensorboardX's writer and not with ours, and why.
DIFFERENT = {
    "tests.test_writer.WriterTest.test_flush_timer_is_long_so_data_is_not_there": (
        "wants what was logged 2 s ago to be missing from the file; ours has it there within half a second"
    ),
    "tests.test_multiprocess_write.GlobalWriterTest.test_flush_timer_is_long_so_data_is_not_there": (
        "the same of GlobalSummaryWriter"
    ),
    "tests.test_embedding.EmbeddingTest.test_embedding_fail": (
        "wants an AssertionError in the training loop for images that are no squares; ours logs them"
    ),
}

INSTALL = """
import fastlog, tensorboardX, torch.utils.tensorboard
fastlog.install()
assert tensorboardX.SummaryWriter is fastlog.SummaryWriter
assert issubclass(torch.utils.tensorboard.SummaryWriter, fastlog.SummaryWriter)
"""


@pytest.fixture(scope="module")
def tensorboardx_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sources")
    name, version = "tensorboardX", importlib.metadata.version("tensorboardX")
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--dest", str(directory)]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-binary", name, f"{name}=={version}"], capture_output=True, text=True
    )
    if done.returncode != 0:
        why = done.stderr.strip().splitlines() or [done.stdout]
        pytest.skip(f"the source distribution of {name} {version} cannot be downloaded: {why[-1]}")
    (archive,) = directory.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(directory, filter="data")
    (tests,) = directory.glob("*/tests")
    return tests


@pytest.fixture(scope="module")
def torch_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """test_tensorboard.py, and beside it what it expects."""
    given = os.environ.get("FASTLOG_TORCH_TESTS")
    if given is None:
        clone = tmp_path_factory.mktemp("clone")
        version = torch.__version__.partition("+")[0]
        url = ["https://github.com/pytorch/pytorch", str(clone)]
        commands = (
            [
                "git",
                "clone",
                "-q",
                "--depth=1",
                "--filter=blob:none",
                "--no-checkout",
                f"--branch=v{version}",
                *url,
            ],
            [
                "git",
                "-C",
                str(clone),
                "checkout",
                "-q",
                "HEAD",
                "--",
                "test/test_tensorboard.py",
                "test/expect",
            ],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"the tests of torch {version} cannot be downloaded: {done.stderr}")
        given = str(clone / "test")
    tests = tmp_path_factory.mktemp("torch")
    shutil.copy(Path(given) / "test_tensorboard.py", tests)
    (tests / "expect").mkdir()
    for path in (Path(given) / "expect").glob("TestTensorBoard.*"):
        shutil.copy(path, tests / "expect")
    return tests


def passed(tests: Path, directory: Path, conftest: str) -> set[str]:
    """The tests that pass in a directory of their own."""
    shutil.copytree(tests, directory / "tests")
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "conftest.py").write_text(conftest)
    options = ["-p", "no:cacheprovider", "--continue-on-collection-errors", "--junitxml=results.xml"]
    command = [sys.executable, "-m", "pytest", *options, "tests"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stdout  # all passed, or some failed
    cases = ElementTree.parse(directory / "results.xml").iter("testcase")
    return {f"{case.get('classname')}.{case.get('name')}" for case in cases if len(case) == 0}


def compare(tests: Path, directory: Path) -> tuple[set[str], set[str]]:
    """The tests that pass with the library's own writer, and those that pass with ours."""
    with ThreadPoolExecutor() as both:
        their_run = both.submit(passed, tests, directory / "theirs", "")
        our_run = both.submit(passed, tests, directory / "ours", INSTALL)
    return their_run.result(), our_run.result()


def test_passes_where_tensorboardX_passes(tensorboardx_tests: Path, tmp_path: Path) -> None:
    theirs, ours = compare(tensorboardx_tests, tmp_path)
    assert len(theirs) > 60
    assert theirs - ours == theirs & DIFFERENT.keys()


def test_passes_where_torch_passes(torch_tests: Path, tmp_path: Path) -> None:
    pytest.importorskip("expecttest")
    theirs, ours = compare(torch_tests, tmp_path)
    assert len(theirs) > 30
    assert theirs <= ours
