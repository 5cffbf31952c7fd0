"""What is read of tensors beside their summaries: a few values of each matrix, before a step and after it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import unserializable_hook

from fastlog.health.history import Floats
from fastlog.summaries.packed import HEAD, Heads
from fastlog.writer.encode.snapshots import Snapshot, take

_ROWS, _COLUMNS = 4, 32
_READABLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Named = Sequence[tuple[str, torch.nn.Parameter]]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a DTensor; other tensors as they are."""
    part: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return part.detach()


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether its values are numbers that lie in one piece of memory."""
    inner = local(tensor)
    strided = inner.layout == torch.strided and type(inner) in (torch.Tensor, torch.nn.Parameter)
    return strided and inner.dtype in _READABLE and inner.device.type != "meta" and inner.numel() > 0


@dataclass(frozen=True)
class Looks:
    """The same values of some matrices, before a step and after it.

    Attributes:
        names: of the matrices.
        shapes: rows and columns of what was read of each.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    before: Snapshot
    after: Snapshot

    def updates(self) -> Heads:
        """Summaries of the updates of the values that were read. Waits for the device."""
        before, after = (np.asarray(look.array(), np.float64) for look in (self.before, self.after))
        sizes = np.array([rows * columns for rows, columns in self.shapes])
        heads = np.zeros(len(sizes), HEAD)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        with np.errstate(all="ignore"):
            moved = after - before
        finite = np.isfinite(moved)
        known = np.where(finite, moved, 0)
        heads["num"], heads["num_finite"] = sizes, np.add.reduceat(finite.astype(np.int64), starts)
        heads["nan"] = heads["num"] - heads["num_finite"]
        heads["zeros"] = np.add.reduceat((moved == 0).astype(np.int64), starts)
        heads["sum"] = np.add.reduceat(known, starts)
        heads["sum_squares"] = np.add.reduceat(known * known, starts)
        heads["min"], heads["max"] = np.minimum.reduceat(known, starts), np.maximum.reduceat(known, starts)
        heads["abs_max"] = np.maximum(-heads["min"], heads["max"])
        return heads

    def equal_rows(self) -> Floats:
        """1 where all rows that were read are the same after the step, to one in a thousand (rounding
        alone drives equal rows apart, slowly), else 0; NaN for a single row.
        """
        after = np.asarray(self.after.array(), np.float64)
        found = np.full(len(self.names), np.nan)
        start = 0
        for i, (rows, columns) in enumerate(self.shapes):
            block = after[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            if rows > 1:
                found[i] = float(np.abs(block - block[0]).max() <= 1e-3 * np.abs(block[0]).max())
        return found

    def moved(self) -> Floats:
        """1 where the step has changed one of the values, else 0."""
        updates = self.updates()
        changed: Floats = (updates["zeros"] < updates["num"]).astype(np.float64)
        return changed


class Sampler:
    """Reads the same few values of each matrix again and again.

    Four rows, evenly spaced, of up to 32 columns each: so rows can be compared, and an update of all values
    is seen in these. An update of other rows only (an embedding's) is not.
    """

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._views: list[torch.Tensor] = []
        self.names: tuple[str, ...] = ()
        self.shapes: tuple[tuple[int, int], ...] = ()

    def look(self, params: Named) -> torch.Tensor | None:
        """A copy of the values; None where there is no matrix. Only those on the device of the first."""
        key = tuple(local(param).data_ptr() for _, param in params)
        if key != self._key:
            self._choose(params)
            self._key = key
        if not self._views:
            return None
        with torch.no_grad():
            return torch.cat([view.reshape(-1) for view in self._views])

    def _choose(self, params: Named) -> None:
        found = [(name, _block(local(p))) for name, p in params if p.dim() > 1 and is_plain(p)]
        found = [(name, block) for name, block in found if block.device == found[0][1].device]
        self.names = tuple(name for name, _ in found)
        self._views = [block for _, block in found]
        self.shapes = tuple((block.shape[0], block.shape[1]) for block in self._views)

    def looks(self, before: torch.Tensor | None, params: Named) -> Looks | None:
        """The values that ``look`` gave, and those of now; None where they are not of the same tensors."""
        names = self.names
        after = self.look(params)
        if before is None or after is None or names != self.names or before.shape != after.shape:
            return None
        return Looks(names, self.shapes, _on_host(before), _on_host(after))


def _block(tensor: torch.Tensor) -> torch.Tensor:
    matrix = tensor.flatten(1) if tensor.is_contiguous() else tensor.reshape(len(tensor), -1)
    if not tensor.is_contiguous() and matrix.data_ptr() != tensor.data_ptr():
        while tensor.dim() > 2:  # a copy would not change: one slice of it does
            tensor = tensor.select(-1, 0)
        matrix = tensor
    stride = max(1, len(matrix) // _ROWS)
    return matrix[::stride][:_ROWS, :_COLUMNS]


def _on_host(values: torch.Tensor) -> Snapshot:
    if values.dtype in (torch.bfloat16, torch.float16):
        values = values.float()
    return Snapshot(values.numpy()) if values.device.type == "cpu" else take(values, "values")


class IdleUnits:
    """Which units of biases have had no gradient for many observations.

    A gradient that is exactly zero for all of a batch says that nothing flows back through the unit: it is
    dead, or masked.

    Args:
        observations: without gradient, until a unit counts as idle.
    """

    def __init__(self, observations: int = 10) -> None:
        self._observations = observations
        self._seen = 0
        self._active: dict[str, Any] = {}  # number of the last observation with a gradient, by unit

    @staticmethod
    def read(biases: Named) -> tuple[tuple[str, ...], tuple[int, ...], Snapshot] | None:
        """Names, sizes, and whether each unit has a gradient, of the biases that have one."""
        grads = [(name, local(p.grad)) for name, p in biases if p.grad is not None and is_plain(p.grad)]
        grads = [(name, grad) for name, grad in grads if grad.device == grads[0][1].device]
        if not grads:
            return None
        flows = torch.cat([grad.reshape(-1) for _, grad in grads]) != 0
        shape = tuple(grad.numel() for _, grad in grads)
        return tuple(name for name, _ in grads), shape, _on_host(flows)

    def shares(self, names: tuple[str, ...], sizes: tuple[int, ...], flows: Snapshot) -> Floats:
        """Share of idle units of each bias, now that another observation was made; NaN: too few yet."""
        self._seen += 1
        found = np.full(len(names), np.nan)
        rows = np.split(flows.array(), np.cumsum(sizes)[:-1])
        for i, (name, row) in enumerate(zip(names, rows, strict=True)):
            last = self._active.get(name)
            if last is None or len(last[1]) != len(row):
                last = self._active[name] = (self._seen, np.full(len(row), self._seen - 1))
            last[1][row] = self._seen
            if self._seen - last[0] + 1 >= self._observations:
                found[i] = float(np.mean(self._seen - last[1] >= self._observations))
        return found


class ClearingProbe:
    """Finds out whether a gradient is cleared between a step and the next backward pass.

    A hook on one small parameter looks at what its ``grad`` holds when the next gradient comes. On a CPU it
    goes away as soon as it has seen it cleared; elsewhere only None says so without waiting for the device.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._kept: torch.Tensor | None = None
        self.name = ""

    def start(self, params: Named) -> None:
        """After a step: looks from now on, at one of these that the optimizer has."""
        self.stop()
        small = [(p.numel(), i) for i, (_, p) in enumerate(params) if type(p.grad) is torch.Tensor]
        if not small:
            return
        self.name, param = params[min(small)[1]]
        held = weakref.ref(param)

        @unserializable_hook  # type: ignore[untyped-decorator]
        def on_gradient(_: torch.Tensor) -> None:
            owner = held()
            if owner is None or self._handle is None:
                return
            grad = owner.grad
            holds = torch.tensor(False) if grad is None else (grad.detach() != 0).any()
            self._kept = holds if self._kept is None or grad is None else self._kept & holds
            if grad is None or (grad.device.type == "cpu" and not holds):
                self._remove()

        self._handle = param.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    def stop(self) -> Snapshot | None:
        """Whether the gradient was still there at each backward pass since ``start``; None: none came."""
        self._remove()
        kept, self._kept = self._kept, None
        return None if kept is None else _on_host(kept)

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
