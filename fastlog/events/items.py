"""Events on their way to a file: plain tuples, because they are made by the thousand on the training thread.

===========================================================  =========================================
``(SCALAR, tag, value, step, wall_time)``                    tag already cleaned, value a float
``(HISTOGRAM, tag, packed, step, wall_time)``                packed: ``TensorSummary.to_packed()``
``(RAW, event)``                                             bytes of a serialized ``Event`` proto
``(JOB, run, nbytes, first_to_go, place, aside, tags)``      ``run()`` makes the items, later
``(DONE, items, tags)``                                      what a job has made
``(FAILED, error, tags)``                                    why a job has made nothing
===========================================================  =========================================

``step`` is an int or None, ``wall_time`` seconds since the epoch. A job stands for work that the training
thread must not do (encoding an image, waiting for a device): it holds ``nbytes`` until it has run, and
returns a sequence of items of the other kinds; ``place`` names it in warnings.

``aside`` says which thread runs a job: ``None``, as where it is left out, the worker, in its turn; else
``ENCODER`` or ``DEVICE``, a thread of its own, while the worker goes on with what comes behind it. ``tags``,
or what ``tags()`` returns, says what it may log; only what has one of these tags waits for the job. A tag
that ends in "/" stands for all that begin so. Left out, everything may be.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, TypeAlias, cast

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboardX.proto.event_pb2 import Event

from fastlog.common.native import core

SCALAR: Final = core.SCALAR
HISTOGRAM: Final = core.HISTOGRAM
RAW: Final = core.RAW
# Nothing that the core encodes:
JOB: Final = -1
DONE: Final = -2
FAILED: Final = -3

ENCODER: Final = "encoder"
"""For jobs that compute long."""
DEVICE: Final = "device"
"""For jobs that wait for a device."""

EVENT_BYTES: Final = 200
"""What the Python objects around an event hold while it waits."""

Item: TypeAlias = tuple[Any, ...]
"""One event, in one of the forms above."""

Tags: TypeAlias = Collection[str] | None
"""The tags that an item may log under; None: any."""


def aside_of(item: Item) -> str | None:
    """Which thread of its own runs a job."""
    return item[5] if item[0] == JOB and len(item) > 5 else None


def tags_of(item: Item) -> Tags:
    """What an item may log."""
    kind = item[0]
    if kind in (SCALAR, HISTOGRAM):
        return (item[1],)
    if kind != RAW:
        tags: Any = item[6] if len(item) > 6 else item[2] if kind != JOB else None
        return cast(Tags, tags() if callable(tags) else tags)
    try:
        event = Event.FromString(item[1])
    except DecodeError:
        return None
    # TensorBoard drops what a session's start finds behind its step, whatever the tag.
    if event.HasField("session_log") or event.HasField("file_version"):
        return None
    return {value.tag for value in event.summary.value}


def nbytes_of(item: Item) -> int:
    """What an item (no job) holds in memory while it waits."""
    kind = item[0]
    if kind == DONE:
        return sum(map(nbytes_of, item[1]))
    data = item[1] if kind == RAW else item[2] if kind == HISTOGRAM else b""
    return len(data) + EVENT_BYTES
