"""The registry's nouns: what a namespace, service, instance, key and lease *are*.

Pure data and pure rules; no clock, socket or randomness. Records are ``msgspec.Struct(gc=False)`` with
tuples inside, so that a full garbage collection never walks them (a collection over 100,000 dict records
stops a process for 0.14 s, over these for about 1 ms).

Names are RFC 1123 labels (RFC 1123 section 2.1: letters, digits, hyphen, at most 63 octets, a digit may come
first), port names RFC 6335 section 5.1 service names.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from discovery import limits

Protocol = Literal["tcp", "udp", "sctp"]
Status = Literal["ready", "not_ready", "draining", "maintenance"]
ServiceType = Literal["headless", "virtual", "external"]

OWN_SERVICE: Final = ("system", "discovery")
"""Namespace and name of the service whose instances are the nodes themselves."""
STATUSES: Final[tuple[Status, ...]] = ("ready", "not_ready", "draining", "maintenance")
PROTOCOLS: Final[tuple[Protocol, ...]] = ("tcp", "udp", "sctp")

LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
PORT_NAME: Final = re.compile(r"(?=[a-z0-9-]*[a-z])[a-z0-9](?:(?:-?[a-z0-9])*)?")
INSTANCE_ID: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{limits.INSTANCE_ID_CHARS_MAX}}}")


class Port(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A port of an instance or of a virtual service.

    ``name`` is the RFC 6335 service name without the leading underscore of its SRV label, or ``None``: an
    unnamed port has no SRV record.
    """

    name: str | None
    port: int
    protocol: Protocol = "tcp"


class Instance(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One reachable copy of a service, as registered (the *specification*, without lease and revisions).

    Args:
        addresses: IPv4 and IPv6 literals in their canonical text form (:mod:`ipaddress`), in the order given.
        hostname: the instance's own DNS label if one was given, else ``None`` (see ``dns/name.py`` for the
            name that is derived then).
        dns_ttl: seconds, or ``None`` for the service's or the zone's default.
        meta: sorted (key, value) pairs.
    """

    namespace: str
    service: str
    id: str
    addresses: tuple[str, ...]
    ports: tuple[Port, ...] = ()
    hostname: str | None = None
    weight: int = 1
    priority: int = 0
    dns_ttl: int | None = None
    tags: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    status: Status = "ready"


class InstanceRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An instance as the state machine holds it: specification, lease id (0 = none, permanent), revisions."""

    spec: Instance
    lease: int
    create_revision: int
    mod_revision: int
    version: int


class Service(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The settings of a service; a service needs none before its first instance.

    Args:
        dns_ttl: seconds, or ``None``.
        default_ttl_ms: lease TTL for registrations that name none, milliseconds, or ``None``.
        min_healthy_ppm: millionths of its ready instances that expiry must leave; ``None``: it has no brake.
        brake_timeout_ms: how long expiry is held back, milliseconds; ``None``: the default.
    """

    namespace: str
    name: str
    type: ServiceType = "headless"
    virtual_ips: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    external_name: str | None = None
    dns_ttl: int | None = None
    default_ttl_ms: int | None = None
    publish_not_ready: bool = False
    min_healthy_ppm: int | None = None
    brake_timeout_ms: int | None = None


class ServiceRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Service settings with their revisions."""

    spec: Service
    create_revision: int
    mod_revision: int
    version: int


class KeyRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A public key-value pair (etcd's data model: create_revision, mod_revision, version, lease; lease 0 = none)."""

    value: bytes
    lease: int
    create_revision: int
    mod_revision: int
    version: int


class Lease(msgspec.Struct, gc=False, array_like=True):
    """A TTL with a holder. Deadlines are not here: they live in the leader's memory (``leases.py``).

    Args:
        id: 63-bit number, chosen at random by the proposer; outside it is 16 hex digits.
        ttl_ms: time to live, milliseconds.
        version: moves with every registration, change of TTL or ``ttl: null`` that touches the lease; an
            eviction names (id, version) and is skipped when the version has moved.
        remaining_ms: last checkpoint of the remaining TTL (leases of 60 s or more), or ``None``.
        instances: attached instances as (namespace, service, id).
        keys: attached public keys.
    """

    id: int
    ttl_ms: int
    version: int = 1
    remaining_ms: int | None = None
    instances: tuple[tuple[str, str, str], ...] = ()
    keys: tuple[str, ...] = ()


class Change(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One change of one thing. ``record`` is the new record, ``None`` for a deletion.

    ``name`` is the instance id, the service name's empty string for service settings, or the key.
    """

    kind: Literal["put", "delete"]
    resource: Literal["instance", "service", "key"]
    namespace: str
    service: str
    name: str
    record: InstanceRecord | ServiceRecord | KeyRecord | None
    reason: str = ""


class Group(msgspec.Struct, frozen=True, gc=False):
    """All changes of one revision, in order: what the feed carries (DESIGN: feed)."""

    revision: int
    serial: int
    time_ms: int
    changes: tuple[Change, ...]


EventKind = Literal[
    "registered",
    "updated",
    "deregistered",
    "expired",
    "revoked",
    "container_died",
    "check_failed",
    "drained",
    "braked",
]


class Event(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What happened to an instance, for people and ``GET /api/v1/events``.

    Args:
        time_ms: log time, Unix milliseconds.
        last_heartbeat_ms: Unix milliseconds of the last heartbeat the leader knew, or ``None``.
    """

    kind: EventKind
    namespace: str
    service: str
    id: str
    revision: int
    time_ms: int
    actor: str
    last_heartbeat_ms: int | None = None
    detail: str = ""


def lease_text(lease_id: int) -> str:
    """A lease id as the API shows it: 16 hex digits."""
    return f"{lease_id:016x}"


def is_label(text: str) -> bool:
    """Whether ``text`` is a lower-case RFC 1123 label."""
    return LABEL.fullmatch(text) is not None


def is_port_name(text: str) -> bool:
    """Whether ``text`` is a lower-case RFC 6335 service name (at most 15 characters, one letter at least)."""
    return len(text) <= limits.PORT_NAME_CHARS_MAX and PORT_NAME.fullmatch(text) is not None


def is_instance_id(text: str) -> bool:
    """Whether ``text`` may be an instance id: ``[A-Za-z0-9._:-]{1,128}``."""
    return INSTANCE_ID.fullmatch(text) is not None
