"""The rules that every registered thing must keep, in one place for the API, the store and the command line.

Pure functions from a value to the list of rules it breaks: an empty list means that the state may hold it. The
API calls them to name the field of a bad request; ``apply`` calls them again, because the bytes of a log are not
trusted. Their verdict depends on the value alone, never on the Python version, or two nodes would disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv6Address
from typing import Any, Final

from discovery import limits
from discovery.errors import FieldError
from discovery.model import Instance, Port, Service, is_instance_id, is_label, is_port_name

LEASE_ID_MAX: Final = 2**63 - 1
PORT_MAX: Final = 65_535
UINT16_MAX: Final = 65_535
HOST_NAME_CHARS_MAX: Final = 253  # RFC 1035 section 2.3.4: 255 octets on the wire

LABEL_RULE: Final = "must be a lower-case RFC 1123 label: 1..63 letters, digits and hyphens, no hyphen at either end"
INSTANCE_ID_RULE: Final = f"must be 1..{limits.INSTANCE_ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ : -"
PORT_NAME_RULE: Final = (
    f"must be an RFC 6335 service name: 1..{limits.PORT_NAME_CHARS_MAX} lower-case letters, digits and single "
    "hyphens, at least one letter"
)
TTL_RULE: Final = f"must be {limits.LEASE_TTL_MS_MIN // 1000} s to {limits.LEASE_TTL_MS_MAX // 3_600_000} h"
BRAKE_TIMEOUT_RULE: Final = (
    f"must be {limits.BRAKE_TIMEOUT_MS_MIN // 1000} s to {limits.BRAKE_TIMEOUT_MS_MAX // 3_600_000} h"
)
KEY_RULE: Final = f"must be 1..{limits.KEY_BYTES_MAX} bytes of UTF-8"
ADDRESS_RULE: Final = "must be an IPv4 or IPv6 address"

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
_IPV4_MULTICAST = re.compile(r"2(?:2[4-9]|3[0-9])\.")
_IPV6_CHARS_MAX = 45
_SHOWN_CHARS_MAX = 128


def _error(field: str, rule: str, value: Any = None) -> FieldError:
    if isinstance(value, str) and len(value) > _SHOWN_CHARS_MAX:
        value = value[:_SHOWN_CHARS_MAX] + "…"
    return FieldError(field, rule, value)


def _outside(field: str, value: int | None, low: int, high: int) -> list[FieldError]:
    if value is None or low <= value <= high:
        return []
    return [_error(field, f"must be {low}..{high}", value)]


def _too_many(field: str, items: tuple[Any, ...], most: int) -> list[FieldError]:
    return [_error(field, f"must be at most {most} entries", len(items))] if len(items) > most else []


def _ipv6(text: str) -> IPv6Address | None:
    if len(text) > _IPV6_CHARS_MAX or "%" in text:
        return None
    try:
        return IPv6Address(text)
    except AddressValueError:
        return None


def canonical_address(text: str) -> str:
    """The canonical form of an address (RFC 5952 for IPv6), or ``text`` itself when it is no address.

    A client may write ``2001:DB8:0::1``; the state holds ``2001:db8::1`` only. :func:`address_rule` judges the result.
    """
    ip = None if _IPV4.fullmatch(text) else _ipv6(text)
    return text if ip is None or ip.ipv4_mapped else ip.compressed


def address_rule(text: str) -> str | None:
    """The rule that an address breaks: a canonical IP literal, not unspecified, multicast, mapped or zoned."""
    if _IPV4.fullmatch(text):
        if text == "0.0.0.0":  # noqa: S104 - compared, never bound
            return "must not be the unspecified address"
        return "must not be a multicast address" if _IPV4_MULTICAST.match(text) else None
    return _ipv6_rule(text)


def _ipv6_rule(text: str) -> str | None:
    if "%" in text:
        return "must not carry a zone id"
    ip = _ipv6(text)
    if ip is None:
        return ADDRESS_RULE
    if ip.ipv4_mapped:
        return f"must be written as the IPv4 address {ip.ipv4_mapped}"
    if not int(ip):
        return "must not be the unspecified address"
    if int(ip) >> 120 == 0xFF:
        return "must not be a multicast address"
    return None if ip.compressed == text else f"must be in canonical form: {ip.compressed}"


def addresses(addresses: tuple[str, ...]) -> list[FieldError]:
    """Rules of an instance's addresses: at least one, canonical IP literals, none twice."""
    if not addresses:
        return [_error("addresses", "must name at least one address")]
    return _addresses("addresses", addresses, limits.ADDRESSES_PER_INSTANCE_MAX)


def _addresses(field: str, addresses: tuple[str, ...], most: int) -> list[FieldError]:
    found = _too_many(field, addresses, most)
    if found:
        return found
    for position, text in enumerate(addresses):
        if rule := address_rule(text):
            found.append(_error(f"{field}[{position}]", rule, text))
    if len(addresses) > 1 and len(set(addresses)) < len(addresses):
        found.append(_error(field, "must not name an address twice"))
    return found


def ports(ports: tuple[Port, ...], field: str = "ports") -> list[FieldError]:
    """Rules of a list of ports: range, RFC 6335 names, each name once per protocol."""
    found = _too_many(field, ports, limits.PORTS_PER_INSTANCE_MAX)
    if found:
        return found
    seen = set()
    for position, port in enumerate(ports):
        if not 1 <= port.port <= PORT_MAX:
            found.append(_error(f"{field}[{position}].port", f"must be 1..{PORT_MAX}", port.port))
        if port.name is None:
            continue
        if not is_port_name(port.name):
            found.append(_error(f"{field}[{position}].name", PORT_NAME_RULE, port.name))
        if (port.name, port.protocol) in seen:
            found.append(_error(f"{field}[{position}].name", f"must be unique for {port.protocol}", port.name))
        seen.add((port.name, port.protocol))
    return found


def tags(tags: tuple[str, ...]) -> list[FieldError]:
    """Rules of an instance's tags: number and length."""
    found = _too_many("tags", tags, limits.TAGS_PER_INSTANCE_MAX)
    rule = f"must be 1..{limits.TAG_CHARS_MAX} characters"
    if not found:
        found.extend(
            _error(f"tags[{position}]", rule, tag)
            for position, tag in enumerate(tags)
            if not 1 <= len(tag) <= limits.TAG_CHARS_MAX
        )
    return found


def meta(meta: tuple[tuple[str, str], ...]) -> list[FieldError]:
    """Rules of an instance's meta data: number and lengths; pairs sorted by key, each key once."""
    found = _too_many("meta", meta, limits.META_PAIRS_MAX)
    if found:
        return found
    last = ""
    for key, value in meta:
        if not 1 <= len(key) <= limits.META_KEY_CHARS_MAX:
            found.append(_error("meta", f"keys must be 1..{limits.META_KEY_CHARS_MAX} characters", key))
        elif key <= last:
            found.append(_error("meta", "must be sorted by key, each key once", key))
        if len(value) > limits.META_VALUE_CHARS_MAX:
            found.append(
                _error(
                    f"meta.{key[:_SHOWN_CHARS_MAX]}", f"must be at most {limits.META_VALUE_CHARS_MAX} characters", value
                )
            )
        last = key
    return found


def names(namespace: str, service: str, instance_id: str | None = None) -> list[FieldError]:
    """Rules of the names in a path: namespace and service are labels, an instance id has its own alphabet."""
    found = label(namespace, "namespace") + label(service, "service")
    if instance_id is not None and not is_instance_id(instance_id):
        found.append(_error("id", INSTANCE_ID_RULE, instance_id))
    return found


def label(text: str, field: str) -> list[FieldError]:
    """Rule of one label (a name, a hostname)."""
    return [] if is_label(text) else [_error(field, LABEL_RULE, text)]


def instance(spec: Instance) -> list[FieldError]:
    """Every rule that an instance breaks, field by field, in the words of the API (CONTRACT section 2)."""
    return identity(spec) + addresses(spec.addresses) + ports(spec.ports) + tags(spec.tags) + meta(spec.meta)


def identity(spec: Instance) -> list[FieldError]:
    """The rules of :func:`instance` for what is an instance's own: names and numbers, without the lists."""
    found = names(spec.namespace, spec.service, spec.id)
    if spec.hostname is not None:
        found += label(spec.hostname, "hostname")
    found += _outside("weight", spec.weight, 0, UINT16_MAX)
    found += _outside("priority", spec.priority, 0, UINT16_MAX)
    return found + _outside("dns_ttl", spec.dns_ttl, 0, limits.DNS_TTL_S_MAX)


_IPV4_LIKE = re.compile(r"[0-9.]+")


def host_name(text: str, field: str) -> list[FieldError]:
    """Rules of a host name outside: lower-case labels (``_`` may begin one), at most 253 characters, no address."""
    labels = text.split(".")
    if len(text) > HOST_NAME_CHARS_MAX or not all(is_label(part.removeprefix("_")) for part in labels):
        return [_error(field, f"must be a host name of lower-case labels, at most {HOST_NAME_CHARS_MAX} long", text)]
    if _IPV4_LIKE.fullmatch(text):
        return [_error(field, "must be a host name, not an address", text)]
    return []


def _only_for(spec: Service, field: str, kind: str) -> list[FieldError]:
    given = bool(getattr(spec, field))
    return [_error(field, f"is only for type {kind}")] if given and spec.type != kind else []


def service(spec: Service) -> list[FieldError]:
    """Every rule that service settings break. Loops of external names are a matter of the zone, not judged here."""
    found = names(spec.namespace, spec.name)
    for field, kind in (("virtual_ips", "virtual"), ("ports", "virtual"), ("external_name", "external")):
        found += _only_for(spec, field, kind)
    if spec.type == "virtual" and not spec.virtual_ips:
        found.append(_error("virtual_ips", "must name at least one address for type virtual"))
    if spec.type == "external" and not spec.external_name:
        found.append(_error("external_name", "must be given for type external"))
    if spec.external_name is not None:
        found += host_name(spec.external_name, "external_name")
    found += _addresses("virtual_ips", spec.virtual_ips, limits.VIRTUAL_IPS_MAX)
    found += ports(spec.ports)
    found += _outside("dns_ttl", spec.dns_ttl, 0, limits.DNS_TTL_S_MAX)
    found += _outside("min_healthy", spec.min_healthy_ppm, 0, 1_000_000)
    if spec.brake_timeout_ms is not None:
        found += brake_timeout(spec.brake_timeout_ms)
    return found if spec.default_ttl_ms is None else found + ttl(spec.default_ttl_ms, "default_ttl")


def ttl(ttl_ms: int, field: str = "ttl") -> list[FieldError]:
    """Rule of a lease's time to live, milliseconds. The error shows the value in seconds, as the API speaks."""
    if limits.LEASE_TTL_MS_MIN <= ttl_ms <= limits.LEASE_TTL_MS_MAX:
        return []
    return [_error(field, TTL_RULE, ttl_ms / 1000)]


def brake_timeout(timeout_ms: int) -> list[FieldError]:
    """Rule of how long a brake holds, milliseconds."""
    if limits.BRAKE_TIMEOUT_MS_MIN <= timeout_ms <= limits.BRAKE_TIMEOUT_MS_MAX:
        return []
    return [_error("brake_timeout", BRAKE_TIMEOUT_RULE, timeout_ms / 1000)]


def lease_id(number: int, field: str = "lease") -> list[FieldError]:
    """Rule of a lease id: a 63-bit number above 0."""
    return (
        []
        if 0 < number <= LEASE_ID_MAX
        else [_error(field, "must be a lease id: 16 hex digits, 1 to 7fffffffffffffff", number)]
    )


def key(text: str, *, prefix: bool = False) -> list[FieldError]:
    """Rules of a public key: UTF-8, no NUL, no ``.`` or ``..`` segment, 1..512 bytes; a prefix may be empty."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return [_error("key", KEY_RULE)]
    if size > limits.KEY_BYTES_MAX or not (size or prefix):
        return [_error("key", KEY_RULE, text)]
    if "\0" in text:
        return [_error("key", "must not contain NUL", text)]
    if "." in text and not {".", ".."}.isdisjoint(text.split("/")):
        return [_error("key", "must not contain a . or .. segment", text)]
    return []


def value(data: bytes) -> list[FieldError]:
    """Rule of a key's value: its size."""
    most = limits.VALUE_BYTES_MAX
    return [_error("value", f"must be at most {most} bytes", len(data))] if len(data) > most else []


def revision(number: int | None, field: str = "if_revision") -> list[FieldError]:
    """Rule of a condition on a revision; ``None`` is no condition."""
    return [] if number is None or number >= 0 else [_error(field, "must be 0 or more", number)]


def summary(errors: Iterable[FieldError]) -> str:
    """The errors as one sentence for people: ``ports[0].port must be 1..65535; id must be …``."""
    return "; ".join(f"{error.field} {error.rule}" for error in errors)
