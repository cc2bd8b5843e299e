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


_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000


class LogClock:
    """Log time: the leader's wall clock steers it, the time that went by bounds it (docs/decisions/010-log-time.md).

    From one entry to the next it moves by what the wall clock asks for, but by three quarters of the elapsed time at
    least and by five quarters at most, however many entries there are. So it never falls, never stands still under
    a clock that is behind, and a clock far ahead makes ten minutes of log time eight minutes long, not shorter.
    """

    def __init__(self, previous_ms: int, now: float) -> None:
        """``previous_ms``: log time of the last entry (0: there is none, the wall clock is taken).

        ``now``: seconds, when that entry came here or later; time in which no process ran is not known to anybody.
        """
        self._log_ns = previous_ms * _NS_PER_MS
        self._at_ns = int(now * _NS_PER_S)

    def stamp(self, now: float, wall_ms: int) -> int:
        """The log time of an entry made now, in ms."""
        at_ns, wall_ns = int(now * _NS_PER_S), wall_ms * _NS_PER_MS
        if self._log_ns:
            elapsed_ns = max(0, at_ns - self._at_ns)
            slowest, fastest = elapsed_ns - elapsed_ns // 4, elapsed_ns + elapsed_ns // 4
            self._log_ns += min(max(wall_ns - self._log_ns, slowest), fastest)
        else:
            self._log_ns = wall_ns
        self._at_ns = at_ns
        return self._log_ns // _NS_PER_MS
