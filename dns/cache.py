"""Ready answers by the exact bytes of their questions: never one that no longer holds.

Pure. An entry names what its answer was made from: one service view and its version, and for answers that carry a
SOA the zone's serial. A change of the feed moves those numbers, so that nothing has to be found and deleted. The
key is everything behind the id, so that a hit repeats RD, CD, letter case and EDNS by construction.

A flood must not be able to fill it: only names that exist are stored, in lower case, for known types and for common
shapes of a question (:func:`is_common`).
"""

from __future__ import annotations

from typing import Final

from discovery import limits
from discovery.dns import codes, edns, wire
from discovery.dns.answer import Answer
from discovery.dns.service import ServiceView
from discovery.dns.wire import Query

ROTATIONS_MAX: Final = 8
USES_OF_LARGE: Final = 64  # a set of more than 8 records is dealt anew after these, lest 8 instances get all the load
_ENTRY_BYTES: Final = 400  # about what an entry costs besides its bytes
_COMMON_FLAGS: Final = wire.RD | wire.AD | wire.CD


def is_common(query: Query) -> bool:
    """Whether many clients ask just so: a well-known type and size, no EDNS options, lower case."""
    asked = query.edns
    return (
        not query.flags & ~_COMMON_FLAGS
        and query.rtype in codes.TYPE_TEXT
        and (asked is None or (asked.size in edns.COMMON_SIZES and not asked.has_options))
        and query.question[:-4] == query.question[:-4].lower()
    )


class _Entry:
    __slots__ = ("replies", "serial", "turn", "uses", "version", "view", "wanted")

    def __init__(self, view: ServiceView, serial: int | None, records: int) -> None:
        self.view = view
        self.version = view.version
        self.serial = serial
        self.replies: list[bytes] = []
        self.wanted = max(1, min(records, ROTATIONS_MAX))
        self.turn = 0
        self.uses = USES_OF_LARGE if records > ROTATIONS_MAX else -1


class AnswerCache:
    """Answers of UDP, one in each rotation, bounded by ``limits.DNS_CACHE_BYTES_MAX``; full, it begins anew."""

    def __init__(self, bytes_max: int = limits.DNS_CACHE_BYTES_MAX) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def get(self, key: bytes, serial: int) -> bytes | None:
        """The reply after its id, the next rotation; ``None``: compose one, and :meth:`put` it.

        Args:
            key: the question's bytes behind its id.
            serial: the zone's at present.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.version != entry.view.version or (entry.serial is not None and entry.serial != serial):
            self._remove(key, entry)
            return None
        turn = entry.turn
        if turn == len(entry.replies):
            if turn < entry.wanted:
                return None
            turn = 0
        entry.turn = turn + 1
        entry.uses -= 1
        if not entry.uses:
            self._remove(key, entry)
        return entry.replies[turn]

    def put(self, key: bytes, serial: int, answer: Answer, reply: bytes) -> None:
        """Remember a reply (without its id), when it depends on one service alone."""
        if answer.view is None or answer.rcode != codes.NOERROR:
            return
        entry = self._entries.get(key)
        if entry is None:
            if self._bytes >= self._bytes_max:
                self.clear()
            records = len(answer.answer[0].data) if answer.answer else 1
            entry = self._entries[key] = _Entry(answer.view, serial if answer.negative else None, records)
            self._bytes += len(key) + _ENTRY_BYTES
        entry.replies.append(reply)
        entry.turn = len(entry.replies)
        self._bytes += len(reply)

    def _remove(self, key: bytes, entry: _Entry) -> None:
        del self._entries[key]
        self._bytes -= len(key) + _ENTRY_BYTES + sum(map(len, entry.replies))
