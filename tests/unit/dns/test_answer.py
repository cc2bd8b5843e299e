"""The answers of DESIGN section 7, a row each: question, answer, response code, additional, authority."""

from __future__ import annotations

import pytest

from discovery.dns.settings import Settings
from discovery.model import Port, Service
from discovery.testing.dns_case import Case, Registry, check, instance, responder

SETTINGS = Settings(ns_addresses=("192.0.2.53", "2001:db8::53"))
SOA = "cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1"
SOA_10 = "10.in-addr.arpa. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1"
SOA_FD = "d.f.ip6.arpa. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1"
NODATA = {"authority": SOA}
NXDOMAIN = {"authority": SOA, "rcode": "NXDOMAIN"}
HINFO = "IN HINFO \\# 9 075246433834383200"  # "RFC8482" and an empty string, in the form of RFC 3597
OUTSIDE = {"rcode": "REFUSED", "authoritative": False}
FD_1 = "1." + "0." * 29 + "d.f.ip6.arpa."


def catalogue() -> Registry:
    registry = Registry(serial=7)
    registry.put(
        # headless: two families, a hostname of its own, an id that is no label, an instance that is not ready
        instance("web", "web-0", "10.0.0.1", "fd00::1", ports={"http": 8080, "dns/udp": 53}),
        instance("web", "web_1", "10.0.0.2", ports={"http": 8081}, weight=10, priority=3),
        instance("web", "c", "10.0.0.3", hostname="blue", ports={"": 99}),
        instance("web", "web-9", "10.0.0.9", ports={"admin": 1}, status="not_ready"),
        instance("web", "web-8", "10.0.0.8", status="draining"),
        # one hostname for two instances, one address for two others
        instance("twins", "a", "10.1.0.1", hostname="twin", ports={"http": 80}),
        instance("twins", "b", "10.1.0.2", hostname="twin", ports={"http": 80}),
        instance("host", "a", "10.2.0.1", ports={"http": 80}),
        instance("host", "b", "10.2.0.1", ports={"http": 81}),
        instance("six", "db.1", "fd00::7"),
        # none ready, published all the same, settings only
        instance("down", "down-0", "10.3.0.1", ports={"http": 80}, status="not_ready"),
        instance("early", "early-0", "10.3.0.2", ports={"http": 80}, status="not_ready"),
        instance("early", "early-1", "10.3.0.3", status="maintenance"),
        Service("default", "early", publish_not_ready=True),
        Service("default", "planned"),
        instance("quiet", "q", "10.3.0.9", status="draining", namespace="asleep"),
        # TTLs
        instance("ttl", "a", "10.4.0.1", dns_ttl=3),
        instance("ttl", "b", "10.4.0.2", dns_ttl=60, ports={"x": 1}),
        instance("brief", "a", "10.4.0.3", dns_ttl=4),
        Service("default", "brief", dns_ttl=2),
        # virtual, with and without instances
        Service(
            "prod",
            "vip",
            "virtual",
            ("10.96.0.1", "fd00:96::1"),
            (Port("http", 80), Port(None, 81), Port("dns", 53, "udp")),
        ),
        instance("vip", "v-0", "10.5.0.1", namespace="prod", ports={"inner": 8080}),
        # external: outside, inside, nowhere, a chain
        Service("default", "ext", "external", external_name="db.example.com"),
        Service("default", "alias", "external", external_name="web.default.svc.cluster.local", dns_ttl=3),
        Service("default", "dangling", "external", external_name="gone.default.svc.cluster.local"),
        # elsewhere than in the reverse zones
        instance("far", "far-0", "198.51.100.7"),
    )
    return registry


ADDRESSES = [
    Case("web.default.svc.cluster.local. A", """
        web.default.svc.cluster.local. 5 IN A 10.0.0.1
        web.default.svc.cluster.local. 5 IN A 10.0.0.2
        web.default.svc.cluster.local. 5 IN A 10.0.0.3"""),
    Case("web.default.svc.cluster.local. AAAA", "web.default.svc.cluster.local. 5 IN AAAA fd00::1"),
    Case("twins.default.svc.cluster.local. AAAA", **NODATA),
    Case("web.default.svc.cluster.local. MX", **NODATA),
    Case("six.default.svc.cluster.local. A", **NODATA),
    Case("host.default.svc.cluster.local. A", "host.default.svc.cluster.local. 5 IN A 10.2.0.1"),
    Case("nothing.default.svc.cluster.local. A", **NXDOMAIN),
    Case("web.nowhere.svc.cluster.local. A", **NXDOMAIN),
    Case("web.default.pod.cluster.local. A", **NXDOMAIN),
    Case("web.cluster.local. A", **NXDOMAIN),
    Case("a.b.web.default.svc.cluster.local. A", **NXDOMAIN),
]  # fmt: skip

HOSTS = [
    Case("web-0.web.default.svc.cluster.local. A", "web-0.web.default.svc.cluster.local. 5 IN A 10.0.0.1"),
    Case("web-0.web.default.svc.cluster.local. AAAA", "web-0.web.default.svc.cluster.local. 5 IN AAAA fd00::1"),
    Case("10-0-0-2.web.default.svc.cluster.local. A", "10-0-0-2.web.default.svc.cluster.local. 5 IN A 10.0.0.2"),
    Case("blue.web.default.svc.cluster.local. A", "blue.web.default.svc.cluster.local. 5 IN A 10.0.0.3"),
    Case("blue.web.default.svc.cluster.local. AAAA", **NODATA),
    Case("c.web.default.svc.cluster.local. A", **NXDOMAIN),
    Case("fd00-0000-0000-0000-0000-0000-0000-0007.six.default.svc.cluster.local. AAAA",
         "fd00-0000-0000-0000-0000-0000-0000-0007.six.default.svc.cluster.local. 5 IN AAAA fd00::7"),
    Case("twin.twins.default.svc.cluster.local. A", """
        twin.twins.default.svc.cluster.local. 5 IN A 10.1.0.1
        twin.twins.default.svc.cluster.local. 5 IN A 10.1.0.2"""),
    Case("i-ca978112.twins.default.svc.cluster.local. A",
         "i-ca978112.twins.default.svc.cluster.local. 5 IN A 10.1.0.1"),
    Case("i-2e7d2c03.web.default.svc.cluster.local. A", "i-2e7d2c03.web.default.svc.cluster.local. 5 IN A 10.0.0.3"),
    Case("web-9.web.default.svc.cluster.local. A", **NXDOMAIN),
    Case("web-8.web.default.svc.cluster.local. A", **NXDOMAIN),
]  # fmt: skip

READINESS = [
    Case("down.default.svc.cluster.local. A", **NXDOMAIN),
    Case("down.default.svc.cluster.local. SRV", **NXDOMAIN),
    Case("_http._tcp.down.default.svc.cluster.local. SRV", **NXDOMAIN),
    Case("_tcp.down.default.svc.cluster.local. A", **NXDOMAIN),
    Case("planned.default.svc.cluster.local. A", **NXDOMAIN),
    Case("asleep.svc.cluster.local. A", **NXDOMAIN),
    Case("early.default.svc.cluster.local. A", "early.default.svc.cluster.local. 5 IN A 10.3.0.2"),
    Case("early-0.early.default.svc.cluster.local. A", "early-0.early.default.svc.cluster.local. 5 IN A 10.3.0.2"),
    Case("early-1.early.default.svc.cluster.local. A", **NXDOMAIN),
]

SERVICES = [
    Case("_http._tcp.web.default.svc.cluster.local. SRV", """
        _http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 1 8080 web-0.web.default.svc.cluster.local.
        _http._tcp.web.default.svc.cluster.local. 5 IN SRV 3 10 8081 10-0-0-2.web.default.svc.cluster.local.""",
        extra="""
        web-0.web.default.svc.cluster.local. 5 IN A 10.0.0.1
        web-0.web.default.svc.cluster.local. 5 IN AAAA fd00::1
        10-0-0-2.web.default.svc.cluster.local. 5 IN A 10.0.0.2"""),
    Case("web.default.svc.cluster.local. SRV", """
        web.default.svc.cluster.local. 5 IN SRV 0 1 8080 web-0.web.default.svc.cluster.local.
        web.default.svc.cluster.local. 5 IN SRV 0 1 53 web-0.web.default.svc.cluster.local.
        web.default.svc.cluster.local. 5 IN SRV 3 10 8081 10-0-0-2.web.default.svc.cluster.local.""",
        extra="""
        web-0.web.default.svc.cluster.local. 5 IN A 10.0.0.1
        web-0.web.default.svc.cluster.local. 5 IN AAAA fd00::1
        10-0-0-2.web.default.svc.cluster.local. 5 IN A 10.0.0.2"""),
    Case("_dns._udp.web.default.svc.cluster.local. SRV",
         "_dns._udp.web.default.svc.cluster.local. 5 IN SRV 0 1 53 web-0.web.default.svc.cluster.local.",
         extra="""
        web-0.web.default.svc.cluster.local. 5 IN A 10.0.0.1
        web-0.web.default.svc.cluster.local. 5 IN AAAA fd00::1"""),
    Case("_http._tcp.twins.default.svc.cluster.local. SRV", """
        _http._tcp.twins.default.svc.cluster.local. 5 IN SRV 0 1 80 i-ca978112.twins.default.svc.cluster.local.
        _http._tcp.twins.default.svc.cluster.local. 5 IN SRV 0 1 80 i-3e23e816.twins.default.svc.cluster.local.""",
        extra="""
        i-ca978112.twins.default.svc.cluster.local. 5 IN A 10.1.0.1
        i-3e23e816.twins.default.svc.cluster.local. 5 IN A 10.1.0.2"""),
    Case("_http._udp.web.default.svc.cluster.local. SRV", **NXDOMAIN),
    Case("_admin._tcp.web.default.svc.cluster.local. SRV", **NXDOMAIN),
    Case("_http._tcp.web.default.svc.cluster.local. A", **NODATA),
    Case("http.tcp.web.default.svc.cluster.local. SRV", **NXDOMAIN),
    Case("far.default.svc.cluster.local. SRV", **NODATA),
]  # fmt: skip

VIRTUAL = [
    Case("vip.prod.svc.cluster.local. A", "vip.prod.svc.cluster.local. 5 IN A 10.96.0.1"),
    Case("vip.prod.svc.cluster.local. AAAA", "vip.prod.svc.cluster.local. 5 IN AAAA fd00:96::1"),
    Case("v-0.vip.prod.svc.cluster.local. A", "v-0.vip.prod.svc.cluster.local. 5 IN A 10.5.0.1"),
    Case("vip.prod.svc.cluster.local. SRV", """
        vip.prod.svc.cluster.local. 5 IN SRV 0 1 80 vip.prod.svc.cluster.local.
        vip.prod.svc.cluster.local. 5 IN SRV 0 1 53 vip.prod.svc.cluster.local.""",
        extra="""
        vip.prod.svc.cluster.local. 5 IN A 10.96.0.1
        vip.prod.svc.cluster.local. 5 IN AAAA fd00:96::1"""),
    Case("_dns._udp.vip.prod.svc.cluster.local. SRV",
         "_dns._udp.vip.prod.svc.cluster.local. 5 IN SRV 0 1 53 vip.prod.svc.cluster.local.",
         extra="""
        vip.prod.svc.cluster.local. 5 IN A 10.96.0.1
        vip.prod.svc.cluster.local. 5 IN AAAA fd00:96::1"""),
    Case("_dns._udp.vip.prod.svc.cluster.local. TXT", **NODATA),
    Case("_udp.vip.prod.svc.cluster.local. TXT", **NODATA),
    Case("_sctp.vip.prod.svc.cluster.local. TXT", **NXDOMAIN),
    Case("_inner._tcp.vip.prod.svc.cluster.local. SRV", **NXDOMAIN),
]  # fmt: skip

EXTERNAL = [
    Case("ext.default.svc.cluster.local. A", "ext.default.svc.cluster.local. 5 IN CNAME db.example.com."),
    Case("ext.default.svc.cluster.local. CNAME", "ext.default.svc.cluster.local. 5 IN CNAME db.example.com."),
    Case("ext.default.svc.cluster.local. SRV", "ext.default.svc.cluster.local. 5 IN CNAME db.example.com."),
    Case("ext.default.svc.cluster.local. ANY", "ext.default.svc.cluster.local. 5 IN CNAME db.example.com."),
    Case("alias.default.svc.cluster.local. AAAA", """
        alias.default.svc.cluster.local. 3 IN CNAME web.default.svc.cluster.local.
        web.default.svc.cluster.local. 5 IN AAAA fd00::1"""),
    Case("alias.default.svc.cluster.local. CNAME",
         "alias.default.svc.cluster.local. 3 IN CNAME web.default.svc.cluster.local."),
    Case("alias.default.svc.cluster.local. TXT",
         "alias.default.svc.cluster.local. 3 IN CNAME web.default.svc.cluster.local.", **NODATA),
    Case("dangling.default.svc.cluster.local. A",
         "dangling.default.svc.cluster.local. 5 IN CNAME gone.default.svc.cluster.local.", **NXDOMAIN),
    Case("_http._tcp.ext.default.svc.cluster.local. SRV", **NXDOMAIN),
]  # fmt: skip

APEX = [
    Case("cluster.local. SOA",
         "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1"),
    Case("cluster.local. NS", "cluster.local. 5 IN NS ns.dns.cluster.local.",
         extra="""
        ns.dns.cluster.local. 5 IN A 192.0.2.53
        ns.dns.cluster.local. 5 IN AAAA 2001:db8::53"""),
    Case("cluster.local. A", **NODATA),
    Case("ns.dns.cluster.local. A", "ns.dns.cluster.local. 5 IN A 192.0.2.53"),
    Case("ns.dns.cluster.local. TXT", **NODATA),
    Case("dns-version.cluster.local. TXT", 'dns-version.cluster.local. 28800 IN TXT "1.1.0"'),
    Case("dns-version.cluster.local. A", **NODATA),
    Case("x.dns-version.cluster.local. TXT", **NXDOMAIN),
]  # fmt: skip

EMPTY_NON_TERMINALS = [
    Case("default.svc.cluster.local. A", **NODATA),
    Case("prod.svc.cluster.local. A", **NODATA),
    Case("svc.cluster.local. A", **NODATA),
    Case("dns.cluster.local. A", **NODATA),
    Case("_tcp.web.default.svc.cluster.local. A", **NODATA),
    Case("_udp.web.default.svc.cluster.local. SRV", **NODATA),
    Case("_sctp.web.default.svc.cluster.local. SRV", **NXDOMAIN),
    Case("svc.cluster.local. ANY", **NODATA),
]

ANY = [
    Case("web.default.svc.cluster.local. ANY", f"web.default.svc.cluster.local. 5 {HINFO}"),
    Case("web-0.web.default.svc.cluster.local. ANY", f"web-0.web.default.svc.cluster.local. 5 {HINFO}"),
    Case("gone.default.svc.cluster.local. ANY", **NXDOMAIN),
    Case(
        "cluster.local. ANY",
        "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1",
    ),
]

TTLS = [
    Case("ttl.default.svc.cluster.local. A", """
        ttl.default.svc.cluster.local. 3 IN A 10.4.0.1
        ttl.default.svc.cluster.local. 3 IN A 10.4.0.2"""),
    Case("b.ttl.default.svc.cluster.local. A", "b.ttl.default.svc.cluster.local. 5 IN A 10.4.0.2"),
    Case("_x._tcp.ttl.default.svc.cluster.local. SRV",
         "_x._tcp.ttl.default.svc.cluster.local. 5 IN SRV 0 1 1 b.ttl.default.svc.cluster.local.",
         extra="b.ttl.default.svc.cluster.local. 5 IN A 10.4.0.2"),
    Case("brief.default.svc.cluster.local. A", "brief.default.svc.cluster.local. 2 IN A 10.4.0.3"),
    Case("3.0.4.10.in-addr.arpa. PTR", "3.0.4.10.in-addr.arpa. 2 IN PTR a.brief.default.svc.cluster.local."),
]  # fmt: skip

REVERSE = [
    Case("1.0.0.10.in-addr.arpa. PTR", "1.0.0.10.in-addr.arpa. 5 IN PTR web-0.web.default.svc.cluster.local."),
    Case("2.0.0.10.in-addr.arpa. PTR", "2.0.0.10.in-addr.arpa. 5 IN PTR 10-0-0-2.web.default.svc.cluster.local."),
    Case("1.0.2.10.in-addr.arpa. PTR", """
        1.0.2.10.in-addr.arpa. 5 IN PTR a.host.default.svc.cluster.local.
        1.0.2.10.in-addr.arpa. 5 IN PTR b.host.default.svc.cluster.local."""),
    Case("1.0.96.10.in-addr.arpa. PTR", "1.0.96.10.in-addr.arpa. 5 IN PTR vip.prod.svc.cluster.local."),
    Case(f"{FD_1} PTR", f"{FD_1} 5 IN PTR web-0.web.default.svc.cluster.local."),
    Case("7.100.51.198.in-addr.arpa. PTR", "7.100.51.198.in-addr.arpa. 5 IN PTR far-0.far.default.svc.cluster.local."),
    Case("1.0.0.10.in-addr.arpa. A", authority=SOA_10),
    Case("9.0.0.10.in-addr.arpa. PTR", authority=SOA_10, rcode="NXDOMAIN"),
    Case("01.0.0.10.in-addr.arpa. PTR", authority=SOA_10, rcode="NXDOMAIN"),
    Case("256.0.0.10.in-addr.arpa. PTR", authority=SOA_10, rcode="NXDOMAIN"),
    Case("x.1.0.0.10.in-addr.arpa. PTR", authority=SOA_10, rcode="NXDOMAIN"),
    Case("0.0.10.in-addr.arpa. PTR", authority=SOA_10),
    Case("0.10.in-addr.arpa. PTR", authority=SOA_10),
    Case("200.10.in-addr.arpa. PTR", authority=SOA_10, rcode="NXDOMAIN"),
    Case("10.in-addr.arpa. PTR", authority=SOA_10),
    Case("10.in-addr.arpa. SOA",
         "10.in-addr.arpa. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 1"),
    Case("17.172.in-addr.arpa. NS", "17.172.in-addr.arpa. 5 IN NS ns.dns.cluster.local.",
         extra="""
        ns.dns.cluster.local. 5 IN A 192.0.2.53
        ns.dns.cluster.local. 5 IN AAAA 2001:db8::53"""),
    Case("0.0.d.f.ip6.arpa. PTR", authority=SOA_FD),
    Case("1.0.d.f.ip6.arpa. PTR", authority=SOA_FD, rcode="NXDOMAIN"),
    Case("g.0.d.f.ip6.arpa. PTR", authority=SOA_FD, rcode="NXDOMAIN"),
    Case("8.100.51.198.in-addr.arpa. PTR", rcode="NXDOMAIN", authoritative=False),
    Case("100.51.198.in-addr.arpa. PTR", **OUTSIDE),
    Case("32.172.in-addr.arpa. PTR", rcode="NXDOMAIN", authoritative=False),
    Case("172.in-addr.arpa. PTR", **OUTSIDE),
    Case("in-addr.arpa. NS", **OUTSIDE),
    Case("arpa. NS", **OUTSIDE),
]  # fmt: skip

ELSEWHERE = [
    Case("example.com. A", **OUTSIDE),
    Case("www.example.com. A", **OUTSIDE),
    Case("cluster.local.example.com. A", **OUTSIDE),
    Case("xcluster.local. A", **OUTSIDE),
    Case(". NS", **OUTSIDE),
    Case("web. A", rcode="NXDOMAIN", authoritative=False),
    Case("local. A", **OUTSIDE),
    Case("local. SOA", **OUTSIDE),
]


@pytest.mark.parametrize(
    "case",
    [*ADDRESSES, *HOSTS, *READINESS, *SERVICES, *VIRTUAL, *EXTERNAL, *APEX, *EMPTY_NON_TERMINALS, *ANY, *TTLS, *REVERSE,
     *ELSEWHERE],
    ids=lambda case: case.question.replace(" ", "/"),
)  # fmt: skip
def test_answer_is_as_the_table_says(case: Case) -> None:
    check(responder(catalogue(), SETTINGS), case)


def chain(length: int, last: str) -> Registry:
    """Aliases a0 → a1 → … → ``last``."""
    names = [f"a{number}.default.svc.cluster.local" for number in range(length)]
    targets = [*names[1:], last]
    return Registry().put(
        *(Service("default", f"a{i}", "external", external_name=target) for i, target in enumerate(targets)),
        instance("web", "web-0", "10.0.0.1"),
    )


def test_a_chain_of_eight_aliases_ends_in_an_address_after_seven_and_stops_at_eight() -> None:
    server = responder(chain(7, "web.default.svc.cluster.local"))
    rows = [f"a{i}.default.svc.cluster.local. 5 IN CNAME a{i + 1}.default.svc.cluster.local." for i in range(6)]
    rows += ["a6.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local."]
    check(
        server,
        Case("a0.default.svc.cluster.local. A", "\n".join([*rows, "web.default.svc.cluster.local. 5 IN A 10.0.0.1"])),
    )
    longer = responder(chain(12, "web.default.svc.cluster.local"))
    eight = [f"a{i}.default.svc.cluster.local. 5 IN CNAME a{i + 1}.default.svc.cluster.local." for i in range(8)]
    check(longer, Case("a0.default.svc.cluster.local. A", "\n".join(eight)))


def test_a_loop_of_aliases_ends() -> None:
    server = responder(chain(1, "a0.default.svc.cluster.local"))
    reply = server.message(b"\0\1\0\0\0\1\0\0\0\0\0\0\2a0\7default\3svc\7cluster\5local\0\0\1\0\1")
    assert reply is not None
    assert reply[3] & 15 == 0


def test_eight_names_of_an_address_are_told_in_order() -> None:
    registry = Registry().put(*(instance("web", f"w-{number:02}", "10.0.0.1") for number in reversed(range(20))))
    rows = "\n".join(
        f"1.0.0.10.in-addr.arpa. 5 IN PTR w-{number:02}.web.default.svc.cluster.local." for number in range(8)
    )
    check(responder(registry), Case("1.0.0.10.in-addr.arpa. PTR", rows))


def test_a_zone_of_one_label_and_of_four_work_alike() -> None:
    for zone in ("internal", "a.b.c.example"):
        registry = Registry().put(instance("web", "web-0", "10.0.0.1"))
        name = f"web.default.svc.{zone}."
        check(responder(registry, zone=zone), Case(f"{name} A", f"{name} 5 IN A 10.0.0.1"))


def test_a_server_without_addresses_has_a_name_without_records() -> None:
    soa = "cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1"
    check(responder(Registry()), Case("ns.dns.cluster.local. A", authority=soa))


def test_an_empty_catalogue_has_svc_but_no_namespace() -> None:
    soa = "cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1"
    check(responder(Registry()), Case("svc.cluster.local. A", authority=soa))
    check(responder(Registry()), Case("default.svc.cluster.local. A", authority=soa, rcode="NXDOMAIN"))


def test_the_serial_wraps_as_rfc_1982_has_it() -> None:
    registry = Registry(serial=2**32 + 5)
    soa = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 5 7200 1800 86400 1"
    check(responder(registry), Case("cluster.local. SOA", soa))
