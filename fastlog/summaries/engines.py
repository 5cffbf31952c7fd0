"""Routes values to the engine of their device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch

from fastlog.common.native import core
from fastlog.summaries.cuda.devices import transfers_of
from fastlog.summaries.cuda.plain import PlainLaunch, start_plain
from fastlog.summaries.cuda.runtime import is_capturing
from fastlog.summaries.cuda.transfers import CAPTURED, PendingLaunch, Transfers
from fastlog.summaries.reference import summarize_reference
from fastlog.summaries.tensors import View, is_on_cuda, view_of, with_zeros


class PinnedMemoryFull(Exception):
    """So much is in launch that there is no pinned memory for more, and the time to wait for it is up."""


class PendingSummary:
    """The packed summary of one tensor that a device still works on: ``bytes`` of it waits for the device.

    ``len`` is the pinned memory that it holds until then, in bytes. What is pickled are the ``bytes``.
    """

    __slots__ = ("_index", "_launch", "_names")

    def __init__(self, launch: PendingLaunch | PlainLaunch, index: int, names: Sequence[str]) -> None:
        self._launch = launch
        self._index = index
        self._names = names

    def __bytes__(self) -> bytes:
        """Raises RuntimeError, with CUDA's own text, where the device failed."""
        try:
            return self._launch.packed()[self._index]
        except RuntimeError as error:
            raise RuntimeError(f"{_all_of(self._names)}: {error}") from error

    def __len__(self) -> int:
        return self._launch.nbytes // len(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        return bytes, (bytes(self),)


Packed: TypeAlias = bytes | PendingSummary
"""``bytes(packed)`` is ``TensorSummary.to_packed()``; ``len(packed)`` what it holds in memory."""

WaitSeconds: TypeAlias = Callable[[], float | None]
"""Seconds to wait for pinned memory where too much is in launch; None: as long as it takes."""


def wait_forever() -> None:
    """Waits for pinned memory as long as it takes."""


def refuse_captured(tensors: Iterable[Any]) -> None:
    """To be asked before any work on the tensors: what a capture sees is repeated at each replay.

    Raises:
        RuntimeError: the current stream of a tensor's device is being captured into a CUDA graph.
    """
    on_cuda = {
        tensor.get_device() for tensor in tensors if isinstance(tensor, torch.Tensor) and is_on_cuda(tensor)
    }
    if any(is_capturing(device) for device in on_cuda):
        raise RuntimeError(CAPTURED)


def pack_one(values: Any, name: str = "values", wait_seconds: WaitSeconds = wait_forever) -> Packed:
    """The packed summary of one tensor, array, number or (nested) list of numbers.

    Args:
        values: a tensor on a CUDA device is not waited for.
        name: how to call it in errors.
        wait_seconds: asked where too much is in launch.

    Raises:
        TypeError: as `summarize`.
        PinnedMemoryFull: not within ``wait_seconds``.
        RuntimeError: a CUDA device refuses (graph capture, a failed launch, no memory).
    """
    if isinstance(values, torch.Tensor) and is_on_cuda(values):
        refuse_captured([values])
    view = view_of(values, name)
    if isinstance(view, View) and view.device is None:
        return core.summarize_one(view[0], view[1], view[2], view[3], torch.get_num_threads())
    return _pack([view], [name], wait_seconds)[0]


def pack_many(
    tensors: Sequence[Any],
    names: Sequence[str] | None = None,
    wait_seconds: WaitSeconds = wait_forever,
    scale: torch.Tensor | None = None,
) -> list[Packed]:
    """Packed summaries of many tensors, in one call of the engine of each device; see `pack_one`.

    Args:
        scale: one number that tensors (no arrays) are still multiplied by, such as a ``GradScaler``'s: they
            are summarised divided by it. A CUDA engine does that as it reads them, without copies.
    """
    refuse_captured(tensors)
    names = names or [f"values[{i}]" for i in range(len(tensors))]
    views = [view_of(tensor, name) for tensor, name in zip(tensors, names, strict=True)]
    return _pack(views, names, wait_seconds, scale)


def start(tensor: torch.Tensor, name: str, wait_seconds: WaitSeconds) -> PendingSummary | None:
    """As `pack_one` for a tensor on a CUDA device with an engine; None for others."""
    refuse_captured([tensor])
    view = view_of(tensor, name)
    if not isinstance(view, View) or view.device is None:
        return None
    transfers = transfers_of(view.device)
    return None if transfers is None else _start(transfers, [view], [name], wait_seconds)[0]


def _pack(
    views: list[View | torch.Tensor],
    names: Sequence[str],
    wait_seconds: WaitSeconds,
    scale: torch.Tensor | None = None,
) -> list[Packed]:
    packed: dict[int, Packed] = {}
    by_device: dict[int | None, dict[int, View]] = {}
    for i, view in enumerate(views):
        if isinstance(view, View):
            by_device.setdefault(view.device, {})[i] = view
    host = by_device.pop(None, {})
    # The devices first: they work while the host does.
    for device, part in by_device.items():
        assert device is not None
        transfers, own_names = transfers_of(device), [names[i] for i in part]
        if transfers is None:
            started = _start_plain(device, list(part.values()), own_names, scale)
        else:
            started = _start(transfers, list(part.values()), own_names, wait_seconds, scale)
        packed.update(zip(part, started, strict=True))
    if host:
        if scale is not None:
            host = {i: _divided(view, scale) for i, view in host.items()}
        on_host = core.summarize([view[:4] for view in host.values()], torch.get_num_threads())
        packed.update(zip(host, on_host, strict=True))
    return [
        packed[i] if i in packed else summarize_reference(_dense(view, scale)).to_packed()
        for i, view in enumerate(views)
    ]


def _start(
    transfers: Transfers,
    views: Sequence[View],
    names: Sequence[str],
    wait_seconds: WaitSeconds,
    scale: torch.Tensor | None = None,
) -> list[PendingSummary]:
    try:
        # Read in stream order, as the tensors are: torch may have its memory back when the call is over.
        multiplier = None if scale is None else _beside(scale, views[0].owner).float().reciprocal()
        address = 0 if multiplier is None else multiplier.data_ptr()
        launch = transfers.start([(v[0], v[1], v[2], v[3], address) for v in views], wait_seconds())
    except RuntimeError as error:
        raise RuntimeError(f"{_all_of(names)}: {error}") from error
    if launch is None:
        raise PinnedMemoryFull
    return [PendingSummary(launch, i, names) for i in range(len(views))]


def _beside(scale: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The scale on the tensor's device, without waiting for one."""
    return scale if scale.device == tensor.device else scale.to(tensor.device, non_blocking=True)


def _divided(view: View, scale: torch.Tensor) -> View:
    divided = view_of(view.owner / _beside(scale, view.owner))
    assert isinstance(divided, View)
    return divided._replace(implicit_zeros=view.implicit_zeros)


def _start_plain(
    device: int, views: Sequence[View], names: Sequence[str], scale: torch.Tensor | None
) -> list[PendingSummary]:
    try:
        launch = start_plain([_dense(view, scale) for view in views], device)
    except RuntimeError as error:
        raise RuntimeError(f"{_all_of(names)}: {error}") from error
    return [PendingSummary(launch, i, names) for i in range(len(views))]


def _dense(view: View | torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """All values in one tensor."""
    dense: torch.Tensor = with_zeros(view.owner, view.implicit_zeros) if isinstance(view, View) else view
    return dense if scale is None else dense / _beside(scale, dense)


def _all_of(names: Sequence[str]) -> str:
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{others}"
