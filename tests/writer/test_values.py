"""What users hand to the methods: it is logged, or one warning says why not; nothing vanishes silently."""

import decimal
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import histograms, log, scalars, simple_values, values

import fastlog

Calls = Callable[[Any], object]


def texts(said: Any) -> list[str]:
    return [str(warning.message) for warning in said]


# ---- None in the place of a value

NONE: dict[str, tuple[Calls, str]] = {
    "add_scalar": (lambda w: w.add_scalar("t", None), "add_scalar('t')"),
    "add_scalar with a title": (lambda w: w.add_scalar("t", None, display_name="x"), "add_scalar('t')"),
    "add_scalars": (
        lambda w: w.add_scalars("t", {"a": None}),
        "add_scalars('t', tag_scalar_dict['a'])",
    ),
    "add_histogram": (lambda w: w.add_histogram("t", None), "add_histogram('t')"),
    "add_histogram with bins": (lambda w: w.add_histogram("t", None, bins=3), "add_histogram('t')"),
    "add_hparams": (
        lambda w: w.add_hparams({}, {"acc": None}, "run"),
        "add_hparams('run', metric_dict['acc'])",
    ),
    "add_image": (lambda w: w.add_image("t", None), "add_image('t')"),
    "add_images": (lambda w: w.add_images("t", None), "add_images('t')"),
    "add_video": (lambda w: w.add_video("t", None), "add_video('t')"),
    "add_audio": (lambda w: w.add_audio("t", None), "add_audio('t')"),
    "add_text": (lambda w: w.add_text("t", None), "add_text('t')"),
    "add_tensor": (lambda w: w.add_tensor("t", None), "add_tensor('t')"),
    "add_figure": (lambda w: w.add_figure("t", None), "add_figure('t')"),
    "add_mesh": (lambda w: w.add_mesh("t", None), "add_mesh('t')"),
    "add_embedding": (lambda w: w.add_embedding(None), "add_embedding('default')"),
    "add_pr_curve": (lambda w: w.add_pr_curve("t", None, [0.5]), "add_pr_curve('t')"),
}


@pytest.mark.parametrize("name", NONE)
def test_none_is_one_warning_that_names_method_tag_and_reasons(name: str, tmp_path: Path) -> None:
    call, place = NONE[name]
    writer = fastlog.SummaryWriter(tmp_path / "warn")
    with pytest.warns(fastlog.FastlogWarning) as said:
        for _ in range(3):
            call(writer)
        writer.flush()
        assert writer.stats()["bad_values"] == 3
        writer.add_scalar("after", 1.0)
        writer.close()
    text, total = texts(said)
    assert total == f"fastlog: 3 values were not logged: {place} \u00d7 3; see stats()"
    assert text.startswith(f"{place}: nothing is logged: ")
    for word in ("is None", "gradient", "frozen", "unused", "before backward()"):
        assert word in text
    assert {tag for tag in values(tmp_path / "warn") if not tag.startswith("_hparams_")} == {"after"}

    with fastlog.SummaryWriter(tmp_path / "raise", on_error="raise") as writer:
        with pytest.raises(ValueError, match="is None") as error:
            call(writer)
        assert str(error.value).startswith(place)


def test_training_with_frozen_and_unused_parameters_goes_on(tmp_path: Path) -> None:
    model = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)])
    model[0].bias.requires_grad_(False)
    model[0](torch.ones(2, 3)).sum().backward()  # the second layer is not used
    with pytest.warns(fastlog.FastlogWarning) as said, fastlog.SummaryWriter(tmp_path) as writer:
        for step in range(3):
            for name, parameter in model.named_parameters():
                writer.add_histogram(f"gradients/{name}", parameter.grad, step)
    assert set(histograms(tmp_path)) == {("gradients/0.weight", step) for step in range(3)}
    *each, total = texts(said)
    assert sorted(text.partition(":")[0] for text in each) == [
        f"add_histogram('gradients/{name}')" for name in ("0.bias", "1.bias", "1.weight")
    ]
    assert total.startswith("fastlog: 9 values were not logged: add_histogram('gradients/")


# ---- numbers

SPELLED = ["0.5", " 1e-3 ", f"{math.pi:.4f}", "nan", "-inf", "1_000", b"2.5", np.str_("3")]


def test_strings_of_numbers_are_logged_as_torch_logs_them(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        for step, text in enumerate(SPELLED):
            writer.add_scalar("x", text, step)
            writer.add_scalars("m", {"a": text}, step)
    expected = [np.float32(float(text)) for text in SPELLED]
    for found in (simple_values(tmp_path), simple_values(tmp_path / "m/a")):
        assert np.array_equal(list(found.values()), expected, equal_nan=True)


@pytest.mark.parametrize("value", [1 + 2j, np.complex64(1 + 2j), np.complex128(2), torch.tensor(1j)])
def test_complex_numbers_are_refused_and_the_remedy_named(value: Any, tmp_path: Path) -> None:
    writer = fastlog.SummaryWriter(tmp_path)
    with writer, pytest.raises(TypeError, match=r"add_scalar\('c'\): scalar_value.*\.real"):
        writer.add_scalar("c", value)


# ---- steps

EXACT = ["7", 7.0, np.int64(7), decimal.Decimal(7), np.float32(7), torch.tensor(7), np.array(7)]


@pytest.mark.parametrize("given", [*EXACT, 2**60 + 1, np.int64(2**60 + 1)], ids=repr)
def test_steps_that_say_a_whole_number_are_taken(given: Any, tmp_path: Path) -> None:
    log(tmp_path, lambda w: (w.add_scalar("s", 1.0, given), w.add_histogram("h", [1.0], given)))
    assert [step for _, step, _ in scalars(tmp_path)] == [int(given)] * 2


@pytest.mark.parametrize("given", [1.5, True, np.bool_(True), torch.tensor(1.5), np.float64(1.25)], ids=repr)
def test_a_step_that_is_no_whole_number_is_said_once(given: Any, tmp_path: Path) -> None:
    def calls(writer: Any) -> None:
        for tag in "ab":
            writer.add_scalar(tag, 1.0, given)
            writer.add_histogram(tag, [1.0], given)
            writer.add_scalars(tag, {"x": 1.0}, given)
            writer.add_text(tag, "text", given)
            writer.add_image(tag, np.zeros((3, 2, 2)), given)

    with pytest.warns(fastlog.FastlogWarning) as said:
        log(tmp_path, calls)
    (text,) = texts(said)
    assert text.startswith("add_scalar('a'): global_step=") and "is logged as 1;" in text
    assert {step for _, step, _ in scalars(tmp_path)} == {1} and len(scalars(tmp_path)) == 10


def test_a_warning_made_an_error_comes_after_the_value(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer, warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(fastlog.FastlogWarning, match=r"^add_scalar\('x'\): global_step=1.5"):
            writer.add_scalar("x", 0.5, 1.5)
        with pytest.raises(fastlog.FastlogWarning, match=r"^add_histogram\('h'\): 1 NaN"):
            writer.add_histogram("h", [math.nan, 1.0], 2)
        assert writer.stats()["bad_values"] == 0
    assert [(tag, step) for tag, step, _ in scalars(tmp_path)] == [("x", 1), ("h", 2), ("h/nan", 2)]
