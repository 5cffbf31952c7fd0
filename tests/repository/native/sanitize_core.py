"""Drives the extension at the path given, in an interpreter under AddressSanitizer; no torch."""

from __future__ import annotations

import importlib.util
import random
import sys
from typing import Any

import numpy as np

REFUSALS = (TypeError, ValueError, OverflowError)


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("_core", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def attempt(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except REFUSALS as error:
        return error


def check_summaries(core: Any) -> list[bytes]:
    """Buffers of exactly the size: a byte read beyond one ends the process."""
    rng = np.random.default_rng(0)
    counts = [(code, n) for code in range(len(core.DTYPES)) for n in (0, 1, 15, 17, 2047, 2049, 9001)]
    long = ("float64", "float32", "bfloat16", "int8")
    counts += [(code, 70_001) for code, (name, _) in enumerate(core.DTYPES) if name in long]
    arrays = [
        (rng.integers(0, 256, count * core.DTYPES[code][1], dtype=np.uint8), count, code)
        for code, count in counts
    ]
    rows = [(array.ctypes.data, count, dtype, count % 3) for array, count, dtype in arrays]
    expected = core.summarize(rows, 1)
    for path in core.cpu_paths():
        core.choose_cpu_path(path)
        assert core.summarize(rows, 1) == core.summarize(rows, 3) == expected, path
    assert [core.summarize_one(*row, 1) for row in rows] == expected
    for row, packed in zip(rows, expected, strict=True):
        assert core.pack(core.unpack(packed)) == packed
        counters = dict(zip(core.COUNTERS, np.frombuffer(packed, "<i8", len(core.COUNTERS)), strict=True))
        assert counters["num"] == row[1] + row[3]
    unknown = len(core.DTYPES)
    for row in [
        (0, -1, 1, 0),
        (0, 1, unknown, 0),
        (0, 1, -1, 0),
        (0, 0, 1, -1),
        (-1, 0, 1, 0),
        (0, 2**63, 1, 0),
    ]:
        assert isinstance(attempt(core.summarize_one, *row, 1), REFUSALS), row
    for threads in (0, -3):
        assert core.summarize([], threads) == []
    assert core.summarize([(0, 0, 1, 2**62)], 1)
    return expected


def check_scans(core: Any, records: bytes) -> None:
    """Files of any bytes: with their checksums wrong, and with events of any bytes under right ones."""
    rng = random.Random(2)
    for _ in range(3000):
        scan = core.EventScan(rng.random() < 0.5)
        mutated = bytearray(records)
        for _ in range(rng.randrange(4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        attempt(scan.read_bytes, bytes(mutated[: rng.randrange(len(mutated) + 1)]))
        rows = scan.rows()
        assert all(0 <= row["offset"] <= len(records) for row in rows)
        payloads = [records[row["offset"] : row["offset"] + row["size"]] for row in rows if row["kind"] == 1]
        attempt(core.decode_histograms, payloads)
    events = _events_of(records)
    for _ in range(3000):
        event = bytearray(rng.choice(events))
        for _ in range(rng.randrange(1, 6)):
            event[rng.randrange(len(event))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        scan = core.EventScan(False)
        scan.read_bytes(_record(core, bytes(event[: rng.randrange(len(event) + 1)])))
        payloads = [
            bytes(event[row["offset"] - 12 :][: row["size"]]) for row in scan.rows() if row["kind"] == 1
        ]
        attempt(core.decode_histograms, payloads)


def _events_of(records: bytes) -> list[bytes]:
    events = []
    at = 0
    while at < len(records):
        length = int.from_bytes(records[at : at + 8], "little")
        events.append(records[at + 12 : at + 12 + length])
        at += length + 16
    return events


def _record(core: Any, event: bytes) -> bytes:
    head = len(event).to_bytes(8, "little")
    checksums = [core.masked_crc32c(part).to_bytes(4, "little") for part in (head, event)]
    return head + checksums[0] + event + checksums[1]


def check_malformed(core: Any, packed: list[bytes]) -> None:
    rng = random.Random(0)
    head_bytes = 8 * (len(core.COUNTERS) + len(core.MOMENTS)) + 8  # and the span of the bins
    bins = len(core.EDGES) // 8 - 1
    samples = [packed[0], packed[1], *rng.sample(packed, 6)]
    cases = [sample[:end] for sample in samples for end in (*range(min(len(sample), 300)), len(sample) - 1)]
    cases += [sample + b"\0" for sample in samples]
    for _ in range(3000):
        broken = bytearray(rng.choice(samples))
        for _ in range(rng.choice((1, 1, 4))):
            at = rng.randrange(rng.choice((head_bytes, len(broken))))
            broken[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        cases.append(bytes(broken))
    # Spans and counts at the limits of their types.
    for first in (-(2**31), -1, 0, bins - 1, bins, 2**31 - 1):
        for span in (-(2**31), -1, 0, 1, bins, 2**31 - 1):
            for tail in (b"", b"\x01", b"\0" + b"\xff" * 9 + b"\x01", b"\xff" * 9 + b"\x01", b"\xff" * 12):
                head = packed[0][: head_bytes - 8] + np.array([first, span], "<i4").tobytes()
                cases.append(head + tail)
    accepted = 0
    for case in cases:
        record = attempt(core.unpack, case)
        for compact in (False, True):
            encoded = attempt(core.encode_events, [(1, "t", case, 1, 0.0)], compact)
            # The encoder may refuse more: spans that begin or end with an empty bin.
            allowed = (bytes, ValueError) if isinstance(record, bytes) else ValueError
            assert isinstance(encoded, allowed), case.hex()
        if isinstance(record, bytes):
            accepted += 1
            core.pack(record)
    assert 0 < accepted < len(cases)
    for size in (0, 1, len(core.unpack(packed[0])) - 1):
        assert isinstance(attempt(core.pack, bytes(size)), ValueError)


def check_events(core: Any, packed: list[bytes]) -> None:
    class Clears:
        """Takes its list's items away while they are being read."""

        def __float__(self) -> float:
            items.clear()
            return 1.5

    values = [0.0, -0.0, 1e-320, 1e300, -1e300, float("nan"), float("inf"), 7, True, 10**400, None, "1", b""]
    steps = [None, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, 1.5, "1"]
    tags = ["", "x", "\0", "\ud800", "é\U0001f600", "t" * 10_000, None, b"x", 3]
    odd: list[Any] = [(0, "x", value, 1, 0.0) for value in values]
    odd += [(0, "x", 1.0, step, 0.0) for step in steps] + [(0, "x", 1.0, 1, value) for value in values]
    odd += [
        (kind, tag, payload, 1, 0.0) for kind in (0, 1) for tag in tags for payload in (1.0, packed[5], b"")
    ]
    odd += [(2, payload) for payload in (b"", b"x", bytes(70_000), "x", None, bytearray(3))]
    odd += [
        (),
        (0,),
        (2,),
        (9, b""),
        (-1, "x", 1.0, 1, 0.0),
        ("0", "x", 1.0, 1, 0.0),
        [0, "x", 1.0, 1, 0.0],
        None,
        3,
    ]
    odd += [(0, "x", 1.0, 1), (0, "x", 1.0, 1, 0.0, 0), (2**70, b""), (1, "x", memoryview(packed[0]), 1, 0.0)]
    good = (0, "x", 1.0, 1, 0.0)
    encodable = []
    for item in odd:
        alone = attempt(core.encode_events, [item])
        together = attempt(core.encode_events, [good, item, good])
        assert isinstance(alone, (bytes, *REFUSALS)) and type(together) is type(alone), item
        if isinstance(alone, bytes):
            encodable.append((item, alone))
    assert 20 < len(encodable) < len(odd)
    assert core.encode_events([item for item, _ in encodable]) == b"".join(alone for _, alone in encodable)
    items: list[Any] = [(0, "y" * 40, Clears(), 1, 0.0), (1, "z" * 40, bytes(bytearray(packed[9])), 2, 0.0)]
    assert len(core.encode_events(items)) > 100 and items == []
    for size in (*range(70), 4099):
        data = bytes(range(256)) * 17
        assert core.masked_crc32c(data[:size]) == core.masked_crc32c(data[:size], portable=True)


def main(path: str, fault: str) -> None:
    core = load(path)
    if fault == "overread":
        array = np.ones(3000, np.float32)
        core.summarize_one(array.ctypes.data, 3001, 1, 0, 1)
    packed = check_summaries(core)
    check_malformed(core, packed)
    check_events(core, packed)
    check_scans(
        core, core.encode_events([(0, "a", 1.0, 1, 2.0), (1, "h", packed[9], 2, 0.0), (0, "é", 0.0, 3, 0.0)])
    )
    assert "torch" not in sys.modules
    print("right")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
