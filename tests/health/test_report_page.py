"""The page in a real browser: what it shows is what was found, alone and without harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import PROGRAMS, Browser, Page, program
from made_up_runs import CHECKED, NOT_CHECKED, bert, bert_names, fast, frozen, health, histograms, poisoned
from test_report_parts import HOSTILE

from fastlog.health.findings import Finding, RunHealth
from fastlog.health.history import GRADIENTS, WEIGHTS, History, Kind, Table
from fastlog.health.report.html import Shown, page
from fastlog.health.report.ridges import BINS, ridge

needs_browser = pytest.mark.skipif(program() is None, reason=f"none of {', '.join(PROGRAMS)} on the PATH")
STYLE = Path(__file__).parents[2] / "fastlog/health/report/assets/page.css"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = program()
    assert path is not None
    browser = Browser(path, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def sick() -> tuple[History, RunHealth]:
    history, error = frozen(bert(), layer=3, since=20)
    history, warning = fast(history)
    return history, health(history, error, warning)


def html(*runs: tuple[History, RunHealth]) -> str:
    return page([Shown(*run) for run in runs], "runs/bert")


def write(folder: Path, *runs: tuple[History, RunHealth]) -> Path:
    path = folder / "报告 & report.html"
    path.write_text(html(*runs), encoding="utf-8")
    return path


def assert_quiet(shown: Page, path: Path) -> None:
    assert shown.requests() == [path.as_uri()]
    assert shown.complaints() == []


@needs_browser
@pytest.mark.parametrize("scripts", [True, False])
def test_the_page_shows_the_findings_with_scripts_and_without(
    browser: Browser, tmp_path: Path, scripts: bool
) -> None:
    history, found = sick()
    path = write(tmp_path, (history, found))
    with browser.page(path, scripts=scripts) as shown:
        error, warning = found.findings
        assert shown.texts(".verdict .headline") == [error.title]
        assert shown.texts(".verdict .tally") == [
            f"1 error, 1 warning · {len(CHECKED)} checks ran, 3 could not"
        ]
        assert shown.texts(".finding h3") == [error.title, warning.title]
        assert shown.texts(".finding .severity") == ["error", "warning"]
        assert shown.texts(".finding .where") == [
            "steps 200 to 990 · 16 tensors · 7.8 % of the parameters",
            "steps 650 to 990 · 94 % of the parameters",
        ]
        assert shown.texts(".finding .tensors [data-tensor]") == list(error.tensors)
        assert shown.texts("[data-evidence=median_of_update_to_weight]") == ["0.214"]
        assert shown.texts(".finding .threshold-label") == ["threshold 0.1"]
        assert [f"{f.mute}" for f in found.findings] == shown.texts(".finding > details code")
        assert shown.texts(".check") == list(CHECKED)
        assert shown.texts(".check.error, .check.warning") == ["no-gradient", "lr-too-high"]
        assert shown.texts(".reasons dd") == list(NOT_CHECKED)
        assert shown.texts(".panel .now") == ["0.179", "0", "0.592"]
        assert shown.number("svg.heatmap") == 5
        assert shown.number("canvas") == (3 if scripts else 0)
        assert shown.number("svg.chart") == (2 if scripts else 5)
        assert_quiet(shown, path)


@needs_browser
def test_the_table_of_layers_holds_the_numbers_of_the_history(browser: Browser, tmp_path: Path) -> None:
    history, found = sick()
    with browser.page(write(tmp_path, (history, found))) as shown:
        assert shown.number("[data-layer]") == 12
        layer = '[data-layer="bert.encoder.layer.3"]'
        gradients, rows = history.kinds[GRADIENTS], slice(5 + 3 * 16, 5 + 4 * 16)
        squares = gradients.heads["sum_squares"][rows].sum(0) / gradients.heads["num"][rows].sum(0)
        early = float(np.median(np.sqrt(squares[1:11])))
        values, _, _, _, _, _, shown_early, now, change, zeros, worst = shown.texts(f"{layer} td")
        assert values == "1.77 M"
        assert float(shown_early) == pytest.approx(early, rel=0.05)
        assert (now, change, zeros) == ("0", "→ 0", "100 %")
        assert worst == found.findings[0].tensors[0].removeprefix("bert.encoder.layer.3.")


@needs_browser
def test_the_heatmap_of_the_worst_finding_is_open_and_tells_its_values(
    browser: Browser, tmp_path: Path
) -> None:
    history, found = sick()
    path = write(tmp_path, (history, found))
    with browser.page(path) as shown:
        panels = "[...document.querySelectorAll('.heatmaps .panel')].filter((panel) => panel.offsetParent)"
        assert shown.evaluate(f"{panels}.map((panel) => panel.dataset.measure)") == ["gradient-rms"]
        box = shown.box('[data-measure="gradient-rms"] svg.cells')
        names = history.kinds[GRADIENTS].names
        rms = np.sqrt(history.kinds[GRADIENTS].heads["sum_squares"] / history.kinds[GRADIENTS].heads["num"])
        for row, column in ((0, 10), (60, 10), (60, 50), (104, 99)):
            x = box["x"] + (column + 0.5) / 100 * box["width"]
            y = box["y"] + (row + 0.5) / len(names) * box["height"]
            shown.mouse("mouseMoved", x, y)
            (text,) = shown.texts("#tip")
            name, step, value = re.fullmatch(r"(\S+) step (\d+): (.*)", text).groups()  # type: ignore[union-attr]
            assert (name, int(step)) == (names[row], column * 10)
            if rms[row, column] == 0:
                assert value == "exactly 0, or None"
            elif value[0] == "≈":
                assert float(value[2:]) == pytest.approx(rms[row, column], rel=0.06)
            else:
                low, high = shown.texts('[data-measure="gradient-rms"] .legend .number')
                assert rms[row, column] <= float(low) * 1.01 or rms[row, column] >= float(high) * 0.99
        assert_quiet(shown, path)


@needs_browser
def test_pointing_and_zooming_move_all_pictures_of_a_run(browser: Browser, tmp_path: Path) -> None:
    history, found = sick()
    path = write(tmp_path, (history, found))
    with browser.page(path) as shown:
        loss = history.scalars["loss/train"][1]
        box = shown.box('[data-chart="0"] .u-over')
        y = box["y"] + box["height"] / 2
        at = box["x"] + 505 / 1000 * box["width"]  # the axis is from -5 to 995
        shown.mouse("mouseMoved", at, y)
        shown.wait_for(f"document.querySelector('[data-chart=\"0\"] .now').textContent === '{loss[50]:.3f}'")
        lr = f"{history.lr[0, 50]:.2e}".replace("e-0", "e-")
        assert shown.texts(".panel .now")[1] == lr
        shown.mouse("mousePressed", box["x"] + 0.255 * box["width"], y)
        shown.mouse("mouseMoved", box["x"] + 0.51 * box["width"], y)
        shown.mouse("mouseReleased", box["x"] + 0.51 * box["width"], y)
        labels = "[...document.querySelectorAll('[data-measure=\"gradient-rms\"] .steps text')]"
        ticks = f"{labels}.map((label) => label.textContent)"
        shown.wait_for(f"{ticks}[0] === '250'")
        assert shown.evaluate(ticks) == ["250", "300", "350", "400", "450", "500"]
        image = shown.evaluate("document.querySelector('.heatmap image').width.baseVal.value")
        assert image == pytest.approx(820 / 0.255, rel=0.02)
        shown.evaluate("document.querySelector('[data-chart=\"2\"]').focus()")
        shown.key("Escape")
        shown.wait_for(f"{ticks}[0] === '0'")
        shown.key("ArrowRight")
        shown.wait_for(f"document.querySelector('[data-chart=\"0\"] .now').textContent === '{loss[0]:.3f}'")
        assert_quiet(shown, path)


@needs_browser
def test_nan_has_its_own_colour_and_is_said(browser: Browser, tmp_path: Path) -> None:
    history, finding = poisoned(bert(), at=40)
    path = write(tmp_path, (history, health(history, finding)))
    with browser.page(path) as shown:
        assert shown.texts(".panel .now") == ["NaN", "0", "NaN"]
        assert "NaN or Inf" in shown.texts('[data-measure="gradient-rms"] .legend span')
        box = shown.box('[data-measure="gradient-rms"] svg.cells')
        shown.mouse("mouseMoved", box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"])
        assert shown.texts("#tip")[0].endswith(": NaN or Inf")
        assert shown.texts("[data-layer] td.bad") == ["NaN"] * 12
        assert_quiet(shown, path)


def hostile() -> tuple[History, RunHealth]:
    """Every name and text is an attack."""
    history = bert(logged=20)
    names = tuple(HOSTILE[i % len(HOSTILE)] + f".{i}.weight" for i in range(len(bert_names())))
    for kind, old in list(history.kinds.items()):
        history.kinds[kind] = Kind(names, old.heads, old.present)
    history.inventories = ()
    history.run = history.loss_tag = HOSTILE[0]
    history.scalars = {HOSTILE[0]: history.scalars["loss/train"]}
    text = " ".join(HOSTILE)
    finding = Finding(
        HOSTILE[0], "error", text, names, 0.5, 0, 190, {text: text, "n": [text, {text: 1}]}, text, text, text
    )
    found = replace(health(history, finding), checked=tuple(HOSTILE), not_checked={text: text})
    return history, found


@needs_browser
@pytest.mark.parametrize("scripts", [True, False])
def test_hostile_names_are_only_text(browser: Browser, tmp_path: Path, scripts: bool) -> None:
    history, found = hostile()
    path = write(tmp_path, (history, found), (history, found))
    with browser.page(path, scripts=scripts) as shown:
        assert shown.number("script") == 2 and shown.number("[onload], [onclick], iframe, link, form") == 0
        seen = [re.sub(r"[\x00-\x08\x1b\ud800]", "\ufffd", name) for name in found.findings[0].tensors]
        assert shown.texts("#run0-finding1 [data-tensor]") == seen
        assert shown.number(".finding") == 2 and shown.number(".overview li") == 2
        assert_quiet(shown, path)


@needs_browser
def test_the_keyboard_reaches_everything_and_focus_is_seen(browser: Browser, tmp_path: Path) -> None:
    with browser.page(write(tmp_path, sick())) as shown:
        on = "document.activeElement"
        seen = f"({on}.matches('.tab') ? {on}.nextElementSibling : {on})"  # a tab is seen by its label
        reached = []
        for _ in range(10):
            shown.key("Tab")
            reached.append(shown.evaluate(f"{on}.className || {on}.tagName"))
            assert shown.evaluate(f"getComputedStyle({seen}).outlineStyle") == "solid"
        assert reached == ["skip", *["SUMMARY"] * 3, *["panel"] * 3, "tab tab1", *["scroll"] * 2]
        shown.evaluate("document.querySelector('.tab:checked').focus()")
        shown.key("ArrowRight")
        assert shown.evaluate("document.querySelector('.tab:checked').id") == "run0-zeros"
        shown.evaluate("document.querySelector('[data-measure=zeros] .scroll').focus()")
        for name in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowUp"):
            shown.key(name)
        first, second, *_ = bert_names()
        assert shown.texts("#tip") == [f"{second} step 10: exactly 0, or None"]
        shown.key("ArrowUp")
        assert shown.texts("#tip")[0].startswith(f"{first} step 10")


@needs_browser
def test_dark_mode_follows_the_system(browser: Browser, tmp_path: Path) -> None:
    path = write(tmp_path, sick())
    grounds = []
    for dark in (False, True):
        with browser.page(path, dark=dark) as shown:
            colour = shown.evaluate("getComputedStyle(document.body).backgroundColor")
            grounds.append(sum(map(int, re.findall(r"\d+", colour))))
            assert_quiet(shown, path)
    assert grounds[0] > 3 * 240 and grounds[1] < 3 * 40


@needs_browser
def test_the_page_fits_a_telephone(browser: Browser, tmp_path: Path) -> None:
    with browser.page(write(tmp_path, sick()), width=390) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") == 390


@needs_browser
def test_a_tensors_histograms_are_shown_when_it_is_chosen(browser: Browser, tmp_path: Path) -> None:
    history, found = sick()
    made = histograms(history)
    path = tmp_path / "report.html"
    path.write_text(page([Shown(history, found, made)], "runs/bert"), encoding="utf-8")
    names, plots = history.kinds[GRADIENTS].names, ".histograms .plots"
    with browser.page(path) as shown:
        assert shown.number(f"{plots} svg") == 0
        box = shown.box('[data-measure="gradient-rms"] svg.cells')
        row = names.index("bert.pooler.dense.weight")
        x, y = box["x"] + 0.6 * box["width"], box["y"] + (row + 0.5) / len(names) * box["height"]
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            shown.mouse(kind, x, y)
        shown.wait_for(f"document.querySelectorAll('{plots} svg').length === 2")
        assert shown.texts(".chosen") == [names[row]] and shown.texts(f"{plots} figcaption") == [
            "weights",
            "gradients",
        ]
        paths = f"[...document.querySelectorAll('{plots} figure:last-child path')]"
        drawn = shown.evaluate(f"{paths}.map((path) => path.getAttribute('d'))")
        expected = ridge(made[f"gradients/{names[row]}"])
        assert expected is not None and len(drawn) == len(expected.steps) == 12
        for i, line in enumerate(drawn):
            y_drawn = np.array([float(point.split()[1]) for point in line[1:-1].split("L")[:BINS]])
            assert np.allclose(y_drawn, 40 + 16 * i - expected.densities[i] / 255 * 36, atol=0.06)
        shown.evaluate("document.querySelector('.finding [data-tensor]').focus()")
        shown.key("Enter")
        shown.wait_for(f"document.querySelector('.chosen').textContent === '{found.findings[0].tensors[0]}'")
        assert_quiet(shown, path)
    with browser.page(path, scripts=False) as shown:
        assert shown.number(".histograms:not([hidden])") == 0
        assert shown.texts(".finding .plots figcaption") == ["weights", "gradients"]
        assert shown.number(".finding .plots .ridge") == 24


@needs_browser
def test_a_gradient_that_is_none_is_shown_as_zero(browser: Browser, tmp_path: Path) -> None:
    history = bert()
    names = history.kinds[GRADIENTS].names
    missing = ("bert.pooler.dense.weight", "never.seen.weight")
    history.kinds[GRADIENTS].present[names.index(missing[0]), 50:] = False
    none = np.zeros((2, 100))
    none[0, 50:] = none[1] = 1
    history.measures["without_gradient"] = Table(missing, none)
    with browser.page(write(tmp_path, (history, health(history)))) as shown:
        shown.evaluate("document.querySelector('#run0-gradient-rms').click()")
        box = shown.box('[data-measure="gradient-rms"] svg.cells')
        for row, column, says in (
            (names.index(missing[0]), 20, "≈"),
            (names.index(missing[0]), 70, "exactly 0"),
            (105, 3, "exactly 0"),
        ):
            shown.mouse(
                "mouseMoved",
                box["x"] + (column + 0.5) / 100 * box["width"],
                box["y"] + (row + 0.5) / 106 * box["height"],
            )
            name, value = re.split(r" step \d+: ", shown.texts("#tip")[0])
            assert name == [*names, missing[1]][row] and value.startswith(says)
        zeros = shown.texts('[data-layer="bert.pooler.dense"] td')[9]
        assert zeros == f"{384 * 384 / (384 * 385):.1%}".replace(
            "%", " %"
        )  # all of the weight, none of the bias


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_can_be_read_on_every_ground(mode: str) -> None:
    """WCAG 2 AA: a contrast of 4.5 for text, 3 for lines."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[mode == "dark"]))

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(colours[a]), luminance(colours[b])))
        return (high + 0.05) / (low + 0.05)

    for ground in ("ground", "sheet"):
        for text in ("ink", "soft", "error", "warning", "info", "ok"):
            assert contrast(text, ground) >= 4.5, (text, ground)
        assert contrast("line", ground) >= 3
    for severity in ("error", "warning", "info", "ok"):
        assert contrast(severity, f"{severity}-sheet") >= 4.5, severity
        assert contrast("ink", f"{severity}-sheet") >= 4.5, severity


def test_a_bert_with_a_thousand_logged_steps_is_small() -> None:
    history = bert(logged=1000, layers=13)
    assert 200 <= len(history.kinds[GRADIENTS].names) <= 220
    history, finding = frozen(history, layer=3, since=200)
    shown = Shown(history, health(history, finding), histograms(history, every=50))
    assert len(page([shown], "runs/bert").encode()) < 1_500_000


def test_a_run_without_a_watched_model_has_a_page() -> None:
    history = History("scalars", np.empty(0, np.int64), np.empty(0))
    history.scalars = {"loss": (np.arange(5), np.ones(5))}
    history.loss_tag = "loss"
    text = html((history, RunHealth("scalars", -1, -1, (), (), {"no-gradient": "no gradients"})))
    assert "Nothing could be checked." in text and "no step of a watched model" in text


def test_a_run_of_one_step_and_one_tensor_has_a_page() -> None:
    history = bert(logged=1)
    weights = history.kinds[WEIGHTS]
    history.kinds = {WEIGHTS: Kind(weights.names[:1], weights.heads[:1], weights.present[:1])}
    assert "Tensors over steps" in html((history, health(history)))


def test_a_large_model_is_shown_by_layer() -> None:
    history, finding = frozen(bert(logged=30, layers=30), layer=7, since=5)
    assert len(history.kinds[GRADIENTS].names) > 320
    text = html((history, health(history, finding)))
    assert "Layers over steps" in text and 'class="flag error"' in text
