from __future__ import annotations

import pytest

from discovery.dns.resolver import Resolver
from discovery.dns.settings import Settings
from discovery.errors import InvalidInput
from discovery.model import Service
from discovery.store import Store
from discovery.testing.dns_case import Registry, instance

REGISTRY = Registry(serial=4).put(
    instance("web", "web-0", "10.0.0.1", "fd00::1", ports={"http": 8080}),
    instance("web", "web-1", "10.0.0.2", status="not_ready"),
    Service("default", "ext", "external", external_name="db.example.com"),
    Service("default", "vip", "virtual", ("10.96.0.1", "fd00::9"), dns_ttl=2),
    instance("far", "far-0", "198.51.100.7", status="not_ready"),
    Service("default", "far", publish_not_ready=True),
)


def resolver(stale: bool = False, registry: Registry | None = REGISTRY) -> Resolver:
    return Resolver("cluster.local", Settings(ns_addresses=("127.0.0.1",)), lambda: registry, lambda: stale)


WEB = "web.default.svc.cluster.local."
ROWS = [
    (WEB, "A", "NOERROR", [(WEB, "A", 5, "10.0.0.1")]),
    ("Web.Default.svc.cluster.local", "aaaa", "NOERROR", [(WEB, "AAAA", 5, "fd00::1")]),
    (WEB, "SRV", "NOERROR", [(WEB, "SRV", 5, "0 1 8080 web-0.web.default.svc.cluster.local.")]),
    (WEB, "TXT", "NOERROR", []),
    (WEB, "TYPE65280", "NOERROR", []),
    ("gone.default.svc.cluster.local", "A", "NXDOMAIN", []),
    ("default.svc.cluster.local", "A", "NOERROR", []),
    ("ext.default.svc.cluster.local", "A", "NOERROR",
     [("ext.default.svc.cluster.local.", "CNAME", 5, "db.example.com.")]),
    ("1.0.0.10.in-addr.arpa", "PTR", "NOERROR",
     [("1.0.0.10.in-addr.arpa.", "PTR", 5, "web-0.web.default.svc.cluster.local.")]),
    ("1.0.96.10.in-addr.arpa", "PTR", "NOERROR",
     [("1.0.96.10.in-addr.arpa.", "PTR", 2, "vip.default.svc.cluster.local.")]),
    ("7.100.51.198.in-addr.arpa", "PTR", "NOERROR",
     [("7.100.51.198.in-addr.arpa.", "PTR", 5, "far-0.far.default.svc.cluster.local.")]),
    ("2.0.0.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
    ("96.10.in-addr.arpa", "PTR", "NOERROR", []),
    ("97.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
    ("0.0.0.0.d.f.ip6.arpa", "PTR", "NOERROR", []),
    ("1.0.0.0.d.f.ip6.arpa", "PTR", "NXDOMAIN", []),
    ("dns-version.cluster.local", "TXT", "NOERROR", [("dns-version.cluster.local.", "TXT", 28800, '"1.1.0"')]),
    ("cluster.local", "SOA", "NOERROR",
     [("cluster.local.", "SOA", 5, "ns.dns.cluster.local. hostmaster.cluster.local. 4 7200 1800 86400 1")]),
    ("cluster.local", "NS", "NOERROR", [("cluster.local.", "NS", 5, "ns.dns.cluster.local.")]),
    (WEB, "ANY", "NOERROR", [(WEB, "HINFO", 5, '"RFC8482" ""')]),
    ("example.com", "A", "REFUSED", []),
    ("nobody", "A", "NXDOMAIN", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rtype", "rcode", "answers"), ROWS)
def test_resolve_says_what_dns_answers(name: str, rtype: str, rcode: str, answers: list[tuple[object, ...]]) -> None:
    expected = [dict(zip(("name", "type", "ttl", "data"), row, strict=True)) for row in answers]
    assert resolver().query(name, rtype) == {"rcode": rcode, "answers": expected, "stale": False}


def test_stale_is_said() -> None:
    assert resolver(stale=True).query(WEB, "A")["stale"] is True


def test_without_a_state_nothing_is_denied() -> None:
    assert resolver(registry=None).query(WEB, "A") == {"rcode": "SERVFAIL", "answers": [], "stale": True}


@pytest.mark.parametrize("name", ["a..b", "a" * 64, "ä", ".".join(["a" * 60] * 5)])
def test_a_name_that_no_question_can_carry(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        resolver().query(name, "A")
    assert refused.value.errors[0].field == "name"


@pytest.mark.parametrize(
    "rtype", ["", "B", "TYPE", "TYPE65536", "TYPE-1", "TYPE1234567", "OPT", "AXFR", "TYPE252", "٣"]
)
def test_a_type_that_no_question_can_carry(rtype: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        resolver().query(WEB, rtype)
    assert refused.value.errors[0].field == "type"


def test_the_store_is_a_source() -> None:
    made = Resolver("cluster.local", Settings(), Store, lambda: False)
    assert made.query(WEB, "A")["rcode"] == "NXDOMAIN"
    assert made.query("1.0.0.10.in-addr.arpa", "PTR")["rcode"] == "NXDOMAIN"
    assert made.query("svc.cluster.local", "A")["rcode"] == "NOERROR"
