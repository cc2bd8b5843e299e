"""Records as the API shows them (CONTRACT section 2). Pure: a record in, what JSON carries out."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from discovery.api.codec import encode_base64, seconds
from discovery.command import OpResult
from discovery.model import (
    Event,
    Instance,
    InstanceRecord,
    KeyRecord,
    Lease,
    Port,
    Service,
    ServiceRecord,
    is_label,
    lease_text,
)


def host_label(spec: Instance) -> str:
    """The label of an instance below its service: hostname, else the id when it is a label, else the dashed address.

    Kubernetes DNS specification 1.1.0, section 2.4.1; an IPv6 address has its eight full groups.
    """
    if spec.hostname is not None:
        return spec.hostname
    lowered = spec.id.lower()
    if is_label(lowered):
        return lowered
    return ipaddress.ip_address(spec.addresses[0]).exploded.replace(".", "-").replace(":", "-")


def service_name(namespace: str, service: str, zone: str) -> str:
    """The DNS name of a service."""
    return f"{service}.{namespace}.svc.{zone}"


class PortView(msgspec.Struct, gc=False):
    """A port."""

    name: str | None
    port: int
    protocol: str


class LeaseView(msgspec.Struct, gc=False):
    """A lease with what remains of it, seconds; ``None``: unknown."""

    id: str
    ttl: float | int | None
    remaining: float | int | None


class InstanceView(msgspec.Struct, gc=False):
    """An instance, its lease (``None`` for a permanent one) and its DNS names.

    A struct where the others are dictionaries: lists of 10,000 of them are made in one go.
    """

    namespace: str
    service: str
    id: str
    addresses: tuple[str, ...]
    ports: tuple[PortView, ...]
    hostname: str | None
    weight: int
    priority: int
    dns_ttl: int | None
    tags: tuple[str, ...]
    meta: dict[str, str]
    status: str
    lease: LeaseView | None
    created_revision: int
    revision: int
    dns: tuple[str, str]


def ports(many: Iterable[Port]) -> tuple[PortView, ...]:
    """Ports as objects."""
    return tuple([PortView(port.name, port.port, port.protocol) for port in many])


def lease(id: int, ttl_ms: int, remaining_ms: int | None) -> LeaseView:
    """A lease as an object."""
    return LeaseView(lease_text(id), seconds(ttl_ms), seconds(remaining_ms))


def instance(record: InstanceRecord, held: Lease | None, remaining_ms: int | None, zone: str) -> InstanceView:
    """An instance as an object."""
    spec = record.spec
    name = service_name(spec.namespace, spec.service, zone)
    return InstanceView(
        spec.namespace,
        spec.service,
        spec.id,
        spec.addresses,
        ports(spec.ports),
        spec.hostname,
        spec.weight,
        spec.priority,
        spec.dns_ttl,
        spec.tags,
        dict(spec.meta),
        spec.status,
        None if held is None else lease(held.id, held.ttl_ms, remaining_ms),
        record.create_revision,
        record.mod_revision,
        (name, f"{host_label(spec)}.{name}"),
    )


PPM: Final = 1_000_000


def service(
    namespace: str, name: str, record: ServiceRecord | None, counts: tuple[int, int], braked: int, zone: str
) -> dict[str, Any]:
    """A service: its settings (the defaults when it has none), how many instances it has, how many are ready.

    ``braked`` of these have expired and are held back.
    """
    spec = Service(namespace, name) if record is None else record.spec
    return {
        "namespace": namespace,
        "name": name,
        "type": spec.type,
        "virtual_ips": spec.virtual_ips,
        "ports": ports(spec.ports),
        "external_name": spec.external_name,
        "dns_ttl": spec.dns_ttl,
        "default_ttl": seconds(spec.default_ttl_ms),
        "publish_not_ready": spec.publish_not_ready,
        "min_healthy": None if spec.min_healthy_ppm is None else spec.min_healthy_ppm / PPM,
        "brake_timeout": seconds(spec.brake_timeout_ms),
        "instances": counts[0],
        "ready": counts[1],
        "braked": braked,
        "created_revision": 0 if record is None else record.create_revision,
        "revision": 0 if record is None else record.mod_revision,
        "dns": (service_name(namespace, name, zone),),
    }


def key(name: str, record: KeyRecord) -> dict[str, Any]:
    """A key-value pair as a list item."""
    return {
        "key": name,
        "value_base64": encode_base64(record.value),
        "revision": record.mod_revision,
        "create_revision": record.create_revision,
        "version": record.version,
        "lease": lease_text(record.lease) if record.lease else None,
    }


def operation(result: OpResult, revision: int) -> dict[str, Any]:
    """What one operation of a transaction did, under the operation's own name."""
    if result.kind == "get":
        return {"get": {"items": [key(name, record) for name, record in result.items]}}
    if result.kind == "delete":
        return {"delete": {"deleted": result.deleted}}
    return {"put": {"revision": revision}}


def moment(milliseconds: int | None) -> str | None:
    """Unix milliseconds as RFC 3339 in UTC."""
    if milliseconds is None:
        return None
    whole, rest = divmod(milliseconds, 1000)
    when = datetime.datetime.fromtimestamp(whole, datetime.UTC).replace(microsecond=rest * 1000)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def event(happened: Event) -> dict[str, Any]:
    """An event."""
    return {
        "kind": happened.kind,
        "namespace": happened.namespace,
        "service": happened.service,
        "id": happened.id,
        "revision": happened.revision,
        "time": moment(happened.time_ms),
        "actor": happened.actor,
        "last_heartbeat": moment(happened.last_heartbeat_ms),
        "detail": happened.detail,
    }


def page(name: str, items: list[Any], following: str | None, revision: int) -> Mapping[str, Any]:
    """One page of a list; ``next`` only while there is more."""
    found = {name: items, "revision": revision}
    if following is not None:
        found["next"] = following
    return found
