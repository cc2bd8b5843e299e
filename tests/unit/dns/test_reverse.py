from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.dns import reverse
from discovery.dns.name import from_text
from discovery.dns.reverse import AddressSet, Pointers, Prefix


@given(st.ip_addresses())
def test_the_reverse_name_of_an_address_leads_back(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    prefix = reverse.parse(from_text(address.reverse_pointer))
    assert prefix is not None
    assert prefix.address() == address.packed


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("0.10.in-addr.arpa", Prefix(32, 16, 0x0A00)),
        ("in-addr.arpa", Prefix(32, 0, 0)),
        ("d.f.ip6.arpa", Prefix(128, 8, 0xFD)),
        ("00.10.in-addr.arpa", None),
        ("-1.10.in-addr.arpa", None),
        ("256.10.in-addr.arpa", None),
        ("1.2.3.4.5.in-addr.arpa", None),
        ("10.in-addr.arpa", Prefix(32, 8, 10)),
        ("fd.ip6.arpa", None),
        ("1." * 33 + "ip6.arpa", None),
        ("10.in-addr.example", None),
    ],
)
def test_prefixes(text: str, prefix: Prefix | None) -> None:
    assert reverse.parse(from_text(text)) == prefix


@pytest.mark.parametrize(
    ("network", "zones"),
    [
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("192.168.0.0/16", ["168.192.in-addr.arpa"]),
        ("172.16.0.0/12", [f"{octet}.172.in-addr.arpa" for octet in range(16, 32)]),
        ("192.0.2.0/25", [f"{octet}.2.0.192.in-addr.arpa" for octet in range(128)]),
        ("fc00::/7", ["c.f.ip6.arpa", "d.f.ip6.arpa"]),
        ("2001:db8::/32", ["8.b.d.0.1.0.0.2.ip6.arpa"]),
    ],
)
def test_networks_become_zones(network: str, zones: list[str]) -> None:
    assert list(reverse.zones([network])) == [from_text(zone) for zone in zones]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=1500), st.data())
def test_addresses_below_a_prefix_are_found(steps: list[tuple[bool, int]], data: st.DataObject) -> None:
    addresses, naive = AddressSet(), set()
    for put, value in steps:
        if put and value not in naive:
            addresses.add(value)
            naive.add(value)
        elif not put and naive:
            gone = min(naive, key=lambda known: (abs(known - value), known))
            addresses.remove(gone)
            naive.remove(gone)
    for _ in range(20):
        low = data.draw(st.integers(-5, 3005))
        high = low + data.draw(st.integers(0, 64))
        assert addresses.any_between(low, high) == any(low <= value < high for value in naive)


def test_many_addresses_split_into_buckets_and_go_again() -> None:
    addresses = AddressSet()
    for value in [*range(0, 5000, 2), *range(4999, 0, -2)]:
        addresses.add(value)
    assert addresses.any_between(4999, 5000)
    for value in range(5000):
        addresses.remove(value)
        assert not addresses.any_between(0, value + 1)


@pytest.mark.parametrize("seed", range(10))
def test_addresses_that_come_and_go_in_no_order_are_all_found_again(seed: int) -> None:
    """More than a bucket of them below all that came before: so a rack of services registers."""
    order = random.Random(seed)
    addresses, known = AddressSet(), set(range(3000, 3100))
    for value in known:
        addresses.add(value)
    for value in order.sample(range(3000), 3000):
        addresses.add(value)
        known.add(value)
        if order.random() < 0.3:
            gone = order.choice(sorted(known))
            addresses.remove(gone)
            known.remove(gone)
    for value in range(3100):
        assert addresses.any_between(value, value + 1) == (value in known)
    for value in order.sample(sorted(known), len(known)):
        addresses.remove(value)
    assert not addresses.any_between(0, 4000)


def test_names_of_an_address_in_order_and_once() -> None:
    pointers = Pointers()
    for text in (b"c", b"a", b"b", b"a"):
        pointers.add(text, None)
    assert pointers.first(2) == [b"a", b"b"]
    pointers.remove(b"a", None)
    assert pointers.first(8) == [b"a", b"b", b"c"]
    pointers.remove(b"a", None)
    assert pointers.first(8) == [b"b", b"c"]
