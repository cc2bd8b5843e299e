"""Response-rate limiting: no reflector for those who write somebody else's address on their questions.

No sockets. A network of clients (IPv4 /24, IPv6 /56) gets so many answers a second; of those beyond, every ``slip``-th
question gets an empty answer with TC, so that a real client comes again by TCP, and the others none. A client that
sends a cookie gets BADCOOKIE and his cookie instead (RFC 7873 section 5.2.3); with one of ours he is not limited.

It costs nothing until there is reason: while a worker has fewer questions a second than one client may ask, nobody's
address is looked at. Memory is bounded by construction: clients share 65,536 counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

from discovery import limits
from discovery.dns import codes, edns, wire
from discovery.dns.mmsg import Slots
from discovery.dns.options import client_of
from discovery.dns.responder import Responder
from discovery.dns.sections import Answer
from discovery.dns.udp import Server
from discovery.dns.wire import Query

_WINDOW_S: Final = 1.0
_V4_PREFIX_BYTES: Final = 3
_V6_PREFIX_BYTES: Final = 7
_ADDITIONAL: Final = slice(10, 12)  # of a header: how many records, one of them OPT with the cookie
_NO_QUESTION_BYTES: Final = 2  # less than a header: no answer


class Verdict(Enum):
    """What becomes of a question."""

    ANSWER = "answer"
    SLIP = "slip"
    DROP = "drop"


class Limiter:
    """Counts questions by client network.

    Args:
        rate: questions a second that a network may ask; more than 0.
        slip: of the questions beyond, each how manieth is answered briefly; 0: none.
        exempt: networks in CIDR text that may ask as they like.
        clock: monotonic seconds.

    Attributes:
        slipped, dropped: questions of clients who ask too much that got a brief answer, or none.
    """

    def __init__(self, rate: int, slip: int, exempt: Iterable[str], clock: Callable[[], float]) -> None:
        self.slipped = 0
        self.dropped = 0
        self._rate = rate
        self._slip = slip
        self._exempt = _masks(exempt)
        self._clock = clock
        self._until = 0.0
        self._total = 0
        self._counts: dict[int, int] = {}

    def is_busy(self, count: int) -> bool:
        """Whether, with ``count`` questions more, anybody may have asked too much in this second."""
        now = self._clock()
        if now >= self._until:
            self._until = now + _WINDOW_S
            self._total = 0
            self._counts.clear()
        self._total += count
        return self._total > self._rate

    def judge(self, client: bytes) -> Verdict:
        """Count a question of a client (4 or 16 bytes of address).

        Who is exempt is not counted, so that he takes nothing from his neighbours.
        """
        value = int.from_bytes(client, "big")
        for mask, network in self._exempt[len(client)]:
            if value & mask == network:
                return Verdict.ANSWER
        prefix = client[: _V6_PREFIX_BYTES if len(client) == 16 else _V4_PREFIX_BYTES]
        bucket = hash(prefix) % limits.DNS_RATE_COUNTS_MAX  # keyed by the process, so nobody can choose whom he meets
        count = self._counts[bucket] = self._counts.get(bucket, 0) + 1
        beyond = count - self._rate
        if beyond <= 0:
            return Verdict.ANSWER
        return Verdict.SLIP if self._slip and beyond % self._slip == 0 else Verdict.DROP


def _masks(networks: Iterable[str]) -> dict[int, list[tuple[int, int]]]:
    """Networks as mask and value, by bytes of an address: made-up addresses must not cost much, nor be remembered."""
    found: dict[int, list[tuple[int, int]]] = {4: [], 16: []}
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        found[network.max_prefixlen // 8].append((int(network.netmask), int(network.network_address)))
    return found


class Limited:
    """A server whose clients are limited.

    Args:
        server: answers who does not ask too much.
        responder: whose cookies those are.
    """

    def __init__(self, server: Server, responder: Responder, limiter: Limiter) -> None:
        self._server = server
        self._responder = responder
        self._limiter = limiter

    def serve(self, batch: list[tuple[bytes, Any]]) -> list[tuple[bytes, Any]]:
        """Replies to datagrams, with where they go."""
        if not self._limiter.is_busy(len(batch)):
            return self._server.serve(batch)
        passed, brief = [], []
        for packet, address in batch:
            client = client_of(address)
            verdict = self._limiter.judge(client)
            reply = None if verdict is Verdict.ANSWER else self._beyond(verdict, packet, client)
            if reply is None:
                passed.append((packet, address))
            elif reply:
                brief.append((reply, address))
        return self._server.serve(passed) + brief

    def serve_slots(self, slots: Slots, count: int) -> int:
        """The same where datagrams lie in slots; how many got no reply now."""
        if not self._limiter.is_busy(count):
            return self._server.serve_slots(slots, count)
        brief = self._hold(slots, count)
        silent = self._server.serve_slots(slots, count)
        for slot, reply in brief:
            start, length = slots.starts[slot], len(reply)
            slots.memory[start - 2 : start - 2 + length] = reply
            slots.lengths[slot] = length
        return silent - len(brief)

    def _hold(self, slots: Slots, count: int) -> list[tuple[int, bytes]]:
        """Take questions of who asks too much out of the batch; those that get a brief answer, with it."""
        brief = []
        for slot in range(count):
            client = slots.client(slot)
            verdict = self._limiter.judge(client)
            if verdict is Verdict.ANSWER:
                continue
            start, size = slots.starts[slot] - 2, slots.sizes[slot]
            reply = self._beyond(verdict, slots.memory[start : start + size], client)
            if reply is None:
                continue
            slots.sizes[slot] = _NO_QUESTION_BYTES
            if reply:
                brief.append((slot, reply))
        return brief

    def _beyond(self, verdict: Verdict, packet: bytes, client: bytes) -> bytes | None:
        """What a question beyond the limit gets: little or nothing; ``None``: its answer, for a cookie of ours.

        It is parsed only where something may come of it, and once.
        """
        worth = verdict is Verdict.SLIP or packet[_ADDITIONAL] != b"\0\0"
        query = _read(packet) if worth else None
        asked = query.edns if query is not None else None
        if asked is not None and self._responder.options.believes(asked, client):
            return None
        if query is None or verdict is Verdict.DROP:
            self._limiter.dropped += 1
            return b""
        self._limiter.slipped += 1
        return self._brief(query, client)

    def _brief(self, query: Query, client: bytes) -> bytes:
        """No longer than the question, but for what an OPT record holds: nobody gains by asking for it."""
        asked, responder = query.edns, self._responder
        bad = asked is not None and asked.cookie is not None and responder.options.cookies is not None
        query.client, query.offered = client, responder.offered
        answer = Answer(rcode=codes.BADCOOKIE if bad else codes.NOERROR, authoritative=False, truncated=not bad)
        opt = b""
        if asked is not None:
            told = responder.options.of(query, asked) if bad else b""
            opt = edns.write(responder.settings.udp_max, answer.rcode, asked.dnssec_ok, None, told)
        return wire.compose(query, answer, wire.TCP_BYTES_MAX, opt)


def _read(packet: bytes) -> Query | None:
    """The question, ``None`` when it deserves no answer but a complaint: who asks too much gets none."""
    try:
        return wire.read(packet)
    except wire.Refused:
        return None
