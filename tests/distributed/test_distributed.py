"""Tensors and models that are spread over ranks: what is logged is what the gathered tensors would give."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rank_cases
import torch
from event_files import files
from run_ranks import run_ranks
from tiny_net import LAYERS
from watch_oracle import EDGES, Expected, read, weight_steps

from fastlog.integrations import lightning as of_lightning
from fastlog.integrations import transformers as of_transformers
from fastlog.watching import watch
from fastlog.writer import SummaryWriter


def assert_counts(histogram: object, whole: np.ndarray) -> None:
    finite = whole[np.isfinite(whole)]
    counts, _ = np.histogram(finite, bins=EDGES)
    occupied = np.flatnonzero(counts)
    pairs = zip(histogram.bucket_limit, histogram.bucket, strict=True)
    assert [pair for pair in pairs if pair[1]] == [(EDGES[i + 1], counts[i]) for i in occupied]
    assert histogram.num == whole.size
    assert (histogram.min, histogram.max) == (finite.min(), finite.max())
    assert abs(histogram.sum - finite.sum()) <= 1e-12 * np.abs(finite).sum()
    assert abs(histogram.sum_squares - np.square(finite).sum()) <= 1e-12 * np.square(finite).sum()


def test_a_dtensor_of_any_layout_is_logged_as_the_whole_tensor(tmp_path: Path) -> None:
    outcomes = run_ranks(4, rank_cases.log_layouts, tmp_path)
    events = read(tmp_path)
    for name, (_, _, shape, dtype) in rank_cases.LAYOUTS.items():
        whole = rank_cases.values(shape, dtype).double().numpy()
        logged = events.Histograms(name) if whole.size else []
        assert [event.step for event in logged] == ([0, 1] if whole.size else []), name
        for event in logged:
            assert_counts(event.histogram_value, whole.ravel())
        if not np.isfinite(whole).all():
            assert [event.value for event in events.Scalars(f"{name}/nan")] == [np.isnan(whole).sum()] * 2
            assert [event.value for event in events.Scalars(f"{name}/inf")] == [np.isinf(whole).sum()] * 2
    (strided,) = events.Histograms("strided")
    assert_counts(strided.histogram_value, np.repeat([0.0, 1.0, 2.0, 3.0], 2))
    assert "addends" not in events.Tags()["histograms"]
    assert {path.parent.name for path in files(tmp_path)} == {tmp_path.name} | {
        f"not_here_{r}" for r in (1, 2, 3)
    }
    assert not any(read(tmp_path / f"not_here_{rank}").Tags()["histograms"] for rank in (1, 2, 3))
    for outcome in outcomes:
        assert "the ranks hold addends of the values" in outcome.result["refusal"]
        assert outcome.result["merged"]["lost"] == outcome.result["merged"]["alone"] == 0
        assert outcome.result["bad_values"] == 2
        assert any("add_histogram('no_element'): nothing is logged" in text for text in outcome.warnings)


@pytest.mark.parametrize(
    ("kind", "size"), [("FSDP", 4), ("HSDP", 4), ("TP", 2), ("FSDP and TP", 4), ("DDP", 2)]
)
def test_a_watched_model_is_logged_as_the_gathered_one(tmp_path: Path, kind: str, size: int) -> None:
    outcomes = run_ranks(size, rank_cases.watch_kind, kind, tmp_path)
    assert [outcome.warnings for outcome in outcomes] == [[]] * size
    expected = Expected()
    for step, grads, before, after, exp_avg, exp_avg_sq in outcomes[0].result:
        updates = {name: after[name].astype(np.float32) - before[name].astype(np.float32) for name in after}
        updates = {name: update.astype(np.float64) for name, update in updates.items()}
        for log, title, tensors in (
            ("gradients", "grad", grads),
            ("weights", "weight", after),
            ("updates", "update", updates),
            ("exp_avg", "exp_avg", exp_avg),
            ("exp_avg_sq", "exp_avg_sq", exp_avg_sq),
        ):
            expected.add(step, log, title, tensors, LAYERS)
        expected.add_ratios(step, {n: torch.from_numpy(a) for n, a in after.items()}, updates, LAYERS)
    expected.assert_logged(tmp_path)
    assert len(files(tmp_path)) == 1


def test_activations_of_all_ranks_add_up(tmp_path: Path) -> None:
    outcomes = run_ranks(2, rank_cases.watch_activations, tmp_path)
    (logged,) = read(tmp_path).Histograms("activations/head")
    assert not np.array_equal(outcomes[0].result, outcomes[1].result)
    assert_counts(logged.histogram_value, np.concatenate([outcome.result for outcome in outcomes]))


def test_stages_with_different_parameters_are_merged_by_name(tmp_path: Path) -> None:
    outcomes = run_ranks(2, rank_cases.watch_stages, tmp_path)
    whole = outcomes[1].result | outcomes[0].result
    assert len(whole) == 6
    events = read(tmp_path)
    assert events.Tags()["histograms"] == [f"weights/{name}" for name in outcomes[0].result] + [
        f"weights/stage1.{name}" for name in ("weight", "bias")
    ]
    for name, array in whole.items():
        (event,) = events.Histograms(f"weights/{name}")
        assert_counts(event.histogram_value, array)
    norm = np.sqrt(sum(np.square(array).sum() for array in whole.values()))
    assert events.Scalars("weight_norm/global")[0].value == pytest.approx(norm, rel=1e-6)


def test_a_parameter_without_elements_is_said_by_the_rank_that_has_it(tmp_path: Path) -> None:
    outcomes = run_ranks(2, rank_cases.watch_an_empty_parameter, tmp_path)
    assert outcomes[0].warnings == []
    (text,) = outcomes[1].warnings
    assert "fastlog.watch: nothing has no elements" in text


LONG = 40.0


ALL_STEPS = [0, 1, 2, 3, 4, 5]


def test_training_does_not_wait_for_ranks_that_are_late(tmp_path: Path) -> None:
    """Rank 1 begins when rank 0 has trained."""
    outcomes = run_ranks(2, rank_cases.disagree, "is late", tmp_path, LONG)
    assert [outcome.warnings for outcome in outcomes] == [[], []]
    assert [outcome.result["merged"]["whole"] for outcome in outcomes] == [6, 6]
    assert weight_steps(tmp_path) == {"stage0.weight": ALL_STEPS, "stage1.weight": ALL_STEPS}


def test_a_step_that_a_rank_skips_is_lost_and_the_others_are_not(tmp_path: Path) -> None:
    outcomes = run_ranks(2, rank_cases.disagree, "skips", tmp_path, LONG)
    both = [0, 1, 3, 4, 5]
    assert weight_steps(tmp_path) == {"stage0.weight": both, "stage1.weight": both}
    assert [outcome.result["merged"]["lost"] for outcome in outcomes] == [1, 0]
    assert outcomes[0].result["merged"]["whole"] == outcomes[1].result["merged"]["whole"] == 5
    assert len(files(tmp_path)) == 1
    (warning,) = outcomes[0].warnings
    assert "step 2 (fastlog.watch) was logged by the ranks [0] of [0, 1] only; it is lost" in warning


@pytest.mark.parametrize(("fault", "timeout"), [("raises", LONG), ("dies", LONG), ("hangs", 3.0)])
def test_when_a_rank_is_gone_the_others_go_on_alone(tmp_path: Path, fault: str, timeout: float) -> None:
    zero, one = run_ranks(2, rank_cases.disagree, fault, tmp_path, timeout, may_fail=True)
    assert zero.error is None and zero.exit_code == 0
    assert weight_steps(tmp_path) == {"stage0.weight": [0, 1], "stage1.weight": [0, 1]}
    assert weight_steps(tmp_path / "rank_0") == {"stage0.weight": [2, 3, 4, 5]}
    assert zero.result["merged"] == {
        "whole": 2,
        "lost": 0,
        "alone": 4,
        "dropped": 0,
        "differing": 0,
        "incomplete": 0,
    }
    (warning,) = zero.warnings
    assert "rank 1 died, or logs nothing any more" in warning and str(tmp_path / "rank_0") in warning
    if fault == "hangs":
        assert one.result["merged"] == zero.result["merged"]
        assert weight_steps(tmp_path / "rank_1") == {"stage1.weight": [2, 3, 4, 5]}
        assert len(one.warnings) == 1


def test_logging_on_rank_zero_only_is_found_out_and_explained(tmp_path: Path) -> None:
    zero, _ = run_ranks(2, rank_cases.disagree, "is not there", tmp_path, 1.0)
    assert weight_steps(tmp_path / "rank_0") == {"stage0.weight": ALL_STEPS}
    assert weight_steps(tmp_path) == {}
    (warning,) = zero.warnings
    assert "nothing came from rank 1 within 1 s" in warning and "not inside of `if rank == 0:`" in warning


def test_payloads_that_have_no_room_come_in_the_next_round(tmp_path: Path) -> None:
    sizes = [
        [5, 0, 10],
        [5, 0, 10],
        [70_000, 4096, 12_000],
        [0, 5121, 12_000],
        [1, 5000, 20_000],
        [1, 1, 15_000],
    ]
    outcomes = run_ranks(3, rank_cases.exchange_sizes, sizes)
    fit = [[True, True, False], [True, True, True], [True, False, False], [True, True, True]]
    for rank, outcome in enumerate(outcomes):
        assert [arrived for arrived, _ in outcome.result] == [*fit, [True, True, False], [True, True, True]]
        if rank == 0:
            for row, (arrived, payloads) in zip(sizes, outcome.result, strict=True):
                assert payloads == [bytes([i + 1]) * n if arrived[i] else b"" for i, n in enumerate(row)]


def test_numbers_and_activations_of_replicas_are_merged_and_weights_are_not(tmp_path: Path) -> None:
    outcomes = run_ranks(2, rank_cases.watch_replicas, True, tmp_path)
    assert [outcome.result["merged"]["whole"] for outcome in outcomes] == [1, 1]
    assert read(tmp_path / "rank_1").Tags()["histograms"] == []
    events = read(tmp_path / "rank_0")
    (head,) = events.Histograms("weights/head.weight")
    assert head.histogram_value.num == 18
    (activations,) = events.Histograms("activations/head")
    assert activations.histogram_value.num == 2 * 4 * 5 * 3
    found = {
        tag: e.value for tag in events.Tags()["scalars"] if "/ranks/" in tag for e in events.Scalars(tag)
    }
    assert found == {
        "fastlog/ranks/data_wait/min": 2.0,
        "fastlog/ranks/data_wait/median": 2.5,
        "fastlog/ranks/data_wait/max": 3.0,
        "fastlog/ranks/data_wait/slowest_rank": 0.0,
    }


def test_each_rank_logs_for_itself_where_that_is_asked_for(tmp_path: Path) -> None:
    outcomes = run_ranks(2, rank_cases.watch_replicas, False, tmp_path)
    assert not any("merged" in outcome.result for outcome in outcomes)
    for rank in range(2):
        (activations,) = read(tmp_path / f"rank_{rank}").Histograms("activations/head")
        assert activations.histogram_value.num == 4 * 5 * 3


def test_ranks_get_directories_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SummaryWriter(tmp_path, rank_dirs=True) as alone:
        assert alone.get_logdir() == str(tmp_path / "rank_0")
    monkeypatch.setenv("RANK", "3")  # torchrun's, before init_process_group
    with SummaryWriter(log_dir=str(tmp_path), rank_dirs=True) as writer:
        writer.add_scalar("loss", 1.0, 0)
    assert read(tmp_path / "rank_3").Tags()["scalars"] == ["loss"]
    with pytest.raises(ValueError, match="rank_dirs=True needs a logdir, the same on all ranks"):
        SummaryWriter(rank_dirs=True)


def test_replicas_that_differ_are_found_where_that_is_asked_for(tmp_path: Path) -> None:
    outcomes = run_ranks(4, rank_cases.watch_broken_replicas, tmp_path)
    assert outcomes[0].result["merged"]["differing"] == 1
    (warning,) = outcomes[0].warnings
    assert "1 tensors differ" in warning and "weights/head.weight on the ranks 0 and 2" in warning
    assert [outcome.warnings for outcome in outcomes[1:]] == [[], [], []]
    (head,) = read(tmp_path).Histograms("weights/head.weight")
    assert head.histogram_value.num == 18


def test_a_resumed_job_hides_what_was_logged_after_its_checkpoint(tmp_path: Path) -> None:
    run_ranks(2, rank_cases.resume, tmp_path)
    assert weight_steps(tmp_path)["head.weight"] == [0, 1, 2]
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    ("rank", "sharded", "watches"), [(0, False, True), (0, True, True), (1, False, False), (1, True, True)]
)
def test_callbacks_watch_on_all_ranks_of_a_sharded_model(
    monkeypatch, tmp_path, rank, sharded, watches
) -> None:
    calls = []
    for module in (of_transformers, of_lightning):
        monkeypatch.setattr(module, "ranks_of", lambda model: (0, 1) if sharded else ())
        monkeypatch.setattr(module, "watch", lambda model, writer, *args, **options: calls.append(writer))
    arguments = SimpleNamespace(
        max_steps=1,
        logging_strategy="steps",
        logging_first_step=False,
        to_json_string=lambda: "{}",
        to_sanitized_dict=dict,
    )
    state = SimpleNamespace(
        is_world_process_zero=rank == 0, global_step=0, logging_steps=1, is_hyper_param_search=False
    )
    with SummaryWriter(str(tmp_path)) as writer:
        callback = of_transformers.FastLogCallback(writer)
        callback.on_train_begin(arguments, state, None, model=torch.nn.Linear(2, 2))
    logger = of_lightning.FastLogLogger(str(tmp_path))
    loop = SimpleNamespace(epoch_loop=None)
    trainer = SimpleNamespace(
        loggers=[logger],
        is_global_zero=rank == 0,
        log_every_n_steps=1,
        optimizers=[],
        fit_loop=loop,
        fast_dev_run=False,
    )
    of_lightning.FastLogWatch().on_train_start(trainer, torch.nn.Linear(2, 2))
    logger.experiment.close()
    assert len(calls) == 2 * watches
    assert all((call is None) == (rank == 1) for call in calls)


class Sharded(torch.nn.Module):
    """A model by a library that keeps its shards to itself."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        for name, value in attributes.items():
            setattr(self.weight, name, value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (type("FullyShardedDataParallel", (Sharded,), {})(), "use torch.distributed.fsdp.fully_shard"),
        (type("Engine", (Sharded,), {"__module__": "deepspeed.runtime.engine"})(), "DeepSpeed"),
        (Sharded(ds_id=3), "weight is partitioned by DeepSpeed ZeRO-3, .*; use torch.distributed.fsdp"),
        (Sharded(_hp_mapping=None), "weight is a stale copy of what DeepSpeed ZeRO-1/2 steps.*; use torch"),
        (Sharded(_fsdp_flattened=True), r"weight is a piece of a flat buffer.*FSDP1\).*; use torch"),
        (Sharded(tensor_model_parallel=True), "weight is a shard by Megatron"),
    ],
)
def test_shards_that_are_not_known_are_refused(tmp_path: Path, model: torch.nn.Module, message: str) -> None:
    with SummaryWriter(str(tmp_path)) as writer, pytest.raises(TypeError, match=message):
        watch(model, writer)


@pytest.mark.parametrize("use_orig_params", [False, True])
def test_pieces_of_fsdp1_are_refused_inside_of_their_wrapper(use_orig_params: bool) -> None:
    outcomes = run_ranks(2, rank_cases.watch_inside_of_flat_parameters, use_orig_params)
    for outcome in outcomes:
        assert "is a piece of a flat buffer of FullyShardedDataParallel (FSDP1)" in outcome.result


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        with pytest.raises(TypeError, match="merge must be None, a bool or a ProcessGroup, not str"):
            watch(torch.nn.Linear(2, 2), writer, merge="all")
        with pytest.raises(TypeError, match=r"merge: torch.distributed is not initialised"):
            watch(torch.nn.Linear(2, 2), writer, merge=True)
        with pytest.raises(TypeError, match=r"writer must be a fastlog.SummaryWriter, not None"):
            watch(torch.nn.Linear(2, 2), None)
