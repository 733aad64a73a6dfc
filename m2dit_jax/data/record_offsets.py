"""The offsets of an ArrayRecord file's records, by which one is read out of a bucket by itself.

The file is one of Riegeli: chunks with headers of 40 bytes, among which a block header of 24 stands
at every multiple of 64 KiB. Written with group_size:1 a chunk holds one record.
"""

import struct
from pathlib import Path
from typing import BinaryIO

HEAD = 64  # bytes: the signature, which is the first chunk
_BLOCK, _BLOCK_HEADER = 2**16, 24
_RECORDS = ord("r")


def record_offsets(path: Path, count: int) -> list[int]:
    """The begin of each record's bytes, and the end of the last one's, where the footer begins.

    Raises ValueError if the file is not built so.
    """
    offsets = []
    with path.open("rb") as file:
        size = path.stat().st_size
        place = HEAD
        while len(offsets) <= count:
            offsets.append(place)
            if len(offsets) > count:
                break
            content = _read(file, place, 40)
            if len(content) < 40:
                raise ValueError(f"{path}: ends within record {len(offsets) - 1}")
            _, data_size, _, kind, _ = struct.unpack("<QQQQQ", content)
            if kind & 0xFF != _RECORDS or kind >> 8 != 1:
                raise ValueError(f"{path}: record {len(offsets) - 1} is not alone in its chunk")
            place = _after(place, 40 + data_size)
        if place > size:
            raise ValueError(f"{path}: has {size} bytes, needs {place} for its records")
    return offsets


def _after(place: int, size: int) -> int:
    """The end of so many bytes, between which there are block headers."""
    while size:
        if place % _BLOCK == 0:
            place += _BLOCK_HEADER
        step = min(size, _BLOCK - place % _BLOCK)
        place, size = place + step, size - step
    return place


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    """So many bytes without the block headers between them."""
    parts = []
    while size:
        if place % _BLOCK == 0:
            place += _BLOCK_HEADER
        step = min(size, _BLOCK - place % _BLOCK)
        file.seek(place)
        parts.append(file.read(step))
        place, size = place + step, size - step
    return b"".join(parts)
