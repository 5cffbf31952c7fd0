"""The calls that other people's code makes: signatures against tensorboardX and torch.utils.tensorboard."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import tensorboardX
import torch.utils.tensorboard

import fastlog

# method: {parameter: why it may differ from tensorboardX's}
ALLOWED: dict[str, dict[str, str]] = {
    "__init__": {
        "queue_events": "fastlog's own, keyword-only",
        "queue_bytes": "fastlog's own, keyword-only",
        "overflow": "fastlog's own, keyword-only",
        "block_timeout": "fastlog's own, keyword-only",
        "rank_dirs": "fastlog's own, keyword-only",
        "on_error": "fastlog's own, keyword-only",
        "compact": "fastlog's own, keyword-only",
    },
    "add_scalar": {
        "new_style": "torch.utils.tensorboard's, after tensorboardX's",
        "double_precision": "torch.utils.tensorboard's, after tensorboardX's",
    },
    "add_hparams": {
        "torch_step": "takes global_step from torch.utils.tensorboard's fifth place",
        "hparam_domain_discrete": "torch.utils.tensorboard's, keyword-only or in its place",
        "run_name": "torch.utils.tensorboard's, keyword-only or in its place",
    },
    "add_image_with_boxes": {
        "torch_labels": "takes labels from torch.utils.tensorboard's eighth place",
        "rescale": "named here, in tensorboardX one of **kwargs",
        "kwargs": "holds nothing but rescale in tensorboardX",
    },
    "add_onnx_graph": {
        "onnx_model_file": "optional, so that prototxt can take its place",
        "prototxt": "torch.utils.tensorboard's name of onnx_model_file",
    },
    "flush": {"timeout": "fastlog's own"},
    "close": {"timeout": "fastlog's own"},
}

# method: {parameter of torch.utils.tensorboard's: how it is understood}
FROM_TORCH: dict[str, dict[str, str]] = {
    "__init__": {"log_dir": "the same place, called logdir there; also accepted by name"},
    "add_hparams": {
        "hparam_domain_discrete": "by name, or a dict in its place",
        "run_name": "by name, or in its place",
        "global_step": "by name, or in tensorboardX's place, or in torch's",
    },
    "add_image_with_boxes": {
        "rescale": "by name, or a number in its place",
        "dataformats": "by name, or after rescale",
        "labels": "by name, or after rescale and dataformats",
    },
    "add_onnx_graph": {"prototxt": "by name, or in its place"},
    "add_scalar": {
        "new_style": "by name, or a bool in its place",
        "double_precision": "by name, or a bool in its place",
    },
}


def public_methods(writer: type) -> list[str]:
    names = [name for name, _ in inspect.getmembers(writer, callable) if not name.startswith("_")]
    return ["__init__", *names]


def parameters(writer: type, method: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(writer, method)).parameters)


@pytest.mark.parametrize("method", public_methods(tensorboardX.SummaryWriter))
def test_same_names_order_and_defaults_as_tensorboardX(method: str) -> None:
    theirs = parameters(tensorboardX.SummaryWriter, method)
    ours = parameters(fastlog.SummaryWriter, method)
    allowed = ALLOWED.get(method, {})
    assert [name for name in ours if name not in allowed] == [name for name in theirs if name not in allowed]
    for name in theirs.keys() - allowed.keys():
        assert ours[name].kind == theirs[name].kind, name
        assert ours[name].default == theirs[name].default, name


def test_no_difference_is_allowed_that_does_not_exist() -> None:
    for method, names in ALLOWED.items():
        theirs = parameters(tensorboardX.SummaryWriter, method)
        ours = parameters(fastlog.SummaryWriter, method)
        for name in names:
            assert (name in ours) != (name in theirs) or ours[name] != theirs[name], (method, name)


@pytest.mark.parametrize("method", public_methods(torch.utils.tensorboard.SummaryWriter))
def test_takes_what_torch_takes(method: str) -> None:
    theirs = parameters(torch.utils.tensorboard.SummaryWriter, method)
    ours = parameters(fastlog.SummaryWriter, method)
    understood = FROM_TORCH.get(method, {})
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    our_order = [name for name, parameter in ours.items() if parameter.kind in positional]
    for place, name in enumerate(theirs):
        assert name in ours, f"{name} must be accepted by name"
        if name not in understood:
            assert our_order[place] == name
            assert (
                ours[name].default == theirs[name].default or theirs[name].default is inspect.Parameter.empty
            )


@pytest.mark.parametrize("method", public_methods(tensorboardX.GlobalSummaryWriter))
def test_global_writer_has_the_same_signatures(method: str) -> None:
    assert list(parameters(fastlog.GlobalSummaryWriter, method)) == list(
        parameters(tensorboardX.GlobalSummaryWriter, method)
    )


def test_attributes_of_both_libraries(tmp_path: Any) -> None:
    with fastlog.SummaryWriter(tmp_path / "run", filename_suffix=".x") as writer:
        assert isinstance(writer, tensorboardX.SummaryWriter)
        assert isinstance(writer.file_writer, tensorboardX.FileWriter)
        assert writer.logdir == writer.log_dir == writer.get_logdir() == tmp_path / "run"
        assert writer.file_writer.get_logdir() == str(tmp_path / "run")
        assert set(writer.all_writers) == {str(tmp_path / "run")}
        assert len(writer.default_bins) == 1549
        assert writer.scalar_dict == {}


@pytest.mark.parametrize(
    "library", [tensorboardX, torch.utils.tensorboard], ids=lambda library: library.__name__
)
def test_every_attribute_is_there_and_can_be_assigned(library: Any, tmp_path: Path) -> None:
    with library.SummaryWriter(str(tmp_path / "theirs")) as theirs:
        names = [name for name in vars(theirs) if not name.startswith("_")]
        expected = {name: vars(theirs)[name] for name in names if "writer" not in name}
    assert len(expected) >= 5

    class Subclass(fastlog.SummaryWriter):
        def __init__(self, log_dir: str) -> None:
            self.log_dir = log_dir
            super().__init__(log_dir=log_dir)
            for name in names:
                setattr(self, name, getattr(self, name))

    with Subclass(str(tmp_path / "ours")) as ours:
        ours.add_scalar("a", 1.0)
        for name, value in expected.items():
            assert getattr(ours, name) == value or name in ("logdir", "log_dir"), name
    assert list((tmp_path / "ours").iterdir())
