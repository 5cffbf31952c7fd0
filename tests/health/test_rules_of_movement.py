"""Rules about what is connected and what moves: what makes them speak, and what does not."""

import numpy as np
import pytest
from small_histories import MATRICES, WIDTH, found, history

from fastlog.health.history import Inventory, Parameter

STILL = {"weights": {n: 0.1 for n in MATRICES}}


def absent(names: dict[str, object]) -> dict[str, dict[str, object]]:
    return {"without_gradient": {n: 0 for n in MATRICES} | names}


def test_three_gradients_that_are_none_or_zero_are_no_gradient() -> None:
    last = np.arange(60) >= 57
    (said,) = found("no-gradient", history(measures=absent({"1.weight": last})))
    assert (said.tensors, said.first_step, said.severity) == (("1.weight",), 57, "warning")
    assert found("no-gradient", history(measures=absent({"1.weight": np.arange(60) >= 58}))) == []
    zeros = {"gradients": {"1.weight": np.where(last, 0, 1e-3)}}
    (said,) = found("no-gradient", history(kinds=zeros))
    assert said.evidence["gradient"] == "zero"


def test_over_half_of_what_trains_without_gradient_is_an_error() -> None:
    (said,) = found("no-gradient", history(measures=absent({n: 1 for n in MATRICES[:3]})))
    assert said.severity == "error"
    (said,) = found("no-gradient", history(measures=absent({n: 1 for n in MATRICES[:2]})))
    assert said.severity == "warning"


def test_a_gradient_that_is_missing_at_the_first_step_alone_is_fine() -> None:
    assert found("no-gradient", history(measures=absent({"1.weight": np.arange(60) == 0}))) == []


def test_a_parameter_with_a_gradient_in_no_optimizer_is_not_optimised() -> None:
    def left_out(**options: object) -> list[object]:
        parameters = [Parameter(n, (WIDTH, WIDTH)) for n in MATRICES[:3]]
        return found("not-optimised", history(parameters=[*parameters, Parameter("new", (8, 8), **options)]))

    (said,) = left_out(group=None)
    assert (said.tensors, said.severity) == (("new",), "warning")
    assert left_out(group=None, trainable=False) == []
    assert left_out(group=0) == []


def test_weights_that_are_twice_bit_for_bit_the_same_are_not_updated() -> None:
    def still(since: int, lr: float = 1e-3, size: float = 1e-3) -> list[object]:
        rms = 0.1 + 1e-4 * np.minimum(np.arange(60), since)
        weights = {n: 0.1 + 1e-4 * np.arange(60) for n in MATRICES} | {"1.weight": rms}
        gradients = {"1.weight": size}
        return found("not-updating", history(kinds={"weights": weights, "gradients": gradients}, lr=lr))

    (said,) = still(57)
    assert (said.tensors, said.first_step) == (("1.weight",), 57)
    assert still(58) == []
    assert still(57, lr=0.0) == []
    assert still(57, lr=1e-9) == []  # smaller than eight units in the last place
    assert still(57, size=0.0) == []


def test_a_rate_of_zero_counts_in_a_tenth_of_the_run_and_not_at_its_end() -> None:
    def zero_from(at: int, count: int) -> list[object]:
        lr = np.full(60, 1e-3)
        lr[at : at + count] = 0
        return found("lr-zero", history(lr=lr))

    (said,) = zero_from(30, 6)
    assert (said.first_step, said.severity) == (30, "warning")
    assert zero_from(30, 5) == []
    assert zero_from(57, 3) == []  # a decay that ends the run
    assert zero_from(0, 10) == []  # a warm-up from zero
    assert zero_from(0, 60)[0].severity == "error"


def test_a_frozen_weight_that_a_step_moves_is_a_warning() -> None:
    (said,) = found("frozen-moves", history(measures={"moved_frozen": {"x": np.arange(60) == 7}}))
    assert (said.severity, said.first_step) == ("warning", 7)
    assert found("frozen-moves", history(measures={"moved_frozen": {"x": 0}})) == []


def test_a_frozen_weight_that_changes_between_steps_is_information() -> None:
    parameters = [Parameter(MATRICES[0], (WIDTH, WIDTH)), Parameter("x", (8, 8), trainable=False, group=None)]
    moving = {"weights": {"x": 0.1 + 1e-3 * (np.arange(60) >= 9)}}
    (said,) = found("frozen-moves", history(parameters=parameters, kinds=moving))
    assert (said.severity, said.first_step) == ("info", 9)
    assert found("frozen-moves", history(parameters=parameters, kinds={"weights": {"x": 0.1}})) == []


def test_rows_that_stay_equal_for_two_observations_were_initialised_alike() -> None:
    def equal(last: int) -> list[object]:
        return found(
            "constant-init", history(measures={"equal_rows": {"1.weight": np.arange(60) >= 60 - last}})
        )

    (said,) = equal(2)
    assert said.tensors == ("1.weight",)
    assert equal(1) == []


def test_a_step_counter_that_goes_back_is_a_state_that_began_anew() -> None:
    made = history()
    made.optimizer_steps = np.concatenate([np.arange(1.0, 31), np.arange(1.0, 31)])
    (said,) = found("optimizer-state-reset", made)
    assert said.first_step == 30
    assert found("optimizer-state-reset", history()) == []


def test_second_moments_that_fall_to_a_tenth_at_once_are_a_state_that_began_anew() -> None:
    def fallen(to: float) -> list[object]:
        size = np.where(np.arange(60) < 30, 1e-4, 1e-4 * to)
        made = history(kinds={"exp_avg_sq": {n: size for n in MATRICES}}, betas=(0.9, 0.999))
        made.optimizer_steps = np.full(60, np.nan)
        return found("optimizer-state-reset", made)

    (said,) = fallen(0.09)
    assert said.first_step == 30
    assert fallen(0.11) == []


def test_twins_that_differ_twice_are_untied() -> None:
    (said,) = found("untied", history(measures={"apart": {"head.weight": np.arange(60) >= 40}}))
    assert (said.tensors, said.first_step) == (("head.weight",), 40)
    assert found("untied", history(measures={"apart": {"head.weight": np.arange(60) >= 59}})) == []


def test_an_alias_that_becomes_a_parameter_of_its_own_is_untied() -> None:
    made = history()
    tied = Parameter("0.weight", (WIDTH, WIDTH), aliases=("head.weight",))
    alone = {n: Parameter(n, (WIDTH, WIDTH)) for n in (*MATRICES, "head.weight")}
    made.inventories = (Inventory(0, {"0.weight": tied}), Inventory(20, alone))
    (said,) = found("untied", made)
    assert (said.tensors, said.first_step) == (("head.weight",), 20)


@pytest.mark.parametrize("kind", ["weights", "gradients"])
def test_one_nan_is_an_error_and_names_its_tensor(kind: str) -> None:
    made = history()
    heads = made.kinds[kind].heads
    heads["nan"][2, 50:] = 1
    heads["num_finite"][2, 50:] -= 1
    (said,) = found("nonfinite", made)
    assert (said.tensors[0], said.first_step, said.severity) == ("2.weight", 50, "error")
    assert found("nonfinite", history()) == []


def test_a_scaler_handles_two_infinite_gradients_and_not_three() -> None:
    def infinite(times: int) -> list[object]:
        made = history()
        made.loss_scale = np.full(60, 1024.0)
        made.kinds["gradients"].heads["num_finite"][:, 20 : 20 + times] -= 1
        return found("nonfinite", made)

    assert infinite(2) == []
    assert infinite(3)[0].first_step == 20


def test_a_scale_under_one_is_a_scaler_that_has_given_up() -> None:
    made = history()
    made.loss_scale = np.full(60, 0.5)
    made.kinds["gradients"].heads["num_finite"][:, 58:] -= 1
    assert len(found("nonfinite", made)) == 1
