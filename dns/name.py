"""Names: their wire form (RFC 1035 section 3.1), the grammar below the zone, the names an instance has.

Pure. Inside the server a name is a tuple of lower-case labels without the root, leftmost first, because the zone's
suffix must be compared label by label: a label may hold any byte, a dot or a whole encoded name too, so that
comparing the ends of encoded names can lie.
"""

from __future__ import annotations

import hashlib
import ipaddress
from enum import Enum
from typing import Final

import msgspec

from discovery import model

Labels = tuple[bytes, ...]

NAME_BYTES_MAX: Final = 255  # RFC 1035 section 2.3.4, length bytes and root included
LABEL_BYTES_MAX: Final = 63
_PLAIN: Final = frozenset(range(0x21, 0x7F)) - frozenset(b'.\\"();@$')
UNIQUE_PREFIX: Final = "i-"
UNIQUE_HEX_CHARS: Final = 8

NS_LABELS: Final = (b"ns", b"dns")


class BadName(ValueError):
    """Not a domain name: a label that is empty or too long, a name of more than 255 octets, a pointer."""


def read(packet: bytes, at: int) -> tuple[Labels, int]:
    """Read an uncompressed name, in lower case, and the offset behind it. Raises :class:`BadName`.

    A question's name cannot be compressed: it is the first name of its message.
    """
    labels: list[bytes] = []
    start = at
    try:
        while length := packet[at]:
            if length > LABEL_BYTES_MAX:
                raise BadName("a compression pointer or unknown label type (RFC 1035 section 4.1.4)")
            labels.append(packet[at + 1 : at + 1 + length].lower())
            at += 1 + length
    except IndexError:
        raise BadName("cut off inside a name") from None
    at += 1
    if at - start > NAME_BYTES_MAX:
        raise BadName("longer than 255 octets")
    return tuple(labels), at


def skip(packet: bytes, at: int) -> int:
    """The offset behind a name that may end in a pointer, which is not followed. Raises :class:`BadName`."""
    start = at
    try:
        while length := packet[at]:
            if length >= 0xC0:
                packet[at + 1]
                return at + 2
            if length > LABEL_BYTES_MAX or at - start > NAME_BYTES_MAX:
                raise BadName("an unknown label type, or longer than 255 octets")
            at += 1 + length
    except IndexError:
        raise BadName("cut off inside a name") from None
    return at + 1


def wire(labels: Labels) -> bytes:
    """The uncompressed wire form."""
    return b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"


def from_wire(name: bytes) -> Labels:
    """The labels of an uncompressed wire name."""
    return read(name, 0)[0]


def from_text(text: str) -> Labels:
    """Labels of a name in text, final dot or not; ``.`` is the root. Raises :class:`BadName`.

    Escapes (RFC 1035 section 5.1) are not understood: no name of ours needs one.
    """
    text = text.removesuffix(".")
    try:
        labels = tuple(text.lower().encode("ascii").split(b".")) if text else ()
    except UnicodeEncodeError:
        raise BadName("not ASCII; write an internationalised name in its xn-- form") from None
    if any(not 1 <= len(label) <= LABEL_BYTES_MAX for label in labels):
        raise BadName("every label must have 1 to 63 characters")
    if sum(map(len, labels)) + len(labels) + 1 > NAME_BYTES_MAX:
        raise BadName("longer than 255 octets")
    return labels


def to_text(labels: Labels) -> str:
    """The name for people, with its final dot; bytes that are no plain text are escaped by number (RFC 4343)."""
    return ".".join(map(_escaped, labels)) + "."


def _escaped(label: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in label)


class Kind(Enum):
    """What a place below the zone is."""

    APEX = "apex"
    VERSION = "version"
    NAME_SERVER = "name server"
    ALWAYS = "an empty non-terminal that always exists"
    NAMESPACE = "namespace"
    SERVICE = "service"
    HOST = "host"
    PROTOCOL = "protocol"
    PORT = "port"
    BROWSE_PROTOCOL = "protocol of a namespace"
    BROWSE_TYPE = "type of service in a namespace"
    BROWSE_META = "what a namespace has to browse"
    BROWSE_INSTANCE = "instance of a type of service"
    NOWHERE = "nowhere"


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where in the grammar a name stands. ``host``, ``protocol`` and ``port`` come without underscore."""

    kind: Kind
    namespace: bytes = b""
    service: bytes = b""
    host: bytes = b""
    protocol: bytes = b""
    port: bytes = b""


_APEX: Final = Place(Kind.APEX)
_VERSION: Final = Place(Kind.VERSION)
_NAME_SERVER: Final = Place(Kind.NAME_SERVER)
_ALWAYS: Final = Place(Kind.ALWAYS)
NOWHERE: Final = Place(Kind.NOWHERE)


def parse(below: Labels) -> Place:
    """Place the labels that stand below the zone.

    The grammar (Kubernetes DNS-Based Service Discovery 1.1.0, section 2):

    1. nothing: the apex of the zone
    2. ``dns-version``: section 2.2
    3. ``ns.dns``: our name server; ``dns`` above it and ``svc`` are empty non-terminals that always exist
    4. ``<namespace>.svc``: an empty non-terminal
    5. ``<service>.<namespace>.svc``: section 2.3.1, 2.4.1 and 2.5
    6. ``_<protocol>.<service>.<namespace>.svc``: an empty non-terminal
    7. ``<host>.<service>.<namespace>.svc``: one instance, by hostname or unique label
    8. ``_<port>._<protocol>.<service>.<namespace>.svc``: section 2.3.2 and 2.4.2, SRV
    9. names to browse (RFC 6763): a protocol in the place of a service, and an instance below 8
    10. anything else does not exist
    """
    if len(below) >= 3 and (len(below) > 5 or below[-3].startswith(b"_")):  # 9; no service is named so
        return _browse(below)
    match below:
        case (service, namespace, b"svc"):  # 5
            return Place(Kind.SERVICE, namespace, service)
        case (first, service, namespace, b"svc"):
            if first.startswith(b"_"):  # 6
                return Place(Kind.PROTOCOL, namespace, service, protocol=first[1:])
            return Place(Kind.HOST, namespace, service, host=first)  # 7
        case (port, protocol, service, namespace, b"svc"):
            if port.startswith(b"_") and protocol.startswith(b"_"):  # 8
                return Place(Kind.PORT, namespace, service, protocol=protocol[1:], port=port[1:])
            return NOWHERE
        case (namespace, b"svc"):  # 4
            return Place(Kind.NAMESPACE, namespace)
        case ():  # 1
            return _APEX
        case (b"dns-version",):  # 2
            return _VERSION
        case (b"ns", b"dns"):  # 3
            return _NAME_SERVER
        case (b"dns",) | (b"svc",):
            return _ALWAYS
    return NOWHERE  # 10


def _browse(below: Labels) -> Place:
    """Place a name that only DNS-based service discovery asks for (RFC 6763 section 4, 9 and 11)."""
    match below:
        case (protocol, namespace, b"svc"):
            return Place(Kind.BROWSE_PROTOCOL, namespace, protocol=protocol[1:])
        case (port, protocol, namespace, b"svc") if port.startswith(b"_"):
            return Place(Kind.BROWSE_TYPE, namespace, protocol=protocol[1:], port=port[1:])
        case (first, b"_dns-sd", b"_udp", namespace, b"svc"):
            return Place(Kind.BROWSE_META, namespace, host=first)
        case (host, port, protocol, service, namespace, b"svc"):
            if port.startswith(b"_") and protocol.startswith(b"_") and not service.startswith(b"_"):
                return Place(Kind.BROWSE_INSTANCE, namespace, service, host, protocol[1:], port[1:])
    return NOWHERE


def hostname(instance: model.Instance) -> str:
    """The label of an instance: as given, else its id when that is a label, else the dashed first address.

    An IPv6 address has 8 full groups (``fd00-0000-…-0001``).
    """
    if instance.hostname:
        return instance.hostname
    own = instance.id.lower()
    if model.is_label(own):
        return own
    address = instance.addresses[0]
    return ipaddress.IPv6Address(address).exploded.replace(":", "-") if ":" in address else address.replace(".", "-")


def unique_label(instance_id: str) -> bytes:
    """The label that only this instance has: ``i-`` and 8 hex digits of the SHA-256 of its id."""
    return (UNIQUE_PREFIX + hashlib.sha256(instance_id.encode()).hexdigest()[:UNIQUE_HEX_CHARS]).encode()
