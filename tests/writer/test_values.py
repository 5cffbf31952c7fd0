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
            writer.add_histogram(f"{tag}/histogram", [1.0], given)
            writer.add_scalars(tag, {"x": 1.0}, given)
            writer.add_text(tag, "text", given)
            writer.add_image(f"{tag}/image", np.zeros((3, 2, 2)), given)

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


# ---- masked values of NumPy

MASKED = np.ma.array([1.0, 99.0, 2.0], mask=[False, True, False])
MASKED_PIXELS = np.ma.array(np.ones((3, 4, 4)), mask=np.eye(4)[None].repeat(3, 0))
WITHOUT_A_VALUE: dict[str, tuple[Calls, str]] = {
    "add_scalar": (lambda w: w.add_scalar("t", np.ma.masked), "add_scalar('t')"),
    "add_scalar of a shape": (lambda w: w.add_scalar("t", np.ma.array([7.0], mask=True)), "add_scalar('t')"),
    "add_scalar of a list": (lambda w: w.add_scalar("t", [np.ma.masked]), "add_scalar('t')"),
    "global_step": (lambda w: w.add_scalar("t", 1.0, np.ma.masked), "add_scalar('t')"),
    "walltime": (lambda w: w.add_scalar("t", 1.0, 1, np.ma.masked), "add_scalar('t')"),
    "add_scalars": (
        lambda w: w.add_scalars("t", {"a": np.ma.masked}),
        "add_scalars('t', tag_scalar_dict['a'])",
    ),
    "add_hparams": (
        lambda w: w.add_hparams({}, {"acc": np.ma.masked}, "run"),
        "add_hparams('run', metric_dict['acc'])",
    ),
    "add_histogram of a list": (lambda w: w.add_histogram("t", [MASKED, MASKED]), "add_histogram('t')"),
    "add_histogram of numbers": (lambda w: w.add_histogram("t", [1.0, np.ma.masked]), "add_histogram('t')"),
    "add_histogram with bins": (lambda w: w.add_histogram("t", [MASKED], bins=3), "add_histogram('t')"),
    "add_histogram_raw": (
        lambda w: w.add_histogram_raw("t", 0, 1, np.ma.masked, 1, 1, [1.0, 2.0], [1, 1]),
        "add_histogram_raw('t')",
    ),
    "add_image": (lambda w: w.add_image("t", MASKED_PIXELS), "add_image('t')"),
    "add_images": (
        lambda w: w.add_images("t", [MASKED_PIXELS, MASKED_PIXELS], dataformats="CHW"),
        "add_images('t')",
    ),
    "add_video": (lambda w: w.add_video("t", MASKED_PIXELS[None, None]), "add_video('t')"),
    "add_audio": (lambda w: w.add_audio("t", MASKED), "add_audio('t')"),
    "add_mesh": (lambda w: w.add_mesh("t", MASKED[None, None]), "add_mesh('t')"),
    "add_embedding": (lambda w: w.add_embedding(MASKED[None]), "add_embedding('default')"),
    "add_pr_curve": (lambda w: w.add_pr_curve("t", [0, 1, 1], MASKED), "add_pr_curve('t')"),
}


@pytest.mark.parametrize("name", WITHOUT_A_VALUE)
def test_a_masked_value_is_one_warning_and_what_it_hides_is_not_logged(name: str, tmp_path: Path) -> None:
    call, place = WITHOUT_A_VALUE[name]
    writer = fastlog.SummaryWriter(tmp_path)
    with pytest.warns(fastlog.FastlogWarning) as said:
        for _ in range(2):
            call(writer)
        writer.flush()
        assert writer.stats()["bad_values"] == 2
        writer.close()
    text, total = texts(said)
    assert text.startswith(f"{place}: nothing is logged: ValueError: ") and "masked elements" in text
    assert ".filled(" in text or "np.ma.stack" in text
    assert total == f"fastlog: 2 values were not logged: {place} \u00d7 2; see stats()"
    assert not [tag for tag in values(tmp_path) if not tag.startswith("_hparams_")]


@pytest.mark.parametrize("options", [{}, {"bins": 4}, {"bins": [0.0, 1.5, 100.0]}, {"max_bins": 3}], ids=str)
@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_a_histogram_has_the_values_that_are_not_masked(options: Any, shape: Any, tmp_path: Path) -> None:
    log(tmp_path / "masked", lambda w: w.add_histogram("h", MASKED.reshape(shape), 1, **options))
    log(tmp_path / "others", lambda w: w.add_histogram("h", np.array([1.0, 2.0]), 1, **options))
    assert histograms(tmp_path / "masked") == histograms(tmp_path / "others")
    assert histograms(tmp_path / "masked")[("h", 1)].num == 2


def test_an_array_that_masks_nothing_is_logged_as_any_other(tmp_path: Path) -> None:
    whole = np.ma.array(np.full((3, 4, 4), 0.5))
    log(tmp_path, lambda w: (w.add_scalar("s", np.ma.array(3.0), np.ma.array(7)), w.add_image("i", whole)))
    assert simple_values(tmp_path) == {("s", 7): 3.0}
    assert "i" in values(tmp_path)


def test_a_hyperparameter_that_is_masked_is_left_out_and_said(tmp_path: Path) -> None:
    with pytest.warns(fastlog.FastlogWarning, match="hparam_dict has None for 'a': left out"):
        log(tmp_path, lambda w: w.add_hparams({"a": np.ma.masked, "b": 1}, {"m": 1.0}, "run"))
