"""SipHash-2-4 (Aumasson and Bernstein, 2012): the keyed hash of DNS cookies (RFC 9018 section 4.4). Pure.

Python's own ``hash`` is SipHash-1-3 with a key that cannot be set. This one takes some 10 us for what a cookie needs,
which is paid only by questions that carry one.
"""

from __future__ import annotations

import struct
from typing import Final

KEY_BYTES: Final = 16
_MASK: Final = 0xFFFFFFFFFFFFFFFF
_START: Final = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_State = tuple[int, int, int, int]


def _rounds(state: _State, count: int) -> _State:
    a, b, c, d = state
    for _ in range(count):
        a = a + b & _MASK
        b = (b << 13 | b >> 51) & _MASK ^ a
        a = (a << 32 | a >> 32) & _MASK
        c = c + d & _MASK
        d = (d << 16 | d >> 48) & _MASK ^ c
        a = a + d & _MASK
        d = (d << 21 | d >> 43) & _MASK ^ a
        c = c + b & _MASK
        b = (b << 17 | b >> 47) & _MASK ^ c
        c = (c << 32 | c >> 32) & _MASK
    return a, b, c, d


def siphash24(key: bytes, data: bytes) -> bytes:
    """The 8 bytes of the hash, least significant first.

    Args:
        key: 16 bytes.
    """
    low, high = struct.unpack("<QQ", key)
    a, b, c, d = (start ^ half for start, half in zip(_START, (low, high, low, high), strict=True))
    padded = data + bytes(7 - len(data) % 8) + bytes((len(data) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", padded):
        a, b, c, d = _rounds((a, b, c, d ^ word), 2)
        a ^= word
    a, b, c, d = _rounds((a, b, c ^ 0xFF, d), 4)
    return (a ^ b ^ c ^ d).to_bytes(8, "little")
