"""Which questions are sent on, whither, and for whom.

Pure. A name of our zone never leaves, nor does a special-use name (RFC 6761, 6762, 7686, 9462, 9476, 8375) or the
reverse name of a private address (RFC 6303, 7793), unless a zone of its own says where it goes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from discovery.dns import codes, name, reverse
from discovery.dns.answer import is_inside
from discovery.dns.name import Labels
from discovery.dns.sections import Answer, RRSet
from discovery.dns.service import address_record
from discovery.dns.zone import Origin

LOCALHOST: Final = (b"localhost",)
LOCALHOST_TTL_S: Final = 86400
_SPECIAL: Final = (
    "localhost", "invalid", "test", "onion", "local", "alt", "home.arpa", "resolver.arpa",
    "0.in-addr.arpa", "10.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "168.192.in-addr.arpa",
    *(f"{octet}.172.in-addr.arpa" for octet in range(16, 32)),
    *(f"{octet}.100.in-addr.arpa" for octet in range(64, 128)),
    "2.0.192.in-addr.arpa", "100.51.198.in-addr.arpa", "113.0.203.in-addr.arpa", "255.255.255.255.in-addr.arpa",
    f"{'0.' * 31}0.ip6.arpa", f"1.{'0.' * 31}ip6.arpa", "c.f.ip6.arpa", "d.f.ip6.arpa",
    "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa",
)  # fmt: skip
SPECIAL: Final[frozenset[Labels]] = frozenset(map(name.from_text, _SPECIAL))
_SPECIAL_LABELS_MAX: Final = max(map(len, SPECIAL))
_META_TYPES: Final = frozenset({0, codes.OPT, *range(128, 255)})  # RFC 6895 section 3.1: no data of a zone; 255 is ANY
_LOOPBACK: Final = {codes.A: "127.0.0.1", codes.AAAA: "::1"}


def is_special(labels: Labels) -> bool:
    """Whether a name is one that must not leave the house."""
    count = min(len(labels), _SPECIAL_LABELS_MAX)
    return any(labels[-length:] in SPECIAL for length in range(1, count + 1))


def special(labels: Labels, rtype: int) -> Answer:
    """What such a name is told: loopback for ``localhost`` (RFC 6761 section 6.3), else that it does not exist."""
    if labels[-1:] != LOCALHOST:
        return Answer(rcode=codes.NXDOMAIN, authoritative=False)
    address = _LOOPBACK.get(rtype)
    sets = [RRSet(rtype, LOCALHOST_TTL_S, [address_record(address)])] if address else []
    return Answer(answer=sets, authoritative=False)


class Routes:
    """Names to zones that have servers: the longest one that holds the name.

    Args:
        zones: the root (no labels) is the default.
    """

    def __init__(self, zones: Iterable[Labels]) -> None:
        self._zones = frozenset(zones)
        self._lengths = sorted(map(len, self._zones), reverse=True)

    def zone(self, labels: Labels) -> Labels | None:
        """The zone whose servers are asked for a name; ``None``: nobody is."""
        for length in self._lengths:
            suffix = labels[len(labels) - length :] if length <= len(labels) else None
            if suffix is not None and suffix in self._zones:
                return suffix if suffix or not is_special(labels) else None
        return None


class Policy:
    """What of the answers that we have is not the last word.

    Args:
        origin: of our zone.
        routes: where names go.
        clients: networks that may ask, in CIDR text: nobody else, lest a stranger uses us to flood a third party.
    """

    def __init__(self, origin: Origin, routes: Routes, clients: Sequence[str]) -> None:
        self._origin = origin
        self._routes = routes
        self._networks = [ipaddress.ip_network(text) for text in clients]
        self._allowed: dict[str, bool] = {}

    def target(self, labels: Labels, rtype: int, answer: Answer) -> Labels | None:
        """The name to be asked for elsewhere, or ``None`` when ``answer`` is all there is to say.

        1. an alias that leads out of the zone is followed, unless the alias itself was asked for;
        2. what is in the zone stays;
        3. names that are nobody's here are sent on or denied; but what stands above our zones is never denied by us
           (RFC 8020: that would deny the zone too); nor is a reverse name before the first sync, when nobody knows yet
           which addresses are registered;
        4. a zone with servers of its own wins over "no such name" of a reverse zone of ours.
        """
        if rtype in _META_TYPES:
            return None
        target = alias(self._origin, rtype, answer)
        if target is not None:  # 1
            return target if self.is_ours(target) else None
        if is_inside(self._origin, labels) or answer.rcode in (codes.FORMERR, codes.BADVERS):  # 2
            return None
        zone = self._routes.zone(labels)
        if answer.ede == codes.EDE_NOT_READY and reverse.is_reverse(labels) and not zone:  # 3
            return None
        if answer.ede in (codes.EDE_NOT_AUTHORITATIVE, codes.EDE_NOT_READY):
            denied = is_special(labels) and labels not in self._origin.ancestors
            return labels if zone is not None or denied else None
        return labels if zone and answer.rcode == codes.NXDOMAIN else None  # 4

    def is_ours(self, labels: Labels) -> bool:
        """Whether a name outside the zone has an answer through us: from a server, or as a special one."""
        return self._routes.zone(labels) is not None or is_special(labels)

    def allows(self, host: str) -> bool:
        """Whether a client may have questions sent on."""
        known = self._allowed.get(host)
        if known is None:
            if len(self._allowed) >= 4096:
                self._allowed.clear()
            known = self._allowed[host] = self._is_in(host)
        return known

    def _is_in(self, host: str) -> bool:
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def alias(origin: Origin, rtype: int, answer: Answer) -> Labels | None:
    """The name outside the zone that the last record of an answer is an alias of."""
    if rtype in (codes.CNAME, codes.ANY) or not answer.answer or answer.rcode != codes.NOERROR:
        return None
    last = answer.answer[-1]
    if last.rtype != codes.CNAME or not last.data:
        return None
    target = name.from_wire(last.data[0][2:])
    return None if is_inside(origin, target) else target


def share(host: str) -> str:
    """Whose share a client's questions are counted in: its address, of IPv6 the first 64 bits (RFC 6177)."""
    if ":" not in host:
        return host
    packed = ipaddress.IPv6Address(host.partition("%")[0]).packed
    return packed[:8].hex()
