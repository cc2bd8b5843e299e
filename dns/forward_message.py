"""Questions to other servers and their answers, as bytes: what is sent so that an answer can be told from a forgery.

Pure. An answer counts only when it has our id, our question bit by bit (the letter case was drawn at random:
draft-vixie-dnsext-dns0x20) and comes from the address and to the port that we asked from, which the shell sees to
(RFC 5452). Everything in it is read with suspicion: offsets are checked, names end, pointers only lead back.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from discovery.dns import codes, name, wire
from discovery.dns import edns as edns_record
from discovery.dns.name import Labels
from discovery.dns.sections import RRSet
from discovery.dns.service import rdata

SIZE: Final = 1232  # of an answer that we take by UDP: no fragments, nowhere
PATH_OPTION: Final = 65313  # for local use (RFC 6891 section 9): the servers of ours that a question came through
PATH_ID_BYTES: Final = 8
PATH_MAX: Final = 4
_FIXED: Final = struct.Struct("!HHIH")  # TYPE, CLASS, TTL, RDLENGTH
_OPTION: Final = struct.Struct("!HH")
_RECORDS_MAX: Final = 4096
_POINTER: Final = 0xC0

# Types whose data may hold compressed names (RFC 1035, RFC 3597 section 4): bytes before the names, how many names.
_NAMES: Final[dict[int, tuple[int, int]]] = {
    codes.NS: (0, 1), 3: (0, 1), 4: (0, 1), codes.CNAME: (0, 1), codes.SOA: (0, 2), 7: (0, 1), 8: (0, 1), 9: (0, 1),
    codes.PTR: (0, 1), 14: (0, 2), 15: (2, 1), 17: (0, 2), 18: (2, 1), 21: (2, 1), 26: (2, 2), 36: (2, 1),
    codes.SRV: (6, 1), 39: (0, 1),
}  # fmt: skip
_SIZES: Final = {codes.A: 4, codes.AAAA: 16}


class Malformed(ValueError):
    """Not a message, or one that ends too early."""


class Reply(msgspec.Struct):
    """An answer of another server. ``ttl``: how many seconds all of it holds; 0: not to be kept."""

    rcode: int
    truncated: bool
    unhelpful: bool  # neither an answer nor a denial: the server does not resolve for us
    edns: bool
    sections: tuple[list[RRSet], list[RRSet], list[RRSet]]
    ttl: int


class Sent(msgspec.Struct, frozen=True):
    """A question on its way. ``question``: its bytes with the letter case that the answer must repeat."""

    ident: int
    question: bytes
    packet: bytes
    edns: bool


def mixed_case(wire_name: bytes, bits: int) -> bytes:
    """A lower-case wire name with each letter in upper case where the next of ``bits`` is set.

    Lengths are below 64, so that no length looks like a letter.
    """
    out = bytearray(wire_name)
    for at, byte in enumerate(out):
        if 0x61 <= byte <= 0x7A:
            if bits & 1:
                out[at] = byte - 0x20
            bits >>= 1
    return bytes(out)


def is_mixed(question: bytes) -> bool:
    """Whether the name of a question, type and class behind it, has letters of both cases."""
    wire_name = question[:-4]
    return wire_name not in (wire_name.lower(), wire_name.upper())


def question(
    labels: Labels, rtype: int, *, dnssec_ok: bool, checking_off: bool, edns: bool, path: Sequence[bytes], bits: int
) -> Sent:
    """What another server is asked.

    Args:
        dnssec_ok, checking_off: DO and CD as the client set them.
        edns: whether with an OPT record; some old servers know none.
        path: ids of our servers that the question came through, ourselves last.
        bits: random, at least 272 of them: id and letter case.
    """
    ident = bits & 0xFFFF
    asked = mixed_case(name.wire(labels), bits >> 16) + struct.pack("!HH", rtype, codes.IN)
    flags = wire.RD | (wire.CD if checking_off else 0)
    header = wire.HEADER.pack(ident, flags, 1, 0, 0, 1 if edns else 0)
    opt = b""
    if edns:
        ids = b"".join(path)
        opt = edns_record.write(SIZE, 0, dnssec_ok, None, edns_record.option(PATH_OPTION, ids) if ids else b"")
    return Sent(ident, asked, header + asked + opt, edns)


def matches(sent: Sent, packet: bytes) -> bool:
    """Whether a message is an answer to the question ``sent``, but for the letter case of the name."""
    if len(packet) < wire.HEADER_BYTES:
        return False
    ident, flags, questions, *_ = wire.HEADER.unpack_from(packet)
    if ident != sent.ident or not flags & wire.QR or flags & wire.OPCODE:
        return False
    end = wire.HEADER_BYTES + len(sent.question)
    return questions == 1 and _folded(packet[wire.HEADER_BYTES : end]) == _folded(sent.question)


def has_our_case(sent: Sent, packet: bytes) -> bool:
    """Whether the question of a matching answer has the letters that were sent."""
    return packet[wire.HEADER_BYTES : wire.HEADER_BYTES + len(sent.question)] == sent.question


def _folded(question: bytes) -> bytes:
    return question[:-4].lower() + question[-4:]


def read(sent: Sent, packet: bytes) -> Reply:
    """Read an answer that matches. Raises :class:`Malformed`.

    The question is put back in lower case first, so that names that point into it come out without the letters that
    only we drew.
    """
    at = wire.HEADER_BYTES + len(sent.question)
    packet = packet[: wire.HEADER_BYTES] + sent.question[:-4].lower() + packet[at - 4 :]
    _, flags, _, *counts = wire.HEADER.unpack_from(packet)
    if sum(counts) > _RECORDS_MAX:
        raise Malformed("more records than a message holds")
    sections: tuple[list[RRSet], list[RRSet], list[RRSet]] = ([], [], [])
    opt_ttl = None
    truncated = bool(flags & wire.TC)
    try:
        for section, count in zip(sections, counts, strict=True):
            for _ in range(count):
                at, found = _record(packet, at, section, sent.question[:-4].lower())
                opt_ttl = found if found is not None else opt_ttl
    except Malformed:
        if not truncated:  # some cut inside a record
            raise
    rcode = flags & 0xF | (opt_ttl or 0) >> 20 & 0xFF0
    unhelpful = not flags & (wire.AA | wire.RA) and rcode == codes.NOERROR and not sections[0] and not truncated
    return Reply(rcode, truncated, unhelpful, opt_ttl is not None, sections, _ttl(rcode, sections))


def _record(packet: bytes, at: int, section: list[RRSet], asked: bytes) -> tuple[int, int | None]:
    """Read one record into ``section``; the offset behind it, and the TTL of an OPT, which is kept out."""
    owner, at = _name(packet, at)
    try:
        rtype, rclass, ttl, length = _FIXED.unpack_from(packet, at)
    except struct.error:
        raise Malformed("cut off inside a record") from None
    at += _FIXED.size
    end = at + length
    if end > len(packet):
        raise Malformed("cut off inside a record's data")
    if rtype == codes.OPT:
        return end, ttl
    if rclass != codes.IN or rtype == codes.TSIG:
        return end, None
    data = rdata(_data(packet, at, end, rtype))
    ttl = ttl if ttl < 0x80000000 else 0  # RFC 2181 section 8
    place = None if owner.lower() == asked else owner
    last = section[-1] if section else None
    if last is not None and (last.owner, last.rtype, last.ttl) == (place, rtype, ttl):
        last.data.append(data)
    else:
        section.append(RRSet(rtype, ttl, [data], place))
    return end, None


def _data(packet: bytes, at: int, end: int, rtype: int) -> bytes:
    """Record data with its names written out."""
    before, names = _NAMES.get(rtype, (0, 0))
    if not names:
        if end - at != _SIZES.get(rtype, end - at):
            raise Malformed("an address of another size than addresses have")
        return packet[at:end]
    parts = [packet[at : at + before]]
    at += before
    for _ in range(names):
        one, at = _name(packet, at)
        parts.append(one)
    if at > end:
        raise Malformed("a name runs past its record")
    return b"".join((*parts, packet[at:end]))


def _name(packet: bytes, at: int) -> tuple[bytes, int]:
    """A name written out, and the offset behind it. Every pointer must lead further back, so that there is an end."""
    parts = []
    behind = -1
    size = 1
    limit = at
    try:
        while length := packet[at]:
            if length >= _POINTER:
                place = (length & 0x3F) << 8 | packet[at + 1]
                behind = at + 2 if behind < 0 else behind
                if place >= limit:
                    raise Malformed("a pointer that does not lead back")
                at = limit = place
                continue
            if length > name.LABEL_BYTES_MAX:
                raise Malformed("an unknown label type")
            size += 1 + length
            label = packet[at : at + 1 + length]
            if size > name.NAME_BYTES_MAX or len(label) <= length:
                raise Malformed("a name that is too long")
            parts.append(label)
            at += 1 + length
    except IndexError:
        raise Malformed("cut off inside a name") from None
    return b"".join((*parts, b"\0")), at + 1 if behind < 0 else behind


def _ttl(rcode: int, sections: tuple[list[RRSet], list[RRSet], list[RRSet]]) -> int:
    """How long an answer holds: its least TTL; a denial as long as its SOA says (RFC 2308 section 5), else not."""
    answers, authorities, _ = sections
    if rcode not in (codes.NOERROR, codes.NXDOMAIN):
        return 0
    ttls = [rrset.ttl for rrset in answers]
    if rcode == codes.NXDOMAIN or all(rrset.rtype == codes.CNAME for rrset in answers):
        soas = [min(rrset.ttl, _minimum(rrset)) for rrset in authorities if rrset.rtype == codes.SOA]
        if soas or not answers or rcode == codes.NXDOMAIN:
            ttls.append(min(soas, default=0))
    return min(ttls, default=0)


def _minimum(soa: RRSet) -> int:
    return int.from_bytes(soa.data[0][-4:], "big")


def path(packet: bytes) -> list[bytes]:
    """The ids in the path option of a question that :func:`discovery.dns.wire.read` has accepted."""
    try:
        at = name.skip(packet, wire.HEADER_BYTES) + 4
        for _ in range(sum(wire.HEADER.unpack_from(packet)[3:])):
            at = name.skip(packet, at)
            rtype, _, _, length = _FIXED.unpack_from(packet, at)
            at += _FIXED.size + length
            if rtype == codes.OPT:
                return _path(packet[at - length : at])
    except (name.BadName, struct.error):
        pass
    return []


def _path(options: bytes) -> list[bytes]:
    at = 0
    while at + _OPTION.size <= len(options):
        code, length = _OPTION.unpack_from(options, at)
        at += _OPTION.size
        if code == PATH_OPTION:
            data = options[at : at + length]
            if len(data) % PATH_ID_BYTES:  # made up by a client: no server of ours wrote it
                return []
            return [data[start : start + PATH_ID_BYTES] for start in range(0, len(data), PATH_ID_BYTES)]
        at += length
    return []
