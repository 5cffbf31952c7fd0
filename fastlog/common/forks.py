"""What a forked child must forget of its parent: threads, locks, open files. One hook for all of it."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable
from typing import Protocol


class Inherited(Protocol):
    """An object that a fork copies into the child."""

    def become_child(self) -> None:
        """Called in the child, before any other of its code. Must not raise."""


# Not a WeakSet: its iteration fails where another thread makes an object meanwhile.
_live: weakref.WeakValueDictionary[int, Inherited] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_callbacks: list[Callable[[], None]] = []


def register(thing: Inherited) -> None:
    """Calls ``become_child`` in each forked child while the object lives; in the order of registering."""
    _live[next(_numbers)] = thing


def call_in_child(callback: Callable[[], None]) -> None:
    """Calls ``callback`` in each forked child, before the objects. For the state of a module."""
    _callbacks.append(callback)


def _after_fork_in_child() -> None:
    for callback in _callbacks:
        callback()
    for reference in _live.valuerefs():
        thing = reference()
        if thing is not None:
            thing.become_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
