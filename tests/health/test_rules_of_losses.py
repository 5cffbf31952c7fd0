"""Rules about the course of the loss: what makes them speak, and what does not."""

import math

import numpy as np
import pytest
from small_histories import WIDTH, found, history

from fastlog.health.history import Parameter
from fastlog.health.rules.base import Run

LN4 = math.log(4)


def noisy(level: float | np.ndarray, count: int, size: float = 0.01) -> np.ndarray:
    return np.broadcast_to(level, count) * (1 + size * np.sin(2.4 * np.arange(count)))


def classifier(loss: np.ndarray, **options: object):
    parameters = [Parameter("0.weight", (WIDTH, WIDTH)), Parameter("1.weight", (4, WIDTH))]
    return history(len(loss), loss=loss, parameters=parameters, **options)


def test_a_jump_of_many_deviations_is_a_spike_and_information_where_it_comes_back() -> None:
    loss = noisy(1.0, 100)
    loss[60] = 1.6
    (said,) = found("loss-spike", history(100, loss=loss))
    assert (said.severity, said.first_step, said.last_step) == ("info", 60, 60)
    loss[60] = 1.4  # 6.7 deviations, and the gradients are as ever
    assert found("loss-spike", history(100, loss=loss)) == []


def test_a_jump_that_stays_is_a_warning() -> None:
    loss = noisy(np.where(np.arange(140) < 60, 1.0, 1.8), 140)
    (said,) = found("loss-spike", history(140, loss=loss))
    assert said.severity == "warning"


def test_a_smaller_jump_counts_where_the_gradients_jump_too() -> None:
    loss = noisy(1.0, 100)
    loss[60] = 1.4
    size = np.where(np.arange(100) == 60, 5e-3, 1e-3)
    made = history(100, loss=loss, kinds={"gradients": {f"{i}.weight": size for i in range(4)}})
    assert len(found("loss-spike", made)) == 1


def test_twenty_values_over_1_3_times_the_best_diverge_once_half_of_the_progress_is_lost() -> None:
    def rising(to: float, values: int) -> list[object]:
        loss = np.concatenate([np.linspace(2, 1, 60), np.linspace(1, to, 20), np.full(values, to)])
        return found("loss-diverging", history(len(loss), loss=loss))

    assert rising(1.7, 20) != []
    assert rising(1.25, 40) == []
    assert rising(1.45, 40) == []  # less than half of the progress
    assert rising(1.7, 2) == []


def test_data_that_are_harder_at_once_are_no_divergence() -> None:
    loss = np.concatenate([np.linspace(2, 1, 60), np.full(40, 1.8)])
    assert found("loss-diverging", history(100, loss=loss)) == []


def test_a_loss_against_a_moving_copy_need_not_fall() -> None:
    own = [Parameter(f"q.{i}.weight", (WIDTH, WIDTH)) for i in range(4)]
    target = [Parameter(f"target.{i}.weight", (WIDTH, WIDTH), group=None) for i in range(4)]
    loss = np.concatenate([np.linspace(2, 1, 60), np.linspace(1, 1.7, 20), np.full(20, 1.7)])
    moving = {p.name: 0.1 + 0.001 * (np.arange(100) // 30) for p in target}
    run = Run(history(100, loss=loss, parameters=[*own, *target], kinds={"weights": moving}), {})
    assert "target is a copy" in run.loss.why_not
    fixed = {p.name: 0.1 for p in target}
    run = Run(history(100, loss=loss, parameters=[*own, *target], kinds={"weights": fixed}), {})
    assert run.loss.why_not == ""


def test_blocks_of_one_model_are_no_copies_of_each_other() -> None:
    frozen = [Parameter(f"model.{i}.weight", (WIDTH, WIDTH), trainable=False, group=None) for i in range(4)]
    rest = [Parameter(f"model.{i}.weight", (WIDTH, WIDTH)) for i in range(4, 8)]
    assert Run(history(parameters=[*frozen, *rest]), {}).loss.why_not == ""


def test_a_flat_loss_at_the_level_of_chance_is_not_learning() -> None:
    (said,) = found("not-learning", classifier(noisy(LN4, 120)))
    assert said.evidence["chance"] == pytest.approx(LN4, rel=1e-3)
    assert found("not-learning", classifier(noisy(0.98 * LN4, 120))) == []
    assert found("not-learning", classifier(noisy(1.04 * LN4, 120))) == []
    assert found("not-learning", classifier(noisy(LN4, 99))) == []


def test_a_start_above_chance_is_nothing_that_was_learnt() -> None:
    start = LN4 * (1 + 0.05 * np.exp(-np.arange(150) / 10))
    assert len(found("not-learning", classifier(noisy(start, 150)))) == 1
    assert found("not-learning", classifier(noisy(np.linspace(LN4, 0.9 * LN4, 150), 150))) == []


def test_three_evaluations_of_3_percent_over_the_best_overfit_while_training_falls() -> None:
    def validated(values: list[float], loss: np.ndarray) -> list[object]:
        made = history(100, loss=loss)
        made.scalars["loss/val"] = (np.arange(10, 10 * len(values) + 1, 10), np.array(values))
        return found("overfitting", made)

    falling = np.linspace(2, 0.5, 100)
    (said,) = validated([1.5, 1.2, 1.0, 1.04, 1.05, 1.1], falling)
    assert (said.severity, said.first_step) == ("info", 30)
    assert validated([1.5, 1.2, 1.0, 1.02, 1.05, 1.1], falling) == []
    assert validated([1.5, 1.2, 1.0, 1.04, 1.05, 1.1], noisy(1.0, 100)) == []


def test_what_a_blow_up_comes_down_to_is_no_floor() -> None:
    loss = np.where(np.arange(60) == 1, 1e5, 1.38)
    assert not Run(history(loss=loss), {}).loss.is_at_floor
    assert Run(history(loss=np.exp(-np.arange(60) / 4)), {}).loss.is_at_floor


def test_a_run_stalls_after_half_an_hour_and_ten_times_the_usual_interval() -> None:
    def silent(seconds: float, interval: float = 1.0) -> list[object]:
        made = history()
        made.wall_times = interval * np.arange(60.0)
        made.now = float(made.wall_times[-1]) + seconds
        return found("stalled", made)

    assert silent(1801) != []
    assert silent(1799) == []
    assert silent(1801, interval=200) == []
