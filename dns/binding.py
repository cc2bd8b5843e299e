"""Service bindings: SVCB and HTTPS records from ports and meta (RFC 9460).

Pure. A record an instance and port, as with SRV: ``SvcPriority`` is 1 + the instance's priority, ``TargetName`` is the
name that only this instance has (for a virtual service ``.``, its own), then ``alpn``, ``port`` and the address hints.
What the port speaks is told by ``meta``: ``alpn.<port name>``, else ``alpn``, as ``h2,http/1.1``. A service has HTTPS
records only for a port named ``https``: they tell a browser never to speak plain HTTP to this name (section 9.5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from discovery.dns import codes, zone
from discovery.dns.sections import Found, RRSet, targets
from discovery.dns.service import Member, ServiceView, rdata
from discovery.model import Port

HTTPS_PORT: Final = (b"tcp", b"https")
META_ALPN: Final = "alpn"
TYPES: Final = frozenset({codes.SVCB, codes.HTTPS})
_ALPN: Final = 1  # SvcParamKeys (section 14.3.2), written in this order (section 2.2)
_PORT: Final = 3
_IPV4_HINT: Final = 4
_IPV6_HINT: Final = 6
_PARAM: Final = struct.Struct("!HH")
_PRIORITY_MAX: Final = 65535
_ALPN_BYTES_MAX: Final = 255  # of one protocol (RFC 7301 section 3.1)
_OWN_NAME: Final = b"\0"


def find(view: ServiceView, rtype: int, key: tuple[bytes, bytes] | None, ttl_cap: int, count_max: int) -> Found:
    """The bindings of a service.

    Args:
        rtype: SVCB or HTTPS.
        key: protocol and name of a port; ``None``: all named ports, for HTTPS the one that is for it.
        ttl_cap: seconds.
        count_max: most records.
    """
    if rtype == codes.HTTPS:
        key = HTTPS_PORT
    if view.is_virtual():
        return _virtual(view, rtype, key, ttl_cap, count_max)
    rotor = view.named if key is None else view.ports.get(key[0], {}).get(key[1])
    if not rotor:
        return Found(view=view)
    data: list[bytes] = []
    found = Found(rrset=RRSet(rtype, rotor.ttls.least(ttl_cap), data), view=view)
    for member in rotor.deal(count_max):
        target = view.target(member)
        owner = bytes((len(target),)) + target + view.wire
        data += dict.fromkeys(_of_member(member, key, owner))
        found.additional += targets(member, ttl_cap, owner)
        if len(data) >= count_max:
            break
    del data[count_max:]
    return found


def _of_member(member: Member, key: tuple[bytes, bytes] | None, owner: bytes) -> Iterable[bytes]:
    meta = dict(member.spec.meta)
    priority = min(1 + member.spec.priority, _PRIORITY_MAX)
    for protocol, port, number in member.ports:
        if key is None or key == (protocol, port):
            alpn = meta.get(f"{META_ALPN}.{port.decode()}", meta.get(META_ALPN, ""))
            yield record(priority, owner, _alpn(alpn), number, member.addresses)


def _virtual(view: ServiceView, rtype: int, key: tuple[bytes, bytes] | None, ttl_cap: int, count_max: int) -> Found:
    """The target is the service itself; what its ports speak nobody has said."""
    ports: tuple[Port, ...] = view.settings.ports if view.settings is not None else ()
    sets = [view.virtual.of(rtype) for rtype in zone.ADDRESS_TYPES]
    addresses = [data for rotor in sets if rotor for data in rotor.deal(len(rotor))]
    numbers = dict.fromkeys(
        port.port for port in ports if port.name and key in (None, (port.protocol.encode(), port.name.encode()))
    )
    data = [record(1, _OWN_NAME, (), number, addresses) for number in numbers]
    return Found(rrset=RRSet(rtype, ttl_cap, data[:count_max]), view=view) if data else Found(view=view)


def _alpn(text: str) -> tuple[bytes, ...]:
    """Protocols of a list in text; what cannot be one is left out."""
    parts = [part.strip() for part in text.split(",")]
    encoded = dict.fromkeys(part.encode() for part in parts if part.isascii() and part.isprintable())
    return tuple(part for part in encoded if 1 <= len(part) <= _ALPN_BYTES_MAX)


def record(priority: int, target: bytes, alpn: Iterable[bytes], port: int, addresses: Iterable[bytes]) -> bytes:
    """Record data in ServiceMode, with its length in front.

    Args:
        target: uncompressed wire name.
        addresses: record data of A and AAAA, with lengths in front.
    """
    found = list(addresses)
    values = (
        (_ALPN, b"".join([bytes((len(one),)) + one for one in alpn])),
        (_PORT, port.to_bytes(2, "big")),
        (_IPV4_HINT, b"".join([data[2:] for data in found if len(data) == zone.ADDRESS_SIZES[codes.A]])),
        (_IPV6_HINT, b"".join([data[2:] for data in found if len(data) == zone.ADDRESS_SIZES[codes.AAAA]])),
    )
    params = [_PARAM.pack(key, len(value)) + value for key, value in values if value]
    return rdata(b"".join((priority.to_bytes(2, "big"), target, *params)))
