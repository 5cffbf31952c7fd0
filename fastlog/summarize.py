"""Routes values to the engine of their device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch

from fastlog.eager import eager
from fastlog.native import core
from fastlog.reference import summarize_reference
from fastlog.summary import TensorSummary
from fastlog.tensors import View, is_tensor_like, view_of


def pack_one(values: Any, name: str = "values") -> bytes:
    """The packed summary of one tensor, array, number or (nested) list of numbers. Errors as `summarize`."""
    view = view_of(values, name)
    if isinstance(view, View):
        return core.summarize_one(view[0], view[1], view[2], view[3], torch.get_num_threads())
    return summarize_reference(view).to_packed()


def pack_many(tensors: Sequence[Any], names: Sequence[str] | None = None) -> list[bytes]:
    """Packed summaries of many tensors, those in host memory in one call of the engine."""
    names = names or [f"values[{i}]" for i in range(len(tensors))]
    views = [view_of(tensor, name) for tensor, name in zip(tensors, names, strict=True)]
    host = [view[:4] for view in views if isinstance(view, View)]
    packed = iter(core.summarize(host, torch.get_num_threads()) if host else ())
    return [next(packed) if isinstance(v, View) else summarize_reference(v).to_packed() for v in views]


@overload
def summarize(values: list[torch.Tensor]) -> list[TensorSummary]: ...
@overload
def summarize(values: Any) -> Any: ...
@eager
def summarize(values: Any) -> TensorSummary | list[TensorSummary]:
    """Summarises a tensor, or each of a list (or tuple) of tensors in one call.

    Args:
        values: a torch tensor of any shape, layout (strided, expanded, sparse COO/CSR/CSC/BSR/BSC; zeros that
            are not stored count) and real dtype, a NumPy array, a number or a nested list of numbers. A list
            or tuple whose elements are tensors or arrays gives a list of summaries (an empty one if empty).

    Returns:
        One `TensorSummary`, or a list of them.

    Raises:
        TypeError: complex, quantised, string or object values, tensors without data; says what to do instead.
    """
    if isinstance(values, (list, tuple)) and all(is_tensor_like(v) for v in values):
        return [TensorSummary.from_engine(packed) for packed in pack_many(values)]
    return TensorSummary.from_engine(pack_one(values))
