"""A history's statistics, held against NumPy on the values themselves."""

import numpy as np
import pytest
import torch

import fastlog
from fastlog.health.history import History, Inventory, Kind, Parameter
from fastlog.summaries.packed import HEAD
from fastlog.summaries.stats import FURTHER, STATS


def kind_of(tensors: dict[str, list[torch.Tensor | None]]) -> Kind:
    heads = np.zeros((len(tensors), len(next(iter(tensors.values())))), HEAD)
    present = np.zeros(heads.shape, bool)
    for i, row in enumerate(tensors.values()):
        for j, tensor in enumerate(row):
            if tensor is not None:
                heads[i, j] = np.frombuffer(fastlog.summarize(tensor).to_packed()[: HEAD.itemsize], HEAD)[0]
                present[i, j] = True
    return Kind(tuple(tensors), heads, present)


def test_statistics_are_those_of_the_values_and_nan_where_there_are_none() -> None:
    a, b = torch.randn(40), torch.tensor([0.0, 3.0, float("nan"), 1e-6])
    kind = kind_of({"a": [a, None], "b": [b, a]})
    numpy_a = a.double().numpy()
    assert kind.stat("norm")[0, 0] == pytest.approx(np.linalg.norm(numpy_a))
    assert kind.stat("rms")[0, 0] == pytest.approx(np.sqrt(np.mean(numpy_a**2)))
    assert kind.stat("mean")[1, 1] == pytest.approx(numpy_a.mean())
    assert kind.stat("zeros")[1, 0] == 0.25
    assert kind.stat("below_fp16")[1, 0] == 0.25
    assert kind.stat("nonfinite")[:, 0].tolist() == [0, 1]
    for stat in STATS | FURTHER:
        assert np.isnan(kind.stat(stat)[0, 1]), stat


def test_totals_add_up_what_is_there() -> None:
    ones = torch.ones(4)
    kind = kind_of({"a": [ones, None, None], "b": [ones, ones, None]})
    np.testing.assert_array_equal(kind.total("sum_squares"), [8, 4, np.nan])
    np.testing.assert_array_equal(kind.total("sum_squares", np.array([1])), [4, 4, np.nan])


def test_sizes_come_from_the_inventory_or_else_from_the_summaries() -> None:
    kinds = {"weights": kind_of({"a": [torch.ones(4), None]})}
    history = History("run", np.arange(2), np.arange(2.0), kinds)
    assert history.sizes() == {"a": 4}
    history.inventories = (Inventory(0, {"a": Parameter("a", (2, 2)), "b": Parameter("b", (3,))}),)
    assert history.sizes() == {"a": 4, "b": 3}
