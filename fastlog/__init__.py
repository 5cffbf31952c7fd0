"""fastlog: a drop-in SummaryWriter that logs every weight's and gradient's histogram almost for free."""

from fastlog.common.notices import FastlogWarning
from fastlog.comparing.api import compare
from fastlog.custom_op import from_tensors
from fastlog.health.api import Report, check, report
from fastlog.install import install, uninstall
from fastlog.runs import Run, load
from fastlog.signals import flush_on_signals
from fastlog.summaries.summary import TensorSummary
from fastlog.summarize import summarize
from fastlog.watching import watch
from fastlog.writer import SummaryWriter
from fastlog.writer.global_writer import GlobalSummaryWriter
from fastlog.writer.torch_writer import TorchSummaryWriter

__version__ = "0.1.0"

__all__ = [
    "FastlogWarning",
    "GlobalSummaryWriter",
    "Report",
    "Run",
    "SummaryWriter",
    "TensorSummary",
    "TorchSummaryWriter",
    "check",
    "compare",
    "flush_on_signals",
    "from_tensors",
    "install",
    "load",
    "report",
    "summarize",
    "uninstall",
    "watch",
]
