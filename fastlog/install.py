"""fastlog's writers in the places of tensorboardX's and torch's, for code that cannot be edited."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

import tensorboardX

from fastlog.writer import SummaryWriter
from fastlog.writer.global_writer import GlobalSummaryWriter
from fastlog.writer.torch_writer import TorchSummaryWriter

__all__ = ["TorchSummaryWriter", "install", "uninstall"]

_replacements: dict[type, type] = {
    tensorboardX.SummaryWriter: SummaryWriter,
    tensorboardX.GlobalSummaryWriter: GlobalSummaryWriter,
}
_replaced: list[tuple[dict[str, Any], str, type]] = []


def install() -> None:
    """Makes tensorboardX's and torch.utils.tensorboard's writers fastlog's, in all modules of this process.

    ``from tensorboardX import SummaryWriter`` then gives ``fastlog.SummaryWriter``, ``GlobalSummaryWriter``
    likewise, and ``from torch.utils.tensorboard import SummaryWriter`` a variant that keeps torch's verbatim
    tags. Modules that have imported one of the names before get the new one too; writers and subclasses that
    exist already stay what they are. May be called again, for modules that came later by other ways.

    Without TensorBoard, torch.utils.tensorboard cannot be imported, as before. Forked processes inherit the
    change, spawned ones have to call ``install`` themselves.
    """
    _find_torchs_writer()
    for module in list(sys.modules.values()):
        try:
            namespace = object.__getattribute__(module, "__dict__")  # loads no lazy module
        except AttributeError:
            continue
        for name, value in list(namespace.items()):
            replacement = _replacements.get(value) if type(value) is type else None
            if replacement is not None:
                namespace[name] = replacement
                _replaced.append((namespace, name, value))


def uninstall() -> None:
    """Takes back what ``install`` did; does nothing where it was not called.

    Modules that imported a name in between keep what they got: it cannot be told from fastlog's own name.
    """
    while _replaced:
        namespace, name, original = _replaced.pop()
        if namespace.get(name) is _replacements[original]:
            namespace[name] = original


def _find_torchs_writer() -> None:
    name = "torch.utils.tensorboard.writer"
    if name not in sys.modules and importlib.util.find_spec("tensorboard") is None:
        return
    try:
        theirs = importlib.import_module(name).SummaryWriter
    except Exception:  # a broken TensorBoard is for the code that needs it to find out
        return
    if theirs is not TorchSummaryWriter:
        _replacements[theirs] = TorchSummaryWriter
