"""The zone as a view of the catalogue: found by name in a few dictionary look-ups, kept up change by change.

Pure. :class:`Zone` is what a DNS worker holds; :class:`Catalogue` is all that an answer needs of it, so that the
node can answer ``GET /api/v1/resolve`` from its own store by the same code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from discovery.dns import codes, name, reverse
from discovery.dns.name import Labels
from discovery.dns.reverse import AddressSet, Pointers, Prefix
from discovery.dns.rotor import Rotor
from discovery.dns.service import Addresses, Member, ServiceView, Type, address_record, packed, rdata
from discovery.dns.settings import Settings
from discovery.model import Instance, Service

_SOA_TIMES: Final = struct.Struct("!IIIII")
REFRESH_S: Final = 7200
RETRY_S: Final = 1800
EXPIRE_S: Final = 86400
NEGATIVE_TTL_S: Final = 1  # RFC 2308 section 4: how long "no such name" may be remembered
VERSION_TTL_S: Final = 28800
SPEC_VERSION: Final = b"1.1.0"  # Kubernetes DNS-Based Service Discovery, section 2.2
ADDRESS_TYPES: Final = (codes.A, codes.AAAA)
ADDRESS_SIZES: Final = {codes.A: 2 + 4, codes.AAAA: 2 + 16}  # of record data with its length
HINFO_RFC8482: Final = rdata(b"\x07RFC8482\x00")


class Origin:
    """What of a zone does not change while a server runs: names, settings, the ends of the known world.

    Args:
        zone: in text, ``cluster.local``; lower case.
        settings: of the server.
    """

    def __init__(self, zone: str, settings: Settings) -> None:
        self.settings = settings
        self.labels = name.from_text(zone)
        self.count = len(self.labels)
        self.wire = name.wire(self.labels)
        self.ns = name.wire((*name.NS_LABELS, *self.labels))
        self._soa_names = self.ns + name.wire((b"hostmaster", *self.labels))
        self.ns_addresses = Addresses()
        for address in settings.ns_addresses:
            self.ns_addresses.add(address_record(address), None)
        self.reverse_zones = reverse.zones(settings.reverse_zones)
        self._reverse_lengths = sorted({len(labels) for labels in self.reverse_zones}, reverse=True)
        apexes = (self.labels, *self.reverse_zones)
        self.ancestors = frozenset(apex[at:] for apex in apexes for at in range(1, len(apex)))

    def soa(self, serial: int) -> bytes:
        """SOA record data, the least TTL of negative answers as minimum (RFC 2308 section 4)."""
        serial &= 0xFFFFFFFF  # RFC 1982: serials wrap
        return rdata(self._soa_names + _SOA_TIMES.pack(serial, REFRESH_S, RETRY_S, EXPIRE_S, NEGATIVE_TTL_S))

    def reverse_zone(self, labels: Labels) -> Labels | None:
        """The reverse zone of ours that the name stands in."""
        for length in self._reverse_lengths:
            if labels[-length:] in self.reverse_zones:
                return labels[-length:]
        return None


class Catalogue(Protocol):
    """What an answer needs to know."""

    origin: Origin

    @property
    def serial(self) -> int:
        """Of the SOA."""

    def find(self, namespace: bytes, service: bytes) -> ServiceView | None:
        """The service, when its name exists in DNS."""

    def has_namespace(self, namespace: bytes) -> bool:
        """Whether any name exists below ``<namespace>.svc``."""

    def types(self, namespace: bytes) -> Iterable[Type]:
        """The types of services in a namespace."""

    def offering(self, namespace: bytes, key: Type, count_max: int) -> Sequence[ServiceView]:
        """Services of a type, at most ``count_max``."""

    def pointers(self, address: bytes) -> Pointers | None:
        """The names of an address."""

    def has_address_below(self, prefix: Prefix) -> bool:
        """Whether any address below ``prefix`` has a name."""


class Zone:
    """The catalogue of a DNS worker: put and drop are what the feed says; reading never waits."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.serial = 0
        self._services: dict[tuple[str, str], ServiceView] = {}
        self._names: dict[bytes, dict[bytes, ServiceView]] = {}  # only services that exist in DNS
        self._types: dict[bytes, dict[Type, Rotor[ServiceView]]] = {}  # by namespace
        self._pointers: dict[bytes, Pointers] = {}
        self._addresses = {4: AddressSet(), 16: AddressSet()}

    def find(self, namespace: bytes, service: bytes) -> ServiceView | None:
        """The service, when its name exists in DNS."""
        services = self._names.get(namespace)
        return services.get(service) if services is not None else None

    def has_namespace(self, namespace: bytes) -> bool:
        """Whether any name exists below ``<namespace>.svc``."""
        return namespace in self._names

    def types(self, namespace: bytes) -> Iterable[Type]:
        """The types of services in a namespace."""
        return self._types.get(namespace, ())

    def offering(self, namespace: bytes, key: Type, count_max: int) -> Sequence[ServiceView]:
        """Services of a type, at most ``count_max``."""
        rotor = self._types.get(namespace, {}).get(key)
        return rotor.deal(count_max) if rotor is not None else ()

    def pointers(self, address: bytes) -> Pointers | None:
        """The names of an address."""
        return self._pointers.get(address)

    def has_address_below(self, prefix: Prefix) -> bool:
        """Whether any address below ``prefix`` has a name."""
        shift = prefix.bits_all - prefix.bits
        return self._addresses[prefix.bits_all // 8].any_between(prefix.value << shift, (prefix.value + 1) << shift)

    def put_instance(self, spec: Instance) -> None:
        """An instance was registered or changed."""
        view = self._view(spec.namespace, spec.service)
        old, new = view.put(spec)
        if old is None or new is None or not old.points_as(new):
            self._unpoint(old)
            self._point(new)
        self._settle(view)

    def drop_instance(self, namespace: str, service: str, instance_id: str) -> None:
        """An instance went; one that is not here is no error (a change may come twice after a resume)."""
        view = self._services.get((namespace, service))
        if view is not None:
            self._unpoint(view.drop(instance_id))
            self._settle(view)

    def put_service(self, spec: Service) -> None:
        """Settings of a service were put."""
        self._configure(self._view(spec.namespace, spec.name), spec)

    def drop_service(self, namespace: str, service: str) -> None:
        """Settings of a service went."""
        view = self._services.get((namespace, service))
        if view is not None:
            self._configure(view, None)

    def _view(self, namespace: str, service: str) -> ServiceView:
        view = self._services.get((namespace, service))
        if view is None:
            view = self._services[namespace, service] = ServiceView(namespace, service, self.origin.wire)
        return view

    def _configure(self, view: ServiceView, settings: Service | None) -> None:
        self._point_virtual(view.settings, add=False)
        gone, come = view.configure(settings)
        self._point_virtual(settings, add=True)
        for member in gone:
            self._unpoint(member)
        for member in come:
            self._point(member)
        self._settle(view)

    def _settle(self, view: ServiceView) -> None:
        """Let the view be found by name exactly while its name exists, and by type."""
        if view.retyped:
            self._retype(view)
        if view.exists():
            self._names.setdefault(view.namespace, {})[view.name] = view
            return
        services = self._names.get(view.namespace)
        if services is not None and services.pop(view.name, None) is not None and not services:
            del self._names[view.namespace]
        if view.is_empty():
            self._services.pop((view.namespace.decode(), view.name.decode()), None)

    def _retype(self, view: ServiceView) -> None:
        """List the view under the types it has now."""
        view.retyped = False
        before, view.listed = view.listed, view.types()
        types = self._types.setdefault(view.namespace, {})
        for key in sorted(before - view.listed):
            types[key].remove(view, None)
            if not types[key]:
                del types[key]
        for key in sorted(view.listed - before):
            if key not in types:
                types[key] = Rotor()
            types[key].add(view, None)
        if not types:
            del self._types[view.namespace]

    def _point(self, member: Member | None) -> None:
        if member is not None:
            text = member_text(member)
            for data in member.addresses:
                self._point_address(data[2:], text, member.spec.dns_ttl)

    def _unpoint(self, member: Member | None) -> None:
        if member is not None:
            text = member_text(member)
            for data in member.addresses:
                self._unpoint_address(data[2:], text, member.spec.dns_ttl)

    def _point_virtual(self, settings: Service | None, *, add: bool) -> None:
        if settings is None or settings.type != "virtual":
            return
        change = self._point_address if add else self._unpoint_address
        for address in settings.virtual_ips:
            change(packed(address), f"{settings.name}.{settings.namespace}".encode(), settings.dns_ttl)

    def _point_address(self, address: bytes, text: bytes, ttl: int | None) -> None:
        pointers = self._pointers.get(address)
        if pointers is None:
            pointers = self._pointers[address] = Pointers()
            self._addresses[len(address)].add(int.from_bytes(address, "big"))
        pointers.add(text, ttl)

    def _unpoint_address(self, address: bytes, text: bytes, ttl: int | None) -> None:
        pointers = self._pointers[address]
        pointers.remove(text, ttl)
        if not pointers:
            del self._pointers[address]
            self._addresses[len(address)].remove(int.from_bytes(address, "big"))


def member_text(member: Member) -> bytes:
    """An instance's name without the zone and ``svc``: ``web-0.web.default``."""
    spec = member.spec
    return b"%b.%b.%b" % (member.hosts[0], spec.service.encode(), spec.namespace.encode())


def pointer_labels(text: bytes, origin: Origin) -> Labels:
    """The whole name behind a pointer's text."""
    return (*text.split(b"."), b"svc", *origin.labels)
