"""Which CUDA devices the engine runs on; why not on the others, and how to get it there.

``FASTLOG_CUDA``, read at a device's first use: ``auto`` (default) takes plain torch where the engine is
missing, cannot run or fails its self-check, and says so once; ``off`` always takes plain torch; ``on`` raises
instead.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from fastlog.common import forks
from fastlog.common.native import core
from fastlog.common.notices import Notices
from fastlog.summaries.cuda.runtime import CudaRuntime, Runtime, is_capturing
from fastlog.summaries.cuda.transfers import CAPTURED, Transfers
from fastlog.summaries.summary import TensorSummary

HOW_TO_BUILD = (
    "`FASTLOG_CUDA=on pip install .` in fastlog's checkout builds it; needs CUDA's compiler, nvcc "
    "(also in the package nvidia-cuda-nvcc, version 13 and later)"
)
_SAMPLE_BYTES = 50_000  # three rounds of a block's vector loads
_SEVERAL_CHUNKS = (0, 3, 1, 4)  # dtype codes of which the self-check has a large tensor: 8, 2, 4 and 1 byte
# Bytes that its operations read and write for each float32 value: 455, counted; the engine's: 4.
_SLOW = "plain torch, which keeps the device busy about 100 times as long as the engine"
# Element sizes by dtype code, of all but bool, which has no meaning for most bytes.
_SIZES = [size for name, size in core.DTYPES if name != "bool"]


@dataclass(frozen=True)
class _Engine:
    """Of one device: what carries its summaries, or why nothing does."""

    transfers: Transfers | None
    why_not: str = ""


_engines: dict[int, _Engine] = {}
_of_parents: list[_Engine] = []
_preparing = threading.Lock()
_said = Notices("warn")


def transfers_of(device: int) -> Transfers | None:
    """The transfers of a CUDA device (its ordinal); None: plain torch has to do.

    A device's first call loads the kernels and checks them against the CPU engine, and waits for that.

    Raises:
        RuntimeError: the current stream is being captured into a CUDA graph; or, under ``FASTLOG_CUDA=on``,
            there is no engine.
        ValueError: ``FASTLOG_CUDA`` is none of auto, on and off.
    """
    if is_capturing(device):
        raise RuntimeError(CAPTURED)
    return _engine_of(device).transfers


def runtime_of(device: int) -> Runtime | None:
    """The engine's device, as `transfers_of`; None: it has none."""
    transfers = transfers_of(device)
    return None if transfers is None else transfers.runtime


def stats() -> dict[str, int]:
    """Sums over the devices that are in use, of ``Transfers.stats``; empty if none is."""
    total: Counter[str] = Counter()
    for engine in list(_engines.values()):
        if engine.transfers is not None:
            total.update(engine.transfers.stats())
    return dict(total)


def report(device: int) -> str:
    """What summarises tensors of a CUDA device, and why not the engine if it does not."""
    try:
        engine = _engine_of(device)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return engine.why_not or "the CUDA engine, which never makes the calling thread wait"


def missing() -> str | None:
    """Why the compiled engine cannot be loaded, None if it can."""
    try:
        _module()
    except ImportError as error:
        return f"the CUDA engine is not built or does not load ({error}); {HOW_TO_BUILD}"
    return None


def _engine_of(device: int) -> _Engine:
    engine = _engines.get(device)
    if engine is None:
        with _preparing:
            engine = _engines.get(device)
            if engine is None:
                engine = _engines[device] = _prepare(device)
        if engine.why_not and _mode() != "off":
            message = f"fastlog: CUDA device {device}: {engine.why_not}"
            _said.tell(engine.why_not, message)
            _said.warn()
    return engine


def _prepare(device: int) -> _Engine:
    mode = _mode()
    if mode == "off":
        return _Engine(None, f"{_SLOW} (FASTLOG_CUDA=off)")
    why_not = missing()
    if why_not is None:
        module = _module()
        try:
            runtime = CudaRuntime(module, device)
            transfers = Transfers(runtime, max_tensors=module.MAX_TENSORS)
            why_not = self_check(runtime, transfers, module.CHUNK_VALUES)
            if why_not is None:
                return _Engine(transfers)
        except RuntimeError as error:  # of CUDA or, where memory is short, of torch
            why_not = str(error)
    if mode == "on":
        raise RuntimeError(f"FASTLOG_CUDA=on: {why_not}")
    return _Engine(None, f"{_SLOW}: {why_not}")


def self_check(runtime: Runtime, transfers: Transfers, chunk_values: int) -> str | None:
    """Summarises the same bytes as every dtype on the device and on the CPU; what differs, or None.

    It is one launch of large and small tensors: blocks begin inside of tensors, and beside others that cost
    another time.
    """
    samples = _samples(chunk_values)
    data = np.random.default_rng(0).bytes(max(at + _SIZES[code] * count for at, count, code in samples))
    host = np.frombuffer(data, np.uint8).ctypes.data
    with runtime.aside():
        memory = runtime.upload(data)
        pending = transfers.start([(memory.data_ptr() + at, n, code, 0, 0) for at, n, code in samples])
        assert pending is not None
        found = pending.packed()
    expected = core.summarize([(host + at, n, code, 0) for at, n, code in samples], 1)
    pairs = zip(samples, found, expected, strict=True)
    wrong = sorted({sample[2] for sample, *pair in pairs if not _agree(*pair)})
    return f"the self-check found wrong results (dtype codes {wrong})" if wrong else None


def _samples(chunk_values: int) -> list[tuple[int, int, int]]:
    """Offset, count and dtype code of what the self-check summarises.

    Every dtype from its second element on, so that vector loads have a head and a tail; among them are
    tensors of several chunks.
    """
    samples = [(size, _SAMPLE_BYTES // size - 1, code) for code, size in enumerate(_SIZES)]
    for index, code in zip(range(0, len(samples), 5), _SEVERAL_CHUNKS, strict=True):
        samples.insert(index, (_SIZES[code], 2 * chunk_values + 1000, code))
    return samples


def _agree(packed: bytes, other: bytes) -> bool:
    """Equal but for sums, which the engines add in different orders."""
    a, b = TensorSummary.from_packed(packed)._record, TensorSummary.from_packed(other)._record
    with np.errstate(all="ignore"):
        slack = 1e-9 * b["abs_max"] * b["num"]
        sums = np.isclose(a["sum"], b["sum"], 1e-9, slack) and np.isclose(
            a["sum_squares"], b["sum_squares"], 1e-9
        )
    return bool(sums) and all(
        np.array_equal(a[n], b[n]) for n in a.dtype.names or () if not n.startswith("sum")
    )


def _forget_parent() -> None:
    """Of a child that was forked: it has no CUDA, and locks that other threads held are never released.

    The parent's memory and events are kept: letting go of them would call the driver.
    """
    global _preparing
    _of_parents.extend(_engines.values())
    _engines.clear()
    _preparing = threading.Lock()


forks.call_in_child(_forget_parent)


def _mode() -> str:
    mode = os.environ.get("FASTLOG_CUDA", "auto")
    if mode not in ("auto", "on", "off"):
        raise ValueError(f"FASTLOG_CUDA={mode!r}: use auto, on or off")
    return mode


def _module() -> ModuleType:
    import fastlog._cuda as _cuda

    return _cuda
