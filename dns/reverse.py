"""Reverse names: the zones that are ours, the addresses that are registered (RFC 1035 section 3.5, RFC 3596 2.5).

Pure. ``7.0.0.10.in-addr.arpa`` is the address 10.0.0.7, ``0.10.in-addr.arpa`` all that begin with 10.0.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Final

import msgspec

from discovery.dns.name import Labels
from discovery.dns.rotor import Ttls

V4: Final[Labels] = (b"in-addr", b"arpa")
V6: Final[Labels] = (b"ip6", b"arpa")
_OCTETS: Final = {str(value).encode(): value for value in range(256)}  # no leading zero, no sign
_NIBBLES: Final = {f"{value:x}".encode(): value for value in range(16)}
_FAMILIES: Final[dict[Labels, tuple[int, int, dict[bytes, int]]]] = {V4: (8, 4, _OCTETS), V6: (4, 32, _NIBBLES)}
_BUCKET: Final = 512


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """The addresses below a reverse name: ``value`` of the first ``bits`` of ``bits_all`` (32 or 128)."""

    bits_all: int
    bits: int
    value: int

    def address(self) -> bytes | None:
        """The one address, when the name is a whole one."""
        return self.value.to_bytes(self.bits_all // 8, "big") if self.bits == self.bits_all else None


def parse(labels: Labels) -> Prefix | None:
    """The addresses below a name under ``in-addr.arpa`` or ``ip6.arpa``; ``None`` when it stands for none.

    1. the last two labels name the family;
    2. the labels before them, from the right, are octets in decimal (at most 4) or nibbles in hex (at most 32).
    """
    family = _FAMILIES.get(labels[-2:])  # 1
    if family is None:
        return None
    width, count_max, digits = family
    parts = labels[:-2]
    if len(parts) > count_max:
        return None
    value = 0
    for part in reversed(parts):  # 2
        digit = digits.get(part)
        if digit is None:
            return None
        value = value << width | digit
    return Prefix(width * count_max, width * len(parts), value)


def is_reverse(labels: Labels) -> bool:
    """Whether the name stands under ``in-addr.arpa`` or ``ip6.arpa`` (or is one of them)."""
    return labels[-2:] in _FAMILIES


def zones(networks: Iterable[str]) -> dict[Labels, None]:
    """The reverse zones of networks in CIDR text: several when the prefix ends inside a label (RFC 1035, 3.5)."""
    found: dict[Labels, None] = {}
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        family, width = (V4, 8) if network.version == 4 else (V6, 4)
        bits = -(-network.prefixlen // width) * width
        for part in network.subnets(new_prefix=bits):
            found[_zone(part, bits // width, family)] = None
    return found


def _zone(network: ipaddress.IPv4Network | ipaddress.IPv6Network, count: int, family: Labels) -> Labels:
    labels = network.network_address.reverse_pointer.encode().split(b".")[:-2]
    return (*labels[len(labels) - count :], *family)


class Pointers:
    """The names of one address, each as text without the zone: ``web-0.web.default``."""

    __slots__ = ("_names", "ttls")

    def __init__(self) -> None:
        self._names: list[bytes] = []  # sorted, one for each instance: two may share a hostname and an address
        self.ttls = Ttls()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, text: bytes, ttl: int | None) -> None:
        """Count a name in."""
        insort(self._names, text)
        self.ttls.add(ttl)

    def remove(self, text: bytes, ttl: int | None) -> None:
        """Count a name out that was counted in."""
        del self._names[bisect_left(self._names, text)]
        self.ttls.remove(ttl)

    def first(self, count_max: int) -> list[bytes]:
        """The first distinct names in order."""
        found: list[bytes] = []
        for text in self._names:
            if not found or found[-1] != text:
                if len(found) == count_max:
                    break
                found.append(text)
        return found


class AddressSet:
    """Addresses in order, to tell whether any stands below a prefix: in small sorted buckets, ~1 us a change."""

    __slots__ = ("_buckets", "_firsts")

    def __init__(self) -> None:
        self._buckets: list[list[int]] = []
        self._firsts: list[int] = []  # of each bucket the least it ever had: a lower bound, in order

    def add(self, value: int) -> None:
        """Put in an address that is not in."""
        if not self._buckets:
            self._buckets.append([value])
            self._firsts.append(value)
            return
        at = self._bucket(value)
        bucket = self._buckets[at]
        insort(bucket, value)
        self._firsts[at] = min(self._firsts[at], value)  # below the first bucket: its halves must stay in order
        if len(bucket) > _BUCKET:
            half = bucket[_BUCKET // 2 :]
            del bucket[_BUCKET // 2 :]
            self._buckets.insert(at + 1, half)
            self._firsts.insert(at + 1, half[0])

    def remove(self, value: int) -> None:
        """Take out an address that is in."""
        at = self._bucket(value)
        bucket = self._buckets[at]
        del bucket[bisect_left(bucket, value)]
        if not bucket:
            del self._buckets[at], self._firsts[at]

    def any_between(self, low: int, high: int) -> bool:
        """Whether an address lies in ``low <= address < high``."""
        if not self._buckets:
            return False
        for at in range(self._bucket(low), len(self._buckets)):
            bucket = self._buckets[at]
            place = bisect_left(bucket, low)
            if place < len(bucket):
                return bucket[place] < high
        return False

    def _bucket(self, value: int) -> int:
        at = bisect_left(self._firsts, value)
        if at < len(self._firsts) and self._firsts[at] == value:
            return at
        return max(0, at - 1)
