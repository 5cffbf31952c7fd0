"""SummaryWriter with torch.utils.tensorboard's way with tags."""

from __future__ import annotations

from fastlog.writer.summary_writer import SummaryWriter
from fastlog.writer.tags import VERBATIM_TAGS, subdirectory


class TorchSummaryWriter(SummaryWriter):
    """A ``SummaryWriter`` with torch.utils.tensorboard's names, so that the charts of a resumed run go on.

    Tags are written as they are ("loss (train)" stays), and ``add_scalars`` writes to the directory
    ``main_tag``, with "_" for "/", + "_" + ``tag``.
    """

    __module__ = "fastlog"
    _tags = VERBATIM_TAGS

    def _scalars_directory(self, logdir: str, main_tag: str, tag: str) -> str:
        return subdirectory(logdir, f"{main_tag.replace('/', '_')}_{tag}")
