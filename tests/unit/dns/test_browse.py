"""DNS-based service discovery (RFC 6763): from a namespace to its types, their instances and what each says."""

from __future__ import annotations

import dns.message
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns.browse import TEXT_BYTES_MAX, text_of
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.model import Port, Service
from discovery.testing.dns_case import Case, Registry, check, instance, question, responder

NS = "default.svc.cluster.local."
SOA = "cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1"
ABSENT = {"authority": SOA, "rcode": "NXDOMAIN"}
EMPTY = {"authority": SOA}


def catalogue() -> Registry:
    return Registry().put(
        instance("web", "web-0", "10.0.0.1", ports={"http": 80, "dns/udp": 53}, meta=(("path", "/a"), ("v", "2"))),
        instance("api", "0", "10.0.1.1", ports={"http": 81}, dns_ttl=3, weight=7),
        instance("api", "x", "10.0.1.2", ports={"wire/sctp": 1}),
        instance("far", "far-0", "10.0.2.1", ports={"http": 82}, namespace="other"),
        instance("plain", "p", "10.0.3.1", namespace="bare"),
        Service("default", "vip", "virtual", ("10.9.0.1",), (Port("https", 443),)),
    )


CASES = [
    Case(f"_services._dns-sd._udp.{NS} PTR", f"""
        _services._dns-sd._udp.{NS} 5 IN PTR _http._tcp.{NS}
        _services._dns-sd._udp.{NS} 5 IN PTR _dns._udp.{NS}
        _services._dns-sd._udp.{NS} 5 IN PTR _https._tcp.{NS}"""),
    Case("_services._dns-sd._udp.bare.svc.cluster.local. PTR", **EMPTY),
    Case("_services._dns-sd._udp.gone.svc.cluster.local. PTR", **ABSENT),
    Case(f"_services._dns-sd._udp.{NS} A", **EMPTY),
    Case(f"b._dns-sd._udp.{NS} PTR", f"b._dns-sd._udp.{NS} 5 IN PTR {NS}"),
    Case(f"lb._dns-sd._udp.{NS} PTR", f"lb._dns-sd._udp.{NS} 5 IN PTR {NS}"),
    Case(f"x._dns-sd._udp.{NS} PTR", **ABSENT),
    Case(f"_http._tcp.{NS} PTR", f"""
        _http._tcp.{NS} 3 IN PTR web-0._http._tcp.web.{NS}
        _http._tcp.{NS} 3 IN PTR 0._http._tcp.api.{NS}""",
        extra=f"""
        web-0._http._tcp.web.{NS} 5 IN SRV 0 1 80 web-0.web.{NS}
        web-0._http._tcp.web.{NS} 5 IN TXT "path=/a","v=2"
        web-0.web.{NS} 5 IN A 10.0.0.1
        0._http._tcp.api.{NS} 3 IN SRV 0 7 81 0.api.{NS}
        0._http._tcp.api.{NS} 3 IN TXT ""
        0.api.{NS} 3 IN A 10.0.1.1"""),
    Case(f"_http._tcp.web.{NS} PTR", f"_http._tcp.web.{NS} 5 IN PTR web-0._http._tcp.web.{NS}", extra=f"""
        web-0._http._tcp.web.{NS} 5 IN SRV 0 1 80 web-0.web.{NS}
        web-0._http._tcp.web.{NS} 5 IN TXT "path=/a","v=2"
        web-0.web.{NS} 5 IN A 10.0.0.1"""),
    Case(f"_http._tcp.{NS} SRV", **EMPTY),
    Case(f"_gone._tcp.{NS} PTR", **ABSENT),
    Case(f"_wire._sctp.{NS} PTR", **ABSENT),
    Case(f"_wire._sctp.api.{NS} PTR", **EMPTY),
    Case(f"web-0._http._tcp.web.{NS} SRV", f"web-0._http._tcp.web.{NS} 5 IN SRV 0 1 80 web-0.web.{NS}",
         extra=f"web-0.web.{NS} 5 IN A 10.0.0.1"),
    Case(f"web-0._http._tcp.web.{NS} TXT", f'web-0._http._tcp.web.{NS} 5 IN TXT "path=/a","v=2"'),
    Case(f"0._http._tcp.api.{NS} TXT", f'0._http._tcp.api.{NS} 3 IN TXT ""'),
    Case(f"web-0._http._tcp.web.{NS} A", **EMPTY),
    Case(f"web-1._http._tcp.web.{NS} SRV", **ABSENT),
    Case(f"web-0._https._tcp.web.{NS} SRV", **ABSENT),
    Case(f"web-0._http._tcp.gone.{NS} SRV", **ABSENT),
    Case(f"_https._tcp.{NS} PTR", f"_https._tcp.{NS} 5 IN PTR vip._https._tcp.vip.{NS}"),
    Case(f"vip._https._tcp.vip.{NS} SRV", f"vip._https._tcp.vip.{NS} 5 IN SRV 0 1 443 vip.{NS}"),
    Case(f"vip._https._tcp.vip.{NS} TXT", f'vip._https._tcp.vip.{NS} 5 IN TXT ""'),
    Case(f"other._https._tcp.vip.{NS} TXT", **ABSENT),
    # what stands above a name exists (RFC 8020)
    Case(f"_tcp.{NS} PTR", **EMPTY),
    Case(f"_udp.{NS} PTR", **EMPTY),
    Case(f"_dns-sd._udp.{NS} PTR", **EMPTY),
    Case("_tcp.bare.svc.cluster.local. A", **ABSENT),
    Case("_udp.bare.svc.cluster.local. A", **EMPTY),
    Case("_udp.gone.svc.cluster.local. A", **ABSENT),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.question.replace(" ", "/"))
def test_what_browsers_ask(case: Case) -> None:
    check(responder(catalogue()), case)


def pointers(server: Responder, name: str) -> set[str]:
    reply = server.datagram(question(name, "PTR", edns=1232))
    assert reply is not None
    return {str(rr.target) for rrset in dns.message.from_wire(reply).answer for rr in rrset}


def test_a_browser_finds_every_instance_from_the_namespace_alone() -> None:
    server = responder(catalogue())
    found = set()
    for kind in pointers(server, f"_services._dns-sd._udp.{NS}"):
        for name in pointers(server, kind):
            reply = server.message(question(name, "SRV"))
            assert reply is not None
            (rrset,) = dns.message.from_wire(reply).answer
            found |= {(name.split(".")[0], rr.port) for rr in rrset}
    assert found == {("web-0", 80), ("web-0", 53), ("0", 81), ("vip", 443)}


def test_instances_come_and_go_at_once() -> None:
    """Also under questions that many ask, whose answers are kept ready."""
    server = responder(catalogue())
    zone = server.catalogue
    for number in range(20):
        spec = instance(f"new{number}", "n", "10.1.0.1", ports={"http": 80})
        assert len(pointers(server, f"_http._tcp.{NS}")) == 2
        zone.put_instance(spec)  # type: ignore[union-attr]
        assert f"n._http._tcp.new{number}.{NS}" in pointers(server, f"_http._tcp.{NS}")
        zone.drop_instance("default", f"new{number}", "n")  # type: ignore[union-attr]


def test_a_second_service_of_a_type_is_seen_where_one_alone_was_told() -> None:
    server = responder(catalogue())
    kind = "_http._tcp.other.svc.cluster.local."
    for _ in range(3):
        assert pointers(server, kind) == {"far-0._http._tcp.far.other.svc.cluster.local."}
    server.catalogue.put_instance(  # type: ignore[union-attr]
        instance("near", "n", "10.0.4.1", ports={"http": 1}, namespace="other")
    )
    assert len(pointers(server, kind)) == 2


def test_of_many_instances_as_many_as_an_answer_holds_are_told_in_turn() -> None:
    specs = [instance(f"s{n % 30}", f"i{n}", f"10.0.{n}.1", ports={"http": 80}) for n in range(120)]
    server = responder(Registry().put(*specs), Settings(max_answers=10))
    seen: set[str] = set()
    for _ in range(60):
        told = pointers(server, f"_http._tcp.{NS}")
        assert len(told) == 10
        seen |= told
    assert len(seen) == 120


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=300)), max_size=64))
def test_meta_becomes_a_txt_record_of_whole_pairs(pairs: list[tuple[str, str]]) -> None:
    data = text_of(pairs)
    assert 1 <= len(data) <= TEXT_BYTES_MAX
    strings = dns.rdata.from_wire("IN", "TXT", data, 0, len(data)).strings
    whole = {f"{key}={value}".encode() for key, value in pairs}
    assert strings == (b"",) or set(strings) <= whole
