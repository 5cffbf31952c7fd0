"""Writes PNG files of indexed colours with zlib alone."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rgb = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]


def encode(pixels: Pixels, palette: Sequence[Rgb], transparent: int | None = None) -> bytes:
    """A picture of ``palette[pixels[y, x]]``; the colour number ``transparent`` lets the ground through.

    Raises:
        ValueError: no pixels, not uint8 in two dimensions, or a colour that the palette lacks.
    """
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"pixels: expected uint8 in two dimensions, got {pixels.dtype} {pixels.shape}")
    if int(pixels.max()) >= len(palette) or len(palette) > 256:
        raise ValueError(f"pixels: colour {pixels.max()} of {len(palette)}; at most 256")
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with its filter: 0, none
    rows[:, 1:] = pixels
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", bytes(part for colour in palette for part in colour)),
    ]
    if transparent is not None:
        chunks.append((b"tRNS", bytes(255 * (i != transparent) for i in range(transparent + 1))))
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_uri(png: bytes) -> str:
    """The picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
