"""``python -m fastlog export``: what was logged, as CSV, JSON or Parquet."""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np

from fastlog.runs.load import load
from fastlog.runs.run import Histograms, Run, Series

_KINDS = ("scalars", "histograms", "texts")
_MOMENTS = ("min", "max", "num", "sum", "sum_squares")
_UNREADABLE = 2


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``export``."""
    parser.epilog = (
        "CSV and Parquet have a row for each value: run, tag, step, wall_time, value. Histograms have their "
        "moments, limits and counts in place of the value. JSON has columns by run and tag. Exit status: 0, "
        "or 2 where nothing can be read or written."
    )
    parser.add_argument("logdir", metavar="LOGDIR", help="a directory with event files, in it or below it")
    parser.add_argument(
        "--to", choices=("csv", "json", "parquet"), required=True, help="parquet needs pyarrow"
    )
    parser.add_argument("-o", "--output", default="-", help="the file (default: standard output)")
    parser.add_argument("--kind", choices=_KINDS, default=_KINDS[0], help="what to export (%(default)s)")
    parser.add_argument("--tag", type=_pattern, metavar="REGEX", help="only tags in which it is found")


def run_export(options: argparse.Namespace) -> int:
    """Writes the file."""
    if options.to == "parquet" and options.output == "-":
        return _refuse("--to parquet needs a file: -o FILE")
    try:
        loaded = load(options.logdir, strict=False)
        runs = {loaded.name: loaded} if isinstance(loaded, Run) else loaded
        tables = _tables(runs, options.kind, options.tag)
        if options.to == "parquet":
            _write_parquet(tables, options.kind, options.output)
        else:
            with _opened(options.output) as file:
                (_write_csv if options.to == "csv" else _write_json)(tables, options.kind, file)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ImportError) as error:
        return _refuse(str(error))
    for name, run in runs.items():
        if run.skipped_bytes:
            print(f"{name}: {run.skipped_bytes:,} bytes of corrupt records were passed over", file=sys.stderr)
    return 0


def _pattern(given: str) -> re.Pattern[str]:
    try:
        return re.compile(given)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{given!r} is no regular expression: {error}") from error


def _refuse(why: str) -> int:
    print(f"python -m fastlog export: {why}", file=sys.stderr)
    return _UNREADABLE


@contextmanager
def _opened(path: str) -> Iterator[TextIO]:
    """Standard output, or a file that is there only when it is whole."""
    if path == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    unfinished = f"{path}.{os.getpid()}"
    try:
        with open(unfinished, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def _tables(
    runs: dict[str, Run], kind: str, pattern: re.Pattern[str] | None
) -> Iterator[tuple[str, str, Series | Histograms]]:
    """Run, tag and what was logged under it."""
    for name, run in runs.items():
        for tag in run.tags[kind]:
            if pattern is None or pattern.search(tag):
                yield name, tag, getattr(run, kind)(tag)


def _columns(kind: str) -> tuple[str, ...]:
    values = (*_MOMENTS, "limits", "counts") if kind == "histograms" else ("value",)
    return ("step", "wall_time", *values)


def _lists(series: Series | Histograms, kind: str) -> list[list[Any]]:
    """The columns as Python's own numbers, texts and lists."""
    named = {"step": "steps", "wall_time": "wall_times", "value": "values"}
    made = []
    for column in _columns(kind):
        values = getattr(series, named.get(column, column))
        if isinstance(values, np.ndarray):
            made.append(values.tolist())
        else:
            made.append([one.tolist() if isinstance(one, np.ndarray) else one for one in values])
    return made


def _write_csv(tables: Iterator[tuple[str, str, Series | Histograms]], kind: str, file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "tag", *_columns(kind)])
    for run, tag, series in tables:
        for row in zip(*_lists(series, kind), strict=True):
            cells = [json.dumps(cell) if isinstance(cell, list) else cell for cell in row]
            writer.writerow([run, tag, *cells])


def _write_json(tables: Iterator[tuple[str, str, Series | Histograms]], kind: str, file: TextIO) -> None:
    """JSON has no NaN and no infinity: these become text, as Python's ``float`` takes it."""
    runs: dict[str, dict[str, Any]] = {}
    for run, tag, series in tables:
        lists = _lists(series, kind)
        runs.setdefault(run, {})[tag] = dict(zip(_columns(kind), map(_plain, lists), strict=True))
    json.dump({"kind": kind, "runs": runs}, file, allow_nan=False)
    file.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write_parquet(tables: Iterator[tuple[str, str, Series | Histograms]], kind: str, path: str) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("--to parquet needs pyarrow: pip install pyarrow") from error
    names = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    numbers = {"step": pyarrow.int64(), "value": pyarrow.float64() if kind == "scalars" else pyarrow.string()}
    numbers |= dict.fromkeys(("limits", "counts"), pyarrow.list_(pyarrow.float64()))
    types = [(column, numbers.get(column, pyarrow.float64())) for column in _columns(kind)]
    schema = pyarrow.schema([("run", names), ("tag", names), *types])
    unfinished = f"{path}.{os.getpid()}"
    try:
        with parquet.ParquetWriter(unfinished, schema) as writer:
            for run, tag, series in tables:
                said = [pyarrow.array([name] * len(series)).cast(names) for name in (run, tag)]
                arrays = [
                    pyarrow.array(values, kind_of)
                    for values, (_, kind_of) in zip(_lists(series, kind), types, strict=True)
                ]
                writer.write_table(pyarrow.Table.from_arrays([*said, *arrays], schema=schema))
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)
