"""``fastlog.summarize``: summaries without a writer."""

from __future__ import annotations

from typing import Any, overload

import torch

from fastlog.common.no_compile import no_compile
from fastlog.summaries.engines import pack_many, pack_one
from fastlog.summaries.summary import TensorSummary
from fastlog.summaries.tensors import is_tensor_like


@overload
def summarize(values: list[torch.Tensor]) -> list[TensorSummary]: ...
@overload
def summarize(values: Any) -> Any: ...
@no_compile
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
        ValueError: a list of numbers with masked elements (numpy.ma); of an array they are left out.
        RuntimeError: a CUDA device failed, or the current stream is being captured into a graph.
    """
    if isinstance(values, (list, tuple)) and all(is_tensor_like(v) for v in values):
        return [TensorSummary.from_engine(bytes(packed)) for packed in pack_many(values)]
    return TensorSummary.from_engine(bytes(pack_one(values)))
