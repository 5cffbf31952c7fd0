"""Models that Accelerate, the transformers Trainer and Lightning have sharded, on ranks of their own."""

from __future__ import annotations

from pathlib import Path

import framework_cases
import numpy as np
import pytest
from run_ranks import run_ranks
from tiny_net import LAYERS
from watch_oracle import Expected, expect_step

Seen = list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]


def expected_of(seen: Seen, first: int) -> Expected:
    expected = Expected()
    for step, (grads, weights) in enumerate(seen, first):
        expect_step(expected, step, grads, weights)
    return expected


def test_what_accelerate_shards_is_logged_whole(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    zero, one = run_ranks(2, framework_cases.accelerate_loop, tmp_path)
    assert len(zero.result) == 2 and zero.warnings == one.warnings == []
    expected_of(zero.result, 0).assert_logged(tmp_path / "run")


def test_what_the_transformers_trainer_shards_is_logged_whole(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    zero, one = run_ranks(2, framework_cases.transformers_trainer, tmp_path)
    assert len(zero.result) == 2 and zero.warnings == one.warnings == []
    expected_of(zero.result, 1).assert_logged(tmp_path, others="train/|grad_norm/before_clipping")


def test_what_lightning_shards_is_logged_whole(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    zero, one = run_ranks(2, framework_cases.lightning_trainer, tmp_path)
    seen, refusal = zero.result
    assert len(seen) == 2 and zero.warnings == one.warnings == []
    assert "`fsdp` requires a GPU accelerator" in refusal
    layers = {f"net.{layer}": [f"net.{name}" for name in names] for layer, names in LAYERS.items()}
    expected = Expected()
    for step, (grads, weights) in enumerate(seen):
        expected.add(step, "gradients", "grad", grads, layers)
        expected.add(step, "weights", "weight", weights, layers)
    expected.assert_logged(tmp_path, others="epoch|hp_metric")
