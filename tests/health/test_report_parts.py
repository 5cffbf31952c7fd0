"""What the report is put together from: escaping, numbers, pictures, colours, fewer columns."""

from __future__ import annotations

import io
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import Histograms
from PIL import Image

from fastlog.health.findings import Finding
from fastlog.health.report import numbers, png
from fastlog.health.report.axes import Axis
from fastlog.health.report.colours import LEVELS, NAN, NAN_COLOUR, NOTHING, PALETTE, ZERO, ZERO_COLOUR, Scale
from fastlog.health.report.heatmap import short_names
from fastlog.health.report.layers import Change
from fastlog.health.report.markup import element, joined, json_data, verbatim
from fastlog.health.report.ridges import BINS, ridge
from fastlog.health.report.thinning import Columns, line, matrix
from fastlog.health.report.words import sentence

HOSTILE = [
    "</script><script>alert(1)</script>",
    "\"onload='x'",
    "<!--",
    "&lt;",
    "层.权重",
    "\ud800",
    "a\x00\x1bb",
]


class Seen(HTMLParser):
    """What a browser makes of markup: tags with their attributes, and the text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text() | st.sampled_from(HOSTILE))
def test_any_text_stays_text(text: str) -> None:
    seen = Seen(element("p", text, title=text))
    assert [tag for tag, _ in seen.tags] == ["p"]
    shown = dict(seen.tags[0][1])["title"]
    assert shown == seen.text and len(seen.text) == len(text)
    assert all(theirs in (ours, "\ufffd") for ours, theirs in zip(text, seen.text, strict=True))
    seen.text.encode()


def test_markup_is_not_escaped_twice() -> None:
    assert joined(element("b", "<"), ["&", None, [element("i")]]) == "<b>&lt;</b>&amp;<i></i>"


@pytest.mark.parametrize("text", HOSTILE)
def test_data_stay_data(text: str) -> None:
    block = json_data("data", {text: [text]})
    seen = Seen(block)
    assert [tag for tag, _ in seen.tags] == ["script"]
    assert json.loads(seen.text) == {text: [text]}
    block.encode()


def test_code_that_would_end_its_element_is_refused() -> None:
    with pytest.raises(ValueError, match="must not contain its end"):
        verbatim("script", "a = '</SCRIPT>'")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (7.0, "7"), (1234, "1,234"), (0.5, "0.500"), (0.9996, "1.00"), (1234.5, "1,230")),
        *((1.234e-5, "1.23e-5"), (-2e-10, "-2.00e-10"), (9.999e-4, "0.00100"), (3.2e7, "3.20e7")),
        *(
            (999_999.5, "1.00e6"),
            (math.nan, "NaN"),
            (math.inf, "Inf"),
            (-math.inf, "-Inf"),
            (5e-324, "4.94e-324"),
        ),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert numbers.number(value) == text


@given(st.floats(-1e308, 1e308))
def test_numbers_are_read_back_to_three_digits(value: float) -> None:
    read = float(numbers.number(value).replace(",", ""))
    assert read == pytest.approx(value, rel=0.0051, abs=5e-324)


def test_a_number_that_stands_alone_has_no_zeros_at_its_end() -> None:
    shown = [numbers.short(value) for value in (0.5, 0.001, 1500.4, 2e-10, 120, math.nan, -math.inf)]
    assert shown == ["0.5", "0.001", "1,500", "2e-10", "120", "NaN", "-Inf"]


def test_shares_are_never_rounded_to_none_or_all() -> None:
    shown = [numbers.share(value) for value in (0, 1e-7, 0.001, 0.078, 0.5, 0.994, 0.9999999, 1)]
    assert shown == ["0 %", "< 0.1 %", "0.1 %", "7.8 %", "50 %", "99 %", "> 99.9 %", "100 %"]


def test_factors_say_up_and_down() -> None:
    shown = [numbers.factor(value) for value in (1.01, 2, 0.1, 1e5, 0, math.nan, math.inf)]
    assert shown == ["=", "× 2.0", "÷ 10", "× 1e+05", "→ 0", "–", "–"]


def test_counts_and_names_are_short() -> None:
    assert [numbers.count(n) for n in (812, 9999, 22_700_000, 7_000_000_000)] == [
        "812",
        "9,999",
        "22.7 M",
        "7 B",
    ]
    assert numbers.names(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert short_names(["m.a.x", "m.a.yyyyyyyyyyyyyyyyyyyyyyyyyyyyy.z"], 10) == ["x", "…z"]
    assert short_names(["bert.encoder.layer.0", "head"], 16) == ["…encoder.layer.0", "head"]
    assert short_names(["model"]) == ["model"] and short_names(["a", "a.b"]) == ["a", "a.b"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (206, 400)])
def test_pictures_are_what_another_reader_sees(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, len(PALETTE), (height, width)).astype(np.uint8)
    picture = Image.open(io.BytesIO(png.encode(pixels, PALETTE, transparent=NOTHING)))
    read = np.asarray(picture.convert("RGBA"))
    assert (read[..., :3] == np.array(PALETTE)[pixels]).all()
    assert (read[..., 3] == np.where(pixels == NOTHING, 0, 255)).all()


@pytest.mark.parametrize(
    "pixels", [np.zeros((0, 3), np.uint8), np.zeros(3, np.uint8), np.full((1, 1), 255, np.uint8)]
)
def test_no_picture_is_made_of_nothing_or_of_unknown_colours(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pixels"):
        png.encode(pixels, PALETTE)


# Linear RGB as dichromats see it: Machado, Oliveira and Fernandes 2009, severity 1.
DICHROMATS = {
    "all colours": np.eye(3),
    "no long cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no middle cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no short cones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(rgb: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of sRGB colours from 0 to 255, seen by an eye."""
    share = np.asarray(rgb, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(linear @ eye.T, 0, 1) @ to_xyz.T / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@pytest.mark.parametrize("eye", DICHROMATS.values(), ids=DICHROMATS)
def test_every_eye_tells_nan_and_zero_from_all_values(eye: np.ndarray) -> None:
    scale = lab(np.array(PALETTE[:LEVELS]), eye)
    assert (np.diff(scale[::10, 0]) > 0).all()  # lighter is more, to every eye
    own = [lab(np.array(colour), eye) for colour in (NAN_COLOUR, ZERO_COLOUR)]
    for colour in own:
        assert np.linalg.norm(scale - colour, axis=-1).min() > 20  # 2.3 can just be seen
    assert np.linalg.norm(own[0] - own[1]) > 20


def test_colours_follow_the_logarithm() -> None:
    scale = Scale(1e-6, 1e-2, True)
    values = np.array([[1e-6, 1e-4, 1e-2, 1e-9, 1.0, 0.0, np.nan, np.inf, 5.0]])
    there = np.array([[True] * 8 + [False]])
    last = LEVELS - 1
    middle = round(last / 2)
    assert scale.colours(values, there).tolist() == [[0, middle, last, 0, last, ZERO, NAN, NAN, NOTHING]]


def test_a_scale_cuts_what_is_rare_and_does_not_make_noise_look_like_change() -> None:
    usual = np.full(1000, 1e-3)
    assert Scale.of(np.append(usual, 1e9), True).high < 1e-2
    narrow = Scale.of(usual * np.random.default_rng(0).uniform(0.9, 1.1, 1000), True)
    assert narrow.high / narrow.low == pytest.approx(10)
    assert Scale.of(np.array([0.0, np.nan]), True) == Scale(0.1, 1.0, True)
    assert Scale.of(np.array([0.0, 0.5]), False) == Scale(0, 1, False)


STEPS = st.lists(st.integers(0, 10_000), min_size=1, max_size=80, unique=True).map(
    lambda steps: np.array(sorted(steps), np.int64)
)


@given(STEPS, st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_columns_show_the_median_of_what_they_hold_and_every_nan(
    steps: np.ndarray, most: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=(3, len(steps)))
    values[rng.random(values.shape) < 0.05] = np.nan
    there = rng.random(values.shape) < 0.9
    columns = Columns.over(steps, most)
    assert columns.number <= max(most, 2)
    out, shown = matrix(values, there, steps, columns)
    place = columns.of(steps)
    middles = columns.first + place * columns.width
    assert (abs(steps - middles) <= columns.width / 2 * (1 + 1e-9)).all()
    for row in range(3):
        for column in set(place.tolist()):
            held = values[row, (place == column) & there[row]]
            assert shown[row, column] == (len(held) > 0)
            if len(held) and np.isfinite(held).all():
                assert out[row, column] in np.percentile(held, 50, method="lower")[None]
            else:
                assert np.isnan(out[row, column])
    empty = sorted(set(range(columns.number)) - set(place.tolist()))
    for column in empty:
        assert np.array_equal(out[:, column], out[:, column - 1], equal_nan=True)


def test_steps_at_equal_distances_have_a_column_each() -> None:
    steps = np.arange(5, 1000, 10)
    columns = Columns.over(steps, 400)
    assert columns.number == 100 and columns.of(steps).tolist() == list(range(100))
    assert columns.span == (0, 1000)


@given(STEPS, st.integers(4, 40), st.integers(0, 2**32 - 1))
def test_fewer_points_keep_ends_extremes_and_nan(steps: np.ndarray, most: int, seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(size=len(steps))
    values[::7] = np.nan
    kept_steps, kept = line(steps, values, most)
    assert len(kept) <= max(most, 10)
    by_step = dict(zip(steps.tolist(), values.tolist(), strict=True))
    assert np.array_equal([by_step[step] for step in kept_steps.tolist()], kept, equal_nan=True)
    assert (kept_steps[0], kept_steps[-1]) == (steps[0], steps[-1]) and (np.diff(kept_steps) > 0).all()
    assert np.isnan(kept).any()
    if np.isfinite(values).any():
        assert np.nanmax(kept) == np.nanmax(values) and np.nanmin(kept) == np.nanmin(values)


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20),
    st.sampled_from([None, True, False]),
    st.integers(2, 8),
)
def test_all_values_lie_between_the_ends_of_their_axis(
    values: list[float], logarithmic: bool | None, most: int
) -> None:
    array = np.array(values, float)
    axis = Axis.around(array, 100, 0, logarithmic)
    place = axis.place(array[np.isfinite(array)])
    assert ((place >= 0) & (place <= 100)).all()
    ticks = axis.ticks(most)
    assert 0 < len(ticks) <= most + 1
    slack = 1e-6 * max(abs(axis.low), abs(axis.high))
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.5, 1]), (0, 990, [0, 500]), (-0.12, 0.31, [0, 0.2]), (3, 5, [3, 4, 5])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert Axis(low, high, 0, 1).ticks(3) == ticks


def test_ticks_of_decades_are_powers() -> None:
    assert Axis(2e-6, 3e-2, 0, 1, True).ticks(4) == [1e-5, 1e-4, 1e-3, 1e-2]


def test_a_change_is_from_the_first_tenth_to_the_last() -> None:
    values = np.array([1e9] + [2.0] * 10 + [5.0] * 80 + [8.0] * 10)
    change = Change.of(values)
    assert (change.early, change.now, change.ratio) == (2, 8, 4)
    assert math.isnan(Change.of(np.append(values, np.nan)).now)
    assert Change.of(np.append(values, [0] * 11)).strength == math.inf
    assert Change.of(np.array([3.0])) == Change(3, 3)


def test_a_ridge_is_the_histogram_over_even_bins() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(0, scale, 100_000) for scale in (1.0, 0.5, 2.0)]
    limits = np.linspace(-10, 10, 2001)
    counts = [np.append(0, np.histogram(v, limits)[0]).astype(float) for v in values]
    drawn = ridge(Histograms(np.array([0, 10, 20]), [limits] * 3, counts))
    assert drawn is not None and drawn.steps == (0, 10, 20)
    low, high = np.quantile(values[2], (0.002, 0.998))
    assert (drawn.low, drawn.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))
    grid = np.linspace(drawn.low, drawn.high, BINS + 1)
    share = np.array([np.histogram(v, grid)[0] for v in values]) / 100_000
    assert np.abs(drawn.densities / 255 - np.sqrt(share / share.max())).max() < 0.03


def test_a_ridge_takes_few_of_many_steps_and_only_those_with_values() -> None:
    steps, limits = np.arange(100), [np.array([0.0, 1.0])] * 100
    counts = [np.array([0.0, float(i not in (0, 99))]) for i in range(100)]
    drawn = ridge(Histograms(steps, limits, counts))
    assert drawn is not None and len(drawn.steps) == 12 and (drawn.steps[0], drawn.steps[-1]) == (1, 98)
    assert ridge(Histograms(steps[:1], limits[:1], counts[:1])) is None


@pytest.mark.parametrize("limits", [[3.0], [0.0], [0.0, 1.7976931348623157e308], [-1e-12, 0.0, 1e-12]])
def test_a_ridge_is_made_of_any_buckets(limits: list[float]) -> None:
    drawn = ridge(Histograms(np.array([5]), [np.array(limits)], [np.ones(len(limits))]))
    assert drawn is not None and drawn.high > drawn.low and drawn.densities.max() == 255


def test_a_title_begins_with_a_capital_unless_it_is_a_name() -> None:
    def shown(title: str, *tensors: str) -> str:
        return sentence(Finding("r", "error", title, tensors, 0.0, 0, 0, {}, "", "", ""))

    assert shown("the loss diverges") == "The loss diverges"
    assert shown("NaN or Inf in the loss") == "NaN or Inf in the loss"
    assert shown("4 of 6 tensors", "a") == "4 of 6 tensors"
    assert shown("encoder.layer.3 gets none") == "encoder.layer.3 gets none"
    assert shown("head gets none", "head.weight") == "head gets none"


def test_a_scale_has_at_most_six_decades() -> None:
    wide = np.append(np.full(90, 1e-2), np.full(10, 1e-14))
    scale = Scale.of(wide, True)
    assert (scale.low, scale.high) == (pytest.approx(1e-8), pytest.approx(1e-2))
    assert scale.colours(wide, np.full(100, True)).tolist() == [LEVELS - 1] * 90 + [0] * 10
