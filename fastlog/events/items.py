"""Events on their way to a file: plain tuples, because they are made by the thousand on the training thread.

===============================================  =====================================================
``(SCALAR, tag, value, step, wall_time)``        tag already cleaned, value a float
``(HISTOGRAM, tag, packed, step, wall_time)``    packed: ``TensorSummary.to_packed()``
``(RAW, event)``                                 bytes of a serialized ``Event`` proto
``(JOB, run, nbytes, droppable_first, label)``   ``run()`` makes the items, on the worker thread
===============================================  =====================================================

``step`` is an int or None, ``wall_time`` seconds since the epoch. A job stands for work that the training
thread must not do (encoding an image, waiting for a device): it holds ``nbytes`` until it has run, and
returns a sequence of items of the other kinds; ``label`` names it in warnings.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from fastlog.common.native import core

SCALAR: Final = core.SCALAR
HISTOGRAM: Final = core.HISTOGRAM
RAW: Final = core.RAW
JOB: Final = -1  # nothing that the core encodes

Item: TypeAlias = tuple[Any, ...]
"""One event, in one of the forms above."""
