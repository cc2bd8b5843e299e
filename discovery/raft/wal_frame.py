"""One write of the log = one framed batch; this module frames, unframes and judges damage. Pure.

Layout of a frame, big endian::

    magic "DWL1" | payload length u32 | sequence u64 | CRC-32 of the payload u32 | CRC-32 of the header u32 | payload

Both checksums begin with a salt that only this data directory knows, so that no value a client stores can
look like a frame of this log. The header's own checksum lets a reader believe a header whose payload is torn.

Damage is judged by one rule (rule 23 of the design's hazards): a frame is written only after the frame before it
was synced, so a bad frame *followed by a believable later one* is corruption; a bad frame at the very end is a
write that power or a crash interrupted, and nobody was told that it had succeeded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

MAGIC: Final = b"DWL1"
_HEAD: Final = struct.Struct(">4sIQI")
_CHECK: Final = struct.Struct(">I")
HEADER_BYTES: Final = _HEAD.size + _CHECK.size
FRAME_BYTES_MAX: Final = 1 << 30


class Header(NamedTuple):
    """A header whose checksum holds. ``crc`` is the payload's, ``length`` its size in bytes."""

    length: int
    sequence: int
    crc: int


class Frame(NamedTuple):
    """A good frame: its sequence number, its payload, and where the next one begins."""

    sequence: int
    payload: memoryview
    end: int


def encode(payload: bytes, sequence: int, salt: int) -> bytes:
    """The frame of one batch. ``salt`` is :func:`salted` of the data directory's secret."""
    head = _HEAD.pack(MAGIC, len(payload), sequence, zlib.crc32(payload, salt))
    return b"".join((head, _CHECK.pack(zlib.crc32(head, salt)), payload))


def salted(secret: bytes) -> int:
    """The initial value of both checksums."""
    return zlib.crc32(secret)


def header_at(data: memoryview, offset: int, salt: int) -> Header | None:
    """The header at ``offset``, or ``None`` when it is cut off, is none or its checksum fails."""
    end = offset + HEADER_BYTES
    if end > len(data):
        return None
    magic, length, sequence, crc = _HEAD.unpack_from(data, offset)
    if magic != MAGIC or length > FRAME_BYTES_MAX:
        return None
    (check,) = _CHECK.unpack_from(data, offset + _HEAD.size)
    if check != zlib.crc32(data[offset : offset + _HEAD.size], salt):
        return None
    return Header(length, sequence, crc)


def frame_at(data: memoryview, offset: int, salt: int) -> Frame | None:
    """The whole, good frame at ``offset``, or ``None``."""
    header = header_at(data, offset, salt)
    if header is None:
        return None
    begin = offset + HEADER_BYTES
    end = begin + header.length
    if end > len(data):
        return None
    payload = data[begin:end]
    if zlib.crc32(payload, salt) != header.crc:
        return None
    return Frame(header.sequence, payload, end)


def frames(data: memoryview, sequence: int, salt: int) -> Iterator[Frame]:
    """The good frames from the start of ``data``, numbered from ``sequence`` without a gap; stops at the first bad."""
    offset = 0
    while (frame := frame_at(data, offset, salt)) is not None and frame.sequence == sequence:
        yield frame
        offset = frame.end
        sequence += 1


def strangers(data: memoryview, offset: int) -> bool:
    """Whether at least two frames of *another* salt stand at ``offset``, in a row by number and length.

    A torn end is one frame at most, and what follows a header of ours is the beginning of a batch, which no client
    can choose: two headers in a row are a log that belongs to another data directory, and not ours to cut.
    """
    numbers = []
    for _ in range(2):
        if offset + HEADER_BYTES > len(data):
            return False
        magic, length, sequence, _ = _HEAD.unpack_from(data, offset)
        if magic != MAGIC:
            return False
        numbers.append(sequence)
        offset += HEADER_BYTES + length
    return bool(numbers[1] == numbers[0] + 1)


def later_frame(data: memoryview, offset: int, sequence: int, salt: int) -> int | None:
    """Where a believable frame stands that proves the bad one at ``offset`` was once complete, or ``None``.

    ``sequence`` is the number that the frame at ``offset`` should have. A header alone is proof enough when
    its number is higher: it was written after the sync of the bad one. At ``offset`` itself a good header with another
    number is proof as well.
    """
    blob = bytes(data[offset:])
    at = blob.find(MAGIC)
    while at >= 0:
        header = header_at(data, offset + at, salt)
        if header is not None and (header.sequence > sequence or (at == 0 and header.sequence != sequence)):
            return offset + at
        at = blob.find(MAGIC, at + 1)
    return None
