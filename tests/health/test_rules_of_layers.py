"""Rules about single layers and narrow dtypes: what makes them speak, and what does not."""

import numpy as np
from small_histories import MATRICES, WIDTH, found, history, kind, why_not

from fastlog.health.history import Inventory, Parameter

FLAT = 1 + 0.01 * np.sin(1.7 * np.arange(60))


def last(count: int, value: float, before: float) -> np.ndarray:
    """``value`` in the last ``count`` of 60 observations."""
    return np.where(np.arange(60) >= 60 - count, value, before)


def idle(shares: np.ndarray | float) -> list[object]:
    parameters = [
        Parameter("0.weight", (100, 100)),
        Parameter("0.bias", (100,)),
        Parameter("1.weight", (4, 100)),
    ]
    made = history(parameters=parameters, measures={"idle_units": {"0.bias": shares}})
    gradients = made.kinds["gradients"]
    gradients.heads["zeros"] = np.broadcast_to(shares, 60) * gradients.heads["num"]
    return found("dead-units", made)


def test_seven_of_ten_units_without_gradient_are_dead_since_ten_observations_before() -> None:
    (said,) = idle(last(5, 0.75, 0.0))
    assert (said.severity, said.first_step) == ("warning", 46)
    assert idle(last(4, 0.75, 0.0)) == []
    assert [one.severity for one in idle(last(5, 0.6, 0.0))] == ["info"]
    assert idle(last(5, 0.45, 0.0)) == []


def test_half_of_the_units_from_the_start_on_are_how_the_data_are() -> None:
    assert idle(0.6) == []
    assert [one.severity for one in idle(0.75)] == ["warning"]
    assert [one.severity for one in idle(0.95)] == ["error"]


def test_a_block_of_five_times_the_norm_of_the_others_is_an_outlier_once_it_has_doubled() -> None:
    def grown(to: float, before: float, observations: int = 10) -> list[object]:
        rows = {f"blocks.{i}.up.weight": 0.1 for i in range(5)}
        rows["blocks.3.up.weight"] = last(observations, to, before)
        parameters = [Parameter(name, (WIDTH, WIDTH)) for name in rows]
        return found("weight-outlier", history(parameters=parameters, kinds={"weights": rows}))

    (said,) = grown(0.52, 0.1)
    assert (said.tensors, said.first_step) == (("blocks.3.up.weight",), 50)
    assert grown(0.48, 0.1) == []
    assert grown(0.52, 0.3) == []
    assert grown(0.52, 0.1, 4) == []


def test_vectors_and_matrices_of_other_shapes_are_no_blocks() -> None:
    parameters = [Parameter(f"{i}.bias", (64,)) for i in range(5)]
    parameters += [Parameter(f"{i}.weight", (64, 8 + i)) for i in range(5)]
    assert (
        why_not("weight-outlier", history(parameters=parameters)) == "the model has no 4 blocks of one kind"
    )


def activations(name: str, module: str, rows: dict[str, object], measures: dict[str, object]):
    made = history(loss=FLAT, measures=measures)
    made.kinds["activations"] = kind({**rows, "last": 1.0}, 60)
    made.inventories = (Inventory(0, made.parameters, made.groups, {name: module, "last": "Linear"}),)
    return made


def test_half_of_the_outputs_at_their_limits_are_saturated_where_little_of_the_gradient_passes() -> None:
    def saturated(near: object, through: object) -> list[object]:
        measures = {"saturated": {"act": near}, "passing": {"act": through}}
        return found("saturated-activations", activations("act", "Tanh", {"act": 0.9}, measures))

    (said,) = saturated(last(5, 0.55, 0.1), 0.2)
    assert (said.tensors, said.first_step, said.severity) == (("act",), 55, "warning")
    assert saturated(last(4, 0.55, 0.1), 0.2) == []
    assert saturated(0.45, 0.2) == []
    assert saturated(0.55, 0.3) == []


def test_attention_of_1_5_keys_has_collapsed_from_four_times_as_many() -> None:
    def keys(now: float, early: float, observations: int = 5) -> list[object]:
        made = activations("attn", "Softmax", {"attn": 0.1}, {})
        heads = made.kinds["activations"].heads
        effective = last(observations, now, early)
        heads["sum"][0], heads["min"][0], heads["max"][0] = 0.1 * heads["num"][0], 0, 1
        heads["sum_squares"][0] = heads["sum"][0] / effective
        return found("attention-collapse", made)

    (said,) = keys(1.4, 6.0)
    assert (said.tensors, said.first_step) == (("attn",), 55)
    assert keys(1.6, 8.0) == []
    assert keys(1.4, 5.0) == []
    assert keys(1.4, 6.0, 4) == []


def test_rows_whose_second_moments_are_zero_were_never_hit() -> None:
    def unused(share: float, **options: object) -> list[object]:
        parameters = [Parameter("emb.weight", (100, 64), module="Embedding", **options)]
        made = history(parameters=parameters)
        made.kinds["exp_avg_sq"] = kind({"emb.weight": 1e-4}, 60, 6400, share)
        return found("never-hit", made)

    (said,) = unused(0.02)
    assert said.severity == "info" and said.title.startswith("2 of 100 rows")
    assert unused(0.005) == []
    assert unused(0.02, aliases=("head.weight",)) == []


def narrow(dtype: str, zeros: object, gradient_zeros: float = 0.0, loss: object = FLAT):
    parameters = [Parameter(name, (WIDTH, WIDTH), dtype) for name in MATRICES]
    made = history(parameters=parameters, loss=loss)
    updates = made.kinds["updates"]
    updates.heads["zeros"] = np.broadcast_to(zeros, 60) * updates.heads["num"]
    gradients = made.kinds["gradients"]
    gradients.heads["zeros"] = gradient_zeros * gradients.heads["num"]
    return made


def test_updates_that_are_zero_in_nine_of_ten_values_of_a_narrow_dtype_are_lost() -> None:
    (said,) = found("lost-updates", narrow("bfloat16", last(5, 0.95, 0.1)))
    assert (said.severity, said.first_step) == ("warning", 55)
    assert found("lost-updates", narrow("bfloat16", last(4, 0.95, 0.1))) == []
    assert found("lost-updates", narrow("bfloat16", 0.85)) == []
    assert found("lost-updates", narrow("bfloat16", 0.95, gradient_zeros=0.2)) == []
    (said,) = found("lost-updates", narrow("bfloat16", 0.95, loss=np.linspace(2, 1, 60)))
    assert said.severity == "info"


def test_float16_gradients_that_are_half_subnormal_underflow_without_a_scale() -> None:
    def tiny(share: float, scale: float = np.nan, observations: int = 60) -> list[object]:
        made = narrow("float16", 0.0)
        gradients = made.kinds["gradients"]
        gradients.heads["below_fp16"] = last(observations, share, 0) * gradients.heads["num"]
        made.loss_scale = np.full(60, scale)
        return found("gradient-underflow", made)

    assert len(tiny(0.55)) == 1
    assert tiny(0.45) == []
    assert tiny(0.55, scale=1024.0) == []
    assert tiny(0.55, observations=4) == []


def test_float16_weights_within_a_factor_of_four_of_the_largest_number_are_near_it_where_they_grow() -> None:
    def largest(now: float, before: float, observations: int = 10) -> list[object]:
        made = narrow("float16", 0.0)
        made.kinds["weights"].heads["abs_max"][1] = last(observations, now, before)
        return found("near-overflow", made)

    (said,) = largest(16500.0, 10000.0)
    assert said.tensors == ("1.weight",)
    assert largest(16300.0, 10000.0) == []
    assert largest(16500.0, 15000.0) == []
    assert largest(16500.0, 10000.0, 4) == []


def test_epsilon_dominates_where_steps_are_small_and_gradients_are_under_ten_times_it() -> None:
    def steps(share: float, size: float, optimizer: str = "Adam") -> list[object]:
        rows = {"updates": {n: share * 1e-3 for n in MATRICES}, "gradients": {n: size for n in MATRICES}}
        return found("adam-eps-dominates", history(kinds=rows, eps=1e-8, optimizer=optimizer))

    assert len(steps(0.01, 5e-8)) == 1
    assert steps(0.03, 5e-8) == []
    assert steps(0.01, 2e-7) == []
