"""The rules of names, addresses, ports, keys and TTLs, one row a case."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import limits, validate
from discovery.model import Instance, Port, Service


def instance(**fields):
    return Instance(**{"namespace": "default", "service": "web", "id": "web-0", "addresses": ("10.0.0.7",), **fields})


def broken(errors):
    return [(error.field, error.rule) for error in errors]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("10.0.0.7", None),
        ("127.0.0.1", None),
        ("255.255.255.255", None),
        ("::1", None),
        ("2001:db8::1", None),
        ("fe80::1", None),
        ("0.0.0.0", "must not be the unspecified address"),
        ("::", "must not be the unspecified address"),
        ("224.0.0.1", "must not be a multicast address"),
        ("239.255.255.255", "must not be a multicast address"),
        ("ff02::1", "must not be a multicast address"),
        ("fe80::1%eth0", "must not carry a zone id"),
        ("2001:DB8::1", "must be in canonical form: 2001:db8::1"),
        ("2001:db8:0::1", "must be in canonical form: 2001:db8::1"),
        ("::ffff:10.0.0.7", "must be written as the IPv4 address 10.0.0.7"),
        ("::ffff:a00:7", "must be written as the IPv4 address 10.0.0.7"),
        ("010.0.0.1", validate.ADDRESS_RULE),
        ("10.0.0.256", validate.ADDRESS_RULE),
        ("10.0.0", validate.ADDRESS_RULE),
        ("10.0.0.7\n", validate.ADDRESS_RULE),
        ("1\u0660.0.0.7", validate.ADDRESS_RULE),
        ("web.example", validate.ADDRESS_RULE),
        ("", validate.ADDRESS_RULE),
        (":" * 10_000, validate.ADDRESS_RULE),
    ],
)
def test_addresses(text, rule):
    assert validate.address_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("FE80::1%eth0", "FE80::1%eth0"),
        ("::ffff:10.0.0.7", "::ffff:10.0.0.7"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_canonical_address_is_found_where_there_is_one(text, canonical):
    assert validate.canonical_address(text) == canonical


@given(st.ip_addresses())
def test_our_verdict_is_that_of_the_standard_library(ip):
    mapped = ip.version == 6 and ip.ipv4_mapped is not None
    good = not (ip.is_unspecified or ip.is_multicast or mapped)
    assert (validate.address_rule(str(ip)) is None) is good
    assert mapped or validate.canonical_address(str(ip)) == str(ip)


@given(st.text(alphabet="0123456789.:abf%", max_size=20))
def test_what_is_no_address_is_refused(text):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        assert validate.address_rule(text)


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"namespace": "Default"}, "namespace", validate.LABEL_RULE),
        ({"service": "a" * 64}, "service", validate.LABEL_RULE),
        ({"service": "web\n"}, "service", validate.LABEL_RULE),
        ({"id": ""}, "id", validate.INSTANCE_ID_RULE),
        ({"id": "a/b"}, "id", validate.INSTANCE_ID_RULE),
        ({"id": "x" * 129}, "id", validate.INSTANCE_ID_RULE),
        ({"addresses": ()}, "addresses", "must name at least one address"),
        ({"addresses": ("10.0.0.7", "x")}, "addresses[1]", validate.ADDRESS_RULE),
        ({"addresses": ("10.0.0.7",) * 2}, "addresses", "must not name an address twice"),
        ({"addresses": tuple(f"10.0.0.{n}" for n in range(17))}, "addresses", "must be at most 16 entries"),
        ({"ports": (Port("a", 1), Port("b", 65_536))}, "ports[1].port", "must be 1..65535"),
        ({"ports": (Port("-a", 1),)}, "ports[0].name", validate.PORT_NAME_RULE),
        ({"ports": (Port("123", 1),)}, "ports[0].name", validate.PORT_NAME_RULE),
        ({"ports": (Port("a" * 16, 1),)}, "ports[0].name", validate.PORT_NAME_RULE),
        ({"ports": (Port("a", 1), Port("a", 2))}, "ports[1].name", "must be unique for tcp"),
        ({"ports": (Port(None, 1),) * 65}, "ports", "must be at most 64 entries"),
        ({"hostname": "web.0"}, "hostname", validate.LABEL_RULE),
        ({"weight": -1}, "weight", "must be 0..65535"),
        ({"priority": 65_536}, "priority", "must be 0..65535"),
        ({"dns_ttl": 2**31}, "dns_ttl", "must be 0..2147483647"),
        ({"tags": ("ok", "x" * 256)}, "tags[1]", "must be 1..255 characters"),
        ({"tags": ("t",) * 65}, "tags", "must be at most 64 entries"),
        ({"meta": (("", "v"),)}, "meta", "keys must be 1..128 characters"),
        ({"meta": (("k", "v" * 1025),)}, "meta.k", "must be at most 1024 characters"),
        ({"meta": (("a", ""), ("a", ""))}, "meta", "must be sorted by key, each key once"),
        ({"meta": tuple((f"{n:02}", "") for n in range(65))}, "meta", "must be at most 64 entries"),
    ],
)
def test_an_instance_names_the_field_and_the_rule(fields, field, rule):
    assert broken(validate.instance(instance(**fields))) == [(field, rule)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": "A.b_c:d-9"},
        {"ports": (Port("http", 80), Port("http", 80, "udp"), Port(None, 1), Port(None, 1))},
        {"hostname": "0", "weight": 0, "priority": 65_535, "dns_ttl": 0},
        {"tags": ("x" * 255,), "meta": (("a", ""), ("b", "v" * 1024))},
    ],
)
def test_what_keeps_the_rules_passes(fields):
    assert validate.instance(instance(**fields)) == []


def test_every_broken_rule_is_named_at_once():
    errors = validate.instance(instance(namespace="A", id="", addresses=("x",), weight=-1))
    assert [error.field for error in errors] == ["namespace", "id", "weight", "addresses[0]"]
    assert validate.summary(errors).count(";") == 3 + validate.LABEL_RULE.count(";")


def test_a_long_value_is_shown_shortened():
    assert len(validate.label("x" * 100_000, "service")[0].value) < 200


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"type": "virtual", "virtual_ips": ("10.9.0.1",), "ports": (Port("http", 80),)}, []),
        ({"type": "external", "external_name": "www.example.org"}, []),
        ({"type": "external", "external_name": "_x.example"}, []),
        ({"name": "A"}, ["service"]),
        ({"virtual_ips": ("10.9.0.1",)}, ["virtual_ips"]),
        ({"ports": (Port("http", 80),)}, ["ports"]),
        ({"external_name": "www.example.org"}, ["external_name"]),
        ({"type": "virtual"}, ["virtual_ips"]),
        ({"type": "virtual", "virtual_ips": ("0.0.0.0",)}, ["virtual_ips[0]"]),
        ({"type": "external"}, ["external_name"]),
        ({"type": "external", "external_name": "10.0.0.1"}, ["external_name"]),
        ({"type": "external", "external_name": "www..org"}, ["external_name"]),
        ({"type": "external", "external_name": "WWW.example.org"}, ["external_name"]),
        ({"type": "external", "external_name": ".".join(["a" * 60] * 5)}, ["external_name"]),
        ({"dns_ttl": -1}, ["dns_ttl"]),
        ({"default_ttl_ms": 0}, ["default_ttl"]),
    ],
)
def test_service_settings(fields, expected):
    errors = validate.service(Service(**{"namespace": "default", "name": "web", **fields}))
    assert [error.field for error in errors] == expected


@pytest.mark.parametrize(("ttl_ms", "good"), [(999, False), (1_000, True), (86_400_000, True), (86_400_001, False)])
def test_a_ttl_is_a_second_to_a_day(ttl_ms, good):
    errors = validate.ttl(ttl_ms)
    assert broken(errors) == ([] if good else [("ttl", "must be 1 s to 24 h")])
    assert good or errors[0].value == ttl_ms / 1000


@pytest.mark.parametrize(("number", "good"), [(0, False), (-1, False), (1, True), (2**63 - 1, True), (2**63, False)])
def test_a_lease_id_has_63_bits(number, good):
    assert (validate.lease_id(number) == []) is good


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("a", True),
        ("a//b/", True),
        ("a/...b/c.d", True),
        ("x" * limits.KEY_BYTES_MAX, True),
        ("x" * (limits.KEY_BYTES_MAX + 1), False),
        ("ä" * 257, False),
        ("", False),
        (".", False),
        ("a/./b", False),
        ("a/..", False),
        ("a\0b", False),
        ("\ud800", False),
    ],
)
def test_keys(key, good):
    assert (validate.key(key) == []) is good


def test_only_a_prefix_may_be_empty():
    assert validate.key("", prefix=True) == []
    assert validate.key("a/..", prefix=True) != []


def test_values_and_conditions():
    assert validate.value(bytes(limits.VALUE_BYTES_MAX)) == []
    assert broken(validate.value(bytes(limits.VALUE_BYTES_MAX + 1))) == [("value", "must be at most 524288 bytes")]
    assert (validate.revision(None), validate.revision(0)) == ([], [])
    assert broken(validate.revision(-1)) == [("if_revision", "must be 0 or more")]
