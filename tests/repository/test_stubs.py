"""The stubs of the compiled modules say what is in them."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import ModuleType, WrapperDescriptorType
from typing import Any

import pytest
from cuda_on_cpu.device import load_module

import fastlog
from fastlog.common.native import core

PACKAGE = Path(fastlog.__file__).parent
Names = dict[str, list[str] | None]
"""Names of a module and of its classes, with the parameters of those that are functions."""


def stub_of(name: str) -> Names:
    body = ast.parse((PACKAGE / f"{name}.pyi").read_text()).body
    found = _stubbed(body)
    for node in body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = None
            found |= {f"{node.name}.{inner}": names for inner, names in _stubbed(node.body).items()}
    return found


def _stubbed(body: list[ast.stmt]) -> Names:
    found: Names = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            is_property = any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
            parameters = [argument.arg for argument in node.args.args if argument.arg != "self"]
            found[node.name] = None if is_property else parameters
        elif isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = None
    return found


def compiled_names(module: ModuleType) -> Names:
    found: Names = {}
    for name, value in _own(vars(module)).items():
        found[name] = _parameters(value)
        if inspect.isclass(value) and not issubclass(value, Exception):
            found |= {f"{name}.{inner}": _parameters(what) for inner, what in _own(vars(value)).items()}
    return found


def _own(namespace: Any) -> dict[str, Any]:
    """Without what every module and every class has."""
    inherited = isinstance(namespace.get("__init__"), WrapperDescriptorType)
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") or (name == "__init__" and not inherited)
    }


def _parameters(function: Any) -> list[str] | None:
    """As pybind11's docstrings list them."""
    if isinstance(function, property) or not callable(function) or inspect.isclass(function):
        return None
    listed = re.search(r"\((.*)\) -> ", function.__doc__ or "")
    assert listed, function
    return [name for name in re.findall(r"(\w+): [\w.]", listed[1]) if name != "self"]


@pytest.mark.parametrize("name", ["_core", "_cuda"])
def test_a_stub_has_the_names_and_parameters_of_the_compiled_module(name: str) -> None:
    assert compiled_names(core if name == "_core" else load_module()) == stub_of(name)
