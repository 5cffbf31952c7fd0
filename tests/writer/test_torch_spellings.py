"""Calls as they are written for torch.utils.tensorboard."""

import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.tensorboard
from event_files import values
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util

import fastlog


def test_log_dir(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(log_dir=str(tmp_path / "a")) as writer:
        assert writer.get_logdir() == writer.log_dir == str(tmp_path / "a")
        writer.add_scalar("x", 1.0)
    with fastlog.SummaryWriter(str(tmp_path / "b"), "", None, 10, 120, ".suffix"):
        pass
    assert list(values(tmp_path)) == ["x"]
    assert len(list(tmp_path.glob("b/*.suffix"))) == 1


@pytest.mark.parametrize("double_precision", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_new_style_scalars(by_name: bool, double_precision: bool, tmp_path: Path) -> None:
    number = 1.0 + 2**-40
    for library, name in ((torch.utils.tensorboard, "theirs"), (fastlog, "ours")):
        with library.SummaryWriter(str(tmp_path / name)) as writer:
            if by_name:
                writer.add_scalar("x", number, 1, new_style=True, double_precision=double_precision)
            else:
                writer.add_scalar("x", number, 1, None, True, double_precision)
            writer.add_scalar("old", 1.0, 1, None, False, double_precision)
    assert values(tmp_path / "ours") == values(tmp_path / "theirs")
    assert tensor_util.make_ndarray(values(tmp_path / "ours")["x"].tensor) == (
        number if double_precision else 1.0
    )


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32]
DTYPES += [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_add_tensor_is_readable_by_tensorboard(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = (torch.arange(-3.0, 3.0).reshape(2, 3) * (1 + 1j if dtype.is_complex else 1)).to(dtype)
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_tensor("x", tensor, 3)
        writer.add_tensor("scalar", tensor[0, 0], 3, 5.0)
    found = values(tmp_path)
    assert found["x"].metadata.plugin_data.plugin_name == "tensor"
    assert [dim.size for dim in found["x"].tensor.tensor_shape.dim] == [2, 3]
    assert not found["scalar"].tensor.tensor_shape.dim
    if dtype == torch.bfloat16:  # which TensorBoard's reader cannot turn into an array
        bits = tensor.view(torch.int16).numpy().view(np.uint16)
        assert list(found["x"].tensor.half_val) == bits.reshape(-1).tolist()
    else:
        assert np.array_equal(tensor_util.make_ndarray(found["x"].tensor), tensor.numpy())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.int16, torch.int64, torch.bool], ids=str
)
def test_add_tensor_equals_torchs(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(-3.0, 3.0).reshape(2, 3).to(dtype)
    for library, name in ((torch.utils.tensorboard, "theirs"), (fastlog, "ours")):
        with library.SummaryWriter(str(tmp_path / name)) as writer:
            writer.add_tensor("x", tensor, 3)
    assert values(tmp_path / "ours") == values(tmp_path / "theirs")


def hparams(logdir: Path) -> tuple[Any, Any]:
    found = values(logdir)
    contents = [
        HParamsPluginData.FromString(found[f"_hparams_/{name}"].metadata.plugin_data.content)
        for name in ("experiment", "session_start_info")
    ]
    return contents[0].experiment, contents[1].session_start_info


def test_add_hparams_in_torchs_order(tmp_path: Path) -> None:
    given = {"lr": 0.1, "name": "x", "bs": torch.tensor([8])}
    metrics = {"acc": 0.5}
    domain = {"lr": [0.1, 0.2], "name": ["x", "y"]}
    for library, name in ((torch.utils.tensorboard, "theirs"), (fastlog, "ours")):
        with library.SummaryWriter(str(tmp_path / name)) as writer:
            writer.add_hparams(given, metrics, domain, "run", 7)
    theirs, ours = tmp_path / "theirs/run", tmp_path / "ours/run"
    assert hparams(ours) == hparams(theirs)
    assert values(ours)["acc"] == values(theirs)["acc"]


def test_every_way_to_name_a_session(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_hparams({"a": 1}, {"m": 1.0}, "tensorboardX", 3)
        writer.add_hparams({"a": 1}, {"m": 1.0}, None, "torch", 3)
        writer.add_hparams({"a": 1}, {"m": 1.0}, run_name="by name", global_step=3)
        writer.add_hparams({"a": 1}, {"m": 1.0}, {"a": [1, 2]}, None, 3)
        writer.add_hparams({"a": 1}, {"m": 1.0})
    runs = {path.parent.name for path in tmp_path.glob("*/events*")}
    assert {"tensorboardX", "torch", "by name"} <= runs and len(runs) == 5


def test_boxes_in_torchs_order(tmp_path: Path) -> None:
    pixels, boxes = np.zeros((40, 40, 3), np.uint8), np.array([[5, 5, 20, 20]])
    for library, name in ((torch.utils.tensorboard, "theirs"), (fastlog, "ours")):
        with library.SummaryWriter(str(tmp_path / name)) as writer:
            writer.add_image_with_boxes("all", pixels, boxes, 1, 2.0, 0.5, "HWC", ["label"])
            writer.add_image_with_boxes("some", pixels.transpose(2, 0, 1), boxes, 1, 2.0, 0.5)
            writer.add_image_with_boxes("named", pixels, boxes, rescale=2, dataformats="HWC", labels="label")
    assert values(tmp_path / "ours") == values(tmp_path / "theirs")


def test_audio_in_torchs_shape(tmp_path: Path) -> None:
    sound = torch.linspace(-1, 1, 800)[None]
    stereo = np.stack([np.linspace(0, 1, 50), np.zeros(50)], axis=1)
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_audio("row", sound, 1, 8000)
        writer.add_audio("column", sound.T, 1, 8000)
        writer.add_audio("flat", sound[0], 1, 8000)
        writer.add_audio("stereo", stereo, 1, 8000)
    found = values(tmp_path)
    assert found["row"].audio == found["column"].audio == found["flat"].audio
    audio = found["row"].audio
    assert (audio.sample_rate, audio.num_channels, audio.length_frames) == (8000, 1, 800)
    with wave.open(BytesIO(audio.encoded_audio_string)) as file:
        assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (8000, 2, 1)
        samples = np.frombuffer(file.readframes(800), "<i2")
    assert np.abs(samples / 32767 - sound[0].numpy()).max() < 1e-4
    assert found["stereo"].audio.num_channels == 2 and found["stereo"].audio.length_frames == 50


def test_file_writer_takes_torchs_protos(tmp_path: Path) -> None:
    with fastlog.SummaryWriter(tmp_path) as writer:
        summary = Summary(value=[Summary.Value(tag="a", simple_value=1.0)])
        writer.file_writer.add_event(Event(summary=summary), 5, 3.0)
    assert values(tmp_path)["a"].simple_value == 1.0


def test_onnx_by_torchs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr("tensorboardX.writer.load_onnx_graph", lambda name: loaded.append(name) or Event())
    with fastlog.SummaryWriter(tmp_path) as writer:
        writer.add_onnx_graph("a.onnx")
        writer.add_onnx_graph(prototxt="b.onnx")
        writer.add_onnx_graph(onnx_model_file="c.onnx")
    assert loaded == ["a.onnx", "b.onnx", "c.onnx"]
