"""Values as they are at the call: copies to be encoded later, whatever training does to the original."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from tensorboardX import x2num

from fastlog.summaries.engines import refuse_captured
from fastlog.summaries.tensors import holds_masked, strided

MAX_INT = 2**63

Number = TypeVar("Number", int, float)

_NUMERIC_KINDS = "biuf"


class Snapshot:
    """A host copy of one tensor or array, taken in stream order and complete once :meth:`array` returns.

    Attributes:
        shape: the shape of the value.
        nbytes: host bytes that the snapshot holds.
    """

    __slots__ = ("_event", "_host", "nbytes", "shape")

    def __init__(
        self, host: np.ndarray[Any, Any] | torch.Tensor, event: torch.cuda.Event | None = None
    ) -> None:
        self._host = host
        self._event = event
        self.shape: tuple[int, ...] = tuple(host.shape)
        self.nbytes: int = host.nbytes

    def array(self) -> np.ndarray[Any, Any]:
        """The value as a NumPy array; waits for a copy that is still on its way from a device.

        bfloat16 and the 8-bit floats, which NumPy lacks, come as float32.
        """
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        if isinstance(self._host, torch.Tensor):
            self._host = _readable(self._host).numpy()
        return self._host


def take(value: Any, argument: str) -> Snapshot:
    """Copies a torch tensor, NumPy array, list, number or anything that tensorboardX's ``make_np`` takes.

    A CUDA tensor is copied to pinned memory on the current stream without waiting for it.

    Raises:
        TypeError: the value is no array of real numbers (strings, objects, complex, quantised, meta or fake
            tensors, distributed tensors); names ``argument`` and the remedy.
        ValueError: None, a masked element, or a list whose rows differ in length.
        RuntimeError: the stream of a CUDA tensor is being captured into a graph.
    """
    if value is None:
        raise no_value(argument)
    if isinstance(value, torch.Tensor):
        return _take_tensor(value, argument)
    _refuse_masked(value, argument)
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
            return _take_tensor(torch.stack([torch.as_tensor(item) for item in value]), argument)
        if isinstance(value, (str, list, tuple, int, float, np.ndarray)) or hasattr(value, "__array__"):
            array = np.array(value)
        else:
            array = np.array(x2num.make_np(value))
    except (NotImplementedError, AttributeError):  # tensorboardX calls .numpy() of whatever torch defines
        kind = type(value).__name__
        raise TypeError(f"{argument} must be a tensor, an array or numbers, not {kind}") from None
    except TypeError as error:
        raise TypeError(f"{argument}: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{argument}: {error}") from error
    if array.dtype.kind not in _NUMERIC_KINDS:
        remedy = {"c": " (its abs or its real part)", "O": " (rows of one length, no None)"}
        raise TypeError(
            f"{argument} holds {array.dtype} values; pass real numbers{remedy.get(array.dtype.kind, '')}"
        )
    return Snapshot(array)


def no_value(argument: str) -> ValueError:
    """The error of None in the place of a value, which training can meet at any step."""
    return ValueError(
        f"{argument} is None. A parameter's gradient is None while the parameter is frozen, unused in the "
        "forward pass, or before backward(); a function without a return statement gives None, too"
    )


def no_elements(argument: str) -> ValueError:
    """The error of a tensor without elements in the place of values, which training can meet at any step."""
    return ValueError(
        f"{argument} has no elements, as of an empty batch or a mask that selects nothing; log it only where "
        "it has some"
    )


def take_one(value: Any, argument: str) -> Snapshot:
    """:func:`take` for one number, of the kinds that :func:`as_float` takes.

    Raises:
        TypeError: not a real number.
        ValueError: None, or not exactly one element.
    """
    part = take(value if isinstance(value, torch.Tensor) else as_float(value, argument), argument)
    if math.prod(part.shape) != 1:
        raise ValueError(f"{argument} has shape {part.shape}; pass one element")
    return part


def as_float(value: Any, argument: str) -> float:
    """One number on the host as a float; a string that spells a number counts as one, as in torch.

    Raises:
        TypeError: not a real number (another string, complex).
        ValueError: None, or not exactly one element.
    """
    if value is None:
        raise no_value(argument)
    if isinstance(value, (str, bytes)):
        return _spelled(value, argument)
    if isinstance(value, (complex, np.complexfloating)):
        raise TypeError(f"{argument} is the complex number {value}; pass its abs() or its .real")
    if isinstance(value, (int, float, np.number, np.bool_)):
        return _float(value, argument)
    if not isinstance(value, (torch.Tensor, np.ndarray, list, tuple)) and hasattr(value, "__float__"):
        return _float(value, argument)
    if isinstance(value, torch.Tensor):
        one = strided(value, argument)
        if one.numel() != 1:
            raise ValueError(f"{argument} has shape {tuple(one.shape)}; pass one element")
        try:
            return float(one.item())
        except RuntimeError as error:
            raise TypeError(f"{argument} has no values (in a torch.func transform?): {error}") from error
    array = take(value, argument).array()
    if array.size != 1:
        raise ValueError(f"{argument} has shape {array.shape}; pass one element")
    return float(array.reshape(()))


def as_int(value: Any, argument: str) -> int:
    """What ``int`` makes of a value.

    Raises:
        TypeError, ValueError: nothing; or, 64 bits do not hold it.
    """
    _refuse_masked(value, argument)
    try:
        number = int(value)
    except TypeError as error:
        raise TypeError(f"{argument} must be a whole number, not {type(value).__name__}: {error}") from error
    except (ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{argument}: {error}") from error
    if not -MAX_INT <= number < MAX_INT:
        raise ValueError(f"{argument} does not fit 64 bits")
    return number


def positive(number: Number, argument: str) -> Number:
    """The number itself. Raises ValueError unless it is finite and greater than 0."""
    if not 0 < number < math.inf:
        raise ValueError(f"{argument}={number} must be greater than 0, and finite")
    return number


def _refuse_masked(value: Any, argument: str) -> None:
    if holds_masked(value):
        raise ValueError(
            f"{argument} has masked elements (numpy.ma), which have no value; pass .filled(NUMBER), or "
            ".compressed() for the others"
        )


def _spelled(value: str | bytes, argument: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise TypeError(
            f"{argument} must be a number or a tensor of one element, not {value!r:.50}"
        ) from None


def _float(value: Any, argument: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{argument} is too large for a float") from None
    except TypeError as error:
        raise TypeError(f"{argument} is a {type(value).__name__}: {error}") from error


def _take_tensor(value: torch.Tensor, argument: str) -> Snapshot:
    refuse_captured([value])
    value = strided(value, argument)
    if value.device.type == "cpu":
        try:
            return Snapshot(_readable(value if _unknown_to_numpy(value.dtype) else value.clone()).numpy())
        except RuntimeError as error:
            raise TypeError(f"{argument} has no values (in a torch.func transform?): {error}") from error
    if value.device.type == "cuda":
        with torch.cuda.device(value.device):
            host = value.to("cpu", non_blocking=True)
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record()
        return Snapshot(host, event)
    return Snapshot(value.to("cpu"))


def _unknown_to_numpy(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 or str(dtype).startswith("torch.float8")


def _readable(host: torch.Tensor) -> torch.Tensor:
    return host.float() if _unknown_to_numpy(host.dtype) else host
