"""Who watches what with a writer: no two watchers have tags in common."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from torch import nn

from fastlog.watching import selection
from fastlog.watching.voice import Voice
from fastlog.watching.watcher import Watcher
from fastlog.writer import SummaryWriter


@dataclass(frozen=True)
class Watch:
    """A call of ``fastlog.watch``.

    Attributes:
        kinds: what is logged.
        asked: the prefix that was asked for.
        prefix: what the tags begin with.
    """

    watcher: weakref.ref[Watcher]
    model: weakref.ref[nn.Module]
    kinds: frozenset[str]
    asked: str | None
    prefix: str


_watches: weakref.WeakKeyDictionary[SummaryWriter, list[Watch]] = weakref.WeakKeyDictionary()


def settle(
    model: nn.Module, writer: SummaryWriter, kinds: frozenset[str], asked: str | None, voice: Voice
) -> tuple[str, Watcher | None]:
    """What the tags of one more watcher begin with, and the watcher whose place it takes.

    That is one of the same model, which is removed. Another model with the same tags gets a prefix of its
    own. Both are said.
    """
    taken = set()
    for watch in _rivals(writer, kinds):
        watcher = watch.watcher()
        if watcher is None or watcher.is_over:
            continue
        if watch.model() is selection.unwrap(model) and watch.asked == asked:
            watcher.remove()
            voice.say(
                "twice",
                f"this {type(model).__name__} is watched already, with the same writer under the same tags:"
                " the earlier watcher has been removed. To keep both give one a prefix=; to end one without"
                " this warning call its remove()",
            )
            return watch.prefix, watcher
        taken.add(watch.prefix)
    prefix = asked or ""
    if prefix in taken:
        base = prefix or type(selection.unwrap(model)).__name__
        names = (f"{base}_{number}" if number > 1 else base for number in range(1, len(taken) + 3))
        prefix = next(name for name in names if name not in taken)
        voice.say(
            "rivals",
            f"another model is watched with the same writer under the same tags; the tags of this one begin"
            f" with {prefix}/. Give each a prefix= to choose, or remove() the watcher that is over",
        )
    return prefix, None


def enter(
    watcher: Watcher,
    model: nn.Module,
    writer: SummaryWriter,
    kinds: frozenset[str],
    asked: str | None,
    prefix: str,
) -> None:
    """Remembers a watcher as long as it lives."""
    others = [watch for watch in _watches.get(writer, []) if watch.watcher() is not None]
    watch = Watch(weakref.ref(watcher), weakref.ref(selection.unwrap(model)), kinds, asked, prefix)
    _watches[writer] = [*others, watch]


def _rivals(writer: SummaryWriter, kinds: frozenset[str]) -> list[Watch]:
    return [watch for watch in _watches.get(writer, []) if watch.kinds & kinds]
