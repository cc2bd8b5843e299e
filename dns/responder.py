"""Bytes of a question in, bytes of its answer out: everything between the sockets and the catalogue.

Pure. ``serve`` takes and returns whole batches: the seam for a faster path that reads and writes many datagrams at
a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeVar

from discovery.dns import answer as answers
from discovery.dns import codes, edns, wire
from discovery.dns.answer import Answer, RRSet
from discovery.dns.cache import AnswerCache, is_common
from discovery.dns.name import Labels
from discovery.dns.service import rdata
from discovery.dns.settings import Settings
from discovery.dns.wire import Query
from discovery.dns.zone import Catalogue

log: Final = logging.getLogger(__name__)

_TRANSFERS: Final = frozenset({codes.AXFR, codes.IXFR})
_VERSION_NAMES: Final = frozenset({(b"version", b"bind"), (b"version", b"server")})
_NODE_NAMES: Final = frozenset({(b"id", b"server"), (b"hostname", b"bind")})
_Address = TypeVar("_Address")


class Responder:
    """Answers questions from a catalogue.

    Args:
        settings: of the server.
        version: told to ``version.bind CH TXT``.

    Attributes:
        catalogue: ``None`` before the first sync: SERVFAIL then, never NXDOMAIN.
        responses: how many answers had which response code.
        errors: questions that met a bug of ours (each is in the log).
    """

    def __init__(self, settings: Settings, version: str = "") -> None:
        self.settings = settings
        self.catalogue: Catalogue | None = None
        self.responses: Counter[int] = Counter()
        self.queries = 0
        self.cache_hits = 0
        self.dropped = 0
        self.truncated = 0
        self.errors = 0
        self._stale = False
        self._cache = AnswerCache()
        self._chaos: dict[Labels, str] = {
            **dict.fromkeys(_VERSION_NAMES, f"discovery {version}".strip()),
            **dict.fromkeys(_NODE_NAMES, settings.node),
        }

    def install(self, catalogue: Catalogue) -> None:
        """Answer from another catalogue from now on."""
        self.catalogue = catalogue
        self._cache.clear()

    @property
    def stale(self) -> bool:
        """Whether what is known may be old: clients with EDNS are told (RFC 8914, code 3)."""
        return self._stale

    @stale.setter
    def stale(self, stale: bool) -> None:
        if stale != self._stale:
            self._stale = stale
            self._cache.clear()

    def serve(self, batch: Iterable[tuple[bytes, _Address]]) -> list[tuple[bytes, _Address]]:
        """Answer datagrams; what deserves no answer is left out. Never raises."""
        replies = []
        for packet, address in batch:
            reply = self.datagram(packet)
            if reply is not None:
                replies.append((reply, address))
        return replies

    def datagram(self, packet: bytes) -> bytes | None:
        """The answer to a datagram, or ``None``. Never raises."""
        catalogue = self.catalogue
        if catalogue is not None:
            cached = self._cache.get(packet[2:], catalogue.serial)
            if cached is not None:
                self.cache_hits += 1
                return packet[:2] + cached
        return self._guarded(packet, stream=False)

    def message(self, packet: bytes) -> bytes | None:
        """The answer to a message that came over TCP, or ``None``. Never raises."""
        return self._guarded(packet, stream=True)

    def _guarded(self, packet: bytes, *, stream: bool) -> bytes | None:
        """No packet may end the worker: a bug met on the way is logged and costs one SERVFAIL."""
        self.queries += 1
        try:
            reply = self._reply(packet, stream)
        except wire.Refused as refused:
            reply = wire.refusal(packet, refused.rcode)
            self.responses[refused.rcode] += 1
        except Exception:
            self.errors += 1
            if self.errors & (self.errors - 1) == 0:  # the 1st, 2nd, 4th, 8th…: a flood must not fill the disk
                log.exception("a question could not be answered", extra={"packet": packet[:512].hex()})
            reply = wire.refusal(packet, codes.SERVFAIL)
        if reply is None:
            self.dropped += 1
        return reply

    def _reply(self, packet: bytes, stream: bool) -> bytes | None:
        query = wire.read(packet)
        if query is None:
            return None
        answer = self._answer(query)
        opt = self._opt(query, answer)
        reply = wire.compose(query, answer, self._bytes_max(query, stream), opt)
        self.responses[answer.rcode] += 1
        if reply[2] & wire.TC >> 8:
            self.truncated += 1
        if not stream and self.catalogue is not None and answer.view is not None and is_common(query):
            self._cache.put(packet[2:], self.catalogue.serial, answer, reply[2:])
        return reply

    def _bytes_max(self, query: Query, stream: bool) -> int:
        """512 without EDNS; with it what the client takes, up to what we are told to send."""
        if stream:
            return wire.TCP_BYTES_MAX
        if query.edns is None:
            return edns.SIZE_MIN
        return max(edns.SIZE_MIN, min(query.edns.size, self.settings.udp_max))

    def _opt(self, query: Query, answer: Answer) -> bytes:
        """An OPT record for clients that sent one, nobody else."""
        if query.edns is None:
            return b""
        ede = answer.ede
        if ede is None and self._stale and query.rclass == codes.IN:
            ede = codes.EDE_STALE
        return edns.write(self.settings.udp_max, answer.rcode, query.edns.dnssec_ok, ede)

    def _answer(self, query: Query) -> Answer:
        if query.edns is not None and query.edns.version:
            return Answer(rcode=codes.BADVERS, authoritative=False, ede=None)
        if query.rtype in _TRANSFERS:
            return _refused()
        if query.rclass == codes.CH:
            return self._chaos_answer(query)
        if query.rclass != codes.IN:
            return _refused()
        if self.catalogue is None:
            return Answer(rcode=codes.SERVFAIL, authoritative=False, ede=codes.EDE_NOT_READY)
        return answers.resolve(self.catalogue, query.labels, query.rtype)

    def _chaos_answer(self, query: Query) -> Answer:
        text = self._chaos.get(query.labels, "")
        if not text or query.rtype not in (codes.TXT, codes.ANY):
            return _refused()
        data = text.encode()[:255]
        return Answer(answer=[RRSet(codes.TXT, 0, [rdata(bytes((len(data),)) + data)], None)])


def _refused() -> Answer:
    return Answer(rcode=codes.REFUSED, authoritative=False)
