"""fastlog: a drop-in SummaryWriter that logs every weight's and gradient's histogram without slowing training."""

from fastlog.faults import FastlogWarning
from fastlog.global_writer import GlobalSummaryWriter
from fastlog.summarize import summarize
from fastlog.summary import TensorSummary
from fastlog.writer import SummaryWriter

__all__ = ["FastlogWarning", "GlobalSummaryWriter", "SummaryWriter", "TensorSummary", "summarize"]
