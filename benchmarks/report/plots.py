"""The plots of the report, each from the ``extra_info`` of one group of benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OURS = "fastlog"
_COLOURS = {OURS: "#d1495b"}
_GREY = "#7d8597"
_LINES = ("#30638e", "#edae49", "#66a182", "#8d96a3")

Info = dict[str, Any]


@contextmanager
def _figure(path: Path, width: float = 7.0, height: float = 3.6) -> Iterator[Any]:
    """An axis, saved at the end; the same numbers give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    style: Any = {
        "svg.hashsalt": "fastlog",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure, axis = plt.subplots(figsize=(width, height), layout="constrained")
        yield axis
        figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
        plt.close(figure)


def _lines(axis: Any, infos: Sequence[Info], x: str) -> None:
    names = dict.fromkeys(name for info in infos for name in info["median_seconds"])
    others = iter(_LINES)
    for name in names:
        points = [(info[x], info["median_seconds"][name]) for info in infos if name in info["median_seconds"]]
        colour = _COLOURS.get(name) or next(others)
        axis.plot(*zip(*points, strict=True), "o-", markersize=4, color=colour, label=name)
    axis.set(xscale="log", yscale="log", ylabel="seconds")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)


def _bars(axis: Any, values: dict[str, float], labels: Sequence[str]) -> None:
    names = list(values)
    colours = [_COLOURS.get(name, _GREY) for name in names]
    bars = axis.barh(names, list(values.values()), color=colours)
    axis.bar_label(bars, labels, padding=4)
    axis.invert_yaxis()
    axis.margins(x=0.18)


def everyone(infos: Sequence[Info], path: Path) -> None:
    """All contenders on the largest tensor, one thread, fastest first."""
    info = max(infos, key=lambda info: (info["values"], -info["threads"]))
    times = dict(sorted(info["median_seconds"].items(), key=lambda item: item[1]))
    with _figure(path) as axis:
        axis.set(
            xscale="log",
            xlabel=f"seconds for {info['case']} (logarithmic)",
        )
        _bars(axis, times, [f"{1e3 * value:.3g} ms" for value in times.values()])


def training_step(infos: Sequence[Info], path: Path) -> None:
    """Step time over the step without logging, the benchmark with most loggers."""
    info = max(infos, key=lambda info: len(info["median_seconds"]))
    medians = info["median_seconds"]
    over = {
        name: 100 * (value / medians["no logging"] - 1)
        for name, value in medians.items()
        if name != "no logging"
    }
    over = dict(sorted(over.items(), key=lambda item: item[1]))
    with _figure(path, height=2.4) as axis:
        axis.set(xlabel="% over the step without logging")
        _bars(axis, over, [f"{value:+.1f} %" for value in over.values()])


def number_of_values(infos: Sequence[Info], path: Path) -> None:
    """Time against the number of values."""
    with _figure(path) as axis:
        _lines(axis, infos, "values")
        axis.set(xlabel="float32 values in one tensor")


def number_of_tensors(infos: Sequence[Info], path: Path) -> None:
    """Time against the number of tensors at a fixed total."""
    with _figure(path) as axis:
        _lines(axis, infos, "tensors")
        axis.set(xlabel=f"tensors of {infos[0]['values']:,} float32 values together")


def dtype(infos: Sequence[Info], path: Path) -> None:
    """Values per second of each dtype."""
    rates = {info["dtype"]: info["values"] / info["median_seconds"][OURS] / 1e9 for info in infos}
    with _figure(path) as axis:
        axis.set(xlabel="G values/s")
        _bars(axis, rates, [f"{rate:.2f}" for rate in rates.values()])
