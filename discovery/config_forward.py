"""Where questions outside the zone go, as ``--dns-forward`` says it: addresses, zones of their own, a resolv.conf.

``ADDRESS``, ``ADDRESS:PORT`` and ``[IPv6]:PORT`` take every name outside the zone, ``ZONE=ADDRESS`` those of one zone,
``/path`` names a file in the form of resolv.conf(5), of which the ``nameserver`` lines count.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

DNS_PORT: Final = 53
FORWARD_RULE: Final = "must be an IP address with or without port, ZONE=ADDRESS, or the path of a resolv.conf"


class Target(msgspec.Struct, frozen=True):
    """One server and the zone it is asked for: ``""`` means every name that is in no other zone."""

    zone: str
    host: str
    port: int


class BadTarget(ValueError):
    """An entry that names no server."""


def parse(entry: str) -> list[Target]:
    """The servers of one entry; of a file all that it names now.

    Raises:
        BadTarget: with the rule that it breaks.
    """
    if entry.startswith("/"):
        return [Target("", host, DNS_PORT) for host in _name_servers(entry)]
    zone, equals, address = entry.rpartition("=")
    if equals and not zone.strip("."):
        raise BadTarget("must name a zone before =, such as corp.example=10.0.0.1")
    return [Target(zone.removesuffix(".").lower(), *_address(address))]


def _name_servers(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as problem:
        raise BadTarget(f"cannot be read: {problem.strerror}") from None
    words = [line.split() for line in lines]
    hosts = [_address(word[1])[0] for word in words if len(word) > 1 and word[0] == "nameserver"]
    if not hosts:
        raise BadTarget("has no line with a nameserver")
    return list(dict.fromkeys(hosts))


def _address(text: str) -> tuple[str, int]:
    """Canonical host and port. Raises :class:`BadTarget`."""
    host, port = text, str(DNS_PORT)
    if not text.endswith("]") and (text.startswith("[") or text.count(":") == 1):
        host, _, port = text.rpartition(":")
    try:
        ip = ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        raise BadTarget(FORWARD_RULE) from None
    if not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise BadTarget("must have a port of 1..65535")
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        raise BadTarget("must be the address of one server")
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return str(ip), int(port)


def others(entry: str, own: Sequence[tuple[str, int]]) -> list[Target]:
    """The servers of an entry that are not ourselves: asking those would go round for ever.

    Args:
        entry: see :func:`parse`; a file may name us beside others, the others count.
        own: host and port of each address that we answer on.

    Raises:
        BadTarget: when nothing is left, or for what :func:`parse` refuses.
    """
    targets = [target for target in parse(entry) if not is_own(target, own)]
    if not targets:
        raise BadTarget("is this server itself: its questions would come back for ever")
    return targets


def is_own(target: Target, own: Iterable[tuple[str, int]]) -> bool:
    """Whether ``target`` is one of the addresses ``own``; a wildcard there stands for every address of this host."""
    return any(
        port == target.port and (host == target.host or (_is_wildcard(host) and _is_local(target.host)))
        for host, port in own
    )


def _is_wildcard(host: str) -> bool:
    return ipaddress.ip_address(host).is_unspecified


def _is_local(host: str) -> bool:
    """Whether packets to ``host`` stay on this host: the kernel lets a socket have such an address, no other."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
