"""Trainings with planted faults and healthy ones: what the rules say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sets import ALL
from sets.bench import CASES, run_case

assert ALL
QUICK = [case for case in CASES.values() if case.quick]


@pytest.mark.parametrize("case", [case for case in QUICK if case.rule], ids=lambda case: case.name)
def test_a_planted_fault_is_found_with_its_tensors_and_its_step(tmp_path: Path, case) -> None:
    result = run_case(case, tmp_path, seed=0)
    assert result.missing == ""
    assert result.false_alarms == []


@pytest.mark.parametrize("case", [case for case in QUICK if not case.rule], ids=lambda case: case.name)
def test_nothing_above_information_is_said_of_a_healthy_run(tmp_path: Path, case) -> None:
    assert run_case(case, tmp_path, seed=0).false_alarms == []
