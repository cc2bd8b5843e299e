"""From a question to the sections of its answer, by the table in DESIGN section 7.

Pure. Sources: Kubernetes DNS-Based Service Discovery 1.1.0; RFC 1034 section 4.3.2; RFC 2308 (negatives); RFC 8020
(empty non-terminals); RFC 8482 (ANY); RFC 2782 (SRV); RFC 9460 (SVCB, HTTPS); RFC 6763
(browsing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from discovery import limits
from discovery.dns import binding, browse, codes, name, reverse, zone
from discovery.dns.name import Kind, Labels, Place
from discovery.dns.sections import ABSENT, EMPTY, Answer, Found, RRSet, member_addresses, targets
from discovery.dns.service import (
    BROWSED,
    VIRTUAL_PRIORITY,
    VIRTUAL_WEIGHT,
    Addresses,
    Crowd,
    ServiceView,
    rdata,
    srv,
)
from discovery.dns.zone import Catalogue, Origin
from discovery.model import Port

_WITHOUT_RECORDS: Final = frozenset({Kind.ALWAYS, Kind.NAMESPACE, Kind.PROTOCOL, Kind.BROWSE_PROTOCOL, Kind.NOWHERE})


def resolve(catalogue: Catalogue, labels: Labels, rtype: int) -> Answer:
    """The answer for a name in lower-case labels and a type, class IN.

    1. in the zone: by its grammar;
    2. a reverse name: from the registered addresses;
    3. else outside.
    """
    if is_inside(catalogue.origin, labels):  # 1
        return _inside(catalogue, labels, rtype)
    if reverse.is_reverse(labels):  # 2
        return _reverse(catalogue, labels, rtype)
    return _outside(catalogue.origin, labels)  # 3


def is_inside(origin: Origin, labels: Labels) -> bool:
    """Whether the name is the zone's or below it."""
    return labels[-origin.count :] == origin.labels


def _inside(catalogue: Catalogue, labels: Labels, rtype: int) -> Answer:
    """Follow aliases as long as they stay in the zone, at most ``CNAME_CHAIN_MAX`` of them.

    A longer chain, or a loop, ends with what was found so far: a resolver that wants to goes on by itself.
    """
    origin = catalogue.origin
    chain: list[RRSet] = []
    owner = None
    while len(chain) < limits.CNAME_CHAIN_MAX:
        place = name.parse(labels[: -origin.count])
        found = _LOOKUPS[place.kind](catalogue, place, rtype)
        if found.alias is None:
            return _finish(catalogue, found, rtype, chain, owner, place.kind not in _WITHOUT_RECORDS)
        labels = name.from_text(found.alias)
        target = name.wire(labels)
        chain.append(RRSet(codes.CNAME, found.alias_ttl, [rdata(target)], owner))
        owner = target
        if rtype in (codes.CNAME, codes.ANY) or not is_inside(origin, labels):
            break
    return Answer(answer=chain)


def _finish(
    catalogue: Catalogue, found: Found, rtype: int, chain: list[RRSet], owner: bytes | None, has_records: bool
) -> Answer:
    """The answer once no alias is left: records, "no such type" or "no such name"."""
    origin = catalogue.origin
    rrset = found.rrset
    if rtype == codes.ANY and found.exists and has_records and (rrset is None or not rrset.data):
        rrset = RRSet(codes.HINFO, origin.settings.ttl, [zone.HINFO_RFC8482])  # RFC 8482 section 4.2
    if rrset is None or not rrset.data:
        rcode = codes.NOERROR if found.exists else codes.NXDOMAIN  # of the last name: RFC 2308 section 2.1
        view = found.view if not chain else None
        soa = _soa(catalogue, origin.wire)
        return Answer(rcode=rcode, answer=chain, authority=[soa], view=view, negative=True)
    rrset.owner = owner
    view = found.view if not chain else None
    return Answer(answer=[*chain, rrset], additional=found.additional, view=view)


def _soa(catalogue: Catalogue, apex: bytes | None, ttl: int = zone.NEGATIVE_TTL_S) -> RRSet:
    return RRSet(codes.SOA, ttl, [catalogue.origin.soa(catalogue.serial)], apex)


def _apex(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    ttl = catalogue.origin.settings.ttl
    if rtype in (codes.SOA, codes.ANY):
        return Found(rrset=_soa(catalogue, None, ttl))
    if rtype == codes.NS:
        return Found(rrset=RRSet(codes.NS, ttl, [rdata(catalogue.origin.ns)]), additional=_ns_addresses(catalogue))
    return EMPTY


def _ns_addresses(catalogue: Catalogue) -> list[RRSet]:
    origin = catalogue.origin
    sets = [(rtype, origin.ns_addresses.of(rtype)) for rtype in zone.ADDRESS_TYPES]
    return [RRSet(rtype, origin.settings.ttl, rotor.deal(len(rotor)), origin.ns) for rtype, rotor in sets if rotor]


def _version(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    if rtype != codes.TXT:
        return EMPTY
    text = bytes((len(zone.SPEC_VERSION),)) + zone.SPEC_VERSION
    return Found(rrset=RRSet(codes.TXT, zone.VERSION_TTL_S, [rdata(text)]))


def _name_server(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    origin = catalogue.origin
    return _addresses(origin, origin.ns_addresses, rtype, origin.settings.ttl, None)


def _always(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    return EMPTY


def _nowhere(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    return ABSENT


def _namespace(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    return EMPTY if catalogue.has_namespace(place.namespace) else ABSENT


def _addresses(origin: Origin, addresses: Addresses, rtype: int, ttl: int, view: ServiceView | None) -> Found:
    rotor = addresses.of(rtype)
    if rotor is None:
        return Found(view=view)
    return Found(rrset=RRSet(rtype, rotor.ttls.least(ttl), rotor.deal(origin.settings.max_answers)), view=view)


def _service(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    view = catalogue.find(place.namespace, place.service)
    if view is None:
        return ABSENT
    ttl = view.ttl_cap(catalogue.origin.settings.ttl)
    alias = view.external()
    if alias is not None:
        return Found(alias=alias, alias_ttl=ttl)
    if rtype == codes.SRV:
        return (
            _virtual_srv(catalogue, view, view.settings.ports if view.settings else ())
            if view.is_virtual()
            else (_headless_srv(catalogue, view, None, None))
        )
    if rtype in binding.TYPES:
        return binding.find(view, rtype, None, ttl, catalogue.origin.settings.max_answers)
    addresses = view.virtual if view.is_virtual() else view.addresses
    return _addresses(catalogue.origin, addresses, rtype, ttl, view)


def _host(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    view = catalogue.find(place.namespace, place.service)
    there = view.hosts.get(place.host) if view is not None else None
    if view is None or there is None:
        return ABSENT
    ttl = view.ttl_cap(catalogue.origin.settings.ttl)
    if isinstance(there, Crowd):
        return _addresses(catalogue.origin, there.addresses, rtype, ttl, view)
    return Found(rrset=member_addresses(there, rtype, ttl, None), view=view)


def _protocol(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    view = catalogue.find(place.namespace, place.service)
    if view is None:
        return ABSENT
    if view.is_virtual():
        return Found(view=view) if any(_virtual_ports(view, place.protocol, None)) else ABSENT
    return Found(view=view) if place.protocol in view.ports else ABSENT


def _port(catalogue: Catalogue, place: Place, rtype: int) -> Found:
    view = catalogue.find(place.namespace, place.service)
    if view is None:
        return ABSENT
    key = (place.protocol, place.port)
    ports = list(_virtual_ports(view, *key)) if view.is_virtual() else ()
    if not ports and (view.is_virtual() or place.port not in view.ports.get(place.protocol, ())):
        return ABSENT
    if rtype == codes.PTR and place.protocol in BROWSED:
        found = browse.instances(catalogue, (view,), key)
        found.view = view
        return found
    if rtype == codes.SVCB:
        settings = catalogue.origin.settings
        return binding.find(view, rtype, key, view.ttl_cap(settings.ttl), settings.max_answers)
    if rtype != codes.SRV:
        return Found(view=view)
    return _virtual_srv(catalogue, view, ports) if view.is_virtual() else _headless_srv(catalogue, view, *key)


def _virtual_ports(view: ServiceView, protocol: bytes, port: bytes | None) -> Iterable[Port]:
    for own in view.settings.ports if view.settings is not None else ():
        if own.name and own.protocol.encode() == protocol and port in (None, own.name.encode()):
            yield own


def _virtual_srv(catalogue: Catalogue, view: ServiceView, ports: Iterable[Port]) -> Found:
    """One record for each named port; the target is the service itself (section 2.3.2)."""
    origin = catalogue.origin
    ttl = view.ttl_cap(origin.settings.ttl)
    numbers = dict.fromkeys(port.port for port in ports if port.name)
    data = [srv(VIRTUAL_PRIORITY, VIRTUAL_WEIGHT, number, view.wire) for number in numbers]
    found = [(rtype, view.virtual.of(rtype)) for rtype in zone.ADDRESS_TYPES]
    additional = [RRSet(rtype, ttl, rotor.deal(len(rotor)), view.wire) for rtype, rotor in found if rotor]
    return Found(rrset=RRSet(codes.SRV, ttl, data[: origin.settings.max_answers]), additional=additional, view=view)


def _headless_srv(catalogue: Catalogue, view: ServiceView, protocol: bytes | None, port: bytes | None) -> Found:
    """One record for each published instance and named port, all or the one asked for (section 2.4.2)."""
    count_max = catalogue.origin.settings.max_answers
    ttl = view.ttl_cap(catalogue.origin.settings.ttl)
    rotor = view.named if protocol is None or port is None else view.ports[protocol][port]
    data: list[bytes] = []
    additional: list[RRSet] = []
    for member in rotor.deal(count_max):
        target = view.target(member)
        owner = bytes((len(target),)) + target + view.wire
        spec = member.spec
        for number in dict.fromkeys(member.numbers(protocol, port)):
            data.append(srv(spec.priority, spec.weight, number, owner))
        additional += targets(member, ttl, owner)
        if len(data) >= count_max:
            break
    rrset = RRSet(codes.SRV, rotor.ttls.least(ttl), data[:count_max])
    return Found(rrset=rrset, additional=additional, view=view)


def _reverse(catalogue: Catalogue, labels: Labels, rtype: int) -> Answer:
    """A name under ``in-addr.arpa`` or ``ip6.arpa``.

    1. a reverse zone of ours has an apex with SOA and NS;
    2. a registered address answers, wherever it is;
    3. above a registered address is an empty non-terminal; outside our zones that is not ours to say, as above them;
    4. anything else does not exist: with our SOA inside our zones, without one outside them.
    """
    origin = catalogue.origin
    apex = origin.reverse_zone(labels)
    if labels == apex:  # 1
        found = _apex(catalogue, Place(Kind.APEX), rtype)
        return _finish_reverse(catalogue, found, apex)
    prefix = reverse.parse(labels)
    address = prefix.address() if prefix is not None else None
    pointers = catalogue.pointers(address) if address is not None else None
    if pointers is not None:  # 2
        found = Found(rrset=_pointer_set(catalogue, pointers) if rtype in (codes.PTR, codes.ANY) else None)
        return _finish_reverse(catalogue, found, apex)
    above = prefix is not None and prefix.bits < prefix.bits_all and catalogue.has_address_below(prefix)
    if above or labels in origin.ancestors:  # 3
        return _finish_reverse(catalogue, EMPTY, apex) if apex is not None else _outside(origin, labels)
    answer = _finish_reverse(catalogue, ABSENT, apex)  # 4
    if apex is None:
        answer.authoritative, answer.ede = False, codes.EDE_NOT_AUTHORITATIVE
    return answer


def _finish_reverse(catalogue: Catalogue, found: Found, apex: Labels | None) -> Answer:
    if found.rrset is not None:
        return Answer(answer=[found.rrset], additional=found.additional)
    rcode = codes.NOERROR if found.exists else codes.NXDOMAIN
    authority = [_soa(catalogue, name.wire(apex))] if apex is not None else []
    return Answer(rcode=rcode, authority=authority, negative=True)


def _pointer_set(catalogue: Catalogue, pointers: reverse.Pointers) -> RRSet:
    origin = catalogue.origin
    ttl = pointers.ttls.least(origin.settings.ttl)
    data = []
    for text in pointers.first(limits.DNS_PTR_NAMES_MAX):
        service, namespace = text.split(b".")[-2:]
        view = catalogue.find(namespace, service)
        ttl = view.ttl_cap(ttl) if view is not None else ttl
        data.append(rdata(name.wire(zone.pointer_labels(text, origin))))
    return RRSet(codes.PTR, ttl, data)


def _outside(origin: Origin, labels: Labels) -> Answer:
    """Names that are nobody's here.

    A single label does not exist: every unknown short name ends in one, and REFUSED there costs musl 5 s and turns
    "not found" into "temporary failure" elsewhere. Not so the parents of our zones: they exist, or our zones would
    not (RFC 8020), but what they hold is not ours to say.
    """
    absent = len(labels) == 1 and labels not in origin.ancestors
    rcode = codes.NXDOMAIN if absent else codes.REFUSED
    return Answer(rcode=rcode, authoritative=False, ede=codes.EDE_NOT_AUTHORITATIVE)


_LOOKUPS: Final[dict[Kind, Callable[[Catalogue, Place, int], Found]]] = {
    Kind.APEX: _apex,
    Kind.VERSION: _version,
    Kind.NAME_SERVER: _name_server,
    Kind.ALWAYS: _always,
    Kind.NAMESPACE: _namespace,
    Kind.SERVICE: _service,
    Kind.HOST: _host,
    Kind.PROTOCOL: _protocol,
    Kind.PORT: _port,
    Kind.BROWSE_PROTOCOL: browse.protocol,
    Kind.BROWSE_TYPE: browse.of_type,
    Kind.BROWSE_META: browse.meta,
    Kind.BROWSE_INSTANCE: browse.instance,
    Kind.NOWHERE: _nowhere,
}
