"""Level 1: ready answers by the exact bytes of their questions; never one that no longer holds.

Pure. A hit is one look-up and one call: behind a key stands a function that gives the next reply. Nothing is checked
then, because what an answer was made from drops it: a service view tells at its next change
(:attr:`ServiceView.on_change`), and the SOA of a negative answer takes its serial when it is used.

The key is everything behind the id, so that a hit repeats RD, CD and EDNS by construction. A flood must not be able to
fill it: only names that exist are stored, in lower case, for known types and for common shapes of a question
(:func:`is_common`), and there is a bound.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, cycle, repeat
from typing import Final

from discovery import limits
from discovery.dns import codes, edns, wire
from discovery.dns.service import ALL_OF_IT, Facet, ServiceView
from discovery.dns.wire import Query

ROTATIONS_MAX: Final = 8
USES_OF_LARGE: Final = 64  # a set of more than 8 records is dealt anew after these, lest 8 instances get all the load
_ENTRY_BYTES: Final = 600  # about what an entry costs besides its bytes
_COMMON_FLAGS: Final = wire.RD | wire.AD | wire.CD
_SERIAL_FROM_END: Final = 20  # of a SOA record: serial, refresh, retry, expire, minimum (RFC 1035 section 3.3.13)

Next = Callable[[], bytes]


def is_common(query: Query) -> bool:
    """Whether many clients ask just so: a well-known type and size, no EDNS options, lower case."""
    asked = query.edns
    return (
        not query.flags & ~_COMMON_FLAGS
        and query.rtype in codes.TYPE_TEXT
        and query.rclass == codes.IN
        and (asked is None or (asked.size in edns.COMMON_SIZES and not asked.has_options and not asked.odd))
        and query.question[:-4] == query.question[:-4].lower()
    )


class _Entry:
    """The replies to one question, as far as they have been made: one for each rotation."""

    __slots__ = ("facet", "large", "replies", "size", "view", "wanted")

    def __init__(self, view: ServiceView, facet: Facet, records: int) -> None:
        self.view = view
        self.facet = facet
        self.replies: list[bytes] = []
        self.wanted = max(1, min(records, ROTATIONS_MAX))
        self.large = records > ROTATIONS_MAX
        self.size = _ENTRY_BYTES

    def ready(self) -> Next:
        """Gives the replies in turn; for a large set only :data:`USES_OF_LARGE` times, then ``StopIteration``."""
        if self.large:
            rounds = repeat(self.replies, USES_OF_LARGE // len(self.replies))
            return chain.from_iterable(rounds).__next__
        return (repeat(self.replies[0]) if len(self.replies) == 1 else cycle(self.replies)).__next__


class AnswerCache:
    """Answers of UDP, bounded by ``limits.DNS_CACHE_BYTES_MAX``; full, it begins anew.

    Attributes:
        ready: by a question's bytes behind its id, what gives the reply's bytes behind its id. ``StopIteration``
            from it: tell :meth:`worn`, compose one, :meth:`put` it.
        serial: of the zone, as it stands in a SOA; to be set before questions are answered.
    """

    def __init__(self, bytes_max: int = limits.DNS_CACHE_BYTES_MAX) -> None:
        self.ready: dict[bytes, Next] = {}
        self.serial = bytes(4)
        self._entries: dict[bytes, _Entry] = {}
        self._keys: dict[ServiceView, dict[Facet, set[bytes]]] = {}
        self._bytes = 0
        self._bytes_max = bytes_max

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget everything."""
        for view in self._keys:
            view.on_change = None
        self._keys.clear()
        self._entries.clear()
        self.ready.clear()
        self._bytes = 0

    def put(self, key: bytes, view: ServiceView, records: int, reply: bytes, facet: Facet = ALL_OF_IT) -> None:
        """Remember one rotation of a positive reply; after ``records`` of them (8 at most) it is ready.

        Args:
            key: the question behind its id.
            view: the one service that the answer was made from.
            records: in the answer's set.
            reply: behind its id.
            facet: what of the view it was made from; a change of anything else leaves it alone.
        """
        entry = self._entry(key, view, facet, records)
        entry.replies.append(reply)
        self._grow(entry, len(reply))
        if len(entry.replies) == entry.wanted:
            self.ready[key] = entry.ready()

    def put_all(self, key: bytes, view: ServiceView, replies: list[bytes], facet: Facet = ALL_OF_IT) -> None:
        """Remember every rotation of a positive reply at once, at most :data:`ROTATIONS_MAX`; it is ready."""
        self.worn(key)
        entry = self._entry(key, view, facet, len(replies))
        entry.replies = replies
        self._grow(entry, len(replies) * len(replies[0]))
        self.ready[key] = entry.ready()

    def put_negative(
        self, key: bytes, view: ServiceView, reply: bytes, opt_bytes: int, facet: Facet = ALL_OF_IT
    ) -> None:
        """Remember a reply whose last record, but for an OPT of ``opt_bytes``, is the zone's SOA."""
        at = len(reply) - opt_bytes - _SERIAL_FROM_END
        before, after = reply[:at], reply[at + 4 :]
        self._grow(self._entry(key, view, facet, 1), len(reply))
        self.ready[key] = lambda: before + self.serial + after

    def worn(self, key: bytes) -> None:
        """Drop an entry that has given every reply it has to give."""
        entry = self._entries.pop(key, None)
        self.ready.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size

    def _entry(self, key: bytes, view: ServiceView, facet: Facet, records: int) -> _Entry:
        entry = self._entries.get(key)
        if entry is not None:
            return entry
        if self._bytes >= self._bytes_max:
            self.clear()
        entry = self._entries[key] = _Entry(view, facet, records)
        facets = self._keys.get(view)
        if facets is None:
            facets = self._keys[view] = {}
            view.on_change = self._forget
        keys = facets.get(facet)
        if keys is None:
            facets[facet] = {key}
        else:
            keys.add(key)
        self._bytes += entry.size
        self._grow(entry, len(key))
        return entry

    def _grow(self, entry: _Entry, size: int) -> None:
        entry.size += size
        self._bytes += size

    def _forget(self, view: ServiceView, touched: frozenset[Facet] | None) -> None:
        """What was made from ``touched`` of the view no longer holds; ``None``: from any of it."""
        facets = self._keys[view]
        for facet in list(facets) if touched is None else touched & facets.keys():
            for key in facets.pop(facet):
                self.worn(key)
        if not facets:
            del self._keys[view]
            view.on_change = None
