"""SummaryWriter: the families of methods, joined."""

from __future__ import annotations

from fastlog.common.no_compile import no_compile_methods
from fastlog.writer.histograms import HistogramMethods
from fastlog.writer.images import ImageMethods
from fastlog.writer.media import MediaMethods
from fastlog.writer.pages import PageMethods
from fastlog.writer.scalars import ScalarMethods


@no_compile_methods
class SummaryWriter(ScalarMethods, HistogramMethods, ImageMethods, MediaMethods, PageMethods):
    """A ``tensorboardX.SummaryWriter`` that never makes training wait.

    Same methods, arguments and defaults; what torch.utils.tensorboard spells otherwise works too. What is
    logged is the value, step and wall time at the call, even if the next line overwrites the tensor. A value
    that cannot be logged gives one warning (``on_error``); wrong use, such as a tag that is no string,
    raises TypeError at once.
    """

    __module__ = "fastlog"
