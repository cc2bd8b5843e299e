"""One service as DNS sees it: which instances are published, under which names, with which records.

Pure. Every index is kept up change by change (a few microseconds each), never rebuilt for an instance.
Record data stands here as it goes on the wire, with its length in front (RFC 1035 section 3.2.1: RDLENGTH, RDATA).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterator
from typing import Final

from discovery.dns import codes, name
from discovery.dns.rotor import Rotor
from discovery.model import Instance, Service

_SRV: Final = struct.Struct("!HHHH")
Facet = int | bytes
"""What of a service an answer was made from: :data:`ALL_OF_IT`, its addresses of a type (A, AAAA), a host's label."""
ALL_OF_IT: Final = 0
Type = tuple[bytes, bytes]
"""Protocol and port name: what kind of service is offered (RFC 6763 section 7)."""
BROWSED: Final = frozenset({b"tcp", b"udp"})  # RFC 6763 section 4.1.2 knows no other
OnChange = Callable[["ServiceView", "frozenset[Facet] | None"], None]
VIRTUAL_PRIORITY: Final = 0
VIRTUAL_WEIGHT: Final = 1  # the default of instances


def rdata(data: bytes) -> bytes:
    """Record data with its length in front."""
    return len(data).to_bytes(2, "big") + data


def packed(address: str) -> bytes:
    """4 or 16 bytes of an address literal in its canonical form."""
    if ":" in address:
        return ipaddress.IPv6Address(address).packed
    return bytes(map(int, address.split(".")))


def address_record(address: str) -> bytes:
    """A or AAAA record data of an address literal in its canonical form, with its length in front."""
    if ":" in address:
        return b"\0\x10" + packed(address)
    return b"\0\4" + bytes(map(int, address.split(".")))


def srv(priority: int, weight: int, port: int, target: bytes) -> bytes:
    """SRV record data (RFC 2782); ``target`` is an uncompressed wire name."""
    return _SRV.pack(6 + len(target), priority, weight, port) + target


class Addresses:
    """A and AAAA records of one name."""

    __slots__ = ("v4", "v6")

    def __init__(self) -> None:
        self.v4: Rotor[bytes] = Rotor()
        self.v6: Rotor[bytes] = Rotor()

    def add(self, data: bytes, ttl: int | None) -> None:
        """Count a record in."""
        (self.v4 if len(data) == 6 else self.v6).add(data, ttl)

    def remove(self, data: bytes, ttl: int | None) -> None:
        """Count a record out."""
        (self.v4 if len(data) == 6 else self.v6).remove(data, ttl)

    def of(self, rtype: int) -> Rotor[bytes] | None:
        """The records of a type, ``None`` when it is no address type."""
        return self.v4 if rtype == codes.A else self.v6 if rtype == codes.AAAA else None


class Member:
    """A published instance, ready for the wire. ``hosts``: its hostname, then its unique label."""

    __slots__ = ("addresses", "hosts", "ports", "spec")

    def __init__(self, spec: Instance, before: Member | None = None) -> None:
        """``before``: the same instance as it was, whose bytes are taken over as far as they are the same."""
        self.spec = spec
        self.addresses: tuple[bytes, ...]
        self.ports: tuple[tuple[bytes, bytes, int], ...]
        unique: bytes = before.hosts[1] if before is not None else name.unique_label(spec.id)
        self.hosts: tuple[bytes, bytes] = (name.hostname(spec).encode(), unique)
        if before is not None and before.spec.addresses == spec.addresses:
            self.addresses = before.addresses
        else:
            self.addresses = tuple(map(address_record, spec.addresses))
        if before is not None and before.spec.ports == spec.ports:
            self.ports = before.ports
        else:
            self.ports = tuple([(p.protocol.encode(), p.name.encode(), p.port) for p in spec.ports if p.name])

    def facets(self) -> set[Facet]:
        """What of its service comes from this instance."""
        types = {codes.A if len(data) == 6 else codes.AAAA for data in self.addresses}
        return {ALL_OF_IT, *types, *self.hosts}

    def points_as(self, other: Member) -> bool:
        """Whether both have the same addresses, name and TTL, so that reverse look-ups find the same."""
        return (
            self.addresses == other.addresses and self.hosts == other.hosts and self.spec.dns_ttl == other.spec.dns_ttl
        )

    def numbers(self, protocol: bytes | None, port: bytes | None) -> Iterator[int]:
        """Port numbers of the port so named, or of all named ports when both are ``None``."""
        for own_protocol, own_name, number in self.ports:
            if protocol is None or (own_protocol == protocol and own_name == port):
                yield number


class Crowd:
    """What several instances that share a hostname answer together, or one with several addresses.

    A unique label is its owner's alone, also when others chose it as their hostname: they are hidden behind him.
    """

    __slots__ = ("_label", "_owner", "addresses", "members")

    def __init__(self, label: bytes) -> None:
        self.members: dict[Member, None] = {}
        self.addresses = Addresses()
        self._label = label
        self._owner: Member | None = None

    def add(self, member: Member) -> None:
        """Let ``member`` share the name."""
        self.members[member] = None
        if self._owner is not None:
            return
        if member.hosts[1] == self._label:
            self._owner = member
            self.addresses = Addresses()
        self._count_in(member)

    def remove(self, member: Member) -> None:
        """``member`` no longer has the name."""
        del self.members[member]
        if self._owner is None:
            for data in member.addresses:
                self.addresses.remove(data, member.spec.dns_ttl)
        elif self._owner is member:
            self._owner = None
            self.addresses = Addresses()
            for other in self.members:
                self._count_in(other)

    def _count_in(self, member: Member) -> None:
        for data in member.addresses:
            self.addresses.add(data, member.spec.dns_ttl)


class ServiceView:
    """A service's settings, instances and names.

    Whoever keeps answers made from this view sets ``on_change``: it is called at every change of what is published,
    before any question can be asked again, with the facets that the change may touch; ``None``: all there are.
    """

    def __init__(self, namespace: str, service: str, zone: bytes) -> None:
        self.namespace = namespace.encode()
        self.name = service.encode()
        self.wire = name.wire((self.name, self.namespace, b"svc"))[:-1] + zone
        self.settings: Service | None = None
        self.on_change: OnChange | None = None
        self.published: dict[str, Member] = {}
        self.hidden: dict[str, Instance] = {}
        self.addresses = Addresses()  # of all published instances
        self.virtual = Addresses()  # of the service itself
        self.named: Rotor[Member] = Rotor()  # instances with a named port
        self.ports: dict[bytes, dict[bytes, Rotor[Member]]] = {}  # protocol, port name
        self.hosts: dict[bytes, Member | Crowd] = {}
        self.retyped = True  # whether ``types`` may give something else than ``listed``
        self.listed: frozenset[Type] = frozenset()  # for whoever lists services by type

    def types(self) -> frozenset[Type]:
        """What can be browsed here: named ports of instances, or of the service itself."""
        if self.is_virtual():
            ports = self.settings.ports if self.settings is not None else ()
            found = [(port.protocol.encode(), port.name.encode()) for port in ports if port.name]
        else:
            found = [(protocol, port) for protocol, names in self.ports.items() for port in names]
        return frozenset([key for key in found if key[0] in BROWSED])

    def external(self) -> str | None:
        """The host name that an external service stands for."""
        settings = self.settings
        return settings.external_name if settings is not None and settings.type == "external" else None

    def is_virtual(self) -> bool:
        """Whether the service has addresses of its own."""
        return self.settings is not None and self.settings.type == "virtual"

    def exists(self) -> bool:
        """Whether the name exists in DNS: a headless service without a published instance does not (2.4.1)."""
        return bool(self.published) or (self.settings is not None and self.settings.type != "headless")

    def is_empty(self) -> bool:
        """Whether nothing is left that would need this view."""
        return self.settings is None and not self.published and not self.hidden

    def ttl_cap(self, cap: int) -> int:
        """Seconds that no TTL of this service exceeds."""
        own = self.settings.dns_ttl if self.settings is not None else None
        return cap if own is None else min(cap, own)

    def _changed(self, old: Member | None, new: Member | None) -> None:
        """Tell whoever keeps answers. What the first instance brings or the last one takes away is the name itself."""
        told = self.on_change
        if told is None:
            return
        gone, come = (set() if member is None else member.facets() for member in (old, new))
        whole = len(self.published) <= (old is not None) and (old is None or new is None)
        told(self, None if whole else frozenset(gone | come))

    def configure(self, settings: Service | None) -> tuple[list[Member], list[Member]]:
        """Put or drop the settings; returns members that went and members that came."""
        before = self._publishes_not_ready()
        if self.on_change is not None:
            self.on_change(self, None)
        self.settings = settings
        self.retyped = True
        self.virtual = Addresses()
        for address in settings.virtual_ips if settings is not None and settings.type == "virtual" else ():
            self.virtual.add(address_record(address), settings.dns_ttl if settings is not None else None)
        return ([], []) if before == self._publishes_not_ready() else self._republish()

    def _publishes_not_ready(self) -> bool:
        return self.settings is not None and self.settings.publish_not_ready

    def _publishes(self, spec: Instance) -> bool:
        return spec.status == "ready" or (spec.status == "not_ready" and self._publishes_not_ready())

    def _republish(self) -> tuple[list[Member], list[Member]]:
        gone = [member for member in self.published.values() if not self._publishes(member.spec)]
        come = [spec for spec in self.hidden.values() if self._publishes(spec)]
        for member in gone:
            self.put(member.spec)
        return gone, [member for member in (self.put(spec)[1] for spec in come) if member is not None]

    def put(self, spec: Instance) -> tuple[Member | None, Member | None]:
        """Put an instance; returns the member that went and the one that came."""
        old = self.published.get(spec.id)
        if not self._publishes(spec):
            self.drop(spec.id)
            self.hidden[spec.id] = spec
            return old, None
        member = Member(spec, old)
        self._changed(old, member)
        self.published[spec.id] = member
        if old is not None and len(old.addresses) == len(member.addresses) == 1 and old.hosts == member.hosts:
            self._replace(old, member)
            return old, member
        if old is not None:
            self._remove(old)
        else:
            self.hidden.pop(spec.id, None)
        self._add(member)
        return old, member

    def drop(self, instance_id: str) -> Member | None:
        """Drop an instance that may be here; returns the member that went."""
        self.hidden.pop(instance_id, None)
        member = self.published.get(instance_id)
        if member is None:
            return None
        self._changed(member, None)
        del self.published[instance_id]
        self._remove(member)
        return member

    def _add(self, member: Member) -> None:
        for data in member.addresses:
            self.addresses.add(data, member.spec.dns_ttl)
        for host in member.hosts:
            self._join(host, member)
        self._offer(member)

    def _remove(self, member: Member) -> None:
        for data in member.addresses:
            self.addresses.remove(data, member.spec.dns_ttl)
        for host in member.hosts:
            self._leave(host, member)
        self._withdraw(member)

    def _replace(self, old: Member, new: Member) -> None:
        """The same name and one address, as before: what nearly every change is, in a third of the time."""
        old_ttl, new_ttl = old.spec.dns_ttl, new.spec.dns_ttl
        was, now = old.addresses[0], new.addresses[0]
        if len(was) != len(now):
            self.addresses.remove(was, old_ttl)
            self.addresses.add(now, new_ttl)
        elif was != now or old_ttl != new_ttl:
            (self.addresses.v4 if len(was) == 6 else self.addresses.v6).replace(was, now, old_ttl, new_ttl)
        for host in new.hosts:
            if self.hosts[host] is old:
                self.hosts[host] = new
            elif self.hosts[host] is not new:  # its hostname may be its own unique label
                self._leave(host, old)
                self._join(host, new)
        if old.ports is not new.ports:
            self._withdraw(old)
            self._offer(new)
        elif new.ports:
            self.named.replace(old, new, old_ttl, new_ttl)
            for protocol, port, _ in new.ports:
                self.ports[protocol][port].replace(old, new, old_ttl, new_ttl)

    def _offer(self, member: Member) -> None:
        if not member.ports:
            return
        self.named.add(member, member.spec.dns_ttl)
        for protocol, port, _ in member.ports:
            names = self.ports.setdefault(protocol, {})
            rotor = names.get(port)
            if rotor is None:
                rotor = names[port] = Rotor()
                self.retyped = True
            rotor.add(member, member.spec.dns_ttl)

    def _withdraw(self, member: Member) -> None:
        if not member.ports:
            return
        self.named.remove(member, member.spec.dns_ttl)
        for protocol, port, _ in member.ports:
            names = self.ports[protocol]
            names[port].remove(member, member.spec.dns_ttl)
            if not names[port]:
                del names[port]
                self.retyped = True
            if not names:
                del self.ports[protocol]

    def _join(self, host: bytes, member: Member) -> None:
        there = self.hosts.get(host)
        if there is None and len(member.addresses) == 1:
            self.hosts[host] = member  # nearly all names: no crowd, no memory for one
            return
        if not isinstance(there, Crowd):
            crowd = self.hosts[host] = Crowd(host)
            if there is not None:
                crowd.add(there)
            there = crowd
        if member not in there.members:  # its hostname may be its own unique label
            there.add(member)

    def _leave(self, host: bytes, member: Member) -> None:
        there = self.hosts.get(host)
        if isinstance(there, Crowd):
            if member in there.members:
                there.remove(member)
            if not there.members:
                del self.hosts[host]
        elif there is member:
            del self.hosts[host]

    def target(self, member: Member) -> bytes:
        """The label that only ``member`` answers to: its hostname when nobody shares it, else the unique one."""
        host, unique = member.hosts
        there = self.hosts[host]
        alone = there is member or (isinstance(there, Crowd) and len(there.members) == 1)
        return host if alone else unique
