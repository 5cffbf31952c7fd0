"""The methods that log pictures: a snapshot at the call, the rest on a thread beside the worker."""

from __future__ import annotations

import functools
from typing import Any

from fastlog.writer.base import WriterBase
from fastlog.writer.comet import unless_comet
from fastlog.writer.encode import media
from fastlog.writer.encode.snapshots import as_float, positive, take


class ImageMethods(WriterBase):
    """The next line may overwrite what was logged. A figure is drawn at the call: matplotlib needs that."""

    @unless_comet
    def add_image(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:
        """Logs an image as PNG; needs Pillow.

        Args:
            tag: name of the series.
            img_tensor: tensor or array in the order of ``dataformats``; uint8 in [0, 255], else in [0, 1];
                1 to 4 channels. Values beyond are cut, with a warning.
            dataformats: "CHW", "HWC", "HW", "NCHW", "NHWC", ...
        """
        self._add_image("add_image", tag, img_tensor, global_step, walltime, dataformats)

    @unless_comet
    def add_images(
        self,
        tag: str,
        img_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:
        """Logs a batch of images as one grid.

        Args:
            img_tensor: as in ``add_image`` with ``dataformats`` of 4 letters, or a list of images of one size
                with "CHW" or "HWC".
        """
        if isinstance(img_tensor, list) and str(dataformats).upper() in ("CHW", "HWC"):
            dataformats = "N" + dataformats
        self._add_image("add_images", tag, img_tensor, global_step, walltime, dataformats)

    def _add_image(
        self, method: str, tag: str, pixels: Any, global_step: Any, walltime: Any, dataformats: str
    ) -> None:
        name = self._name(tag, method)
        place = f"{method}({name!r})"
        with self.outbox.guarded(place) as since:
            part = take(pixels, "img_tensor")
            media.check_image(part.shape, dataformats)
            encode = functools.partial(media.image, name, dataformats, self._encoding(place))
            self.outbox.put_summary(place, [name], [part], encode, global_step, walltime, since)

    @unless_comet
    def add_image_with_boxes(
        self,
        tag: str,
        img_tensor: Any,
        box_tensor: Any,
        global_step: int | None = None,
        walltime: float | None = None,
        dataformats: Any = "CHW",
        labels: Any = None,
        *torch_labels: Any,
        rescale: float = 1,
    ) -> None:
        """Logs an image with boxes drawn on it.

        torch.utils.tensorboard's order, with ``rescale`` before ``dataformats``, is understood too.

        Args:
            img_tensor, dataformats: as in ``add_image``.
            box_tensor: (boxes, 4 or more) of xmin, ymin, xmax, ymax in pixels; further columns, such as
                scores, are not drawn.
            labels: a string for each box.
            rescale: factor of the logged image's size.
        """
        tag = self._name(tag, "add_image_with_boxes")
        if isinstance(dataformats, (int, float)):
            rescale, dataformats, labels = (
                dataformats,
                "CHW" if labels is None else labels,
                torch_labels[0] if torch_labels else None,
            )
        place = f"add_image_with_boxes({tag!r})"
        with self.outbox.guarded(place) as since:
            image, boxes = take(img_tensor, "img_tensor"), take(box_tensor, "box_tensor")
            factor = positive(as_float(rescale, "rescale"), "rescale")
            media.check_image(image.shape, dataformats, factor)
            names = media.box_labels(boxes.shape, labels)
            encoding = self._encoding(place)
            encode = functools.partial(media.image_with_boxes, tag, dataformats, encoding, factor, names)
            self.outbox.put_summary(place, [tag], [image, boxes], encode, global_step, walltime, since)

    def add_figure(
        self,
        tag: str,
        figure: Any,
        global_step: int | None = None,
        close: bool = True,
        walltime: float | None = None,
    ) -> None:
        """Logs a matplotlib figure, or a list of them as one grid. Drawn at the call: matplotlib needs
        that."""
        name = self._name(tag, "add_figure")
        place = f"add_figure({name!r})"
        with self.outbox.guarded(place) as since:
            pixels = media.figure_pixels(figure, close)
            dataformats = "NCHW" if isinstance(figure, list) else "CHW"
            if self._comet_on:
                self.add_image(tag, pixels, global_step, walltime, dataformats)
                return
            encode = functools.partial(media.image, name, dataformats, self._encoding(place))
            parts = [take(pixels, "figure")]
            self.outbox.put_summary(place, [name], parts, encode, global_step, walltime, since)

    @unless_comet
    def add_video(
        self,
        tag: str,
        vid_tensor: Any,
        global_step: int | None = None,
        fps: float = 4,
        walltime: float | None = None,
        dataformats: str = "NTCHW",
    ) -> None:
        """Logs a video as GIF; needs moviepy.

        Args:
            vid_tensor: 5 dimensions in the order of ``dataformats``; uint8 in [0, 255], else in [0, 1].
            fps: frames per second.
        """
        name = self._name(tag, "add_video")
        place = f"add_video({name!r})"
        with self.outbox.guarded(place) as since:
            part = take(vid_tensor, "vid_tensor")
            media.check_dimensions("vid_tensor", part.shape, dataformats, "NTCHW")
            rate = positive(as_float(fps, "fps"), "fps")
            encode = functools.partial(media.video, name, rate, dataformats, self._encoding(place))
            self.outbox.put_summary(place, [name], [part], encode, global_step, walltime, since)
