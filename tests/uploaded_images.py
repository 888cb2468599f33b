"""Images that tests upload."""

import struct
import zlib
from pathlib import Path


def write_bomb(path: Path, width: int, height: int) -> Path:
    """A PNG file of a single colour: a few KB, however many pixels it has."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + width // 8)) for _ in range(height)]
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join(rows) + packer.flush())
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    return path
