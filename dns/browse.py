"""Browsing: DNS-based service discovery (RFC 6763) over what is registered.

Pure. A namespace is a domain to browse: ``_services._dns-sd._udp.<namespace>.svc`` lists the types of services in it,
``_http._tcp.<namespace>.svc`` the instances of one type, each as ``web-0._http._tcp.web.<namespace>.svc``: there are
its SRV, and ``meta`` as TXT. So every service is a domain of its own, where two instances never share a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from discovery.dns import codes, name
from discovery.dns.name import Place
from discovery.dns.sections import ABSENT, EMPTY, Found, RRSet, targets
from discovery.dns.service import VIRTUAL_PRIORITY, VIRTUAL_WEIGHT, Crowd, Member, ServiceView, Type, rdata, srv
from discovery.dns.zone import Catalogue

TYPES_LABEL: Final = b"_services"
DOMAIN_LABELS: Final = frozenset({b"b", b"lb"})  # section 11: domains to browse
ADDITIONAL_MAX: Final = 8  # instances whose records come along; all of them would not fit a datagram
TEXT_BYTES_MAX: Final = 1300  # section 6.2
_PAIR_BYTES_MAX: Final = 255  # of a character string (RFC 1035 section 3.3)


def protocol(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    """``_tcp.<namespace>.svc``: there as long as anything is below it."""
    if place.protocol == b"udp" and catalogue.has_namespace(place.namespace):
        return EMPTY
    found = any(own == place.protocol for own, _ in catalogue.types(place.namespace))
    return EMPTY if found else ABSENT


def of_type(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    """``_http._tcp.<namespace>.svc``: its instances, of all services."""
    key = (place.protocol, place.port)
    if key == (b"udp", b"dns-sd"):
        return EMPTY if catalogue.has_namespace(place.namespace) else ABSENT
    services = catalogue.offering(place.namespace, key, catalogue.origin.settings.max_answers)
    if not services:
        return ABSENT
    return instances(catalogue, services, key) if rtype == codes.PTR else EMPTY


def meta(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    """``_services._dns-sd._udp.<namespace>.svc``: the types (section 9); ``b`` and ``lb``: the domain itself."""
    if not catalogue.has_namespace(place.namespace) or place.host not in (TYPES_LABEL, *DOMAIN_LABELS):
        return ABSENT
    if rtype != codes.PTR:
        return EMPTY
    settings = catalogue.origin.settings
    domain = name.wire((place.namespace, b"svc"))[:-1] + catalogue.origin.wire
    if place.host in DOMAIN_LABELS:
        return Found(rrset=RRSet(codes.PTR, settings.ttl, [rdata(domain)]))
    types = list(catalogue.types(place.namespace))[: settings.max_answers]
    return Found(rrset=RRSet(codes.PTR, settings.ttl, [rdata(_labels(key) + domain) for key in types]))


def instances(catalogue: Catalogue, services: Sequence[ServiceView], key: Type) -> Found:
    """The instances of a type in these services, one after the other as long as they fit an answer.

    Whoever asks of one service alone sets ``view``: only then the answer is made of nothing else.
    """
    settings = catalogue.origin.settings
    rrset = RRSet(codes.PTR, settings.ttl, [])
    found = Found(rrset=rrset)
    for view in services:
        ttl = view.ttl_cap(settings.ttl)
        left = settings.max_answers - len(rrset.data)
        members = _members(view, key, left)
        if members:
            ttl = view.ports[key[0]][key[1]].ttls.least(ttl)
        owners = [_owner(view, key, view.target(member)) for member in members] if members else [_own(view, key)]
        rrset.ttl = min(rrset.ttl, ttl)
        rrset.data += map(rdata, owners)
        for member, owner in zip(members, owners, strict=False):
            if len(found.additional) < ADDITIONAL_MAX * 4:
                found.additional += _records(view, member, key, owner, ttl)
        if len(rrset.data) >= settings.max_answers:
            break
    return found


def instance(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    """``web-0._http._tcp.web.<namespace>.svc``: SRV and TXT of one instance, or of a virtual service."""
    view = catalogue.find(place.namespace, place.service)
    key = (place.protocol, place.port)
    if view is None or key not in view.types():
        return ABSENT
    ttl = view.ttl_cap(catalogue.origin.settings.ttl)
    if view.is_virtual():
        return _virtual(view, key, rtype, ttl) if place.host == view.name else ABSENT
    there = view.hosts.get(place.host)
    members = list(there.members) if isinstance(there, Crowd) else [] if there is None else [there]
    members = [member for member in members if any(member.numbers(*key))]
    if not members:
        return ABSENT
    found = Found(view=view)
    for member in members:
        for rrset in _records(view, member, key, None, ttl):
            if rrset.owner is not None:
                found.additional.append(rrset)
            elif rrset.rtype == rtype and found.rrset is None:
                found.rrset = rrset
            elif rrset.rtype == rtype == codes.SRV and found.rrset is not None:
                found.rrset.data += rrset.data
                found.rrset.ttl = min(found.rrset.ttl, rrset.ttl)
    if rtype != codes.SRV:
        found.additional = []
    return found


def _records(view: ServiceView, member: Member, key: Type, owner: bytes | None, ttl_cap: int) -> list[RRSet]:
    """SRV and TXT of an instance under ``owner``, and its addresses."""
    spec = member.spec
    ttl = ttl_cap if spec.dns_ttl is None else min(spec.dns_ttl, ttl_cap)
    label = view.target(member)
    target = bytes((len(label),)) + label + view.wire
    data = [srv(spec.priority, spec.weight, number, target) for number in dict.fromkeys(member.numbers(*key))]
    text = RRSet(codes.TXT, ttl, [rdata(text_of(spec.meta))], owner)
    return [RRSet(codes.SRV, ttl, data, owner), text, *targets(member, ttl_cap, target)]


def _virtual(view: ServiceView, key: Type, rtype: int, ttl: int) -> Found:
    ports = view.settings.ports if view.settings is not None else ()
    numbers = [own.port for own in ports if own.name and (own.protocol.encode(), own.name.encode()) == key]
    if rtype == codes.TXT:
        return Found(rrset=RRSet(codes.TXT, ttl, [rdata(text_of(()))]), view=view)
    if rtype != codes.SRV:
        return Found(view=view)
    data = [srv(VIRTUAL_PRIORITY, VIRTUAL_WEIGHT, number, view.wire) for number in dict.fromkeys(numbers)]
    return Found(rrset=RRSet(codes.SRV, ttl, data), view=view)


def _members(view: ServiceView, key: Type, count_max: int) -> list[Member]:
    rotor = None if view.is_virtual() else view.ports.get(key[0], {}).get(key[1])
    return rotor.deal(count_max) if rotor is not None else []


def _labels(key: Type) -> bytes:
    protocol_name, port = key
    return b"".join([bytes((len(label) + 1,)) + b"_" + label for label in (port, protocol_name)])


def _owner(view: ServiceView, key: Type, label: bytes) -> bytes:
    return bytes((len(label),)) + label + _labels(key) + view.wire


def _own(view: ServiceView, key: Type) -> bytes:
    """A virtual service is an instance of itself."""
    return _owner(view, key, view.name)


def text_of(pairs: Iterable[tuple[str, str]]) -> bytes:
    """TXT record data of ``meta``: ``key=value`` each (section 6.3), as many as fit; none: one empty string (6.1).

    A key must be printable ASCII without ``=`` (section 6.4); pairs with another key, or too long, are left out.
    """
    data = b""
    for key, value in pairs:
        pair = f"{key}={value}".encode()
        if not key or "=" in key or not (key.isascii() and key.isprintable()) or len(pair) > _PAIR_BYTES_MAX:
            continue
        if len(data) + 1 + len(pair) > TEXT_BYTES_MAX:
            break
        data += bytes((len(pair),)) + pair
    return data or b"\0"
