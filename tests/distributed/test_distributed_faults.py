"""Ranks that disagree about what there is, or end where they should not: nothing hangs, nothing is wrong."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import fault_cases
import pytest
import rank_cases
from run_ranks import run_ranks
from watch_oracle import read, weight_steps


def test_models_that_are_not_the_same_on_all_ranks(tmp_path: Path) -> None:
    zero, _ = run_ranks(2, fault_cases.odd_models, tmp_path)
    found = {}
    for name, counts in zero.result.items():
        events = read(tmp_path / name)
        found[name] = {
            tag: [int(event.histogram_value.num) for event in events.Histograms(tag)]
            for tag in events.Tags()["histograms"]
        }
        assert (counts["whole"], counts["lost"], counts["alone"]) == (2, 0, 0), name
    whole = {"weights/weight": [20, 20], "weights/other": [20, 20], "gradients/other": [20, 20]}
    assert found == {
        "other_shapes": {"weights/weight": [12, 12], "weights/both": [2, 2]},
        "no_values": {},
        "some_values": {"weights/few": [5, 5]},
        "later": {"weights/weight": [2, 2], "weights/new": [7]},
        "frozen": {"weights/stage0": [3, 3]},
        "half_a_gradient": whole,
        "no_gradient": {
            **{
                f"{kind}/{name}": [n] * 2
                for kind in ("weights", "gradients")
                for name, n in (("stage0", 3), ("both", 2))
            },
            "weights/stage1": [3, 3],
        },
    }
    assert zero.result["other_shapes"]["differing"] == 2
    assert zero.result["half_a_gradient"]["incomplete"] == 2
    differing, empty, empty_here, incomplete = zero.warnings
    assert "plain, weight have no elements" in empty and "weight has no elements" in empty_here
    assert "1 tensors differ" in differing and "weights/weight on the ranks 0 and 1" in differing
    assert "some ranks did not bring their parts of gradients/weight" in incomplete


def test_the_next_watch_merges_again(tmp_path: Path) -> None:
    zero, one = run_ranks(2, rank_cases.merge_again, tmp_path)
    assert weight_steps(tmp_path) == {"stage0.weight": [2, 4, 5], "stage1.weight": [2, 4, 5]}
    assert weight_steps(tmp_path / "rank_0") == {"stage0.weight": [0, 1, 3]}
    assert weight_steps(tmp_path / "rank_1") == {"stage1.weight": [3]}
    assert [outcome.result["merged"]["whole"] for outcome in (zero, one)] == [3, 3]
    assert "nothing came from rank 1" in zero.warnings[0]
    assert "rank 1 died, or logs nothing any more" in zero.warnings[1]


def test_two_models_at_once_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    zero, one = run_ranks(2, fault_cases.crosswise, tmp_path)
    assert zero.warnings == one.warnings == []
    events = read(tmp_path)
    for tag in ("0/weights/model0", "1/weights/model1", "tensor"):
        logged = [(event.step, event.histogram_value.num) for event in events.Histograms(tag)]
        assert logged == [(step, 4) for step in range(3)], tag


def test_just_the_steps_that_all_ranks_bring_are_merged() -> None:
    outcomes = [outcome.result for outcome in run_ranks(3, fault_cases.skip_at_random)]
    common = set.intersection(*(set(mine) for mine, _, _ in outcomes))
    assert outcomes[0][1] == sorted(common) and 10 < len(common) < 60
    for mine, _, counts in outcomes:
        assert (counts["whole"], counts["lost"]) == (len(common), len(mine) - len(common))


@pytest.mark.parametrize("how", ["forgets to close", "destroys the group"])
def test_what_was_logged_before_the_end_is_merged(tmp_path: Path, how: str) -> None:
    zero, one = run_ranks(2, fault_cases.end_early, how, tmp_path)
    assert zero.warnings == one.warnings == []
    assert weight_steps(tmp_path) == {"stage0": [0], "stage1": [0]}


def test_a_watcher_that_is_removed_on_one_rank_does_not_hold_up_the_others(tmp_path: Path) -> None:
    run_ranks(2, fault_cases.end_early, "removes", tmp_path)
    assert weight_steps(tmp_path) == {"stage0": [0], "stage1": [0]}
    assert weight_steps(tmp_path / "rank_0") == {"stage0": [1]}


_PROGRAM = """
import sys
from pathlib import Path
import torch.distributed as dist
from fault_cases import end_early
rank, logdir = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{logdir}/store", rank=rank, world_size=2)
end_early(rank, "is interrupted", logdir)
"""


def test_an_interrupted_rank_ends_at_once_and_says_what_is_lost(tmp_path: Path) -> None:
    zero, one = (
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(rank), str(tmp_path)],
            cwd=Path(fault_cases.__file__).parent,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    _, said = zero.communicate(timeout=60)
    (tmp_path / "closed").touch()
    one.communicate(timeout=60)
    assert (zero.returncode, one.returncode) == (-signal.SIGINT, 0)
    assert "1 logged steps waited for other ranks when the process ended; they are lost" in said
    assert re.search(r"fault_cases\.py:\d+: FastlogWarning: fastlog: 1 logged steps", said)
    assert weight_steps(tmp_path) == {"stage0": [0], "stage1": [0]}
