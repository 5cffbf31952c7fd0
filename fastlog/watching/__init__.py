"""Watching a model in training: ``fastlog.watch``.

Knows models, optimizers and the writer. Knows no framework.
"""

from fastlog.summaries.stats import STATS
from fastlog.watching.api import watch
from fastlog.watching.series import LOGGABLE
from fastlog.watching.watcher import Watcher

__all__ = ["LOGGABLE", "STATS", "Watcher", "watch"]
