"""Take the pictures of docs/health: the card of each rule's finding, from a training with that fault planted.

    python tools/health_pictures.py                    # all of them, a few seconds each
    python tools/health_pictures.py no-gradient lr-zero

Needs Chromium and Pillow. The trainings are those of tests/health/sets; what takes several ranks is made up.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "health")]

import sets  # noqa: E402
from browser import Browser, program  # noqa: E402
from made_up_runs import bert  # noqa: E402
from sets.bench import CASES, Case, run_case  # noqa: E402

import fastlog  # noqa: E402
from fastlog.health.history import ACTIVATIONS, WEIGHTS, History, Kind, Table  # noqa: E402
from fastlog.health.report.html import Shown, page  # noqa: E402
from fastlog.health.rules import RULES, run  # noqa: E402

for module in pkgutil.iter_modules(sets.__path__, "sets."):
    importlib.import_module(module.name)  # fills CASES

IMAGES = ROOT / "docs" / "health" / "images"
COLOURS = 96  # of the palette: keeps a picture small
WIDTH = 1120


def case_of(rule: str) -> Case | None:
    """The first training of the sets in which this fault is planted."""
    return next((case for case in CASES.values() if case.rule == rule), None)


def of_many_ranks(rule: str) -> History:
    """What several ranks, or a clock, would have told: no training on one machine does."""
    history = bert(logged=60)
    ones = np.ones((1, 60))
    if rule == "replicas-differ":
        name = "weights/bert.encoder.layer.3.output.dense.weight"
        history.measures["replicas_differ"] = Table((name,), ones * (np.arange(60) >= 20))
    elif rule == "same-batch":
        weights = history.kinds[WEIGHTS]
        history.kinds[ACTIVATIONS] = Kind(("bert.embeddings",), weights.heads[:1], weights.present[:1])
        history.measures["replicas_alike"] = Table((f"{ACTIVATIONS}/bert.embeddings",), ones)
    elif rule == "straggler":
        numbers = {
            "max": 0.9 + 0.02 * np.sin(np.arange(60)),
            "median": 0.3 * ones[0],
            "slowest_rank": 3 * ones[0],
        }
        for name, values in numbers.items():
            history.scalars[f"fastlog/ranks/step_time/{name}"] = (history.steps, values)
        history.wall_times = np.arange(60) * 10.0
    else:
        history.now = float(history.wall_times[-1]) + 3 * 3600
    return history


def page_of(rule: str, folder: Path) -> Path:
    """The report of a run with this fault."""
    case = case_of(rule)
    path = folder / f"{rule}.html"
    if case is None:
        history = of_many_ranks(rule)
        path.write_text(page([Shown(history, run(history))], rule), encoding="utf-8")
    else:
        run_case(case, folder / case.name, seed=0)
        fastlog.report(folder / case.name).save(path)
    return path


def take(browser: Browser, rule: str, folder: Path) -> None:
    """Saves what the report of a run with this fault says of it."""
    with browser.page(page_of(rule, folder), width=WIDTH) as shown:
        if not shown.number(f'.finding[data-rule="{rule}"]'):
            raise SystemExit(f"{rule} was not found")
        shown.screenshot(folder / "card.png", f'.finding[data-rule="{rule}"]')
    picture = Image.open(folder / "card.png").convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(IMAGES / f"{rule}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", nargs="*", default=[rule.id for rule in RULES])
    wanted = parser.parse_args().rules
    path = program()
    if path is None:
        raise SystemExit("no browser on the PATH")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        browser = Browser(path, Path(folder) / "profile")
        try:
            for rule in wanted:
                take(browser, rule, Path(folder))
                print(rule, flush=True)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
