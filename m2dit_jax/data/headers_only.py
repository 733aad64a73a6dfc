"""An MP4 or MOV file without what its pictures and sound are made of.

The header of such a file holds place, time and kind of every packet, but FFmpeg hands a packet's
time out only together with its bytes, so that asking for all times reads the whole file. From this
file object it gets zeros in place of those bytes.
"""

import io
import struct
from bisect import bisect_right
from pathlib import Path
from typing import BinaryIO

_MOST_BOXES = 100_000


class HeadersOnly(io.RawIOBase):
    """The file, readable and seekable, with the contents of its `mdat` boxes as zeros, unread.

    Raises ValueError if the file is not of boxes (ISO 14496-12) or has no `mdat`.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._file: BinaryIO = path.open("rb", buffering=0)
        try:
            self._size = path.stat().st_size
            self._bodies = _mdat_bodies(self._file, self._size)
        except BaseException:
            self._file.close()
            raise
        self._starts = [start for start, _ in self._bodies]
        self._place = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The new position, as of every file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes: fewer at the beginning and the end of an `mdat`."""
        left = max(self._size - self._place, 0)
        size = left if size < 0 else min(size, left)
        number = bisect_right(self._starts, self._place) - 1
        if number >= 0 and self._place < self._bodies[number][1]:
            data = bytes(min(size, self._bodies[number][1] - self._place))
        else:
            if number + 1 < len(self._starts):
                size = min(size, self._starts[number + 1] - self._place)
            self._file.seek(self._place)
            data = self._file.read(size)
        self._place += len(data)
        return data

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


def _mdat_bodies(file: BinaryIO, size: int) -> list[tuple[int, int]]:
    """Begin and end of the contents of each `mdat` at the top level."""
    bodies, place = [], 0
    for _ in range(_MOST_BOXES):
        if place >= size:
            break
        file.seek(place)
        header = file.read(16)
        if len(header) < 8 or not header[4:8].isalnum():
            raise ValueError(f"no box at byte {place}")
        (length,), kind, begin = struct.unpack(">I", header[:4]), header[4:8], 8
        if length == 1 and len(header) == 16:  # a 64-bit length follows
            (length,), begin = struct.unpack(">Q", header[8:]), 16
        elif length == 0:  # to the end of the file
            length = size - place
        if length < begin:
            raise ValueError(f"a box of {length} bytes at byte {place}")
        if kind == b"mdat":
            bodies.append((place + begin, min(place + length, size)))
        place += length
    if not bodies:
        raise ValueError("no mdat")
    return bodies
