"""Bytes of a question in, bytes of its answer out: everything between the sockets and the catalogue.

No sockets, no waiting. Three ways to an answer, each slower and more general than the one before: ready replies
(:mod:`discovery.dns.cache`), replies in a few slices of bytes (:mod:`discovery.dns.quick`), and reading, resolving
and composing. ``serve`` and ``serve_slots`` take whole batches, so that what is counted is counted once a batch.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeVar

from discovery import limits
from discovery.dns import answer as answers
from discovery.dns import codes, edns, wire
from discovery.dns.cache import AnswerCache, is_common
from discovery.dns.cookies import Cookies
from discovery.dns.name import Labels
from discovery.dns.options import Options, client_of
from discovery.dns.quick import Quick
from discovery.dns.sections import Answer, RRSet
from discovery.dns.service import rdata
from discovery.dns.settings import Settings
from discovery.dns.wire import Query
from discovery.dns.zone import Catalogue

log: Final = logging.getLogger(__name__)

_TRANSFERS: Final = frozenset({codes.AXFR, codes.IXFR})
_VERSION_NAMES: Final = frozenset({(b"version", b"bind"), (b"version", b"server")})
_NODE_NAMES: Final = frozenset({(b"id", b"server"), (b"hostname", b"bind")})
_Address = TypeVar("_Address")
_NAME_AT: Final = wire.HEADER_BYTES - 2  # behind the id
_QUESTIONS_AT: Final = 2  # behind the id
_AUTHORITIES_AT: Final = 6  # behind the id
_SLOT_BYTES: Final = limits.DNS_UDP_BYTES_MAX


class Slots(Protocol):
    """A batch of datagrams in one piece of memory, see :class:`discovery.dns.mmsg.Slots`."""

    memory: Any  # mmap.mmap: a slice of it is bytes
    starts: list[int]
    sizes: list[int]
    lengths: Any  # memoryview of unsigned integers

    def is_cut(self, slot: int) -> bool:
        """Whether the datagram was longer than its slot."""

    def client(self, slot: int) -> bytes:
        """The address that the datagram came from: 4 or 16 bytes."""


class Responder:
    """Answers questions from a catalogue.

    Args:
        settings: of the server.
        version: told to ``version.bind CH TXT``.
        cookies: whose cookies clients get (RFC 7873); ``None``: none.
        wall_clock: Unix seconds.

    Attributes:
        catalogue: ``None`` before the first sync: SERVFAIL then, never NXDOMAIN.
        responses: how many of the composed answers had which response code, see :meth:`answered`.
        composed: questions that were read and resolved in the general way.
        cache_hits, folded: answers that were ready, for the question as asked or for its lower case.
        dropped: messages that got no answer.
        options: what is told in OPT records to who asks for it.
        errors: questions that met a bug of ours (each is in the log).
        forwards: whether a question with this answer gets none here but is sent on; ``None``: none is.
        offered: flag of every answer: RA where we ask others.
    """

    def __init__(
        self,
        settings: Settings,
        version: str = "",
        cookies: Cookies | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.catalogue: Catalogue | None = None
        self.responses: Counter[int] = Counter()
        self.composed = 0
        self.cache_hits = 0
        self.folded = 0
        self.dropped = 0
        self.truncated = 0
        self.errors = 0
        self.forwards: Callable[[Query, Answer], bool] | None = None
        self.offered = 0
        self._stale = False
        self.options = Options(settings.node, cookies, wall_clock)
        self._client_of: Callable[[Any], bytes] = client_of  # the address of whoever asks, by ``_place``
        self._place: Any = None
        self._cache = AnswerCache()
        self._quick = Quick(self._cache)
        self._chaos: dict[Labels, str] = {
            **dict.fromkeys(_VERSION_NAMES, f"discovery {version}".strip()),
            **dict.fromkeys(_NODE_NAMES, settings.node),
        }

    def install(self, catalogue: Catalogue) -> None:
        """Answer from another catalogue from now on."""
        self.catalogue = catalogue
        self._cache.clear()

    @property
    def queries(self) -> int:
        """Messages that were looked at."""
        return self.composed + self.ready_answers + self._quick.denied + self._quick.answered

    @property
    def ready_answers(self) -> int:
        """Answers that were ready."""
        return self.cache_hits + self.folded

    def answered(self) -> dict[int, int]:
        """How many answers had which response code."""
        quick = {
            codes.NOERROR: self.ready_answers + self._quick.answered,
            codes.NXDOMAIN: self._quick.denied,
        }
        return dict(self.responses + Counter(quick))

    @property
    def stale(self) -> bool:
        """Whether what is known may be old: clients with EDNS are told (RFC 8914, code 3)."""
        return self._stale

    @stale.setter
    def stale(self, stale: bool) -> None:
        if stale != self._stale:
            self._stale = stale
            self._cache.clear()
            self._quick.clear()

    def serve(self, batch: Iterable[tuple[bytes, _Address]]) -> list[tuple[bytes, _Address]]:
        """Answer datagrams; what deserves no answer is left out. Never raises."""
        replies = []
        self._client_of = client_of
        for packet, address in batch:
            self._place = address
            reply = self.datagram(packet)
            if reply is not None:
                replies.append((reply, address))
        return replies

    def serve_slots(self, slots: Slots, count: int) -> int:
        """Write replies over the first ``count`` datagrams, behind their ids. Never raises.

        Returns:
            How many got none: their length is 0.
        """
        self._begin()
        self._client_of = slots.client
        memory, lengths = slots.memory, slots.lengths
        get = self._cache.ready.get
        missed = silent = 0
        for slot, start, size in zip(range(count), slots.starts, slots.sizes, strict=False):
            rest = memory[start : start + size - 2]
            try:
                turn = get(rest)
                if turn is None:
                    missed += 1
                    self._place = slot
                    reply = self._missed(rest) if size < _SLOT_BYTES or not slots.is_cut(slot) else b""
                else:
                    reply = turn()
            except StopIteration:
                missed += 1
                reply = self._worn(rest)
            if reply:
                length = len(reply)
                memory[start : start + length] = reply
                lengths[slot] = length + 2
            else:
                silent += 1
                lengths[slot] = 0
        self.cache_hits += count - missed
        self.dropped += silent
        return silent

    def datagram(self, packet: bytes) -> bytes | None:
        """The answer to a datagram, or ``None``. Never raises."""
        self._begin()
        rest = packet[2:]
        turn = self._cache.ready.get(rest)
        try:
            if turn is None:
                reply = self._missed(rest)
            else:
                reply = turn()
                self.cache_hits += 1
        except StopIteration:
            reply = self._worn(rest)
        if not reply:
            self.dropped += 1
            return None
        return packet[:2] + reply

    def _begin(self) -> None:
        """What the answers of a batch have in common."""
        if self.catalogue is not None:
            self._quick.begin(self.catalogue)

    def _worn(self, rest: bytes) -> bytes:
        """Behind the id, the answer to a question whose ready replies have been given often enough."""
        self._cache.worn(rest)
        return self._missed(rest)

    def _missed(self, rest: bytes) -> bytes:
        """The answer behind the id to a question that is not ready as asked; ``b""``: none.

        The name is lowered, never the type behind it: what has letters there are labels, because a length that
        looks like a letter is no length. The question is given back with the letters it came with.
        """
        end = rest.find(0, _NAME_AT) + 1
        name = rest[_NAME_AT:end]
        lower = name.lower()
        if lower == name:
            return self._compose(rest, end)
        asked = b"".join((rest[:_NAME_AT], lower, rest[end:]))
        reply = self._ready(asked) or self._compose(asked, end)
        holds_question = reply[_QUESTIONS_AT : _QUESTIONS_AT + 2] == b"\0\1"  # a refusal holds none
        return b"".join((reply[:_NAME_AT], name, reply[end:])) if holds_question else reply

    def _ready(self, asked: bytes) -> bytes:
        turn = self._cache.ready.get(asked)
        if turn is None:
            return b""
        try:
            reply = turn()
        except StopIteration:
            self._cache.worn(asked)
            return b""
        self.folded += 1
        return reply

    def _compose(self, rest: bytes, end: int) -> bytes:
        if end and self.catalogue is not None:
            try:
                reply = self._quick.answer(self.catalogue, rest, end)
            except Exception:
                reply = self._failed(b"\0\0" + rest)[2:]
            if reply is not None:
                return reply
        return (self._guarded(b"\0\0" + rest) or b"")[2:]

    def message(self, packet: bytes, client: str = "", idle_s: float = 0.0) -> bytes | None:
        """The answer to a message that came over TCP, or ``None``. Never raises.

        Args:
            client: address literal.
            idle_s: how long the connection may be idle.
        """
        self._client_of, self._place = client_of, (client,)
        reply = self._guarded(packet, idle_s)
        if reply is None:
            self.dropped += 1
        return reply

    def _guarded(self, packet: bytes, idle_s: float | None = None) -> bytes | None:
        """No packet may end the worker: a bug met on the way is logged and costs one SERVFAIL.

        Args:
            idle_s: of a TCP connection; ``None``: a datagram.
        """
        self.composed += 1
        try:
            return self._reply(packet, idle_s)
        except wire.Refused as refused:
            return self._refusal(packet, refused.rcode, idle_s)
        except Exception:
            return self._failed(packet)

    def _failed(self, packet: bytes) -> bytes:
        self.errors += 1
        if self.errors & (self.errors - 1) == 0:  # the 1st, 2nd, 4th, 8th…: a flood must not fill the disk
            log.exception("a question could not be answered", extra={"packet": packet[:512].hex()})
        return wire.refusal(packet, codes.SERVFAIL)

    def _reply(self, packet: bytes, idle_s: float | None) -> bytes | None:
        """Read, resolve, compose; remember what is likely to be asked for again."""
        query = wire.read(packet)
        if query is None:
            return None
        answer = self._answer(self._know(query, idle_s))
        if self.forwards is not None and self.forwards(query, answer):
            return None
        opt = self._opt(query, answer)
        reply = self._composed(query, answer, opt)
        if idle_s is None and self.catalogue is not None and is_common(query):
            if answer.ede is None:
                self._quick.learn(packet, query, opt, self._bytes_max(query))
            self._keep(packet[2:], answer, reply[2:], len(opt))
        return reply

    def own(self, query: Query) -> Answer:
        """What we say of a question ourselves."""
        return self._answer(query)

    def finish(self, query: Query, answer: Answer) -> bytes:
        """The reply to a question that was sent on."""
        return self._composed(query, answer, self._opt(query, answer))

    def _composed(self, query: Query, answer: Answer, opt: bytes) -> bytes:
        reply = wire.compose(query, answer, self._bytes_max(query), opt)
        self.responses[answer.rcode] += 1
        if reply[2] & wire.TC >> 8:
            self.truncated += 1
        return reply

    def _keep(self, key: bytes, answer: Answer, reply: bytes, opt_bytes: int) -> None:
        if answer.view is None or answer.rcode != codes.NOERROR:
            return
        if not answer.negative:
            self._cache.put(key, answer.view, len(answer.answer[0].data), reply)
        elif reply[_AUTHORITIES_AT : _AUTHORITIES_AT + 2] == b"\0\1":  # the SOA found room
            self._cache.put_negative(key, answer.view, reply, opt_bytes)

    def _bytes_max(self, query: Query) -> int:
        """512 without EDNS; with it what the client takes, up to what we are told to send."""
        if query.idle_s is not None:
            return wire.TCP_BYTES_MAX
        if query.edns is None:
            return edns.SIZE_MIN
        return max(edns.SIZE_MIN, min(query.edns.size, self.settings.udp_max, _SLOT_BYTES))

    def _opt(self, query: Query, answer: Answer) -> bytes:
        """An OPT record for clients that sent one, nobody else."""
        asked = query.edns
        if asked is None:
            return b""
        ede = answer.ede
        if ede is None and self._stale and query.rclass == codes.IN and query.question and answer.authoritative:
            ede = codes.EDE_STALE
        options = self.options.of(query, asked) if asked.has_options else b""
        return edns.write(self.settings.udp_max, answer.rcode, asked.dnssec_ok, ede, options)

    def _know(self, query: Query, idle_s: float | None) -> Query:
        """Note who asks and how, as far as an option of his makes it matter: the answer may come later."""
        query.idle_s, query.offered = idle_s, self.offered
        if query.edns is not None and query.edns.cookie is not None and self.options.cookies is not None:
            query.client = self._client_of(self._place)
        return query

    def _refusal(self, packet: bytes, rcode: int, idle_s: float | None) -> bytes:
        self.responses[rcode] += 1
        query = self._know(Query(0, 0, (), 0, 0, b"", wire.find_opt(packet)), idle_s)
        return wire.refusal(packet, rcode, self._opt(query, Answer(rcode=rcode)))

    def _answer(self, query: Query) -> Answer:
        if query.edns is not None and query.edns.version:
            return Answer(rcode=codes.BADVERS, authoritative=False, ede=None)
        if not query.question:
            return Answer(authoritative=False)
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
