"""From event files back to arrays. Knows the files' format; knows no tensor, no writer and no model."""

from fastlog.runs.load import load
from fastlog.runs.run import Run

__all__ = ["Run", "load"]
