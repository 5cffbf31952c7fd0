"""torch tensors and array-likes to views: the only home of their quirks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from fastlog.common.native import core

CODES: dict[torch.dtype, int] = {
    getattr(torch, name): code for code, (name, _) in enumerate(core.DTYPES) if hasattr(torch, name)
}
"""The engines' codes of the dtypes that this torch has."""
# NumPy and ml_dtypes name their dtypes as torch does.
_CODES_BY_NAME = {str(dtype).removeprefix("torch."): code for dtype, code in CODES.items()}
_SPARSE_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)


class View(NamedTuple):
    """Dense memory of one tensor. ``owner`` keeps it alive; ``address`` is valid only while it lives.

    ``device``: None for host memory, else a CUDA device's ordinal; ``owner`` is a dense tensor there.
    """

    address: int
    count: int  # type: ignore[assignment]  # tuple has a method of this name
    dtype: int
    implicit_zeros: int
    owner: Any
    device: int | None = None


def holds_masked(values: object) -> bool:
    """Whether an array, or one in a (nested) list, has elements that numpy.ma masks."""
    if isinstance(values, np.ma.MaskedArray):
        return bool(np.ma.getmaskarray(values).any())
    if not isinstance(values, (list, tuple)):
        return False
    kinds = (list, tuple, np.ma.MaskedArray)
    return any(issubclass(kind, kinds) for kind in set(map(type, values))) and any(map(holds_masked, values))


def is_tensor_like(values: object) -> bool:
    """True for what is one tensor by itself: a torch tensor or an array, not a list of numbers."""
    return isinstance(values, (torch.Tensor, np.ndarray))


def view_of(values: Any, name: str = "values") -> View | torch.Tensor:
    """The view of a tensor in host memory or on a CUDA device, an array, a number or a (nested) list of
    numbers; of a tensor on another device, the dense tensor.

    Dense layouts are not copied, whatever the order of their dimensions; strided slices and expanded tensors
    are.

    Args:
        values: what to summarise; any shape, layout and real dtype.
        name: how to call it in errors (an argument's name or a tag).

    Raises:
        TypeError: complex, quantised, string or object values, tensors without data; says what to do instead.
        ValueError: a list with masked elements. Of an array they are left out.
    """
    if type(values) in _PLAIN_TYPES or isinstance(values, torch.Tensor):
        return _tensor_view(values, name)
    return _array_view(values, name)


def strided(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The same values in a plain strided tensor that needs no gradient; of any real dtype.

    Raises:
        TypeError: as :func:`view_of`.
    """
    tensor = _plain(tensor, name)
    if tensor.is_complex() or tensor.is_quantized:
        raise TypeError(_unsupported_dtype(tensor, name))
    tensor = tensor.detach()
    return (tensor if tensor.layout is torch.strided else tensor.to_dense()).resolve_neg()


def _tensor_view(tensor: torch.Tensor, name: str) -> View | torch.Tensor:
    tensor, code = _readable(tensor, name)
    implicit_zeros = 0
    if tensor.layout is not torch.strided:
        tensor, implicit_zeros = _stored_values(tensor, name)
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if not tensor.is_contiguous():
        tensor = _dense(tensor)
    device = None
    if not tensor.is_cpu:
        if not tensor.is_cuda:
            return with_zeros(tensor, implicit_zeros)
        device = tensor.get_device()
    try:
        address = tensor.data_ptr()
    except RuntimeError as error:
        raise TypeError(f"{name}: a tensor without memory (in a torch.func transform?): {error}") from error
    count = tensor.numel()
    if address == 0 and count:
        if not tensor._is_zerotensor():
            raise TypeError(f"{name}: the tensor's memory is freed (resharded, offloaded?); gather it first")
        count, implicit_zeros = 0, implicit_zeros + count
    return View(address, count, code, implicit_zeros, tensor, device)


def with_zeros(tensor: torch.Tensor, implicit_zeros: int) -> torch.Tensor:
    """The tensor's elements, and zeros that are not stored."""
    return torch.cat([tensor.flatten(), tensor.new_zeros(implicit_zeros)]) if implicit_zeros else tensor


def _readable(tensor: torch.Tensor, name: str) -> tuple[torch.Tensor, int]:
    """The tensor without its subclass, and the code of its dtype."""
    tensor = _plain(tensor, name)
    code = CODES.get(tensor.dtype)
    if code is None:
        raise TypeError(_unsupported_dtype(tensor, name))
    return tensor, code


def _plain(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor without its subclass; one that has values."""
    if type(tensor) not in _PLAIN_TYPES:
        tensor = plain_tensor(tensor, name)
    if tensor.is_meta:
        raise TypeError(f"{name}: a meta tensor has no values; materialise it on a device first")
    return tensor


def is_on_cuda(tensor: torch.Tensor) -> bool:
    """``tensor.is_cuda``, without asking a subclass."""
    if type(tensor) in _PLAIN_TYPES:
        return tensor.is_cuda
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.is_cuda


def is_packed(tensor: torch.Tensor) -> bool:
    """Whether it is of a class that holds quantised values, packed."""
    return type(tensor).__module__.split(".")[0] in ("bitsandbytes", "torchao")


def plain_tensor(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """A tensor subclass as the plain tensor that shares its data.

    Raises:
        TypeError: its bytes are not its values (packed quantised weights; distributed, fake, nested tensors).
    """
    kind = type(tensor)
    if is_packed(tensor):
        raise TypeError(
            f"{name}: {kind.__name__} holds packed quantised weights, whose bytes mean nothing by themselves;"
            " pass the dequantised tensor"
        )
    if kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl:
        raise TypeError(
            f"{name}: cannot read the data of a {kind.__name__}; pass a plain tensor "
            "(for a DTensor `.to_local()`, for a nested tensor `.values()`)"
        )
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach().as_subclass(torch.Tensor)


def _stored_values(tensor: torch.Tensor, name: str) -> tuple[torch.Tensor, int]:
    """The stored elements of a sparse tensor and how many zeros are not stored."""
    try:
        if tensor.layout is torch.sparse_coo:
            stored = tensor.detach().coalesce().values()
        elif tensor.layout in _SPARSE_COMPRESSED:
            stored = tensor.detach().values()
        else:
            return tensor.to_dense(), 0
    except RuntimeError as error:
        message = f"{name}: torch cannot read {tensor.layout} of {tensor.dtype}; pass a dense tensor"
        raise TypeError(message) from error
    return stored, tensor.numel() - stored.numel()


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements in contiguous memory; a copy only if they do not lie so already, in any order."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    permuted = tensor.permute(order)
    return permuted if permuted.is_contiguous() else tensor.contiguous()


def _unsupported_dtype(tensor: torch.Tensor, name: str) -> str:
    if tensor.is_complex():
        return f"{name}: complex values cannot be logged; pass .real, .imag or .abs()"
    if tensor.is_quantized:
        return f"{name}: quantised tensors are not supported; pass .dequantize()"
    return f"{name}: dtype {tensor.dtype} is not supported; convert it to a floating-point or integer dtype"


def _array_view(values: Any, name: str) -> View:
    array = _as_array(values, name)
    code = _CODES_BY_NAME.get(array.dtype.name)
    if code is None or not array.dtype.isnative:
        if array.dtype.kind == "c":
            raise TypeError(f"{name}: complex values cannot be logged; pass .real, .imag or np.abs()")
        if array.dtype.kind not in "fiub":
            raise TypeError(f"{name}: expected numbers, got an array of {array.dtype}")
        native = array.dtype.newbyteorder("=")
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(native if native.name in _CODES_BY_NAME else np.float64)
        code = _CODES_BY_NAME[array.dtype.name]
    if not (array.flags.aligned and (array.flags.c_contiguous or array.flags.f_contiguous)):
        array = np.array(array, order="C")
    return View(array.ctypes.data, array.size, code, 0, array)


def _as_array(values: Any, name: str) -> np.ndarray[Any, Any]:
    if isinstance(values, np.ma.MaskedArray):
        return values.compressed()
    if isinstance(values, (str, bytes)) or values is None:
        raise TypeError(f"{name}: expected a tensor, an array or numbers, got {type(values).__name__}")
    if holds_masked(values):
        raise ValueError(f"{name}: a list with masked elements (numpy.ma); pass np.ma.stack() of it")
    try:
        array = np.asarray(_without_tensors(values, name))
    except ValueError as error:
        raise TypeError(f"{name}: expected numbers in a regular shape: {error}") from error
    if array.dtype == object:
        kind = type(values).__name__
        raise TypeError(f"{name}: expected a tensor, an array or numbers, got objects in a {kind}")
    return array


def _without_tensors(values: Any, name: str) -> Any:
    """A nested list with float64 arrays for tensors: NumPy takes none that require grad, and no bfloat16."""
    if isinstance(values, torch.Tensor):
        return strided(values, name).to("cpu", torch.float64).numpy()
    if isinstance(values, (list, tuple)) and any(
        issubclass(kind, (list, tuple, torch.Tensor)) for kind in set(map(type, values))
    ):
        return [_without_tensors(value, name) for value in values]
    return values
