"""What the rules say of two ranks that train together, with DDP, FSDP2 and HSDP on gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import sick_ranks
from run_ranks import run_ranks

import fastlog
from fastlog.health.findings import Finding

# One seed in the default suite, more in the long one.
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2, 3))]

pytestmark = pytest.mark.parametrize("seed", SEEDS)


def findings(kind: str, fault: str, seed: int, logdir: Path) -> tuple[list[Finding], list[Finding]]:
    """Of the file, above information, and those that ``on_finding`` got on the first rank."""
    zero, one = run_ranks(2, sick_ranks.train, kind, fault, seed, logdir)
    assert one.result == []  # the first rank sees for all
    (health,) = fastlog.check(logdir)
    assert {"replicas-differ", "same-batch", "straggler"} <= {*health.checked, *health.not_checked}
    return [finding for finding in health.findings if finding.severity != "info"], zero.result


@pytest.mark.parametrize("kind", ["DDP", "FSDP2", "HSDP"])
def test_healthy_ranks_are_checked_and_nothing_is_said(tmp_path: Path, kind: str, seed: int) -> None:
    assert findings(kind, "", seed, tmp_path) == ([], [])
    (health,) = fastlog.check(tmp_path)
    assert {"same-batch", "straggler"} <= set(health.checked)
    assert ("replicas-differ" in health.checked) == (kind != "FSDP2")


@pytest.mark.parametrize("kind", ["DDP", "HSDP"])
def test_a_weight_that_differs_on_one_rank_is_named(tmp_path: Path, kind: str, seed: int) -> None:
    (finding,), live = findings(kind, "replicas-differ", seed, tmp_path)
    assert (finding.rule, finding.severity) == ("replicas-differ", "error")
    assert finding.tensors[0] == "layers.1.query.weight"
    assert finding.first_step == sick_ranks.FAULT_AT + 1
    assert [one.rule for one in live[:1]] == ["replicas-differ"]


@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
def test_ranks_that_see_the_same_batches_are_found(tmp_path: Path, kind: str, seed: int) -> None:
    (finding,), live = findings(kind, "same-batch", seed, tmp_path)
    assert (finding.rule, finding.severity) == ("same-batch", "error")
    assert finding.tensors == ("stem",) and finding.first_step <= 1
    assert [one.rule for one in live] == ["same-batch"]


@pytest.mark.parametrize("kind", ["DDP", "FSDP2"])
def test_a_rank_that_comes_late_is_found(tmp_path: Path, kind: str, seed: int) -> None:
    (finding,), live = findings(kind, "straggler", seed, tmp_path)
    assert (finding.rule, finding.severity) == ("straggler", "warning")
    assert finding.evidence["rank"] == 1 and finding.title.startswith("rank 1 is slow: ")
    assert abs(finding.first_step - sick_ranks.FAULT_AT) <= 1
    assert [one.rule for one in live] == ["straggler"]
