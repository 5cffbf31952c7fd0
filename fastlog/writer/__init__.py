"""SummaryWriter: the one place where values become events.

Knows summaries, events and ranks. Knows no model and no optimizer.
"""

from fastlog.writer.summary_writer import SummaryWriter

__all__ = ["SummaryWriter"]
