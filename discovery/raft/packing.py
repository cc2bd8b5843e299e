"""A log entry's bytes: many callers' commands in one, stamped with the log time. Pure.

``0x00 | log time, u64 ms | msgpack [[wire id, command], …]``; a no-op is the single byte ``0x01`` (PySyncObj's
command types).
"""

from __future__ import annotations

from typing import Final

import msgspec

from discovery.errors import InvalidInput
from discovery.raft.codec import Item

REGULAR: Final = b"\x00"
NO_OP: Final = b"\x01"
ITEM_BYTES: Final = 32
"""An upper bound of what framing adds to one command."""

_HEAD_BYTES: Final = 9
_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Item])


def pack(time_ms: int, items: list[Item]) -> bytes:
    """The bytes of one entry."""
    return REGULAR + time_ms.to_bytes(8, "big") + _encoder.encode(items)


def unpack(command: bytes) -> tuple[int, list[Item]]:
    """(log time in ms, items); ``(0, [])`` for a no-op.

    Raises:
        InvalidInput: the bytes are no entry (the same bytes fail on every node alike).
    """
    if not command.startswith(REGULAR):
        return 0, []
    try:
        return time_of(command), _decoder.decode(memoryview(command)[_HEAD_BYTES:])
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"a log entry holds no commands: {error}") from error


def time_of(command: bytes) -> int:
    """The log time of an entry in ms, 0 for a no-op."""
    return int.from_bytes(command[1:_HEAD_BYTES], "big")


class LogClock:
    """Log time = max(previous, min(leader's wall clock, previous + elapsed + 1 s)) (DESIGN guarantee 7).

    It never falls, and a leader whose clock is wrong can push it ahead by one second an entry at most.
    """

    def __init__(self, previous_ms: int, now: float) -> None:
        """``previous_ms``: log time of the last entry (0: there is none, the wall clock is taken); ``now``: seconds."""
        self._previous_ms = previous_ms
        self._at = now

    def stamp(self, now: float, wall_ms: int) -> int:
        """The log time of an entry made now."""
        ceiling = self._previous_ms + int((now - self._at) * 1000) + 1000 if self._previous_ms else wall_ms
        self._previous_ms = max(self._previous_ms, min(wall_ms, ceiling))
        self._at = now
        return self._previous_ms
