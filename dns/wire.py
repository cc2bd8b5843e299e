"""Messages as bytes: a question read with suspicion, an answer composed to fit (RFC 1035 section 4).

Pure. What is read here comes from anyone: every offset is checked, every loop ends with the packet. What is written
holds whole records only; TC stands for missing ANSWER records and nothing else (RFC 2181 section 9).
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from discovery.dns import codes, edns, name
from discovery.dns.edns import Edns
from discovery.dns.name import Labels
from discovery.dns.sections import Answer, RRSet

HEADER: Final = struct.Struct("!HHHHHH")
HEADER_BYTES: Final = HEADER.size
_QUESTION: Final = struct.Struct("!HH")
_FIXED: Final = struct.Struct("!HHIH")  # TYPE, CLASS, TTL, RDLENGTH
_HEAD: Final = struct.Struct("!HHI")
_POINTER: Final = struct.Struct("!H")

QR: Final = 0x8000
OPCODE: Final = 0x7800
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
ADDITIONAL_MAX: Final = 4  # OPT, TSIG and room for the odd
_QUESTION_POINTER: Final = b"\xc0\x0c"
_POINTERS_END: Final = 0x4000
TCP_BYTES_MAX: Final = 65535


class Refused(Exception):
    """A message that gets nothing but a response code."""

    def __init__(self, rcode: int) -> None:
        super().__init__(rcode)
        self.rcode = rcode


class Query(msgspec.Struct, gc=False):
    """A question. ``question`` are its bytes as asked (draft-vixie-dnsext-dns0x20); ``b""``: only a cookie came.

    Args:
        client: its address, 4 or 16 bytes, when an option makes it matter.
        idle_s: how long the TCP connection may be idle; ``None``: it came over UDP.
        offered: flag that every answer has: RA where we ask others.
    """

    ident: int
    flags: int
    labels: Labels
    rtype: int
    rclass: int
    question: bytes
    edns: Edns | None = None
    client: bytes = b""
    idle_s: float | None = None
    offered: int = 0


def read(packet: bytes) -> Query | None:
    """Read a message from the network.

    1. less than a header, or a response: ``None``, no answer, lest two servers answer each other for ever;
    2. another opcode than QUERY: NOTIMP;
    3. exactly one question, no answer or authority records (but IXFR brings its SOA, RFC 1995 section 3), or none and
       a cookie: who asks so wants ours (RFC 7873 section 5.4);
    4. at most one OPT, of the root; nothing behind the last record.

    Raises:
        Refused: with FORMERR, NOTIMP, or NOTAUTH for a TSIG (no key is known: RFC 8945 section 5.2.1).
    """
    if len(packet) < HEADER_BYTES:  # 1
        return None
    ident, flags, questions, answers, authorities, additional = HEADER.unpack_from(packet)
    if flags & QR:
        return None
    if flags & OPCODE:  # 2
        raise Refused(codes.NOTIMP)
    if not questions and not answers and not authorities and additional == 1:  # 3
        return _read_cookie(packet, ident, flags)
    if questions != 1 or answers or additional > ADDITIONAL_MAX:
        raise Refused(codes.FORMERR)
    try:
        labels, at = name.read(packet, HEADER_BYTES)
        rtype, rclass = _QUESTION.unpack_from(packet, at)
    except (name.BadName, struct.error):
        raise Refused(codes.FORMERR) from None
    at += _QUESTION.size
    query = Query(ident, flags, labels, rtype, rclass, packet[HEADER_BYTES:at])
    if authorities and not (authorities == 1 and rtype == codes.IXFR):
        raise Refused(codes.FORMERR)
    if authorities or additional:
        _read_records(packet, at, authorities, additional, query)
    elif at != len(packet):  # 4
        raise Refused(codes.FORMERR)
    return query


def _read_cookie(packet: bytes, ident: int, flags: int) -> Query:
    query = Query(ident, flags, (), 0, codes.IN, b"")
    _read_records(packet, HEADER_BYTES, 0, 1, query)
    if query.edns is None or query.edns.cookie is None:
        raise Refused(codes.FORMERR)
    return query


def _read_records(packet: bytes, at: int, authorities: int, additional: int, query: Query) -> None:
    """Walk the records behind the question; the OPT goes into ``query``."""
    signed = False
    for index in range(authorities + additional):
        start = at
        try:
            at = name.skip(packet, at)
            rtype, rclass, ttl, length = _FIXED.unpack_from(packet, at)
        except (name.BadName, struct.error):
            raise Refused(codes.FORMERR) from None
        at += _FIXED.size + length
        if at > len(packet):
            raise Refused(codes.FORMERR)
        if rtype == codes.OPT:
            if index < authorities or query.edns is not None or packet[start]:
                raise Refused(codes.FORMERR)
            query.edns = _read_opt(rclass, ttl, packet[at - length : at])
        signed = signed or rtype == codes.TSIG
    if at != len(packet):
        raise Refused(codes.FORMERR)
    if signed:
        raise Refused(codes.NOTAUTH)


def _read_opt(rclass: int, ttl: int, options: bytes) -> Edns:
    try:
        return edns.read(rclass, ttl, options)
    except edns.BadOptions:
        raise Refused(codes.FORMERR) from None


def refusal(packet: bytes, rcode: int, opt: bytes = b"") -> bytes:
    """A bare header for a message of at least 12 bytes: its id, opcode, RD and CD, the response code, our OPT."""
    ident, flags = struct.unpack_from("!HH", packet)
    return HEADER.pack(ident, QR | flags & (OPCODE | RD | CD) | rcode & 0xF, 0, 0, 0, 1 if opt else 0) + opt


def find_opt(packet: bytes) -> Edns | None:
    """The OPT of a message that is refused: who sends one gets one (RFC 6891 section 6.1.1). ``None``: none is legible.

    The records of any opcode stand in the same form (RFC 2136 section 2 for the one with other names for them).
    """
    _, _, questions, *others = HEADER.unpack_from(packet)
    if questions > 1 or sum(others) > ADDITIONAL_MAX:
        return None
    at = HEADER_BYTES
    try:
        for _ in range(questions):
            at = name.skip(packet, at) + _QUESTION.size
        for _ in range(sum(others)):
            start = at
            at = name.skip(packet, at)
            rtype, rclass, ttl, length = _FIXED.unpack_from(packet, at)
            at += _FIXED.size + length
            if rtype == codes.OPT and not packet[start] and at <= len(packet):
                return edns.read(rclass, ttl, packet[at - length : at])
    except (name.BadName, struct.error, edns.BadOptions):
        return None
    return None


class _Owners:
    """Compression of owner names (RFC 1035 section 4.1.4): which suffix stands where in the message."""

    def __init__(self, query: Query) -> None:
        self._places: dict[bytes, int] = {}
        self.write(query.question[: -_QUESTION.size].lower(), HEADER_BYTES)

    def write(self, owner: bytes, at: int) -> bytes:
        """``owner``, to be written at offset ``at``, as short as it can be; it is remembered for the next."""
        start = 0
        while length := owner[start]:
            suffix = owner[start:]
            place = self._places.get(suffix)
            if place is not None:
                return owner[:start] + _POINTER.pack(0xC000 | place)
            if at + start < _POINTERS_END:
                self._places[suffix] = at + start
            start += 1 + length
        return owner


class _Message:
    """The records of one answer, as far as they fit."""

    def __init__(self, query: Query, bytes_max: int) -> None:
        self._query = query
        self._at = HEADER_BYTES + len(query.question)
        self._end = bytes_max
        self._owners: _Owners | None = None
        self.parts: list[bytes] = []

    def add(self, rrset: RRSet, *, whole: bool = False) -> tuple[int, bool]:
        """Append the records that fit (``whole``: all or none); how many those are, and whether they are all."""
        if not rrset.data:
            return 0, True
        first = self._owner(rrset.owner)
        head = _HEAD.pack(rrset.rtype, self._query.rclass, rrset.ttl)
        size = (len(first) - 2) + sum(map(len, rrset.data)) + (2 + len(head)) * len(rrset.data)
        if self._at + size <= self._end:
            self._append(first + head, self._repeat(first) + head, rrset.data)
            return len(rrset.data), True
        if whole:
            return 0, False
        return self._fill(first + head, self._repeat(first) + head, rrset.data), False

    def _append(self, first: bytes, again: bytes, data: list[bytes]) -> None:
        written = first + again.join(data)
        self.parts.append(written)
        self._at += len(written)

    def _fill(self, first: bytes, again: bytes, data: list[bytes]) -> int:
        head = first
        for count, one in enumerate(data):
            if self._at + len(head) + len(one) > self._end:
                return count
            self.parts.append(head + one)
            self._at += len(head) + len(one)
            head = again
        return len(data)

    def _owner(self, owner: bytes | None) -> bytes:
        if owner is None:
            return _QUESTION_POINTER
        if self._owners is None:
            self._owners = _Owners(self._query)
        return self._owners.write(owner, self._at)

    def _repeat(self, first: bytes) -> bytes:
        """The owner of the second and later records of a set: a pointer to that of the first."""
        return first if len(first) == 2 or self._at >= _POINTERS_END else _POINTER.pack(0xC000 | self._at)


def compose(query: Query, answer: Answer, bytes_max: int, opt: bytes = b"") -> bytes:
    """The answer's bytes, at most ``bytes_max``.

    1. ANSWER first; when records of it are missing TC is set and nothing but OPT follows;
    2. then AUTHORITY, whole;
    3. then sets of ADDITIONAL as long as they fit, whole ones; what does not fit is left out without a word;
    4. OPT last, for clients that sent one.
    """
    message = _Message(query, bytes_max - len(opt))
    counts = [0, 0, 0]
    complete = _add_answers(message, answer.answer, counts) and not answer.truncated  # 1
    if complete:
        _add_rest(message, answer, counts)  # 2, 3
    flags = QR | query.offered | query.flags & (RD | CD) | (AA if answer.authoritative else 0) | (0 if complete else TC)
    arcount = counts[2] + (1 if opt else 0)  # 4
    questions = 1 if query.question else 0
    header = HEADER.pack(query.ident, flags | answer.rcode & 0xF, questions, counts[0], counts[1], arcount)
    return b"".join((header, query.question, *message.parts, opt))


def _add_answers(message: _Message, sets: list[RRSet], counts: list[int]) -> bool:
    for rrset in sets:
        count, fits = message.add(rrset)
        counts[0] += count
        if not fits:
            return False
    return True


def _add_rest(message: _Message, answer: Answer, counts: list[int]) -> None:
    for section, sets in ((1, answer.authority), (2, answer.additional)):
        for rrset in sets:
            count, fits = message.add(rrset, whole=True)
            counts[section] += count
            if not fits:
                return
