"""SummaryWriter with torch.utils.tensorboard's way with tags and values."""

from __future__ import annotations

from fastlog.writer.summary_writer import SummaryWriter
from fastlog.writer.tags import VERBATIM_TAGS, subdirectory


class TorchSummaryWriter(SummaryWriter):
    """A ``SummaryWriter`` that does as torch.utils.tensorboard's where tensorboardX differs.

    The charts of a resumed run go on: tags are written as they are ("loss (train)" stays), ``add_scalars``
    writes to the directory ``main_tag``, with "_" for "/", + "_" + ``tag``, and the series of a mesh have
    torch's names. Pixels and samples are the same. ``add_hparams`` raises for what torch cannot log, and
    ``global_step`` is the step of the session, too, not of its metrics only.
    """

    __module__ = "fastlog"
    _clean_tags = VERBATIM_TAGS
    _as_torch = True
    _keeps_scalars = False  # torch has no export_scalars_to_json

    def _scalars_directory(self, logdir: str, main_tag: str, tag: str) -> str:
        return subdirectory(logdir, f"{main_tag.replace('/', '_')}_{tag}")
