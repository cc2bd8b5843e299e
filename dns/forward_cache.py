"""Answers of other servers, kept as long as they hold, and longer for the day when nobody answers.

Pure. TTLs run down while an answer is kept (RFC 1035 section 4.1.3), denials are kept as RFC 2308 section 5 says,
failures for a moment (RFC 9520 section 3.2). What has run out stays for :data:`limits.DNS_FORWARD_STALE_S_MAX` and is
given only when no server answers (RFC 8767). Bounded by entries and by bytes; the longest unused goes first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from discovery import limits
from discovery.dns import codes
from discovery.dns.name import Labels
from discovery.dns.sections import Answer, RRSet

STALE_TTL_S: Final = 30  # RFC 8767 section 4
_ENTRY_BYTES: Final = 800  # about what an entry costs besides its bytes
_RECORD_BYTES: Final = 60
_SET_BYTES: Final = 150
_ADDRESSES: Final = frozenset({codes.A, codes.AAAA})


class Key(NamedTuple):
    """What an answer depends on. ``zone``: whose servers were asked."""

    labels: Labels
    rtype: int
    dnssec_ok: bool
    checking_off: bool
    zone: Labels


class _Entry(msgspec.Struct):
    answer: Answer
    stored_at: float
    ends_at: float
    size: int
    uses: int = 0


class ForwardCache:
    """Answers by :class:`Key`. Times are monotonic seconds."""

    def __init__(
        self,
        entries_max: int = limits.DNS_FORWARD_CACHE_ENTRIES_MAX,
        bytes_max: int = limits.DNS_FORWARD_CACHE_BYTES_MAX,
    ) -> None:
        self.bytes = 0
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries: dict[Key, _Entry] = {}  # the longest unused first
        self._failed: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Answer | None:
        """An answer that still holds, its TTLs as they stand now."""
        entry = self._entries.get(key)
        if entry is None or now >= entry.ends_at:
            return None
        return self._give(key, entry, int(now - entry.stored_at))

    def stale(self, key: Key, now: float) -> Answer | None:
        """An answer that held once, for want of a better one; marked as such (RFC 8914, codes 3 and 19)."""
        entry = self._entries.get(key)
        if entry is None or now >= entry.ends_at + limits.DNS_FORWARD_STALE_S_MAX:
            return None
        if now < entry.ends_at:
            return self._give(key, entry, int(now - entry.stored_at))
        answer = self._give(key, entry, None)
        answer.ede = codes.EDE_STALE_NXDOMAIN if answer.rcode == codes.NXDOMAIN else codes.EDE_STALE
        return answer

    def put(self, key: Key, answer: Answer, ttl: int, now: float) -> None:
        """Keep an answer for ``ttl`` seconds, within the limits; 0: not at all."""
        denial = answer.rcode != codes.NOERROR or not answer.answer
        ttl = min(ttl, limits.DNS_FORWARD_DENIAL_TTL_S_MAX if denial else limits.DNS_FORWARD_TTL_S_MAX)
        self._failed.pop(key, None)
        size = _size(key, answer)
        if ttl <= 0 or size > self._bytes_max // 8:
            return
        self._drop(key)
        self._entries[key] = _Entry(_capped(answer, ttl), now, now + ttl, size)
        self.bytes += size
        while len(self._entries) > self._entries_max or self.bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))

    def fail(self, key: Key, now: float) -> None:
        """Nobody answered: for a moment nobody is asked again."""
        if len(self._failed) >= self._entries_max:
            self._failed.clear()
        self._failed[key] = now + limits.DNS_FORWARD_FAILURE_S

    def has_failed(self, key: Key, now: float) -> bool:
        """Whether nobody answered just now."""
        until = self._failed.get(key)
        if until is not None and now >= until:
            del self._failed[key]
            return False
        return until is not None

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    def _give(self, key: Key, entry: _Entry, age: int | None) -> Answer:
        """A copy, addresses turned by one from the time before; ``age`` in seconds, ``None``: stale."""
        self._entries[key] = self._entries.pop(key)
        entry.uses += 1
        kept = entry.answer
        return Answer(
            rcode=kept.rcode,
            answer=[_aged(rrset, age, entry.uses) for rrset in kept.answer],
            authority=[_aged(rrset, age, 0) for rrset in kept.authority],
            additional=[_aged(rrset, age, 0) for rrset in kept.additional],
            authoritative=False,
        )


def _aged(rrset: RRSet, age: int | None, turn: int) -> RRSet:
    ttl = min(rrset.ttl, STALE_TTL_S) if age is None else max(0, rrset.ttl - age)
    data = rrset.data
    if len(data) > 1 and turn and rrset.rtype in _ADDRESSES:  # many programs take the first address and stay with it
        at = turn % len(data)
        data = data[at:] + data[:at]
    return RRSet(rrset.rtype, ttl, data, rrset.owner)


def _capped(answer: Answer, ttl: int) -> Answer:
    """Nobody is told to keep longer what we do not keep longer."""
    longest = max(ttl, 1)

    def cut(sets: list[RRSet]) -> list[RRSet]:
        return [RRSet(one.rtype, min(one.ttl, longest), one.data, one.owner) for one in sets]

    parts = cut(answer.answer), cut(answer.authority), cut(answer.additional)
    return Answer(answer.rcode, parts[0], parts[1], parts[2], authoritative=False)


def _size(key: Key, answer: Answer) -> int:
    sets = (*answer.answer, *answer.authority, *answer.additional)
    records = sum(len(data) + _RECORD_BYTES for rrset in sets for data in rrset.data)
    return _ENTRY_BYTES + sum(map(len, key.labels)) + _SET_BYTES * len(sets) + records
