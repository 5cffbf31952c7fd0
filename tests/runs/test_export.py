"""``python -m fastlog export``, read back by the libraries that people use."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

import fastlog
from fastlog.__main__ import main

VALUES = [0.5, math.nan, math.inf, -3.25, 1e30]


def write(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for run in ("a", "b, 'c'"):
        with fastlog.SummaryWriter(folder / run) as writer:
            for step, value in enumerate(VALUES):
                writer.add_scalar("loss", value, step, walltime=100.0 + step)
                writer.add_histogram("weights", rng.normal(size=50), step, walltime=100.0 + step)
            writer.add_scalar("lr", 0.125, 2**40)
            writer.add_text("note", 'two "lines",\nand 中文', 1)
    return folder


def export(*arguments: Any) -> int:
    try:
        main(["export", *map(str, arguments)])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def same(value: Any, expected: float) -> bool:
    return math.isnan(float(value)) if math.isnan(expected) else float(value) == np.float32(expected)


def test_csv_has_a_row_for_each_scalar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(write(tmp_path), "--to", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 * (len(VALUES) + 1)
    found = [row for row in rows if row["run"] == "b, 'c'" and row["tag"] == "loss"]
    assert [int(row["step"]) for row in found] == list(range(len(VALUES)))
    assert [float(row["wall_time"]) for row in found] == [100.0 + step for step in range(len(VALUES))]
    assert all(same(row["value"], value) for row, value in zip(found, VALUES, strict=True))


def test_texts_keep_their_lines_and_quotes(tmp_path: Path) -> None:
    assert export(write(tmp_path / "runs"), "--to", "csv", "--kind", "texts", "-o", tmp_path / "t.csv") == 0
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        assert [row["value"] for row in csv.DictReader(file)] == ['two "lines",\nand 中文'] * 2


def test_json_is_strict_and_has_columns_by_run_and_tag(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert export(write(tmp_path / "runs"), "--to", "json", "-o", tmp_path / "x.json") == 0
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    loss = found["runs"]["a"]["loss"]
    assert loss["step"] == list(range(len(VALUES)))
    assert all(same(value, expected) for value, expected in zip(loss["value"], VALUES, strict=True))


def test_histograms_come_with_their_buckets(tmp_path: Path) -> None:
    folder = write(tmp_path / "runs")
    assert export(folder, "--to", "json", "--kind", "histograms", "-o", tmp_path / "h.json") == 0
    found = json.loads((tmp_path / "h.json").read_text())["runs"]["a"]["weights"]
    loaded = fastlog.load(folder)
    assert isinstance(loaded, dict)
    expected = loaded["a"].histograms("weights")
    assert [sum(counts) for counts in found["counts"]] == [50] * len(VALUES)
    for i, limits in enumerate(expected.limits):
        np.testing.assert_array_equal(found["limits"][i], limits)
    np.testing.assert_array_equal(found["sum"], expected.sum)


@pytest.mark.parametrize("kind", ["scalars", "histograms", "texts"])
def test_parquet_holds_what_load_gives(kind: str, tmp_path: Path) -> None:
    folder, path = write(tmp_path / "runs"), tmp_path / "x.parquet"
    assert export(folder, "--to", "parquet", "--kind", kind, "-o", path) == 0
    rows = pyarrow.parquet.read_table(path).to_pylist()
    loaded = fastlog.load(folder)
    assert isinstance(loaded, dict)
    assert {row["run"] for row in rows} == set(loaded)
    for name, run in loaded.items():
        for tag in run.tags[kind]:
            series = getattr(run, kind)(tag)
            found = [row for row in rows if (row["run"], row["tag"]) == (name, tag)]
            assert [row["step"] for row in found] == series.steps.tolist()
            if kind == "histograms":
                assert [row["counts"] for row in found] == [counts.tolist() for counts in series.counts]
            else:
                assert [str(row["value"]) for row in found] == [str(value) for value in series.values]


def test_only_tags_that_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(write(tmp_path), "--to", "csv", "--tag", "^lr$") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["tag"], row["step"], row["value"]) for row in rows] == [("lr", str(2**40), "0.125")] * 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere", "--to", "csv"], "does not exist"),
        ([".", "--to", "parquet"], "-o FILE"),
        ([".", "--to", "csv", "--tag", "("], "regular expression"),
        ([".", "--to", "xml"], "invalid choice"),
    ],
)
def test_what_cannot_be_is_said_with_status_2(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(*arguments) == 2
    assert text in capsys.readouterr().err


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, capsys: Any) -> None:
    folder = write(tmp_path / "runs")
    assert export(folder, "--to", "csv", "-o", tmp_path / "missing" / "x.csv") == 2
    assert "missing" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
