"""What TensorBoard's HParams and Custom Scalars pages find: every value, under the names of the series."""

import datetime
import decimal
import enum
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import events, files, log, simple_values, values
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import fastlog
from fastlog import TorchSummaryWriter


class Schedule(enum.Enum):
    COSINE = "cosine"


def contents(logdir: Path) -> tuple[Any, Any]:
    found = values(logdir)
    parts = [
        HParamsPluginData.FromString(found[f"_hparams_/{name}"].metadata.plugin_data.content)
        for name in ("experiment", "session_start_info")
    ]
    return parts[0].experiment, parts[1].session_start_info


def shown(logdir: Path) -> dict[str, Any]:
    """The hyperparameters as TensorBoard reads them."""
    experiment, start = contents(logdir)
    assert sorted(info.name for info in experiment.hparam_infos) == sorted(start.hparams)
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}


HPARAMS: dict[str, tuple[Any, Any]] = {
    "bool": (True, True),
    "NumPy bool": (np.bool_(False), False),
    "int": (3, 3.0),
    "int beyond float": (10**400, "1" + "0" * 400),
    "NumPy numbers": (np.float32(0.5), 0.5),
    "half": (np.float16(0.5), 0.5),
    "array of one": (np.array([4]), 4.0),
    "tensor": (torch.tensor([8]), 8.0),
    "tensor of several": (torch.tensor([1, 2]), "[1, 2]"),
    "array": (np.array([1, 2]), "[1, 2]"),
    "string": ("adam", "adam"),
    "NumPy string": (np.str_("adam"), "adam"),
    "lone surrogate": ("a\ud800", "a?"),
    "list": ([1, "a"], "[1, 'a']"),
    "empty tuple": ((), "()"),
    "dict": ({"a": 1}, "{'a': 1}"),
    "path": (Path("a/b"), "a/b"),
    "enum": (Schedule.COSINE, "cosine"),
    "date": (datetime.date(2020, 1, 2), "2020-01-02"),
    "decimal": (decimal.Decimal("0.1"), "0.1"),
    "long double": (np.longdouble(0.5), 0.5),
    "meta tensor": (torch.ones(1, device="meta"), "tensor(..., device='meta', size=(1,))"),
    "complex": (1j, "1j"),
    "function": (print, "print"),
    "class": (torch.nn.ReLU, "ReLU"),
    "module": (torch.nn.ReLU(), "ReLU()"),
    "dtype": (torch.bfloat16, "torch.bfloat16"),
    "long text": (["x" * 5000], "['" + "x" * 998 + "…"),
}


@pytest.mark.parametrize("kind", HPARAMS)
def test_every_hyperparameter_has_a_value(kind: str, tmp_path: Path) -> None:
    given, expected = HPARAMS[kind]
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_hparams({"lr": 0.1, "x": given}, {"acc": 1.0}, name="run")
    assert shown(tmp_path) == {"lr": 0.1, "x": expected}
    assert type(shown(tmp_path)["x"]) is type(expected)


def test_none_is_left_out_with_one_warning(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer, pytest.warns(fastlog.FastlogWarning) as said:
        for run in ("a", "b"):
            writer.add_hparams({"seed": None, "lr": 0.1, "path": None}, {"acc": 1.0}, name=run)
    (warning,) = said
    assert str(warning.message).startswith("add_hparams('a'): hparam_dict has None for 'seed', 'path'")
    assert shown(tmp_path / "a") == shown(tmp_path / "b") == {"lr": 0.1}


def test_one_bad_metric_costs_no_other(tmp_path: Path) -> None:
    place = r"^add_hparams\('run', metric_dict\['bad'\]\): "
    with fastlog.SummaryWriter(tmp_path) as writer, pytest.warns(fastlog.FastlogWarning, match=place):
        writer.add_hparams({"lr": 0.1}, {"bad": [1, 2], "acc": "0.5"}, name="run")
    assert simple_values(tmp_path / "run") == {("acc", 0): 0.5}
    assert shown(tmp_path / "run") == {"lr": 0.1}


NAMES = ["acc@5", "loss (train)", "/top", "ü/é"]


@pytest.mark.parametrize("kind", [fastlog.SummaryWriter, TorchSummaryWriter])
def test_metrics_are_listed_under_the_names_of_their_series(kind: Any, tmp_path: Path) -> None:
    with kind(tmp_path) as writer:
        writer.add_hparams({"lr": 0.1}, dict.fromkeys(NAMES, 1.0), run_name="run")
        for name in NAMES:
            writer.add_scalar(name, 1.0)
    listed = [info.name.tag for info in contents(tmp_path / "run")[0].metric_infos]
    assert listed == [tag for tag, _ in simple_values(tmp_path / "run")]
    assert listed == [tag for tag, _ in simple_values(tmp_path)]


@pytest.mark.parametrize("absolute", [os.path.abspath, os.path.realpath])
def test_the_log_directory_as_the_name_of_a_run_is_the_main_file(
    absolute: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with fastlog.SummaryWriter("logs") as writer:
        writer.add_scalar("a", 1.0, 1)
        writer.add_hparams({"lr": 0.1}, {"acc": 0.5}, run_name=absolute("logs"), global_step=3)
        writer.add_hparams({"lr": 0.1}, {"acc": 0.5}, run_name=absolute("logs/below"))
        writer.add_scalar("a", 2.0, 2)
    assert [str(path.parent) for path in files(Path("."))] == ["logs/below", "logs"]
    assert simple_values(Path("logs")) == {("a", 1): 1.0, ("acc", 3): 0.5, ("a", 2): 2.0}
    assert shown(Path("logs")) == shown(Path("logs/below")) == {"lr": 0.1}


def test_an_absolute_path_elsewhere_is_said(tmp_path: Path) -> None:
    said = pytest.warns(fastlog.FastlogWarning, match="outside of the log directory; the run is written to")
    with fastlog.SummaryWriter(tmp_path / "logs") as writer, said:
        writer.add_hparams({"lr": 0.1}, {"acc": 0.5}, run_name=str(tmp_path / "elsewhere"))
    assert not (tmp_path / "elsewhere").exists()
    assert ("acc", 0) in simple_values(next((tmp_path / "logs").rglob("elsewhere")))


# ---- the graph


class Halves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"half": x / 2}


def test_a_graph_costs_no_warning_about_torchs_tracing(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_graph(Halves(), torch.ones(2), use_strict_trace=False)
        with pytest.raises(RuntimeError):
            writer.add_graph(Halves(), torch.ones(2))
    (graph,) = [event.graph_def for event in events(files(tmp_path)[0]) if event.graph_def]
    assert b"div" in graph


class Added(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


WRONG_GRAPHS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no model": (None, torch.ones(2), TypeError, "add_graph: model must be a torch.nn.Module, not NoneType"),
    "nothing": (None, None, TypeError, "add_graph: model must be a torch.nn.Module, not NoneType"),
    "a class": (Added, torch.ones(2), TypeError, "add_graph: model must be a torch.nn.Module, not type"),
    "a function": (print, torch.ones(2), TypeError, "add_graph: model must be .*, not builtin_function"),
    "no input": (
        Added(),
        None,
        TypeError,
        "add_graph: input_to_model is None; pass what the model is called",
    ),
    "a missing input": (
        *(Added(), torch.ones(2), TypeError),
        r"add_graph\(model, input_to_model\): .*missing 1 required positional argument: 'y'",
    ),
    "another shape": (
        *(Added(), (torch.ones(2), torch.ones(3)), RuntimeError),
        r"add_graph\(model, input_to_model\): The size of tensor",
    ),
    "text": (Added(), "text", RuntimeError, r"add_graph\(model, input_to_model\): Type 'Tuple\[str"),
}


@pytest.mark.parametrize("name", WRONG_GRAPHS)
@pytest.mark.parametrize("kind", [fastlog.SummaryWriter, TorchSummaryWriter])
def test_a_graph_that_cannot_be_made_is_an_error_that_names_method_and_argument(
    name: str, kind: Any, tmp_path: Path
) -> None:
    model, given, error, text = WRONG_GRAPHS[name]
    with kind(tmp_path) as writer:
        with pytest.raises(error, match=f"^{text}"):
            writer.add_graph(model, given)
        writer.add_scalar("after", 1.0)
    assert list(values(tmp_path)) == ["after"]


def test_an_onnx_graph_needs_a_file(tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path)
    with writer, pytest.raises(TypeError, match=r"^add_onnx_graph: onnx_model_file is None"):
        writer.add_onnx_graph(None)


# ---- custom scalars


def layout(logdir: Path) -> dict[str, Any]:
    tensor = values(logdir)["custom_scalars__config__"].tensor
    categories = Layout.FromString(tensor.string_val[0]).category
    return {
        chart.title: [*chart.multiline.tag]
        or [[series.value, series.lower, series.upper] for series in chart.margin.series]
        for category in categories
        for chart in category.chart
    }


@pytest.mark.parametrize("kind", [fastlog.SummaryWriter, TorchSummaryWriter])
def test_custom_charts_find_the_series(kind: Any, tmp_path: Path) -> None:
    names = ["acc@5", "loss (train)", "f1[macro", "plain/x.y"]
    with kind(tmp_path) as writer:
        for name in names:
            writer.add_scalar(name, 1.0)
        charts = {"lines": ["Multiline", names], "margin": ("margin", names[:3])}
        writer.add_custom_scalars({"category": charts})
    written = [tag for tag, _ in simple_values(tmp_path)]
    found = layout(tmp_path)
    assert [[tag for tag in written if re.match(line, tag)] for line in found["lines"]] == [
        [tag] for tag in written
    ]
    assert found["margin"] == [written[:3]]


def test_patterns_of_lines_stay(tmp_path: Path) -> None:
    patterns = ["loss/.*", r"acc_\d+", "(a|b)/c"]
    log(tmp_path, lambda w: w.add_custom_scalars_multilinechart(patterns, "c", "t"))
    for pattern, line in zip(patterns, layout(tmp_path)["t"], strict=True):
        assert line == pattern or line.startswith(f"{pattern}|")


WRONG_LAYOUTS: dict[str, tuple[Any, type[Exception] | None]] = {
    "no dict": (["a"], TypeError),
    "no dict of dicts": ({"c": ["Multiline", ["a"]]}, TypeError),
    "one string for the tags": ({"c": {"t": ["Multiline", "loss"]}}, TypeError),
    "a tag that is no string": ({"c": {"t": ["Multiline", [1]]}}, TypeError),
    "unknown kind": ({"c": {"t": ["Pie", ["a"]]}}, None),
    "margin of two": ({"c": {"t": ["Margin", ["a", "b"]]}}, None),
}


@pytest.mark.parametrize("name", WRONG_LAYOUTS)
def test_a_wrong_layout_is_named(name: str, tmp_path: Path) -> None:
    given, error = WRONG_LAYOUTS[name]
    with fastlog.SummaryWriter(tmp_path) as writer:
        if error:
            with pytest.raises(error, match=r"^add_custom_scalars: layout"):
                writer.add_custom_scalars(given)
        else:
            with pytest.warns(fastlog.FastlogWarning, match=r"^add_custom_scalars: .*layout\['c'\]\['t'\]"):
                writer.add_custom_scalars(given)
    assert values(tmp_path) == {}
