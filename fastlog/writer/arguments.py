"""Checks of SummaryWriter's arguments, and what is said of those that somebody may regret."""

from __future__ import annotations

import importlib.util
import os
import re
from numbers import Integral
from typing import Any

import numpy as np
from tensorboardX.record_writer import REGISTERED_FACTORIES

from fastlog.common.notices import Notices

REOPENED = "reopened"
"""The cause of the one warning of a closed writer that is used again, by whoever it is."""
_URL_AS_PATH = re.compile(r"(\w[\w+.-]+):/(?!/)(.+)")


def checked_directory(directory: Any, argument: str) -> str | os.PathLike[str] | None:
    """The directory itself; a URL where it is a ``Path`` made of one, which has lost a slash.

    Raises:
        TypeError: no string or path of strings; names the argument.
    """
    if directory is None or isinstance(directory, str):
        return directory
    path = os.fspath(directory) if isinstance(directory, os.PathLike) else directory
    if not isinstance(path, str):
        kind = type(directory).__name__
        raise TypeError(
            f"SummaryWriter: {argument} must be a string or a path, not {kind}: {directory!r:.100}"
        )
    url = _URL_AS_PATH.fullmatch(path)
    return f"{url[1]}://{url[2]}" if url is not None and _is_protocol(url[1]) else directory


def _is_protocol(name: str) -> bool:
    if name in REGISTERED_FACTORIES:
        return True
    if importlib.util.find_spec("fsspec") is None:
        return False
    from fsspec import available_protocols

    return name in available_protocols()


def check_texts(**texts: Any) -> None:
    """Raises TypeError, which names the argument, unless these are strings."""
    for argument, text in texts.items():
        if not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(f"SummaryWriter: {argument} must be a string, not {kind}: {text!r:.100}")


def checked_max_queue(max_queue: Any) -> int:
    """How many events must fit the queue at least. Raises TypeError, which names the argument."""
    if max_queue is None:
        return 0
    if not isinstance(max_queue, Integral):
        raise TypeError(
            f"SummaryWriter: max_queue must be an integer, not {type(max_queue).__name__}: {max_queue!r:.100}"
        )
    return int(max_queue)


def tell_limit(notices: Notices, max_queue: int | None, queue_events: int) -> None:
    """Warns of a negative ``max_queue``, which is no limit in tensorboardX."""
    if max_queue is not None and max_queue < 0:
        notices.tell(
            "max_queue",
            f"SummaryWriter: max_queue={max_queue} does not lift the limit: {queue_events:,} events may wait "
            "(queue_events), and overflow says what happens then",
        )


def tell_place(notices: Notices, logdir: str, reopened: bool, alone: bool) -> None:
    """Warns of a closed writer that is used again, and of one in the directory of another one."""
    if reopened:
        notices.tell(
            REOPENED,
            f"SummaryWriter: the one of {logdir} was closed and is used again: it goes on in a new file of "
            "that directory. Call close() once, at the end; flush() writes what waits (this warning is"
            " shown once)",
        )
    if not alone:
        notices.tell(
            "shared",
            f"SummaryWriter: another one of this process has a file open in {logdir}. TensorBoard reads the "
            "newest file of a directory only: what the older writer logs from now on is not shown. Share one "
            "writer, close() the older one first, or give each a logdir of its own",
        )


def is_whole(global_step: Any, step: int | None) -> bool:
    """Whether a step that is no int says the same as the int that is logged."""
    return isinstance(global_step, str) or (
        not isinstance(global_step, (bool, np.bool_)) and bool(global_step == step)
    )
