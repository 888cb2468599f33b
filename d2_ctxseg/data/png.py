"""A PNG writer whose bytes depend on the pixels alone.

The usual encoders compress, and their bytes change with the version of zlib (or zlib-ng) they are
built with. Data that is to be the same to the byte everywhere is therefore stored uncompressed
here: deflate's "stored" blocks leave nothing to choose.
Source of the format: RFC 2083 (PNG), RFC 1950 (zlib), RFC 1951 (deflate).
"""

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_STORED_BLOCK = 65535
_COLOR_TYPES = {1: 0, 3: 2}  # channels -> PNG colour type: greyscale, RGB


def encode_png(image: np.ndarray) -> bytes:
    """Encode a uint8 image, (H, W) greyscale or (H, W, 3) RGB, as an uncompressed PNG."""
    height, width = image.shape[:2]
    pixels = np.ascontiguousarray(image, dtype=np.uint8).reshape(height, -1)
    # Each row starts with the number of its filter: 0, none.
    rows = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    color_type = _COLOR_TYPES[pixels.shape[1] // width]
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    return (
        _SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", _zlib_stored(rows))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _zlib_stored(data: bytes) -> bytes:
    parts = [b"\x78\x01"]
    for start in range(0, len(data), _MAX_STORED_BLOCK):
        block = data[start : start + _MAX_STORED_BLOCK]
        is_last = start + _MAX_STORED_BLOCK >= len(data)
        parts.append(struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF))
        parts.append(block)
    parts.append(struct.pack(">I", zlib.adler32(data)))
    return b"".join(parts)
