"""What notebooks show of a summary, a writer and a watcher: complete, escaped, well-formed."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

import fastlog
from fastlog.common.cards import card


def rows_of(html: str) -> dict[str, str]:
    """The table as a browser reads it; fails where the markup is not well-formed, or has scripts."""
    root = ET.fromstring(html)
    assert {element.tag for element in root.iter()} <= {
        "div",
        "strong",
        "table",
        "tr",
        "th",
        "td",
        "svg",
        "rect",
    }
    return {str(row[0].text): str(row[1].text) for row in root.iter("tr")}


def test_texts_are_escaped_and_none_is_left_out() -> None:
    odd = "<script>alert('1')</script> & \"more\""
    html = card(odd, {odd: odd, "number": 3, "nothing": None})
    assert "<script" not in html
    assert rows_of(html) == {odd: odd, "number": "3"}
    assert ET.fromstring(html)[0].text == odd


def test_a_summary_shows_its_numbers_and_the_distribution_between_its_extremes() -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).double() + 3.0
    html = fastlog.summarize(values)._repr_html_()
    rows = rows_of(html)
    assert rows["values"] == "100,000" and "NaN" not in rows
    assert rows["mean ± std"] == f"{values.mean():g} ± {values.std(correction=0):g}"
    heights = np.zeros(48)
    for bar in ET.fromstring(html).iter("rect"):
        heights[round(float(bar.get("x", "")) / 5)] = float(bar.get("height", "")) / 48
    expected, _ = np.histogram(values.numpy(), 48)
    assert heights == pytest.approx(expected / expected.max(), abs=0.15), "bins are 10 % wide"


@pytest.mark.parametrize(
    "values",
    [[], [0.0], [2.0, 2.0], [math.nan], [math.inf, -math.inf], [1e300, -1e300], [5e-324, 0.0], [1e25] * 3],
)
def test_summaries_of_any_values_have_a_picture_or_none(values: list[float]) -> None:
    summary = fastlog.summarize(torch.tensor(values, dtype=torch.float64))
    rows = rows_of(summary._repr_html_())
    assert rows["values"] == str(len(values))
    assert ("NaN" in rows) == any(math.isnan(value) for value in values)
    assert ("Inf" in rows) == any(math.isinf(value) for value in values)


def test_a_watcher_shows_what_it_logs_how_often_and_where(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with fastlog.SummaryWriter(str(tmp_path)) as writer:
        watcher = fastlog.watch(model, writer, optimizer, every=2)
        where = {"logs": "weights, gradients", "log directory": str(tmp_path)}
        html = watcher._repr_html_()
        assert rows_of(html) == {**where, "every": "2 steps", "last logged step": "none"}
        assert ET.fromstring(html)[0].text == "fastlog.watch of Linear"
        for _ in range(4):
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        assert rows_of(watcher._repr_html_())["last logged step"] == "2"
        watcher.remove()
        assert rows_of(watcher._repr_html_())["every"] == "removed"


def test_a_writer_shows_where_its_events_are_and_what_is_missing(tmp_path: Path) -> None:
    logdir = str(tmp_path / "a run <b>")
    with fastlog.SummaryWriter(logdir) as writer:
        writer.add_scalar("loss", 1.0, 0)
        writer.flush()
        with pytest.warns(fastlog.FastlogWarning):
            writer.add_scalar("vector", torch.ones(2), 0)
        rows = rows_of(writer._repr_html_())
    assert rows["log directory"] == logdir
    assert rows["see them"] == f"tensorboard --logdir '{logdir}'"
    written, _, accepted = rows["events written"].partition(" of ")
    assert int(written) == int(accepted) == writer.stats()["accepted"] > 0
    assert rows["values not logged"] == "1" and "events dropped" not in rows
    nowhere = fastlog.SummaryWriter(write_to_disk=False)
    assert rows_of(nowhere._repr_html_()) == {"log directory": "none"}
