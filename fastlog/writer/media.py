"""The methods that log sound, text, points, curves, meshes and whole tensors."""

from __future__ import annotations

import functools
from typing import Any

import torch
from tensorboardX import summary as tbx

from fastlog.writer.base import WriterBase
from fastlog.writer.comet import unless_comet
from fastlog.writer.encode import embeddings, media
from fastlog.writer.encode.snapshots import Snapshot, as_int, no_value, positive, take
from fastlog.writer.tags import subdirectory


class MediaMethods(WriterBase):
    """A snapshot at the call; the rest on a thread beside the worker."""

    @unless_comet
    def add_audio(
        self,
        tag: str,
        snd_tensor: Any,
        global_step: int | None = None,
        sample_rate: int = 44100,
        walltime: float | None = None,
    ) -> None:
        """Logs sound as WAV, 16 bits.

        Args:
            snd_tensor: (frames,), (frames, channels) or (channels, frames) with 1 or 2 channels; in [-1, 1].
                What is beyond is cut, with a warning.
            sample_rate: in Hz.
        """
        tag = self._name(tag, "add_audio")
        place = f"add_audio({tag!r})"
        with self.outbox.guarded(place) as since:
            part = take(snd_tensor, "snd_tensor")
            media.check_audio(part.shape)
            rate = positive(as_int(sample_rate, "sample_rate"), "sample_rate")
            encode = functools.partial(media.audio, tag, rate, self._encoding(place))
            self.outbox.put_summary(place, [tag], [part], encode, global_step, walltime, since)

    def add_text(
        self, tag: str, text_string: str, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """Logs a text, shown as Markdown.

        Raises:
            TypeError: ``text_string`` is no string.
        """
        tag = self._name(tag, "add_text")
        place = f"add_text({tag!r})"
        with self.outbox.guarded(place):
            if text_string is None:
                raise no_value("text_string")
            if not isinstance(text_string, str):
                raise TypeError(f"text_string must be a string, not {type(text_string).__name__}")
            self.outbox.stamp(place, global_step, walltime)
            try:
                super().add_text(tag, text_string, global_step, walltime)
            except UnicodeEncodeError as error:
                raise ValueError(f"text_string: {error}") from error

    @unless_comet
    def add_embedding(
        self,
        mat: Any,
        metadata: Any = None,
        label_img: Any = None,
        global_step: int | None = None,
        tag: str = "default",
        metadata_header: list[str] | None = None,
    ) -> None:
        """Logs points for the projector, as files beside the event file.

        Args:
            mat: (points, dimensions).
            metadata: a label, or a row of labels, for each point; may be a tensor, or tensors.
            label_img: (points, channels, height, width), uint8 in [0, 255], else in [0, 1]; all of them in
                one sprite of at most 8192 pixels a side.
            metadata_header: names of the columns where ``metadata`` has rows.
        """
        tag = self._name(tag, "add_embedding")
        place = f"add_embedding({tag!r})"
        with self.outbox.guarded(place) as since:
            step = self.outbox.stamp(place, global_step, None)[0] or 0
            points = take(mat, "mat")
            images = None if label_img is None else take(label_img, "label_img")
            header = None if metadata_header is None else media.listed(metadata_header, "metadata_header")
            labels = None if metadata is None else embeddings.take_labels(metadata, header)
            embeddings.check(points.shape, labels, None if images is None else images.shape)
            encoding = self._encoding(place)
            logdir = str(self.outbox.main().get_logdir())
            path = subdirectory(logdir, f"{step:05}", self._encode(tag))

            def run() -> list[Any]:
                sprite = None if images is None else images.array()
                embeddings.write(logdir, path, tag, step, points.array(), labels, header, sprite, encoding)
                return []

            parts = [part for part in (points, labels, images) if isinstance(part, Snapshot)]
            self.outbox.put_job(place, [], parts, run, since)

    @unless_comet
    def add_pr_curve(
        self,
        tag: str,
        labels: Any,
        predictions: Any,
        global_step: int | None = None,
        num_thresholds: int = 127,
        weights: Any = None,
        walltime: float | None = None,
    ) -> None:
        """Logs a precision-recall curve.

        Args:
            labels: 0 or 1 for each element.
            predictions: probabilities in [0, 1], in the shape of ``labels``.
            num_thresholds: 1 to 127.
            weights: a number, or one for each element.
        """
        tag = self._name(tag, "add_pr_curve")
        place = f"add_pr_curve({tag!r})"
        with self.outbox.guarded(place) as since:
            parts = [take(labels, "labels"), take(predictions, "predictions")]
            if parts[0].shape != parts[1].shape:
                raise ValueError(f"labels have shape {parts[0].shape}, predictions {parts[1].shape}")
            if weights is not None:
                parts.append(take(weights, "weights"))
                media.check_weights(parts[2].shape, parts[0].shape)
            count = positive(as_int(num_thresholds, "num_thresholds"), "num_thresholds")
            encode = functools.partial(media.pr_curve, tag, count, self._encoding(place))
            self.outbox.put_summary(place, [tag], parts, encode, global_step, walltime, since)

    @unless_comet
    def add_pr_curve_raw(
        self,
        tag: str,
        true_positive_counts: Any,
        false_positive_counts: Any,
        true_negative_counts: Any,
        false_negative_counts: Any,
        precision: Any,
        recall: Any,
        global_step: int | None = None,
        num_thresholds: int = 127,
        weights: Any = None,
        walltime: float | None = None,
    ) -> None:
        """Logs a precision-recall curve from its counts, one for each threshold."""
        tag = self._name(tag, "add_pr_curve_raw")
        counts = {
            "true_positive_counts": true_positive_counts,
            "false_positive_counts": false_positive_counts,
            "true_negative_counts": true_negative_counts,
            "false_negative_counts": false_negative_counts,
            "precision": precision,
            "recall": recall,
        }
        place = f"add_pr_curve_raw({tag!r})"
        with self.outbox.guarded(place) as since:
            parts = [take(values, argument) for argument, values in counts.items()]
            if len({part.shape for part in parts}) > 1 or len(parts[0].shape) != 1:
                raise ValueError(f"{', '.join(counts)} must be rows of one length")
            encode = functools.partial(
                _pr_curve_raw, tag, positive(as_int(num_thresholds, "num_thresholds"), "num_thresholds")
            )
            self.outbox.put_summary(place, [tag], parts, encode, global_step, walltime, since)

    @unless_comet
    def add_mesh(
        self,
        tag: str,
        vertices: Any,
        colors: Any = None,
        faces: Any = None,
        config_dict: Any = None,
        global_step: int | None = None,
        walltime: float | None = None,
    ) -> None:
        """Logs meshes or point clouds.

        Args:
            vertices: (batch, points, 3).
            colors: (batch, points, 3) in [0, 255].
            faces: (batch, faces, 3) of indices of vertices.
            config_dict: settings for Three.js; must survive ``json.dumps``.
        """
        tag = self._name(tag, "add_mesh")
        place = f"add_mesh({tag!r})"
        with self.outbox.guarded(place) as since:
            given = {"vertices": vertices, "colors": colors, "faces": faces}
            parts = {
                key: take(value, key)
                for key, value in given.items()
                if value is not None or key == "vertices"
            }
            for key, part in parts.items():
                if len(part.shape) != 3:
                    raise ValueError(f"{key} has shape {part.shape}; expected 3 dimensions")
            config = media.json_copy(config_dict)
            encode = functools.partial(media.mesh, tag, config, self._as_torch, list(parts))
            tags = [f"{tag}_{part}" for part in (1, 2, 3, "VERTEX", "FACE", "COLOR")]
            self.outbox.put_summary(place, tags, list(parts.values()), encode, global_step, walltime, since)

    def add_tensor(
        self, tag: str, tensor: torch.Tensor, global_step: int | None = None, walltime: float | None = None
    ) -> None:
        """Logs a tensor with all its values, as torch.utils.tensorboard does.

        16-bit floats are written as TensorFlow defines it, so that TensorBoard's reader understands them.

        Raises:
            TypeError: no dtype that TensorFlow's ``TensorProto`` has.
        """
        tag = self._name(tag, "add_tensor")
        place = f"add_tensor({tag!r})"
        with self.outbox.guarded(place) as since:
            part, encode = media.tensor_encoder(tag, tensor, self._as_torch)
            self.outbox.put_summary(place, [tag], [part], encode, global_step, walltime, since)


def _pr_curve_raw(tag: str, num_thresholds: int, *counts: Any) -> Any:
    return tbx.pr_curve_raw(tag, *counts, num_thresholds)
