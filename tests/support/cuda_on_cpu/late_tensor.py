"""Tensors on a fake CUDA device: what is done with them runs late.

Their memory is overwritten, in stream order, when they are gone.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch
from cuda_on_cpu.device import LateDevice, LateEvent
from torch.utils._pytree import tree_map_only

if TYPE_CHECKING:
    from cuda_on_cpu.late_torch import FakeCuda

_POISON = 0xDD
_WAITS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
)


def poison(memory: torch.Tensor) -> None:
    """All of the memory that a tensor lies in."""
    torch.tensor([], dtype=torch.uint8).set_(memory.untyped_storage()).fill_(_POISON)


class _Block:
    """Device memory that tensors share: overwritten in stream order when the last of them is gone."""

    def __init__(self, ordinal: Ordinal, memory: torch.Tensor, stream: int) -> None:
        self.ordinal = ordinal
        weakref.finalize(self, ordinal.device.put, stream, lambda: poison(memory)).atexit = False


class LateTensor(torch.Tensor):
    """A tensor on a fake CUDA device. ``host`` are its values there; not to be looked at before the device is
    done."""

    host: torch.Tensor
    block: _Block
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: torch.Tensor, block: _Block) -> LateTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype
        )
        made.host, made.block = host, block
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        late = next(leaf for leaf in _leaves((args, kwargs)) if isinstance(leaf, LateTensor))
        return late.block.ordinal.run(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", self.block.ordinal.number)

    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def get_device(self) -> int:
        return self.block.ordinal.number

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def to(self, *args: Any, non_blocking: bool = False, **kwargs: Any) -> torch.Tensor:
        if args and isinstance(args[0], torch.device) and args[0].type == "cuda":
            return self.block.ordinal.copy_to(self, args[0].index)
        if "cpu" not in (*map(str, args), str(kwargs.get("device"))):
            return super().to(*args, **kwargs)
        return self.block.ordinal.copy_to_host(self, non_blocking)

    def cpu(self) -> torch.Tensor:
        return self.to("cpu")


def _leaves(tree: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(tree)


class Ordinal:
    """One device of a `FakeCuda`. ``failure``: what its work meets from now on."""

    def __init__(self, fake: FakeCuda, number: int, seed: int) -> None:
        self.fake = fake
        self.number = number
        self.device = LateDevice(seed)
        self.failure: Exception | None = None
        self.training_threads = fake.training_threads

    def wrap(self, host: torch.Tensor) -> LateTensor:
        return LateTensor(host, _Block(self, host, self.fake.stream_of(self.number)))

    def allocate(self, like: torch.Tensor) -> LateTensor:
        """Full of garbage."""
        self.fake.allocated.append(tuple(like.shape))
        host = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
        poison(host)
        return self.wrap(host)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation of torch: enqueued, with results that are not there yet."""
        stream = self.fake.stream_of(self.number)
        hosts = tree_map_only(LateTensor, lambda late: late.host, (args, kwargs))
        if func.is_view:
            first = next(leaf for leaf in _leaves(args) if isinstance(leaf, LateTensor))
            result = func(*hosts[0], **hosts[1])
            return tree_map_only(torch.Tensor, lambda view: LateTensor(view, first.block), result)
        if func in _WAITS:
            self.wait(str(func))
            return func(*hosts[0], **hosts[1])
        self.record(str(func))
        upload = func is torch.ops.aten.copy_.default and not isinstance(args[1], LateTensor)
        if upload and not kwargs.get("non_blocking") and len(args) < 3:
            hosts = ((hosts[0][0], hosts[0][1].clone()), {})
        if func._schema.is_mutable:
            self._enqueue(stream, lambda: func(*hosts[0], **hosts[1]))
            written = [a for a, info in zip(args, func._schema.arguments, strict=False) if info.is_write]
            return written[0] if func._schema.returns else None
        made = tree_map_only(torch.Tensor, _meta, hosts)
        shapes = func(*made[0], **made[1])
        results = tree_map_only(torch.Tensor, self.allocate, shapes)
        places = [leaf.host for leaf in _leaves(results) if isinstance(leaf, LateTensor)]

        def fill() -> None:
            values = [v for v in _leaves(func(*hosts[0], **hosts[1])) if isinstance(v, torch.Tensor)]
            for place, value in zip(places, values, strict=True):
                place.copy_(value)

        self._enqueue(stream, fill)
        return results

    def copy_to_host(self, late: LateTensor, non_blocking: bool) -> torch.Tensor:
        self.record("a copy to the host")
        source = late.host
        host = torch.empty_like(source)
        poison(host)
        self._enqueue(self.fake.stream_of(self.number), lambda: host.copy_(source))
        if not non_blocking:
            self.wait("a copy to the host")
        return host

    def copy_to(self, late: LateTensor, number: int) -> LateTensor:
        """A copy on another device, whose stream waits for this one's."""
        source, other = late.host, self.fake.ordinals[number]
        made = other.allocate(source)
        target, copied = made.host, threading.Event()
        self._enqueue(self.fake.stream_of(self.number), lambda: [target.copy_(source), copied.set()])
        other._enqueue(self.fake.stream_of(number), copied.wait)
        return made

    def record(self, what: str) -> None:
        if self.fake.capturing:
            self.fake.recorded.append(what)

    def wait(self, what: str) -> None:
        if threading.current_thread() in self.training_threads:
            self.fake.violations.append(what)
            raise AssertionError(f"a training thread waits for the device: {what}")
        event = LateEvent(self)
        event.record(self.fake.stream_of(self.number))
        event.wait()

    def _enqueue(self, stream: int, work: Any) -> None:
        def quietly() -> None:
            with torch.no_grad():
                work()

        self.device.put(stream, quietly)


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
