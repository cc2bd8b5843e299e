"""Bodies of registrations and service settings to specifications. Pure; the rules themselves are ``validate``'s."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from discovery import limits, validate
from discovery.api import codec, view
from discovery.api.codec import array, check_object, decode_object, integer, refuse, refuse_all, text
from discovery.errors import FieldError
from discovery.model import PROTOCOLS, STATUSES, Instance, Port, Protocol, Service, ServiceType, Status

INSTANCE_FIELDS: Final = frozenset(
    {
        "address",
        "addresses",
        "ports",
        "ttl",
        "lease",
        "hostname",
        "weight",
        "priority",
        "dns_ttl",
        "tags",
        "meta",
        "status",
    }
)
INSTANCE_LATER: Final = {"checks": "is reserved: checks by the registry are not available yet, heartbeat instead"}
SERVICE_FIELDS: Final = frozenset(
    {
        "type",
        "virtual_ips",
        "ports",
        "external_name",
        "dns_ttl",
        "default_ttl",
        "publish_not_ready",
        "min_healthy",
        "brake_timeout",
    }
)
SERVICE_TYPES: Final = ("headless", "virtual", "external")
_PORT_FIELDS: Final = frozenset({"name", "port", "protocol"})
_STATUS_FIELDS: Final = frozenset({"status"})


class Registration(msgspec.Struct, frozen=True):
    """A registration's body: the instance, and which lease it wants (see :class:`discovery.command.Register`)."""

    instance: Instance
    status_given: bool
    ttl_ms: int | None
    ttl_given: bool
    join: int


def names(namespace: str, service: str, instance_id: str | None = None) -> tuple[str, str, str]:
    """Names of a path as the state knows them: namespace and service in lower case, all of them valid."""
    namespace, service = codec.lowered(namespace), codec.lowered(service)
    refuse_all(validate.names(namespace, service, instance_id))
    return namespace, service, instance_id or ""


def label(field: str, raw: str) -> str:
    """A name that is one label, in lower case."""
    name = codec.lowered(raw)
    refuse_all(validate.label(name, field))
    return name


def registration(namespace: str, service: str, instance_id: str, body: bytes) -> Registration:
    """The names of a path and the body of its ``PUT …/instances/{id}``.

    Raises:
        InvalidInput: names every field at fault.
    """
    fields = decode_object(body, INSTANCE_FIELDS, INSTANCE_LATER)
    status_given = "status" in fields
    ttl_ms, ttl_given, join = _lease(fields)
    spec = Instance(
        namespace=codec.lowered(namespace),
        service=codec.lowered(service),
        id=instance_id,
        addresses=_addresses(fields),
        ports=ports(fields.get("ports", [])),
        hostname=_hostname(fields.get("hostname")),
        weight=integer("weight", fields.get("weight", 1), 0, validate.UINT16_MAX),
        priority=integer("priority", fields.get("priority", 0), 0, validate.UINT16_MAX),
        dns_ttl=dns_ttl(fields.get("dns_ttl")),
        tags=_tags(fields.get("tags", [])),
        meta=_meta(fields.get("meta", {})),
        status=status(fields["status"]) if status_given else "ready",
    )
    refuse_all(_named_as_given(validate.instance(spec), "address" in fields))
    return Registration(spec, status_given, ttl_ms, ttl_given, join)


def _lease(fields: dict[str, Any]) -> tuple[int | None, bool, int]:
    """(``ttl_ms``, ``ttl_given``, ``join``): at most one of ``ttl`` and ``lease`` may be given."""
    join = fields.get("lease")
    ttl_given = "ttl" in fields
    if join is not None:
        if ttl_given:
            refuse("lease", "must not stand beside ttl: an instance joins a lease or has its own", join)
        return None, True, codec.lease_id("lease", join)
    ttl = fields.get("ttl")
    return (None if ttl is None else codec.lease_ttl_ms("ttl", ttl)), ttl_given, 0


def _addresses(fields: dict[str, Any]) -> tuple[str, ...]:
    if "address" in fields:
        if "addresses" in fields:
            refuse("addresses", "must not stand beside address: give one of them")
        return (validate.canonical_address(text("address", fields["address"])),)
    if "addresses" not in fields:
        refuse("address", "is required (or addresses)")
    return address_list("addresses", fields["addresses"], limits.ADDRESSES_PER_INSTANCE_MAX)


def address_list(field: str, value: object, most: int) -> tuple[str, ...]:
    """Addresses in canonical form; the form with networks is refused as not there yet."""
    items = array(field, value, most)
    for position, item in enumerate(items):
        if isinstance(item, dict):
            refuse(f"{field}[{position}]", "is reserved: addresses with a network are not available yet, give a string")
    return tuple(validate.canonical_address(text(f"{field}[{position}]", item)) for position, item in enumerate(items))


def _named_as_given(faults: list[FieldError], single: bool) -> list[FieldError]:
    """Faults under the name that the client used: ``address`` instead of ``addresses[0]``."""
    if not single:
        return faults
    return [msgspec.structs.replace(one, field="address") if one.field == "addresses[0]" else one for one in faults]


def ports(value: object) -> tuple[Port, ...]:
    """Ports from ``[{"name", "port", "protocol"}]`` or ``{"http": 8080}``."""
    if isinstance(value, dict):
        if len(value) > limits.PORTS_PER_INSTANCE_MAX:
            refuse("ports", f"must hold at most {limits.PORTS_PER_INSTANCE_MAX} items", len(value))
        return tuple(
            Port(codec.lowered(name), integer(f"ports.{codec.shown(name)}", number, 1, validate.PORT_MAX))
            for name, number in value.items()
        )
    items = array("ports", value, limits.PORTS_PER_INSTANCE_MAX)
    return tuple(_port(f"ports[{position}]", item) for position, item in enumerate(items))


def _port(field: str, value: object) -> Port:
    fields = check_object(value, field, _PORT_FIELDS)
    if "port" not in fields:
        refuse(f"{field}.port", "is required")
    name = fields.get("name")
    protocol = fields.get("protocol", "tcp")
    if protocol not in PROTOCOLS:
        refuse(f"{field}.protocol", f"must be one of {', '.join(PROTOCOLS)}", protocol)
    return Port(
        None if name is None else codec.lowered(text(f"{field}.name", name)),
        integer(f"{field}.port", fields["port"], 1, validate.PORT_MAX),
        cast(Protocol, protocol),
    )


def _hostname(value: object) -> str | None:
    return None if value is None else codec.lowered(text("hostname", value))


def dns_ttl(value: object) -> int | None:
    """Whole seconds of a record TTL (RFC 2181 section 8)."""
    if value is None:
        return None
    whole, rest = divmod(codec.duration_ms("dns_ttl", value), 1000)
    if rest or not 0 <= whole <= limits.DNS_TTL_S_MAX:
        refuse("dns_ttl", f"must be whole seconds 0..{limits.DNS_TTL_S_MAX}", value)
    return whole


def _tags(value: object) -> tuple[str, ...]:
    items = array("tags", value, limits.TAGS_PER_INSTANCE_MAX)
    return tuple(text(f"tags[{position}]", item) for position, item in enumerate(items))


def _meta(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        refuse("meta", "must be an object of strings", value)
    return tuple(sorted((name, text(f"meta.{codec.shown(name)}", item)) for name, item in value.items()))


def status(value: object) -> Status:
    """An instance's status."""
    if value not in STATUSES:
        refuse("status", f"must be one of {', '.join(STATUSES)}", value)
    return value


def status_body(body: bytes) -> Status:
    """The body of a ``PUT …/status``."""
    fields = decode_object(body, _STATUS_FIELDS)
    if "status" not in fields:
        refuse("status", "is required")
    return status(fields["status"])


def _external_name(value: object) -> str | None:
    return None if value is None else codec.lowered(text("external_name", value)).removesuffix(".")


def _min_healthy(value: object) -> int | None:
    """A fraction as the state keeps it: in millionths, so that every node computes with it alike."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        refuse("min_healthy", "must be a fraction 0..1", value)
    return round(value * view.PPM)


def service(namespace: str, name: str, body: bytes) -> Service:
    """The body of a ``PUT …/services/{svc}``.

    Raises:
        InvalidInput: names every field at fault.
    """
    fields = decode_object(body, SERVICE_FIELDS)
    kind = fields.get("type", "headless")
    if kind not in SERVICE_TYPES:
        refuse("type", f"must be one of {', '.join(SERVICE_TYPES)}", kind)
    lease_ttl, brake_timeout = fields.get("default_ttl"), fields.get("brake_timeout")
    spec = Service(
        namespace=namespace,
        name=name,
        type=cast(ServiceType, kind),
        virtual_ips=address_list("virtual_ips", fields.get("virtual_ips", []), limits.VIRTUAL_IPS_MAX),
        ports=ports(fields.get("ports", [])),
        external_name=_external_name(fields.get("external_name")),
        dns_ttl=dns_ttl(fields.get("dns_ttl")),
        default_ttl_ms=None if lease_ttl is None else codec.lease_ttl_ms("default_ttl", lease_ttl),
        publish_not_ready=codec.flag("publish_not_ready", fields.get("publish_not_ready", False)),
        min_healthy_ppm=_min_healthy(fields.get("min_healthy")),
        brake_timeout_ms=None if brake_timeout is None else codec.duration_ms("brake_timeout", brake_timeout),
    )
    refuse_all(validate.service(spec))
    return spec
