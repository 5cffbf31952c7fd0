"""Rules about the size of steps: what makes them speak, and what does not."""

import numpy as np
from small_histories import MATRICES, found, history

FLAT = 1 + 0.01 * np.sin(1.7 * np.arange(60))


def updates(ratio: float | np.ndarray) -> dict[str, dict[str, object]]:
    return {"weights": {n: 0.1 for n in MATRICES}, "updates": {n: 0.1 * np.asarray(ratio) for n in MATRICES}}


def test_steps_of_a_tenth_of_the_weights_are_too_large_where_the_loss_does_not_fall() -> None:
    (said,) = found("lr-too-high", history(kinds=updates(0.11), loss=FLAT))
    assert (said.severity, said.first_step) == ("warning", 1)
    assert found("lr-too-high", history(kinds=updates(0.09), loss=FLAT)) == []
    assert found("lr-too-high", history(kinds=updates(0.11))) == []


def test_steps_of_a_third_of_the_weights_are_an_error() -> None:
    (said,) = found("lr-too-high", history(kinds=updates(0.35), loss=FLAT))
    assert said.severity == "error"


def test_four_large_steps_are_not_enough_and_five_are() -> None:
    ratio = np.full(60, 0.001)
    ratio[20:24] = 0.2
    assert found("lr-too-high", history(kinds=updates(ratio), loss=FLAT)) == []
    ratio[24] = 0.2
    (said,) = found("lr-too-high", history(kinds=updates(ratio), loss=FLAT))
    assert said.first_step == 20


def test_one_step_that_overwrites_the_weights_counts_where_the_loss_has_risen_and_stays() -> None:
    ratio = np.full(60, 0.001)
    ratio[0] = 0.9
    loss = np.where(np.arange(60) == 0, 0.69, 0.8 + 0.5 * np.exp(-np.arange(60) / 5))
    (said,) = found("lr-too-high", history(kinds=updates(ratio), loss=loss))
    assert (said.first_step, said.severity) == (0, "error")
    assert found("lr-too-high", history(kinds=updates(ratio), loss=FLAT)) == []  # zeros begin like this
    assert found("lr-too-high", history(kinds=updates(ratio), loss=loss * np.linspace(1, 0.3, 60))) == []


def test_a_loss_that_recovers_a_little_of_a_blow_up_does_not_hide_weights_that_were_overwritten() -> None:
    ratio = np.full(60, 0.01)
    ratio[:8] = 0.5
    loss = np.where(np.arange(60) < 2, 3.3, 2.8 + 8 * np.exp(-np.arange(60) / 4))
    grown = {n: np.where(np.arange(60) < 1, 0.1, 0.5) for n in MATRICES}
    moved = {n: ratio * grown[n] for n in MATRICES}
    (said,) = found("lr-too-high", history(kinds={"weights": grown, "updates": moved}, loss=loss))
    assert said.first_step <= 1
    assert "before it fell" in said.title
    slow = {n: 0.1 * (1 + 0.05 * np.arange(60)) for n in MATRICES}  # four times, but not at once
    moved = {n: ratio * slow[n] for n in MATRICES}
    assert found("lr-too-high", history(kinds={"weights": slow, "updates": moved}, loss=loss)) == []
    kept = {n: 0.1 * (1 + np.arange(60) / 60) for n in MATRICES}
    moved = {n: ratio * kept[n] for n in MATRICES}
    assert found("lr-too-high", history(kinds={"weights": kept, "updates": moved}, loss=loss)) == []


def test_steps_under_a_millionth_are_too_small_while_the_loss_is_flat() -> None:
    (said,) = found("lr-too-low", history(kinds=updates(0.9e-6), loss=FLAT, lr=1e-9))
    assert said.severity == "warning"
    assert found("lr-too-low", history(kinds=updates(1.1e-6), loss=FLAT, lr=1e-9)) == []
    assert found("lr-too-low", history(kinds=updates(0.9e-6), lr=1e-9)) == []


def test_small_steps_at_the_end_of_a_schedule_are_meant() -> None:
    lr = np.where(np.arange(60) < 30, 1e-3, 1e-9)
    ratio = np.where(np.arange(60) < 30, 1e-3, 1e-9)
    assert found("lr-too-low", history(kinds=updates(ratio), loss=FLAT, lr=lr)) == []


def test_weights_that_halve_at_the_rate_of_their_decay_collapse() -> None:
    def decayed(rate: float, decay: float) -> list[object]:
        rows = {n: 0.1 * np.exp(-rate * np.arange(60)) for n in MATRICES}
        return found(
            "weights-collapse", history(kinds={"weights": rows}, loss=FLAT, lr=1e-3, weight_decay=decay)
        )

    (said,) = decayed(0.02, 20.0)
    assert said.rule == "weights-collapse"
    assert decayed(0.01, 10.0) == []  # to 0.55 of what they were
    assert decayed(0.02, 5.0) == []  # four times as fast as decay does it
    assert decayed(0.02, 0.0) == []
