"""Images, boxes, videos, sounds, meshes: as torch's where fastlog stands in its place, and nothing wraps."""

import sys
import types
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorboardX
import tensorboardX.summary
import torch
import torch.utils.tensorboard
import torch.utils.tensorboard.summary
from event_files import log, values
from PIL import Image
from tensorboard.plugins.mesh import metadata

import fastlog
from fastlog.install import TorchSummaryWriter

Calls = Callable[[Any], object]
TORCH = torch.utils.tensorboard.SummaryWriter

# Computed in float32 and cut to [0, 1] by torch; by tensorboardX in the array's own dtype, and wrapped.
EDGES = torch.tensor([-1.0, -0.01, 0.0, 1 / 255, 0.1, 0.5, 0.99999, 1.0, 1.01, 2.0, 300.0])
SHADES = torch.cat([EDGES.double(), torch.arange(256.0).double() / 255, torch.rand(245).double()])
FLOATS = SHADES.reshape(1, 32, 16).repeat(3, 1, 1)
COUNTS = torch.arange(-2, 254).reshape(1, 16, 16).repeat(3, 1, 1)
GRID = FLOATS.repeat(5, 1, 1, 1)
BOXES = np.array([[2, 2, 20, 12], [1.5, 3, 9, 14]])
SOUND = torch.cat([torch.linspace(-1.05, 1.05, 400), torch.sin(torch.arange(400.0))])
PYRAMID = np.array([[[1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]], float)
FACES = np.array([[[0, 2, 3], [0, 3, 1], [0, 1, 2], [1, 3, 2]]])


def pixels(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(BytesIO(value.image.encoded_image_string)))


AS_TORCH: dict[str, Calls] = {
    "float64": lambda w: w.add_image("x", FLOATS),
    "float32": lambda w: w.add_image("x", FLOATS.float()),
    "half": lambda w: w.add_image("x", FLOATS.half()),
    "bfloat16": lambda w: w.add_image("x", FLOATS.bfloat16()),
    "int64": lambda w: w.add_image("x", COUNTS),
    "int32 array": lambda w: w.add_image("x", COUNTS.int().numpy()),
    "bool": lambda w: w.add_image("x", COUNTS > 100),
    "uint8": lambda w: w.add_image("x", COUNTS.to(torch.uint8)),
    "HWC": lambda w: w.add_image("x", FLOATS.permute(1, 2, 0), dataformats="HWC"),
    "HW": lambda w: w.add_image("x", FLOATS[0], dataformats="HW"),
    "batch": lambda w: w.add_images("x", GRID),
    "batch of one channel": lambda w: w.add_images("x", GRID[:, :1].half()),
    "figures": lambda w: w.add_figure("x", [drawing(), drawing()]),
    "boxes": lambda w: w.add_image_with_boxes("x", FLOATS.float(), BOXES, labels=["a", "b"]),
    "boxes on integers, twice as large": lambda w: w.add_image_with_boxes("x", COUNTS, BOXES, 1, 2.0, 2),
    "no boxes": lambda w: w.add_image_with_boxes("x", FLOATS.float(), torch.zeros(0, 4)),
    "boxes with scores and classes": lambda w: w.add_image_with_boxes(
        "x", FLOATS, np.concatenate([BOXES, BOXES], 1)
    ),
    "video": lambda w: w.add_video("x", GRID[None].repeat(3, 1, 1, 1, 1).float()),
    "video of half": lambda w: w.add_video("x", GRID[None].half()),
    "video of float64": lambda w: w.add_video("x", GRID[None]),
    "video of uint8": lambda w: w.add_video("x", COUNTS.to(torch.uint8)[None, None].repeat(3, 2, 1, 1, 1)),
    "sound": lambda w: w.add_audio("x", SOUND, sample_rate=8000),
    "sound of float64": lambda w: w.add_audio("x", SOUND.double()),
    "sound in a row": lambda w: w.add_audio("x", SOUND[None]),
    "sound in a row of a batch": lambda w: w.add_audio("x", SOUND[None, None]),
    "sound in a column": lambda w: w.add_audio("x", SOUND[:, None].numpy()),
    "mesh": lambda w: w.add_mesh("x/y", PYRAMID, np.full((1, 4, 3), 200), FACES, {"lights": []}),
    "points": lambda w: w.add_mesh("points", torch.from_numpy(PYRAMID)),
    "text": lambda w: w.add_text("a (b)", "# title"),
    "curve": lambda w: w.add_pr_curve("a (b)", np.array([0, 1, 1]), np.array([0.1, 0.4, 0.9]), 1, 5),
    "raw curve": lambda w: w.add_pr_curve_raw("a (b)", *[np.arange(5.0)] * 6, num_thresholds=5),
    "tensor": lambda w: w.add_tensor("a (b)", torch.arange(6.0).reshape(2, 3)),
    "tensor of half": lambda w: w.add_tensor("x", torch.tensor([-0.1, 0.0, 65504.0]).half()),
    "tensor of bfloat16": lambda w: w.add_tensor("x", torch.tensor([-0.1, 0.0, 1e30]).bfloat16()),
    "custom charts": lambda w: w.add_custom_scalars({"c": {"t": ["Margin", ["a (1)", "b", "c"]]}}),
}


def drawing() -> Any:
    from matplotlib.figure import Figure

    figure = Figure((1, 1))
    figure.subplots().plot([1, 2, 0])
    return figure


@pytest.fixture
def plain_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos as the bytes of their frames, in the place of GIFs, for which moviepy would be needed."""
    for library in (tensorboardX, torch.utils.tensorboard):
        proto = library.summary.Summary.Image

        def frames(tensor: Any, fps: float, proto: Any = proto) -> Any:
            return proto(height=tensor.shape[1], width=tensor.shape[2], encoded_image_string=tensor.tobytes())

        monkeypatch.setattr(library.summary, "make_video", frames)


@pytest.mark.filterwarnings("ignore:.*which are cut to:fastlog.FastlogWarning")
@pytest.mark.usefixtures("plain_videos")
@pytest.mark.parametrize("name", AS_TORCH)
def test_what_install_puts_in_torchs_place_writes_what_torch_writes(name: str, tmp_path: Path) -> None:
    for kind, directory in ((TORCH, "theirs"), (TorchSummaryWriter, "ours")):
        with kind(str(tmp_path / directory)) as writer:
            AS_TORCH[name](writer)
    ours, theirs = values(tmp_path / "ours"), values(tmp_path / "theirs")
    assert ours.keys() == theirs.keys() and ours
    for tag, value in theirs.items():
        assert ours[tag] == value


LIKE_TENSORBOARDX: dict[str, Calls] = {
    "gray and alpha": lambda w: w.add_image("x", COUNTS[:2].to(torch.uint8)),
    "gray and alpha, HWC": lambda w: w.add_image("x", np.full((4, 5, 2), 0.25), dataformats="HWC"),
    "no boxes": lambda w: w.add_image_with_boxes("x", np.zeros((3, 9, 9)), torch.zeros(0, 4)),
    "no boxes, flat": lambda w: w.add_image_with_boxes("x", np.zeros((3, 9, 9)), np.array([])),
    "boxes with scores": lambda w: w.add_image_with_boxes("x", np.zeros((3, 30, 30)), np.full((2, 5), 9.0)),
    "float64": lambda w: w.add_image("x", FLOATS.clip(0, 1)),
    "half": lambda w: w.add_image("x", FLOATS.clip(0, 1).half()),
    "video": lambda w: w.add_video("x", GRID[None].clip(0, 1).numpy()),
}


@pytest.mark.usefixtures("plain_videos")
@pytest.mark.parametrize("name", LIKE_TENSORBOARDX)
def test_nothing_is_refused_that_tensorboardX_logs(name: str, tmp_path: Path) -> None:
    for kind, directory in ((tensorboardX.SummaryWriter, "theirs"), (fastlog.SummaryWriter, "ours")):
        with kind(str(tmp_path / directory)) as writer:
            LIKE_TENSORBOARDX[name](writer)
    assert values(tmp_path / "ours") == values(tmp_path / "theirs")


CUT: dict[str, tuple[Calls, str]] = {
    "add_image": (lambda w, x: w.add_image("x", x), "[0, 1]; only uint8"),
    "add_images": (lambda w, x: w.add_images("x", x[None]), "[0, 1]; only uint8"),
    "add_image_with_boxes": (
        lambda w, x: w.add_image_with_boxes("x", x, torch.zeros(0, 4)),
        "[0, 1]; only uint8",
    ),
    "add_video": (lambda w, x: w.add_video("x", x[None, None]), "[0, 1]; only uint8"),
    "add_audio": (lambda w, x: w.add_audio("x", x.flatten()), "[-1, 1]; divide integers"),
}


@pytest.mark.usefixtures("plain_videos")
@pytest.mark.parametrize("method", CUT)
def test_values_beyond_the_range_are_cut_and_said_once(method: str, tmp_path: Path) -> None:
    call, words = CUT[method]
    with fastlog.SummaryWriter(tmp_path) as writer, pytest.warns(fastlog.FastlogWarning) as said:
        for _ in range(3):
            call(writer, 3 * FLOATS)
        writer.flush()
    (text,) = [str(warning.message) for warning in said]
    assert text.startswith(f"{method}('x'): ") and "values from -3 to 900, which are cut to" in text
    assert words in text and text.endswith("(this warning is shown once)")


@pytest.mark.usefixtures("plain_videos")
@pytest.mark.parametrize("method", CUT)
def test_what_interpolation_and_rounding_add_is_cut_silently(method: str, tmp_path: Path) -> None:
    log(tmp_path, lambda w: CUT[method][0](w, torch.linspace(-0.05, 1.05, 48).reshape(3, 4, 4)))


def test_predictions_that_are_no_probabilities_are_said(tmp_path: Path) -> None:
    def calls(writer: Any) -> None:
        writer.add_pr_curve("fine", [0, 1], [0.1, 1.0])
        for tag in "ab":
            writer.add_pr_curve(tag, [0, 1], [-3.0, 5.0])

    with pytest.warns(fastlog.FastlogWarning) as said:
        log(tmp_path, calls)
    (text,) = [str(warning.message) for warning in said]
    assert text.startswith("add_pr_curve('a'): predictions has values from -3 to 5") and "logits" in text


def test_what_is_transparent_in_a_figure_stands_on_white(tmp_path: Path) -> None:
    from matplotlib import pyplot

    def figure(background: str) -> Any:
        figure = pyplot.figure(figsize=(2, 1), facecolor=background)
        figure.text(0.1, 0.3, "text", fontsize=30, color="black")
        return figure

    clear, white = figure("none"), figure("white")
    canvas = clear.canvas
    found = log(tmp_path, lambda w: (w.add_figure("clear", clear, close=False), w.add_figure("white", white)))
    assert clear.canvas is canvas and pyplot.get_fignums() == [clear.number]
    pyplot.close(clear)
    on_clear, on_white = pixels(found["clear"]).astype(int), pixels(found["white"]).astype(int)
    assert on_clear.min() < 50 and np.abs(on_clear - on_white).max() <= 2


def test_figures_of_different_sizes_are_no_grid(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    said = pytest.warns(fastlog.FastlogWarning, match=r"^add_figure\('x'\): .*figure is a list of figures of")
    with fastlog.SummaryWriter(tmp_path) as writer, said:
        writer.add_figure("x", [Figure((1, 1)), Figure((1, 2))])


def test_pixels_beyond_the_range_do_not_wrap(tmp_path: Path) -> None:
    row = torch.tensor([[-0.05, 0.0, 0.5, 1.0, 1.05]])
    found = log(tmp_path, lambda w: w.add_image("x", row, dataformats="HW"))
    assert pixels(found["x"])[0, :, 0].tolist() == [0, 0, 127, 255, 255]


STEREO = torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)], 1)
SOUNDS = {
    "mono": (STEREO[:, 0], 1),
    "half": (STEREO[:, 0].half(), 1),
    "a row of a batch": (STEREO[:, 0][None, None], 1),
    "frames x channels": (STEREO, 2),
    "channels x frames": (STEREO.T, 2),
    "a batch of channels x frames": (STEREO.T[None], 2),
    "integers": (torch.tensor([0, 1, -1, 1]), 1),
}


@pytest.fixture(params=[False, True], ids=["by wave", "by soundfile"])
def sound_file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What soundfile was given, where there is a (fake) one."""
    given: list[Any] = []
    if request.param:

        def write(file: Any, data: Any, samplerate: int, format: str) -> None:
            if data.dtype not in (np.float32, np.float64, np.int16, np.int32):
                raise TypeError(f"dtype must be one of float32, float64, int16, int32, not {data.dtype}")
            given.append(data)

        module = types.ModuleType("soundfile")
        module.write = write  # type: ignore[attr-defined]
        module.__spec__ = sys.__spec__
        monkeypatch.setitem(sys.modules, "soundfile", module)
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    yield given
    assert bool(given) == request.param


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_of_every_layout(name: str, sound_file: list[Any], tmp_path: Path) -> None:
    sound, channels = SOUNDS[name]
    audio = log(tmp_path, lambda w: w.add_audio("x", sound, sample_rate=8000.0))["x"].audio
    assert (audio.num_channels, audio.length_frames) == (channels, sound.numel() // channels)
    if not sound_file:
        samples = np.frombuffer(audio.encoded_audio_string[44:], "<i2") / 32767
        expected = sound.double().squeeze().numpy()
        expected = expected.T if expected.shape[-1] > 2 else expected
        assert np.abs(samples - expected.reshape(-1)).max() <= 0.5001 / 32767


@pytest.mark.parametrize("kind", [fastlog.SummaryWriter, TorchSummaryWriter])
def test_tensorboard_finds_all_parts_of_a_mesh(kind: Any, tmp_path: Path) -> None:
    with kind(tmp_path) as writer:
        writer.add_mesh("all", PYRAMID, np.full((1, 4, 3), 200), FACES, {"camera": {"far": 3}})
        writer.add_mesh("points", PYRAMID)
    found = [
        (parsed.name, parsed.content_type, parsed.components, parsed.json_config)
        for value in values(tmp_path).values()
        for parsed in [metadata.parse_plugin_metadata(value.metadata.plugin_data.content)]
    ]
    everything = 1 << 1 | 1 << 2 | 1 << 3  # TensorBoard fetches a part where the bit of its type is set
    assert sorted(found) == [
        *(("all", part, everything, '{"camera": {"far": 3}}') for part in (1, 2, 3)),
        ("points", 1, 1 << 1, "{}"),
    ]


def test_a_mesh_is_as_tensorboardX_writes_it_but_for_the_components(tmp_path: Path) -> None:
    for kind, directory in ((tensorboardX.SummaryWriter, "theirs"), (fastlog.SummaryWriter, "ours")):
        with kind(str(tmp_path / directory)) as writer:
            writer.add_mesh("x (y)", PYRAMID, np.full((1, 4, 3), 200), FACES, {"lights": []})
    ours, theirs = values(tmp_path / "ours"), values(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for tag, value in theirs.items():
        content = ours[tag].metadata.plugin_data.content
        assert content.startswith(value.metadata.plugin_data.content)
        value.metadata.plugin_data.content = content
        assert ours[tag] == value
