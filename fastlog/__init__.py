"""fastlog: a drop-in SummaryWriter that logs every weight's and gradient's histogram without slowing training."""

from fastlog.summarize import summarize
from fastlog.summary import TensorSummary

__all__ = ["TensorSummary", "summarize"]
