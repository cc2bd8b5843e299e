"""What an answer is made of: sets of records, sections, and what was found at one name.

Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from discovery.dns import codes, zone
from discovery.dns.service import Member, ServiceView


class RRSet(msgspec.Struct, gc=False):
    """Records of one name and type. ``data`` comes with lengths in front; ``owner`` ``None``: the question's name."""

    rtype: int
    ttl: int
    data: list[bytes]
    owner: bytes | None = None


class Answer(msgspec.Struct):
    """The sections of an answer.

    Args:
        ede: extended DNS error (RFC 8914) for clients with EDNS, or ``None``.
        view: the one service that the answer was made from, when it was one.
        negative: whether the authority section holds a SOA, so that the answer ages with the zone's serial.
        truncated: whether records are missing already: another server cut them off, or the client is to come by TCP.
    """

    rcode: int = codes.NOERROR
    answer: list[RRSet] = []
    authority: list[RRSet] = []
    additional: list[RRSet] = []
    authoritative: bool = True
    ede: int | None = None
    view: ServiceView | None = None
    negative: bool = False
    truncated: bool = False


class Found(msgspec.Struct):
    """What stands at one name: whether it exists, records of the type asked for, or the name it is an alias of."""

    exists: bool = True
    rrset: RRSet | None = None
    additional: list[RRSet] = []
    alias: str | None = None
    alias_ttl: int = 0
    view: ServiceView | None = None


ABSENT: Final = Found(exists=False)
EMPTY: Final = Found()


def member_addresses(member: Member, rtype: int, ttl_cap: int, owner: bytes | None) -> RRSet:
    """A or AAAA records of one instance."""
    size = zone.ADDRESS_SIZES.get(rtype, 0)
    own = member.spec.dns_ttl
    ttl = ttl_cap if own is None else min(own, ttl_cap)
    return RRSet(rtype, ttl, [data for data in member.addresses if len(data) == size], owner)


def targets(member: Member, ttl_cap: int, owner: bytes) -> list[RRSet]:
    """The addresses of ``owner``, a name of ``member``, for the additional section."""
    sets = [member_addresses(member, rtype, ttl_cap, owner) for rtype in zone.ADDRESS_TYPES]
    return [rrset for rrset in sets if rrset.data]
