"""The house keeps its order: rooms import only what is below them and keep private what is private."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastlog"

# What each room of fastlog/ may import, beside itself and the compiled modules.
ROOMS = {
    "common": set(),
    "summaries": {"common"},
    "events": {"common"},
    "distributed": {"common", "summaries"},
    "writer": {"common", "summaries", "events", "distributed"},
    "runs": {"common", "summaries"},
    "health": {"common", "summaries", "events", "runs", "writer"},
    "comparing": {"common", "summaries", "runs", "health"},
    "watching": {"common", "summaries", "events", "distributed", "writer", "health"},
    "integrations": {"common", "summaries", "distributed", "writer", "watching", "health"},
}

# The doors: what a user imports or runs. They import every room, and no room imports a door.
DOORS = {"__init__", "__main__", "bench", "custom_op", "install", "signals", "summarize"}
COMPILED = {"_core", "_cuda"}

# What may be missing is imported at its first need. Commands (__main__) import what they need as well.
LATE_IMPORTS = {("summaries.cuda.devices", "_cuda")}

# What each room of csrc may include. Only the room python knows Python, and nobody knows torch.
NATIVE_ROOMS = {
    "core": {"core"},
    "cpu": {"core", "cpu"},
    "cuda": {"core", "cuda"},
    "events": {"core", "events"},
    "python": {"core", "cpu", "cuda", "events", "python"},
}

# About 50 and 250 lines of code: no docstring, blank line or comment counts, nor the signature of a function.
MAX_FUNCTION, MAX_CLASS = 60, 260


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


# Compiled modules stand here by their stubs.
MODULES = {module_of(path): path for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])}
TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}
SOURCES = sorted(path for kind in ("h", "cpp", "cu", "cuh") for path in (ROOT / "csrc").rglob(f"*.{kind}"))


def room_of(module: str) -> str:
    return module.partition(".")[0]


def resolve(name: str) -> str:
    """`fastlog.a.b.name` as the module of the package that it is, or is in."""
    inner = name.removeprefix("fastlog").removeprefix(".")
    while inner and inner not in MODULES:
        inner = inner.rpartition(".")[0]
    return inner or "__init__"


def imported_names(tree: ast.AST) -> Iterator[str]:
    """What is imported of this package: anywhere, for types only included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "fastlog")


def imports_of(module: str) -> set[str]:
    return {resolve(name) for name in imported_names(TREES[module])}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_the_rooms_that_its_room_may(module: str) -> None:
    room = room_of(module)
    if room in DOORS | COMPILED:
        return
    rooms = {room_of(imported) for imported in imports_of(module)}
    assert rooms <= ROOMS[room] | COMPILED | {room}


def test_every_file_of_the_package_is_in_a_room_or_is_a_door() -> None:
    assert {room_of(module) for module in MODULES} == ROOMS.keys() | DOORS | COMPILED


def test_rooms_come_after_those_that_they_import() -> None:
    known: set[str] = set()
    for room, may_import in ROOMS.items():
        assert may_import <= known, room
        known.add(room)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: imports_of(module) for module in MODULES}
    assert list(TopologicalSorter(graph).static_order())


def test_no_import_hides_in_a_function() -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    hidden = {
        (module, resolve(name))
        for module, tree in TREES.items()
        if module != "__main__"
        for node in ast.walk(tree)
        if isinstance(node, functions)
        for name in imported_names(node)
    }
    assert hidden <= LATE_IMPORTS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_knows_and_what_it_must_not_know(room: str) -> None:
    said = ast.get_docstring(TREES[room])
    assert said and re.search(r"\bKnows\b", said), f"fastlog/{room}/__init__.py"


def definitions(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives to its functions, classes, fields and variables."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def uses(tree: ast.AST) -> Iterator[str]:
    """Names that a module takes of other objects than ``self``, or imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fastlog":
            yield from (alias.name for alias in node.names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in COMPILED


def test_private_members_stay_in_their_room() -> None:
    owners: dict[str, set[str]] = {}
    for module, tree in TREES.items():
        for name in filter(is_private, definitions(tree)):
            owners.setdefault(name, set()).add(room_of(module))
    found = {
        (module, name)
        for module, tree in TREES.items()
        for name in filter(is_private, uses(tree))
        if name in owners and room_of(module) not in owners[name]
    }
    assert not found


def test_only_one_room_knows_python_and_nobody_knows_torch() -> None:
    for path in SOURCES:
        included = re.findall(r'#include\s+[<"]([^>"]+)[>"]', path.read_text())
        tops = {name.partition("/")[0] for name in included if "/" in name or name == "Python.h"}
        assert not tops & {"torch", "ATen", "c10"}, path
        assert path.parent.name == "python" or not tops & {"pybind11", "Python.h"}, path


@pytest.mark.parametrize("room", NATIVE_ROOMS)
def test_native_rooms_include_only_what_they_may(room: str) -> None:
    for path in SOURCES:
        if path.parent.name == room:
            own = re.findall(r'#include\s+"([^"]+)"', path.read_text())
            assert {name.partition("/")[0] for name in own} <= NATIVE_ROOMS[room], path


def test_every_native_room_has_its_rule() -> None:
    assert {path.parent.name for path in SOURCES} == NATIVE_ROOMS.keys()


def test_the_build_does_not_import_torch() -> None:
    assert not re.search(r"^\s*(import|from)\s+torch", (ROOT / "setup.py").read_text(), re.MULTILINE)


NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lines_of_code(source: str, tree: ast.AST) -> set[int]:
    """Numbers of the lines that hold more than a comment or a part of a docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = [(token.start[0], token.end[0]) for token in tokens if token.type not in NO_CODE]
    lines = {line for first, last in spans for line in range(first, last + 1)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, *DEFINITIONS)) and ast.get_docstring(node, clean=False) is not None:
            lines -= span_of(node.body[0])
    return lines


def span_of(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def too_long(source: str) -> dict[str, int]:
    """Functions and classes over their limit, with their lines of code."""
    tree = ast.parse(source)
    code = lines_of_code(source, tree)
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS):
            limit = MAX_CLASS if isinstance(node, ast.ClassDef) else MAX_FUNCTION
            length = len(code & set().union(*map(span_of, node.body)))
            if length > limit:
                found[node.name] = length
    return found


@pytest.mark.parametrize("folder", ["fastlog", "tests", "benchmarks", "examples", "tools"])
def test_functions_and_classes_stay_short(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    long = {str(path.relative_to(ROOT)): too_long(path.read_text()) for path in paths}
    assert not {path: names for path, names in long.items() if names}


def test_only_lines_of_code_count_for_a_length() -> None:
    words = '    """One line.\n\n    Another one.\n    """\n    # a comment\n\n'
    signature = "def name(\n    first,\n    second,\n):\n"
    just_right = signature + words + "    x = [\n        1,\n    ]\n" + (MAX_FUNCTION - 3) * "    y = 1\n"
    assert too_long(just_right) == {}
    assert too_long(just_right + "    y = 2\n") == {"name": MAX_FUNCTION + 1}
    fields = "class Name:\n" + words + MAX_CLASS * "    y = 1\n"
    assert too_long(fields) == {}
    assert too_long(fields + "    y = 2\n") == {"Name": MAX_CLASS + 1}


def test_one_hook_alone_follows_a_fork() -> None:
    hooks = {module for module, path in MODULES.items() if "register_at_fork" in path.read_text()}
    assert hooks == {"common.forks"}
