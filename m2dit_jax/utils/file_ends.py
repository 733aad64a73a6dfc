"""Whether a video file has all the bytes that its own structure promises.

FFmpeg plays a Matroska, WebM, AVI or MPEG file that was cut off up to where it ends, without a
word. Every container says, in its own way, how long it or its last part is.
"""

import re
import struct
from pathlib import Path
from typing import BinaryIO

_MOST_PARTS = 100_000  # boxes or chunks that are walked through
_TAIL = 1 << 17  # bytes at the end in which the last page or packet is looked for
_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot"}
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def bytes_missing(path: Path) -> str:
    """How much is missing, in words such as "17634 bytes"; empty if nothing is known to be.

    Files of no promised length, such as recordings of live video, lack nothing. Raises OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(400)
        if head[4:8] in _BOXES:
            end = _end_of_boxes(file, size)
        elif head[:4] == b"\x1aE\xdf\xa3":
            end = _end_of_segment(head)
        elif head[:4] == b"RIFF":
            end = _end_of_riff(file, size)
        elif head[:16] == _ASF:
            end = _end_of_asf(head)
        else:
            return "" if _last_part_is_whole(file, head, size) else "the rest of its last packet"
    return f"{end - size} bytes" if end > size else ""


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """End of the last box of an MP4 or MOV file (ISO 14496-12)."""
    place = 0
    for _ in range(_MOST_PARTS):
        file.seek(place)
        header = file.read(16)
        if len(header) < 8 or not header[4:8].isalnum():
            break
        (length,) = struct.unpack(">I", header[:4])
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack(">Q", header[8:])
        if length < 8:  # 0: to the end of the file
            break
        place += length
    return place


def _end_of_segment(head: bytes) -> int:
    """End of the first segment of a Matroska or WebM file; 0 if it was written live."""
    length, place = _ebml_size(head, 4)
    place += length
    if head[place : place + 4] != b"\x18S\x80g":
        return 0
    length, place = _ebml_size(head, place + 4)
    return place + length if length else 0


def _ebml_size(data: bytes, place: int) -> tuple[int, int]:
    """A size as Matroska writes it, 0 for an unknown one, and the place behind it."""
    if place >= len(data) or data[place] == 0:
        return 0, place
    width = 9 - data[place].bit_length()
    bits = 7 * width
    value = int.from_bytes(data[place : place + width]) & ((1 << bits) - 1)
    return (0 if value == (1 << bits) - 1 else value), place + width


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """End of the last RIFF of an AVI file; beyond 1 GB there are several."""
    place = 0
    for _ in range(_MOST_PARTS):
        file.seek(place)
        header = file.read(8)
        if len(header) < 8 or header[:4] != b"RIFF":
            break
        (length,) = struct.unpack("<I", header[4:])
        if length in (0, 0xFFFFFFFF):  # never closed
            break
        place += 8 + length
        if place < size:
            place += length % 2
    return place


def _end_of_asf(head: bytes) -> int:
    """Size of an ASF or WMV file by its header; 0 if it was sent live."""
    place = head.find(_ASF_FILE)
    if place < 0 or len(head) < place + 92:
        return 0
    (length,) = struct.unpack_from("<Q", head, place + 40)
    (flags,) = struct.unpack_from("<I", head, place + 88)
    return 0 if flags & 1 else length


def _last_part_is_whole(file: BinaryIO, head: bytes, size: int) -> bool:
    """Of containers that are a row of packets, without a length of the whole."""
    file.seek(max(size - _TAIL, 0))
    tail = file.read(_TAIL)
    if head[:4] == b"OggS":
        start = tail.rfind(b"OggS")
        table = tail[start + 27 : start + 27 + (tail[start + 26] if start + 26 < len(tail) else 0)]
        return start >= 0 and bool(table) and start + 27 + len(table) + sum(table) <= len(tail)
    if head[:3] == b"FLV":
        length = int.from_bytes(tail[-4:])
        tag = tail[-4 - length : -4]
        return 11 <= length <= len(tail) - 4 and int.from_bytes(tag[1:4]) + 11 == length
    if head[:4] == b"GIF8":
        return tail.rstrip(b"\0\r\n ").endswith(b";")
    if head[:4] == b"\0\0\1\xba":  # MPEG program stream
        starts = list(re.finditer(b"\0\0\1[\xbd\xc0-\xef]", tail))
        if not starts:
            return True
        start = starts[-1].start()
        return start + 6 + int.from_bytes(tail[start + 4 : start + 6]) <= len(tail)
    for packet, sync in ((188, 0), (192, 4), (204, 0)):  # MPEG transport stream
        if len(head) > sync + packet and head[sync] == head[sync + packet] == 0x47:
            return size % packet == 0
    return True
