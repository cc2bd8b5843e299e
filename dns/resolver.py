"""``GET /api/v1/resolve``: the DNS answer code over the node's own store, without a second copy of the catalogue.

Pure. A view of one service is made when a question touches it; a reverse question looks through all instances (about
10 ms for 100,000). Nothing is kept, so that nothing can be stale here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from discovery.dns import answer as answers
from discovery.dns import codes, zone
from discovery.dns import name as names
from discovery.dns import text as texts
from discovery.dns.name import Labels
from discovery.dns.reverse import Pointers, Prefix
from discovery.dns.sections import RRSet
from discovery.dns.service import Member, ServiceView, Type, packed
from discovery.dns.settings import Settings
from discovery.dns.zone import Origin
from discovery.errors import FieldError, InvalidInput
from discovery.model import Instance, InstanceRecord, Service, ServiceRecord

_NOT_ASKED: Final = frozenset({codes.OPT, codes.TSIG, codes.IXFR, codes.AXFR})


class Source(Protocol):
    """What the resolver reads; ``discovery.store.Store`` is one."""

    @property
    def serial(self) -> int:
        """Of the zone's SOA."""

    def instances(self, namespace: str, service: str) -> Mapping[str, InstanceRecord]:
        """The service's instances by id."""

    def service(self, namespace: str, service: str) -> ServiceRecord | None:
        """The service's settings."""

    def services(self, namespace: str) -> Sequence[str]:
        """The namespace's services."""

    def all_instances(self) -> Iterator[InstanceRecord]:
        """Every instance."""

    def all_services(self) -> Iterator[ServiceRecord]:
        """The settings of every service that has some."""


class StoreCatalogue:
    """A :class:`discovery.dns.zone.Catalogue` over a source, for one question."""

    def __init__(self, origin: Origin, source: Source) -> None:
        self.origin = origin
        self._source = source
        self._views: dict[tuple[bytes, bytes], ServiceView] = {}

    @property
    def serial(self) -> int:
        """Of the SOA."""
        return self._source.serial

    def find(self, namespace: bytes, service: bytes) -> ServiceView | None:
        """The service, when its name exists in DNS."""
        view = self._views.get((namespace, service))
        if view is None:
            view = self._views[namespace, service] = self._make(_text(namespace), _text(service))
        return view if view.exists() else None

    def _make(self, namespace: str, service: str) -> ServiceView:
        view = ServiceView(namespace, service, self.origin.wire)
        settings = self._source.service(namespace, service)
        if settings is not None:
            view.configure(settings.spec)
        instances = self._source.instances(namespace, service)
        for instance_id in sorted(instances):
            view.put(instances[instance_id].spec)
        return view

    def has_namespace(self, namespace: bytes) -> bool:
        """Whether any name exists below ``<namespace>.svc``."""
        names = self._source.services(_text(namespace))
        return any(self.find(namespace, service.encode()) for service in names)

    def types(self, namespace: bytes) -> Iterable[Type]:
        """The types of services in a namespace."""
        return sorted({key for view in self._all(namespace) for key in view.types()})

    def offering(self, namespace: bytes, key: Type, count_max: int) -> Sequence[ServiceView]:
        """Services of a type, at most ``count_max``."""
        return [view for view in self._all(namespace) if key in view.types()][:count_max]

    def _all(self, namespace: bytes) -> Iterator[ServiceView]:
        found = (self.find(namespace, service.encode()) for service in self._source.services(_text(namespace)))
        return (view for view in found if view is not None)

    def pointers(self, address: bytes) -> Pointers | None:
        """The names of an address."""
        wanted = str(ipaddress.ip_address(address))  # records hold the canonical text
        found = Pointers()
        for spec in self._published():
            if wanted in spec.addresses:
                found.add(zone.member_text(Member(spec)), spec.dns_ttl)
        for service in self._virtual():
            if wanted in service.virtual_ips:
                found.add(f"{service.name}.{service.namespace}".encode(), service.dns_ttl)
        return found if found else None

    def has_address_below(self, prefix: Prefix) -> bool:
        """Whether any address below ``prefix`` has a name."""
        is_below = _test(prefix)
        return any(is_below(address) for spec in self._published() for address in spec.addresses) or any(
            is_below(address) for service in self._virtual() for address in service.virtual_ips
        )

    def _published(self) -> Iterator[Instance]:
        for record in self._source.all_instances():
            spec = record.spec
            if spec.status == "ready" or (spec.status == "not_ready" and self._publishes(spec.namespace, spec.service)):
                yield spec

    def _publishes(self, namespace: str, service: str) -> bool:
        settings = self._source.service(namespace, service)
        return settings is not None and settings.spec.publish_not_ready

    def _virtual(self) -> Iterator[Service]:
        return (record.spec for record in self._source.all_services() if record.spec.type == "virtual")


def _test(prefix: Prefix) -> Callable[[str], bool]:
    """Whether an address in canonical text lies below ``prefix``; IPv4 without parsing."""
    shift = prefix.bits_all - prefix.bits
    if prefix.bits_all == 128:
        return lambda text: ":" in text and int.from_bytes(packed(text), "big") >> shift == prefix.value
    octets = prefix.value.to_bytes(4, "big")[4 - prefix.bits // 8 :]
    start = "".join(f"{octet}." for octet in octets)
    return lambda text: ":" not in text and text.startswith(start)


def _text(label: bytes) -> str:
    """A label as a name of the catalogue; one that is no ASCII is nobody's."""
    return label.decode("ascii", "replace")


class Resolver:
    """Answers in words.

    Args:
        zone: in text, ``cluster.local``.
        settings: of the DNS server.
        source: the state to answer from, asked for at each question (a node may swap it); ``None``: none yet.
        stale: whether that state may be old.
    """

    def __init__(
        self, zone: str, settings: Settings, source: Callable[[], Source | None], stale: Callable[[], bool]
    ) -> None:
        self._origin = Origin(zone.lower(), settings)
        self._source = source
        self._stale = stale

    def query(self, name: str, type: str) -> dict[str, Any]:
        """What DNS answers: ``{"rcode", "answers": [{"name", "type", "ttl", "data"}], "stale"}``.

        Args:
            name: a domain name, with a final dot or without; no search list is applied.
            type: a record type in letters, or ``TYPE<n>`` (RFC 3597).

        Raises:
            InvalidInput: for a name or type that no question can carry.
        """
        labels, rtype = _name(name), _type(type)
        source = self._source()
        if source is None:
            return {"rcode": codes.RCODE_TEXT[codes.SERVFAIL], "answers": [], "stale": True}
        answer = answers.resolve(StoreCatalogue(self._origin, source), labels, rtype)
        records = [record for rrset in answer.answer for record in _records(rrset, labels)]
        return {"rcode": codes.RCODE_TEXT[answer.rcode], "answers": records, "stale": self._stale()}


def _records(rrset: RRSet, asked: Labels) -> Iterator[dict[str, Any]]:
    owner = names.to_text(asked if rrset.owner is None else names.from_wire(rrset.owner))
    for data in rrset.data:
        text = texts.rdata(rrset.rtype, data[2:])
        yield {"name": owner, "type": texts.rtype(rrset.rtype), "ttl": rrset.ttl, "data": text}


def _name(text: str) -> Labels:
    try:
        return names.from_text(text)
    except names.BadName as error:
        raise _invalid("name", f"must be a domain name: {error}", text) from None


def _type(text: str) -> int:
    upper = text.upper()
    number = codes.TYPES.get(upper)
    if number is None and len(upper) <= 9 and upper.startswith("TYPE") and upper[4:].isascii() and upper[4:].isdigit():
        number = int(upper[4:])
    if number is None or number > 65535 or number in _NOT_ASKED:
        raise _invalid("type", f"must be one of {', '.join(codes.TYPES)} or TYPE<n>", text)
    return number


def _invalid(field: str, rule: str, value: str) -> InvalidInput:
    return InvalidInput(f"{field} {rule}", (FieldError(field, rule, value),))
