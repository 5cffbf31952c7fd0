"""The house keeps its order: imports point down, rooms know only what they may, files stay short."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastlog"

# From top to bottom: each may import what stands below it. A package is one entry; within it, no cycles.
LAYERS = [
    "__main__",
    "__init__",
    "bench",
    "integrations",
    "health",
    "watching",
    "install",
    "writer",
    "custom_op",
    "distributed",
    "summaries",
    "signals",
    "events",
    "common",
    "_core",
    "_cuda",
]

# What each room of csrc may include. Only the room python knows Python, and nobody knows torch.
ROOMS = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "events": {"core", "events"},
    "python": {"core", "cpu", "cuda", "events", "python"},
}
MAX_LINES = 400


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


# Compiled modules stand here by their stubs.
MODULES = {module_of(path): path for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])}
SOURCES = sorted(path for kind in ("h", "cpp", "cu", "cuh") for path in (ROOT / "csrc").rglob(f"*.{kind}"))


def resolve(name: str) -> str:
    """`fastlog.a.b.name` as the module of the package that it is, or is in."""
    inner = name.removeprefix("fastlog").removeprefix(".")
    while inner and inner not in MODULES:
        inner = inner.rpartition(".")[0]
    return inner or "__init__"


def imports_of(module: str) -> set[str]:
    """The modules of the package that a module imports: anywhere in it, for types only included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {resolve(name) for name in found if name.partition(".")[0] == "fastlog"}


def layer_of(module: str) -> int:
    name = module.partition(".")[0]
    assert name in LAYERS, f"{module} has no place yet: say in LAYERS which modules may import it"
    return LAYERS.index(name)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for imported in imports_of(module):
        siblings = module != imported and module.partition(".")[0] == imported.partition(".")[0]
        assert siblings or layer_of(imported) > layer_of(module), f"{module} imports {imported}"


def test_no_module_imports_itself_in_a_circle():
    graph = {module: imports_of(module) for module in MODULES}
    assert list(TopologicalSorter(graph).static_order())


def test_layers_name_no_module_that_is_gone():
    assert not set(LAYERS) - {module.partition(".")[0] for module in MODULES}


def test_only_one_room_knows_python_and_nobody_knows_torch():
    for path in SOURCES:
        included = re.findall(r'#include\s+[<"]([^>"]+)[>"]', path.read_text())
        tops = {name.partition("/")[0] for name in included if "/" in name}
        assert not tops & {"torch", "ATen", "c10"}, path
        assert path.parent.name == "python" or not tops & {"pybind11", "Python.h"}, path


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_include_only_what_they_may(room):
    for path in SOURCES:
        if path.parent.name == room:
            own = re.findall(r'#include\s+"([^"]+)"', path.read_text())
            assert {name.partition("/")[0] for name in own} <= ROOMS[room], path


def test_every_room_has_its_rule():
    assert {path.parent.name for path in SOURCES} <= ROOMS.keys()


def test_the_build_does_not_import_torch():
    assert not re.search(r"^\s*(import|from)\s+torch", (ROOT / "setup.py").read_text(), re.MULTILINE)


def test_files_stay_short():
    folders = ("fastlog", "tests", "benchmarks", "examples", "tools")
    python = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in (*python, *SOURCES)}
    assert lengths
    long = {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines: {long}"
