"""The documentation's pictures and pages keep what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastlog
from fastlog.health.rules import RULES

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "docs").rglob("*.png"))


def test_the_gallery_uses_every_method() -> None:
    used = set(re.findall(r"\.(add_\w+)\(", (ROOT / "examples/gallery.py").read_text()))
    methods = {name for name in dir(fastlog.SummaryWriter) if name.startswith("add_")}
    short_forms = {"add_custom_scalars_multilinechart", "add_custom_scalars_marginchart"}
    assert methods - used == short_forms


def test_every_picture_is_shown_and_there() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    shown = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", page.read_text())
    }
    assert not {path for path in shown if not path.exists()}
    assert {path for path in PICTURES if path.parent.name == "gallery"} <= shown


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_are_small(path: Path) -> None:
    assert path.stat().st_size < 200_000


def test_the_pages_build_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "api" / "index.html").exists()


def test_every_rule_has_a_page_with_a_picture_and_a_way_to_mute_it() -> None:
    folder, rules = ROOT / "docs/health", [rule.id for rule in RULES]
    assert {path.stem for path in folder.glob("*.md")} - {"index", "evidence"} == set(rules)
    for rule in rules:
        page = (folder / f"{rule}.md").read_text()
        assert page.startswith(f"# {rule}\n") and f"(images/{rule}.png)" in page
        muted = re.search(r"mute=\{\"([^\"]+)\"", page)
        assert muted and muted[1].partition(":")[0] == rule
        assert f"check LOGDIR --mute '{muted[1]}=" in page
    listed = re.findall(r"^\| \[([\w-]+)\]\(([\w-]+)\.md\)", (folder / "index.md").read_text(), re.MULTILINE)
    assert listed == [(rule, rule) for rule in rules]
    assert f"It looks for {len(rules)} faults" in (ROOT / "README.md").read_text()


def test_the_api_page_names_what_is_exported() -> None:
    page = (ROOT / "docs/api.md").read_text()
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert set(fastlog.__all__) <= shown


def test_the_architecture_page_names_every_file_or_its_folder() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL))
    for path in sorted((ROOT / "fastlog").rglob("*.py")):
        room, *inner = path.relative_to(ROOT / "fastlog").parts
        if not inner:
            assert f"`{room}`" in page, path
        elif inner != ["__init__.py"]:
            named = {f"`{inner[-1]}`"}
            if inner[0] in ("rules", "report") or inner[-1] == "__init__.py":
                named.add(f"`{inner[0]}/`")
            assert any(name in sections[room] for name in named), path
    for folder in (ROOT / "csrc").iterdir():
        assert f"`csrc/{folder.name}/`" in page, folder


def test_the_architecture_page_names_no_file_that_is_not_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    names = {path.name for folder in ("fastlog", "csrc", "tests") for path in (ROOT / folder).rglob("*.*")}
    for told in re.findall(r"`(?:[\w/]+/)?(\w+\.(?:py|h|cpp|cu|cuh))`", page):
        assert told in names, told
