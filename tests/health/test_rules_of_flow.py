"""Rules about gradients on their way back: what makes them speak, and what does not."""

import numpy as np
from small_histories import WIDTH, found, history

from fastlog.health.history import Parameter

FLAT = 1 + 0.01 * np.sin(1.7 * np.arange(60))
SLOW = np.linspace(1.4, 1.3, 60)  # falls, by less than a tenth
LAYERS = [f"{i}.weight" for i in range(8)]


def with_layers(gradients: dict[str, object], loss: np.ndarray, optimizer: str = "SGD"):
    parameters = [Parameter(name, (WIDTH, WIDTH)) for name in LAYERS]
    return history(parameters=parameters, kinds={"gradients": gradients}, loss=loss, optimizer=optimizer)


def by_depth(factor: float) -> dict[str, object]:
    """Gradients that change by a factor from each layer to the one before it."""
    return {name: 1e-2 * factor ** (len(LAYERS) - 1 - i) for i, name in enumerate(LAYERS)}


def test_gradients_that_fall_with_depth_vanish_where_the_loss_is_flat() -> None:
    (said,) = found("vanishing-gradients", with_layers(by_depth(0.35), FLAT))
    assert said.tensors[0] == "0.weight"
    assert found("vanishing-gradients", with_layers(by_depth(0.4), FLAT)) == []
    assert found("vanishing-gradients", with_layers(by_depth(0.35), np.linspace(1.4, 1, 60))) == []


def test_adam_takes_another_ten_times() -> None:
    assert found("vanishing-gradients", with_layers(by_depth(0.35), FLAT, "Adam")) == []
    assert found("vanishing-gradients", with_layers(by_depth(0.25), FLAT, "Adam")) != []


def test_a_loss_that_falls_a_little_hides_no_gradients_that_are_hopeless() -> None:
    assert found("vanishing-gradients", with_layers(by_depth(0.3), SLOW)) == []
    assert found("vanishing-gradients", with_layers(by_depth(0.15), SLOW)) != []


def test_small_gradients_that_do_not_fall_with_depth_are_no_vanishing_gradients() -> None:
    mixed = dict(zip(LAYERS, [1e-7, 1e-2, 1e-4, 1e-2, 1e-3, 1e-2, 1e-5, 1e-2], strict=True))
    assert found("vanishing-gradients", with_layers(mixed, FLAT)) == []


def test_gradients_explode_with_depth_by_three_a_layer_or_by_a_thousand_in_all() -> None:
    assert found("exploding-gradients", with_layers(by_depth(3.1), FLAT)) != []
    assert found("exploding-gradients", with_layers(by_depth(2.8), FLAT)) != []
    assert found("exploding-gradients", with_layers(by_depth(2.5), FLAT)) == []  # 610 in all
    assert found("exploding-gradients", with_layers(by_depth(3.1), np.linspace(1.4, 1, 60))) == []


def test_a_noisy_loss_that_ends_lower_by_chance_has_not_fallen() -> None:
    loss = 1e5 + 2e4 * np.sin(2.4 * np.arange(60))
    loss[-6:] = 8.5e4
    assert found("exploding-gradients", with_layers(by_depth(3.1), loss)) != []


def test_three_of_five_norms_over_ten_times_the_usual_one_explode_where_the_loss_rises() -> None:
    def norms(high: list[int], factor: float, loss: np.ndarray) -> list[object]:
        size = np.ones(60)
        size[high] = factor
        rows = {name: 1e-2 * size for name in LAYERS}
        return found("exploding-gradients", with_layers(rows, loss))

    rising = np.where(np.arange(60) < 40, 1.0, 1 + 0.1 * (np.arange(60) - 40))
    (said,) = norms([40, 42, 44], 11, rising)
    assert said.first_step == 40
    assert norms([40, 42], 11, rising) == []
    assert norms([40, 42, 44], 9, rising) == []
    assert norms([40, 42, 44], 11, np.linspace(1.4, 0.4, 60)) == []


def test_one_norm_in_nineteen_of_twenty_observations_is_clipping() -> None:
    def clipped(others: int) -> list[object]:
        size = np.ones(60)
        size[:others] = 0.8
        return found("always-clipped", with_layers({name: 1e-2 * size for name in LAYERS}, FLAT))

    (said,) = clipped(3)
    assert said.severity == "info"
    assert clipped(4) == []


def test_gradients_accumulate_where_the_old_one_is_still_there_three_times() -> None:
    def probed(kept: list[float]) -> list[object]:
        values = np.array([np.nan, *[0.0] * (59 - len(kept)), *kept])
        return found("gradients-accumulate", history(measures={"kept_gradient": {"0.weight": values}}))

    (said,) = probed([1, 1, 1])
    assert said.rule == "gradients-accumulate"
    assert probed([1, 1]) == []
    assert probed([1, 1, 0]) == []


def test_norms_that_rise_ten_times_accumulate_where_nothing_was_probed() -> None:
    def risen(by: float, loss: np.ndarray) -> list[object]:
        size = np.linspace(1, by, 60)
        return found("gradients-accumulate", with_layers({name: 1e-2 * size for name in LAYERS}, loss))

    assert risen(11, FLAT) != []
    assert risen(9, FLAT) == []
    assert risen(11, np.linspace(1.4, 1, 60)) == []
