"""``fastlog.compare``: planted differences are named, and what is alike is called so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import gpt
import numpy as np
import pytest
import scipy.stats
import torch

import fastlog
from fastlog.__main__ import main
from fastlog.comparing.api import rename_by
from fastlog.comparing.distances import LOG_RATIO, distances
from fastlog.comparing.showing import as_html
from fastlog.summaries.summary import EDGES


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt.train(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [gpt.train(tmp_path_factory.mktemp("seed"), seed=seed) for seed in (1, 2, 3)]


@pytest.mark.parametrize("name", gpt.CHANGES)
def test_a_planted_difference_is_named_with_its_first_step_and_tensor(
    name: str, good: Path, tmp_path: Path
) -> None:
    change, step, first = gpt.CHANGES[name]
    found = fastlog.compare(good, gpt.train(tmp_path, change))
    assert (found.alike, found.paired, found.first_step) == (False, True, step)
    assert f"{found.differing[0].kind}/{found.differing[0].name}".startswith(first)


def test_the_same_run_again_is_the_same_bit_for_bit(good: Path, tmp_path: Path) -> None:
    found = fastlog.compare(good, gpt.train(tmp_path))
    assert found.alike and found.paired and "bit for bit" in found.verdict


def test_rounding_is_no_difference(good: Path, tmp_path: Path) -> None:
    def nudge(model: gpt.GPT) -> None:
        with torch.no_grad():
            model.head.weight.mul_(1 + 2**-22)

    found = fastlog.compare(good, gpt.train(tmp_path, gpt.Change(nudge)))
    assert found.alike and found.paired and "rounding" in found.verdict


def test_a_real_difference_behind_rounding_is_found(good: Path, tmp_path: Path) -> None:
    def nudge(model: gpt.GPT) -> None:
        with torch.no_grad():
            model.head.weight.mul_(1 + 2**-22)

    found = fastlog.compare(good, gpt.train(tmp_path, gpt.Change(nudge, lost_step=4)))
    assert (found.alike, found.first_step) == (False, 4)


def test_two_seeds_of_one_run_are_alike(good: Path, seeds: list[Path]) -> None:
    found = fastlog.compare(good, seeds[0])
    assert found.alike and not found.paired, found.verdict
    assert any("did not begin the same" in note for note in found.notes)
    assert fastlog.compare(good, seeds[0], like=seeds[1:]).alike


@pytest.mark.soak
def test_many_seeds_of_one_run_are_alike(good: Path, tmp_path: Path) -> None:
    runs = [gpt.train(tmp_path / str(seed), seed=seed) for seed in range(10, 22)]
    for number, seed in enumerate(runs):
        assert fastlog.compare(good, seed).alike, number
        others = [runs[(number + i) % len(runs)] for i in (1, 2)]
        assert fastlog.compare(good, seed, like=others).alike, number


def test_among_other_seeds_a_layer_of_another_scale_stands_out(
    good: Path, seeds: list[Path], tmp_path: Path
) -> None:
    def larger(model: gpt.GPT) -> None:
        with torch.no_grad():
            model.layers[1].up.weight.mul_(3)

    other = gpt.train(tmp_path, gpt.Change(larger), seed=9)
    for like in ([], seeds):
        found = fastlog.compare(good, other, like=like)
        names = {f"{one.kind}/{one.name}" for one in found.differing}
        assert (found.alike, found.paired, found.first_step) == (False, False, 0)
        assert "weights/layers.1.up.weight" in names
        assert not any("layers.0" in name and name.startswith("weights/") for name in names)


def test_runs_of_other_intervals_are_compared_at_the_nearest_steps(good: Path, tmp_path: Path) -> None:
    found = fastlog.compare(good, gpt.train(tmp_path, every=2))
    assert found.alike and found.steps.tolist() == [0, 2, 4, 6]


def test_bert_parts_where_its_dropout_is_off(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    def train(folder: Path, dropout: float) -> Path:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        model = BertForSequenceClassification(BertConfig(vocab_size=100, hidden_dropout_prob=0.1, **sizes))
        model.bert.encoder.layer[1].output.dropout.p = dropout
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        with (
            fastlog.SummaryWriter(folder) as writer,
            fastlog.watch(model, writer, optimizer, log="all", health=False),
        ):
            for _ in range(3):
                words = torch.randint(100, (4, 10))
                model(input_ids=words, labels=words[:, 0] % 2).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return folder

    found = fastlog.compare(train(tmp_path / "a", 0.1), train(tmp_path / "b", 0.0))
    assert (found.alike, found.first_step) == (False, 0)
    assert found.differing[0].name == "bert.encoder.layer.1.output.dropout"
    assert "zeros" in found.differing[0].looks_like


def logged(folder: Path, *tensors: np.ndarray, tag: str = "weights/x") -> Path:
    with fastlog.SummaryWriter(folder) as writer:
        for step, values in enumerate(tensors):
            writer.add_histogram(tag, values, step)
    return folder


def test_distances_are_those_of_the_binned_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=3000), 1.7 * rng.normal(size=2500) + 0.1
    other[:500] = 0
    runs = [fastlog.load(logged(tmp_path / str(i), values)) for i, values in enumerate((one, other))]
    found = distances(*(run.histograms("weights/x") for run in runs))  # type: ignore[union-attr]
    binned = [np.searchsorted(EDGES, values, side="right") for values in (one, other)]
    assert found.ks[0] == pytest.approx(scipy.stats.ks_2samp(*binned).statistic)
    zero = int(np.searchsorted(EDGES, 0.0))
    sizes = [np.where(bins > zero, bins - zero - 1, zero - bins) for bins in binned]
    sizes = [size[np.abs(values) > 1e-12] for size, values in zip(sizes, (one, other), strict=True)]
    assert found.w1[0] == pytest.approx(scipy.stats.wasserstein_distance(*sizes))
    assert found.zeros[0] == pytest.approx(0.2)
    rms = [np.sqrt(np.mean(values**2)) for values in (one, other)]
    assert found.log_rms[0] == pytest.approx(np.log(rms[1] / rms[0]))
    assert found.shift[0] == pytest.approx((other.mean() - one.mean()) / rms[0])


def test_a_pure_scale_moves_all_magnitudes_by_its_logarithm(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=4000)
    runs = [fastlog.load(logged(tmp_path / str(i), factor * values)) for i, factor in enumerate((1.0, 3.0))]
    found = distances(*(run.histograms("weights/x") for run in runs))  # type: ignore[union-attr]
    assert found.w1[0] == pytest.approx(np.log(3) / LOG_RATIO, abs=0.1)


def test_nan_in_one_run_is_a_difference(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=100)
    bad = np.where(np.arange(100) < 3, np.nan, values)
    with pytest.warns(fastlog.FastlogWarning, match="3 NaN"):
        other = logged(tmp_path / "b", values, bad)
    found = fastlog.compare(logged(tmp_path / "a", values, values), other)
    assert found.first_step == 1 and found.differing[0].looks_like == "3 more NaN or Inf"


def compare(*arguments: Any) -> int:
    try:
        main(["compare", *map(str, arguments)])
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def test_the_command_says_it_in_words_in_json_and_on_a_page(tmp_path: Path, capsys: Any) -> None:
    values = np.random.default_rng(0).normal(size=500)
    tag = 'weights/<script>"layer".weight'
    one = logged(tmp_path / "a", values, values, values, tag=tag)
    other = logged(tmp_path / "b", values, 2 * values, values, tag=tag)
    assert compare(one, one) == 0
    assert "bit for bit" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert compare(one, other, "--html", page) == 1
    assert "part at step 1" in (text := capsys.readouterr().out) and "scaled by 2" in text
    assert compare(one, other, "--json") == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["first_step"], said["differing"][0]["factor"]) == (1, pytest.approx(2))
    assert "<script>" not in page.read_text()
    HTMLParser().feed(page.read_text())
    assert as_html(fastlog.compare(one, other), "t").count("<td title=") == 3


def test_names_are_mapped_by_rules(tmp_path: Path, capsys: Any) -> None:
    values = np.random.default_rng(0).normal(size=500)
    one = logged(tmp_path / "a", values, tag="weights/layer.0.weight")
    other = logged(tmp_path / "b", values, tag="weights/model.layer/0/weight")
    assert compare(one, other) == 2
    assert "no tensor in common" in capsys.readouterr().err
    assert compare(one, other, "--map", r"s/^model\.//", "--map", "s|/|.|") == 0
    assert rename_by(["s/a/b/", "s,b,c,"])("aab") == "ccc"
    for rule in ("a/b", "s/a/b", "s/(/b/", "s/a/b/g"):
        with pytest.raises(ValueError, match=r"rule|unterminated"):
            rename_by([rule])


def test_what_cannot_be_compared_is_said_with_status_2(tmp_path: Path, capsys: Any) -> None:
    values = np.ones(3)
    one = logged(tmp_path / "a", values)
    assert compare(one, tmp_path / "missing") == 2
    assert "does not exist" in capsys.readouterr().err
    logged(tmp_path / "many" / "x", values)
    logged(tmp_path / "many" / "y", values)
    assert compare(one, tmp_path / "many") == 2
    assert "2 runs (x, y)" in capsys.readouterr().err
    with fastlog.SummaryWriter(tmp_path / "scalars") as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert compare(one, tmp_path / "scalars") == 2
    assert "has no histograms" in capsys.readouterr().err
    with fastlog.SummaryWriter(tmp_path / "late") as writer:
        writer.add_histogram("weights/x", values, 1000)
    assert compare(one, tmp_path / "late") == 2
    assert "no logged step in common" in capsys.readouterr().err
