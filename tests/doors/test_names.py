"""What users import: names that are documented, and what public classes are called."""

from __future__ import annotations

import importlib
import inspect
import pickle
from pathlib import Path

import pytest
import torch
from setuptools.config.pyprojecttoml import read_configuration

import fastlog

DOCUMENTED = [
    *(f"fastlog.{name}" for name in fastlog.__all__),
    "fastlog.custom_op.from_tensors",
    "fastlog.custom_op.summarize",
    "fastlog.install.TorchSummaryWriter",
    "fastlog.install.install",
    "fastlog.install.uninstall",
    "fastlog.integrations.accelerate.FastLogTracker",
    "fastlog.integrations.lightning.FastLogLogger",
    "fastlog.integrations.lightning.FastLogWatch",
    "fastlog.integrations.transformers.FastLogCallback",
    "fastlog.signals.flush_on_signals",
    "fastlog.summarize.summarize",
    "fastlog.watching.LOGGABLE",
    "fastlog.watching.STATS",
    "fastlog.watching.Watcher",
    "fastlog.watching.watch",
    "fastlog.writer.SummaryWriter",
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_name_can_be_imported_from_where_it_is_documented(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", [*fastlog.__all__, "watching.Watcher"])
def test_a_public_class_names_the_place_where_users_find_it(name: str) -> None:
    module, _, attribute = f"fastlog.{name}".rpartition(".")
    public = getattr(importlib.import_module(module), attribute)
    if inspect.isclass(public):
        assert public.__module__ == module


def test_a_pickle_names_no_module_but_the_package() -> None:
    pickled = pickle.dumps(fastlog.summarize(torch.ones(3)), protocol=0)
    assert b"fastlog\nTensorSummary" in pickled
    assert b"fastlog." not in pickled
    assert pickle.loads(pickled).num == 3


def test_the_version_is_that_of_the_distribution() -> None:
    project = read_configuration(Path(__file__).parents[2] / "pyproject.toml")["project"]
    assert fastlog.__version__ == project["version"]
