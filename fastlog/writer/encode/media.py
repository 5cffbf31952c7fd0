"""Encoders that tensorboardX lacks or that need care, and checks that name the argument which is wrong."""

from __future__ import annotations

import importlib.util
import io
import json
import wave
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tensorboardX import summary as tbx
from tensorboardX.proto.plugin_mesh_pb2 import MeshPluginData
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

from fastlog.writer.encode.snapshots import Snapshot, no_value, take

Array = np.ndarray[Any, Any]

_LONGEST_SIDE = 65_535  # pixels
_COMPONENTS = 7 << 3  # the key of ``MeshPluginData.components``, which tensorboardX's copy of it lacks
_OVERSHOOT = 0.1  # what interpolation and rounding add to values in [0, 1] is nothing to talk about

# dtype: (its name in TensorProto, the field of its values, an integer dtype where the field takes bits)
_TENSOR_PROTO: dict[torch.dtype, tuple[str, str, torch.dtype | None]] = {
    torch.float16: ("DT_HALF", "half_val", torch.int16),
    torch.bfloat16: ("DT_BFLOAT16", "half_val", torch.int16),
    torch.float32: ("DT_FLOAT", "float_val", None),
    torch.float64: ("DT_DOUBLE", "double_val", None),
    torch.int8: ("DT_INT8", "int_val", None),
    torch.int16: ("DT_INT16", "int_val", None),
    torch.int32: ("DT_INT32", "int_val", None),
    torch.int64: ("DT_INT64", "int64_val", None),
    torch.uint8: ("DT_UINT8", "int_val", None),
    torch.bool: ("DT_BOOL", "bool_val", None),
    torch.complex64: ("DT_COMPLEX64", "scomplex_val", None),
    torch.complex128: ("DT_COMPLEX128", "dcomplex_val", None),
}


class Encoding(NamedTuple):
    """How the values of one call are encoded.

    Attributes:
        as_torch: as torch.utils.tensorboard does where tensorboardX differs.
        tell: told in words of values that are cut.
    """

    as_torch: bool
    tell: Callable[[str], None]


def check_dimensions(argument: str, shape: Sequence[int], dataformats: str, letters: str) -> None:
    """Raises ValueError unless ``dataformats`` is an order of ``letters`` and ``shape`` has as many
    dimensions."""
    if not isinstance(dataformats, str):
        raise TypeError(f"dataformats must be a string, not {type(dataformats).__name__}")
    if sorted(dataformats.upper()) != sorted(letters):
        raise ValueError(f"dataformats={dataformats!r} is no order of {letters!r}")
    if len(shape) != len(letters) or 0 in shape:
        raise ValueError(
            f"{argument} has shape {tuple(shape)}, which does not fit dataformats={dataformats!r}"
        )


def check_image(shape: Sequence[int], dataformats: str, rescale: float = 1) -> None:
    """Raises ValueError unless the shape is that of an image, or of a batch, in this order, and the image has
    pixels when it is ``rescale`` times as large."""
    letters = {2: "HW", 3: "CHW", 4: "NCHW"}.get(
        len(dataformats) if isinstance(dataformats, str) else 0, "CHW"
    )
    check_dimensions("img_tensor", shape, dataformats, letters)
    sizes = dict(zip(dataformats.upper(), shape, strict=True))
    allowed = (1, 3, 4) if "N" in sizes else (1, 2, 3, 4)
    if sizes.get("C", 1) not in allowed:
        raise ValueError(
            f"img_tensor has {sizes['C']} channels ({tuple(shape)} as {dataformats!r}); expected {allowed}"
        )
    sides = [int(size * rescale) for size in (sizes["H"], sizes["W"])]
    if min(sides) < 1 or max(sides) > _LONGEST_SIDE:
        raise ValueError(f"rescale={rescale} makes an image of {sides[0]} x {sides[1]} pixels")


def pixels(argument: str, values: Array, encoding: Encoding) -> Array:
    """Values in [0, 1] as pixels of 8 bits, cut where they are beyond; uint8 as it is.

    Calculated in float32, as torch does, or in the dtype of the values, as tensorboardX does.
    """
    if values.dtype == np.uint8:
        return values
    _tell_cut(argument, values, 0, "only uint8 means [0, 255]", encoding)
    if encoding.as_torch:
        values = values.astype(np.float32)
    return (values * 255.0).clip(0, 255).astype(np.uint8)


def _tell_cut(argument: str, values: Array, low: int, remedy: str, encoding: Encoding) -> None:
    span = _beyond(values, low)
    if span is not None:
        encoding.tell(f"{argument} has values {span}, which are cut to [{low}, 1]; {remedy}")


def _beyond(values: Array, low: int) -> str | None:
    """The span of values that are clearly not all within [low, 1]."""
    smallest, largest = (float(extreme.reduce(values, axis=None)) for extreme in (np.fmin, np.fmax))
    beyond = smallest < low - _OVERSHOOT or largest > 1 + _OVERSHOOT
    return f"from {smallest:g} to {largest:g}" if beyond else None


def image(tag: str, dataformats: str, encoding: Encoding, values: Array) -> Any:
    """The ``Summary`` of an image, or of a batch as one grid."""
    summary = tbx.image("", pixels("img_tensor", values, encoding), dataformats=dataformats)
    summary.value[0].tag = tag
    return summary


def image_with_boxes(
    tag: str,
    dataformats: str,
    encoding: Encoding,
    rescale: float,
    labels: list[str] | None,
    values: Array,
    boxes: Array,
) -> Any:
    """The ``Summary`` of an image with boxes drawn on it."""
    drawn_on = pixels("img_tensor", values, encoding)
    summary = tbx.image_boxes("", drawn_on, boxes, rescale, dataformats, labels)
    summary.value[0].tag = tag
    return summary


def pr_curve(
    tag: str,
    num_thresholds: int,
    encoding: Encoding,
    labels: Array,
    predictions: Array,
    weights: Array | None = None,
) -> Any:
    """The ``Summary`` of a precision-recall curve. Predictions outside of [0, 1] are in no count."""
    expected = {"predictions": "probabilities in [0, 1], not logits", "labels": "0 or 1"}
    for (argument, remedy), values in zip(expected.items(), (predictions, labels), strict=True):
        span = _beyond(values, 0) if values.size else None
        if span is not None:
            encoding.tell(f"{argument} has values {span}, so that the curve is wrong; pass {remedy}")
    return tbx.pr_curve(tag, labels, predictions, num_thresholds, weights)


def check_weights(shape: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raises ValueError unless weights of this shape are one number, or one for each label."""
    try:
        fits = np.broadcast_shapes(shape, labels) == labels
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"weights have shape {shape}, labels {labels}; pass a number, or one for each label")


def figure_pixels(figure: Any, close: bool) -> Array:
    """A matplotlib figure as (3, height, width) pixels, or a list of them with one dimension more. What is
    transparent stands on white.

    Raises:
        TypeError: neither a figure nor a list of figures.
        ValueError: None, or figures of different sizes.
    """
    if figure is None:
        raise no_value("figure")
    figures = figure if isinstance(figure, list) else [figure]
    for each in figures:
        if not hasattr(each, "savefig"):
            raise TypeError(f"figure must be a matplotlib figure or a list, not {type(each).__name__}")
    drawn = [_draw(each, close) for each in figures]
    if len({pixels.shape for pixels in drawn}) != 1:
        raise ValueError("figure is a list of figures of different sizes, or of none")
    return np.stack(drawn) if isinstance(figure, list) else drawn[0]


def _draw(figure: Any, close: bool) -> Array:
    from matplotlib import pyplot
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    shown_on = figure.canvas
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    rgba = np.array(canvas.buffer_rgba())
    figure.set_canvas(shown_on)
    if close:
        pyplot.close(figure)
    rgb, opacity = rgba[..., :3], rgba[..., 3:] / 255
    if opacity.min() < 1:
        rgb = np.rint(rgb * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return np.moveaxis(rgb, 2, 0)


def listed(values: Any, argument: str) -> list[Any]:
    """``list(values)``. Raises TypeError, naming the argument, for what has no elements."""
    try:
        return list(values)
    except TypeError as error:
        raise TypeError(f"{argument}: {error}") from error


def box_labels(shape: Sequence[int], labels: Any) -> list[str] | None:
    """A label for each of the boxes of this shape; None (as in tensorboardX) if the numbers differ."""
    if 0 not in shape[:1] and (len(shape) != 2 or shape[1] < 4):
        raise ValueError(f"box_tensor has shape {tuple(shape)}; expected (boxes, 4 or more)")
    if labels is None:
        return None
    names = [labels] if isinstance(labels, str) else [str(label) for label in listed(labels, "labels")]
    return names if len(names) == shape[0] else None


def video(tag: str, fps: float, dataformats: str, encoding: Encoding, frames: Array) -> Any:
    """The ``Summary`` of a video.

    Raises:
        RuntimeError: moviepy is missing, or did not encode it.
    """
    summary = tbx.video("", pixels("vid_tensor", frames, encoding), fps, dataformats)
    summary.value[0].tag = tag
    if not summary.value[0].image.encoded_image_string:
        raise RuntimeError("the video could not be encoded; is moviepy installed (pip install moviepy)?")
    return summary


def check_audio(shape: Sequence[int]) -> None:
    """Raises ValueError unless the shape is one of those that :func:`audio` takes."""
    sizes = [size for size in shape if size != 1]
    if 0 in shape or len(sizes) > 2 or (len(sizes) == 2 and 2 not in sizes):
        raise ValueError(
            f"snd_tensor has shape {tuple(shape)}; expected (frames,), (frames, 1 or 2) or (1 or 2, frames)"
        )


def audio(tag: str, sample_rate: int, encoding: Encoding, sound: Array) -> Any:
    """The ``Summary`` of a sound: as tensorboardX writes it where soundfile is installed, else by
    ``wave``. torch cuts the samples' fractions off and does not round."""
    if sound.dtype.kind != "f" or sound.dtype == np.float16:
        sound = sound.astype(np.float32)
    _tell_cut("snd_tensor", sound, -1, "divide integers by the largest value of their dtype", encoding)
    sound = sound.squeeze().clip(-1, 1)
    if sound.ndim < 2:
        sound = sound.reshape(-1, 1)
    elif sound.shape[1] > 2:
        sound = sound.T
    if not encoding.as_torch and importlib.util.find_spec("soundfile") is not None:
        return tbx.audio(tag, sound, sample_rate)
    scaled = sound * np.iinfo(np.int16).max
    samples = (scaled if encoding.as_torch else np.rint(scaled)).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(samples.itemsize)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())
    content = Summary.Audio(
        sample_rate=sample_rate,
        num_channels=samples.shape[1],
        length_frames=len(samples),
        encoded_audio_string=buffer.getvalue(),
        content_type="audio/wav",
    )
    return Summary(value=[Summary.Value(tag=tag, audio=content)])


def mesh(tag: str, config: Any, as_torch: bool, parts: Sequence[str], *arrays: Array) -> Any:
    """The ``Summary`` of a mesh, with the field ``components``, without which TensorBoard draws nothing.

    Args:
        as_torch: call the series ``TAG_VERTEX``, ..., as torch does, and not ``TAG_1``, ....
        parts: the name of each array, of "vertices", "colors" and "faces".
    """
    given = dict(zip(parts, arrays, strict=True))
    summary = tbx.mesh(tag, given["vertices"], given.get("colors"), given.get("faces"), config or {})
    plugins = [value.metadata.plugin_data for value in summary.value]
    contents = [MeshPluginData.FromString(plugin.content) for plugin in plugins]
    components = sum(1 << content.content_type for content in contents)
    for value, plugin, content in zip(summary.value, plugins, contents, strict=True):
        plugin.content += bytes([_COMPONENTS, components])
        if as_torch:
            value.tag = f"{tag}_{MeshPluginData.ContentType.Name(content.content_type)}"
    return summary


def json_copy(config: Any) -> Any:
    """A copy of what JSON can hold. Raises TypeError for anything else."""
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise TypeError(f"config_dict: {error}") from error


def use_tensor(value: Any, number: float, double_precision: bool) -> None:
    """Makes a ``Summary.Value`` hold ``number`` in torch.utils.tensorboard's new style, as a tensor."""
    value.metadata.plugin_data.plugin_name = "scalars"
    if double_precision:
        value.tensor.CopyFrom(TensorProto(dtype="DT_DOUBLE", double_val=[number]))
    else:
        value.tensor.CopyFrom(TensorProto(dtype="DT_FLOAT", float_val=[number]))


def tensor_encoder(tag: str, tensor: Any, as_torch: bool) -> tuple[Snapshot, Callable[[Array], Any]]:
    """A snapshot of a tensor, and what makes its ``Summary`` of the snapshot's array.

    Args:
        as_torch: write the bits of float32 for floats of 16 bits, which torch's ``int_to_half`` reads.

    Raises:
        TypeError: no tensor, or no dtype that TensorFlow's ``TensorProto`` has.
        ValueError: None.
    """
    if tensor is None:
        raise no_value("tensor")
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"tensor must be a torch.Tensor, not {type(tensor).__name__}")
    if tensor.dtype not in _TENSOR_PROTO:
        raise TypeError(f"tensor is a {tensor.dtype} tensor, which TensorBoard cannot hold; convert it first")
    dtype, field, bits = _TENSOR_PROTO[tensor.dtype]
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in tensor.shape])
    values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.detach()
    if as_torch and bits is not None:
        values, bits = values.float(), torch.int32

    def encode(numbers: Array) -> Any:
        flat = numbers.reshape(-1) if bits in (None, torch.int32) else numbers.reshape(-1).view(np.uint16)
        proto = TensorProto(dtype=dtype, tensor_shape=shape, **{field: flat.tolist()})
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="tensor"))
        return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=proto)])

    return take(values if bits is None else values.view(bits), "tensor"), encode
