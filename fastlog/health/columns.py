"""Columns of numbers in few bytes, exactly: each in the narrowest dtype that holds all of its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastlog.summaries.packed import HEAD, Heads

_INTEGERS = tuple(map(np.dtype, ("<u1", "<u2", "<u4", "<i8")))
_FLOATS = tuple(map(np.dtype, ("<f4", "<f8")))
_CODES = {"0": None, "=": None, **{dtype.str[1:]: dtype for dtype in (*_INTEGERS, *_FLOATS)}}
_INTEGER_FIELDS = tuple(name for name in HEAD.names or () if HEAD[name].kind == "i")
_FLOAT_FIELDS = tuple(name for name in HEAD.names or () if HEAD[name].kind == "f")

Column = npt.NDArray[Any]


def write(column: Column) -> tuple[str, bytes]:
    """The code of the dtype, and the bytes; code "0" and none where all are 0."""
    if not column.view(np.int64).any():  # of floats, too: not -0.0
        return "0", b""
    if column.dtype.kind == "i":
        low, high = int(column.min()), int(column.max())
        dtype = next(d for d in _INTEGERS if d.kind == "i" or (low >= 0 and high < 2 ** (8 * d.itemsize)))
        return dtype.str[1:], column.astype(dtype).tobytes()
    with np.errstate(over="ignore"):
        narrow = column.astype("<f4")
    if np.array_equal(narrow.astype("<f8").view(np.int64), column.view(np.int64)):
        return "f4", narrow.tobytes()
    return "f8", column.tobytes()


def read(code: str, data: memoryview, count: int, dtype: str) -> tuple[Column, memoryview]:
    """A column of ``count`` numbers, and the rest of the data. Raises ValueError where they are not there."""
    narrow = _CODES.get(code)
    if narrow is None:
        if code != "0":
            raise ValueError(f"unknown column {code!r}")
        return np.zeros(count, dtype), data
    size = count * narrow.itemsize
    if len(data) < size:
        raise ValueError("a column is cut off")
    return np.frombuffer(data[:size], narrow).astype(dtype), data[size:]


def write_heads(heads: Heads) -> tuple[list[str], bytes]:
    """Codes and bytes of the fields, in the order of ``HEAD``; ``num_finite`` as ``num`` has the code "="."""
    rows = np.ascontiguousarray(heads).view(np.int64).reshape(len(heads), len(HEAD.names or ())).T
    codes, parts = [], []
    for name, row in zip(HEAD.names or (), np.ascontiguousarray(rows), strict=True):
        column = row if name in _INTEGER_FIELDS else row.view(np.float64)
        if name == "num_finite" and np.array_equal(row, rows[_NUM]):
            code, part = "=", b""
        else:
            code, part = write(column)
        codes.append(code)
        parts.append(part)
    return codes, b"".join(parts)


def read_heads(codes: list[str], data: memoryview, count: int) -> tuple[Heads, memoryview]:
    """What ``write_heads`` wrote, and the rest of the data. Raises ValueError."""
    if len(codes) != len(HEAD.names or ()):
        raise ValueError(f"{len(codes)} columns")
    heads = np.zeros(count, HEAD)
    for name, code in zip(HEAD.names or (), codes, strict=True):
        if code == "=":
            heads[name] = heads["num"]
        else:
            heads[name], data = read(code, data, count, HEAD[name].str)
    return heads, data


_NUM = (HEAD.names or ()).index("num")
