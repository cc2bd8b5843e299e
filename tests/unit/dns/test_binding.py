"""SVCB and HTTPS records: who has some, what they say, and that another library reads them."""

from __future__ import annotations

import dns.message
import dns.rdatatype
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns import binding, codes, text
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.model import Port, Service
from discovery.testing.dns_case import Registry, instance, question, responder

WEB = "web.default.svc.cluster.local"
BOTH = {"https": 8443, "http": 8080}


def catalogue() -> Registry:
    return Registry().put(
        instance("web", "web-0", "10.0.0.1", "fd00::1", ports=BOTH, meta=(("alpn.https", "h2, http/1.1"),)),
        instance("web", "web-1", "10.0.0.2", ports={"https": 9443}, priority=5, dns_ttl=3),
        instance("plain", "p", "10.0.1.1", ports={"http": 80}, meta=(("alpn", "http/1.1"),)),
        instance("bare", "b", "10.0.2.1"),
        instance("quic", "q", "10.0.3.1", ports={"https": 443, "doq/udp": 853}, meta=(("alpn", "h3,h2"),)),
        Service("default", "vip", "virtual", ("10.9.0.1", "fd00::9"), (Port("https", 443), Port("dns", 53, "udp"))),
        Service("default", "ext", "external", external_name=WEB),
    )


def ask(server: Responder, name: str, rtype: str) -> dns.message.Message:
    reply = server.message(question(name, rtype))
    assert reply is not None
    return dns.message.from_wire(reply)


def records(server: Responder, name: str, rtype: str) -> list[str]:
    message = ask(server, name, rtype)
    assert message.rcode() == 0
    wanted = dns.rdatatype.from_text(rtype)
    return sorted(rr.to_text() for rrset in message.answer if rrset.rdtype == wanted for rr in rrset)


def test_https_tells_port_protocols_and_addresses_of_every_instance_that_has_the_port() -> None:
    expected = [
        f'1 web-0.{WEB}. alpn="h2,http/1.1" port="8443" ipv4hint="10.0.0.1" ipv6hint="fd00::1"',
        f'6 web-1.{WEB}. port="9443" ipv4hint="10.0.0.2"',
    ]
    assert records(responder(catalogue()), WEB, "HTTPS") == expected


def test_the_addresses_of_targets_come_along_and_the_least_ttl_is_the_sets() -> None:
    message = ask(responder(catalogue()), WEB, "HTTPS")
    assert message.answer[0].ttl == 3
    assert {(str(rrset.name), rrset.rdtype) for rrset in message.additional} == {
        (f"web-0.{WEB}.", dns.rdatatype.A),
        (f"web-0.{WEB}.", dns.rdatatype.AAAA),
        (f"web-1.{WEB}.", dns.rdatatype.A),
    }


@pytest.mark.parametrize("name", ["plain", "bare"])
def test_a_service_without_a_port_named_https_has_no_https_record(name: str) -> None:
    """RFC 9460 section 9.5: such a record turns http:// into https://."""
    message = ask(responder(catalogue()), WEB.replace("web", name), "HTTPS")
    assert (message.rcode(), message.answer) == (0, [])
    assert [rrset.rdtype for rrset in message.authority] == [dns.rdatatype.SOA]


def test_svcb_of_a_service_tells_all_named_ports_and_of_a_port_that_one() -> None:
    server = responder(catalogue())
    assert records(server, WEB.replace("web", "quic"), "SVCB") == [
        '1 q.quic.default.svc.cluster.local. alpn="h3,h2" port="443" ipv4hint="10.0.3.1"',
        '1 q.quic.default.svc.cluster.local. alpn="h3,h2" port="853" ipv4hint="10.0.3.1"',
    ]
    assert records(server, f"_http._tcp.{WEB}", "SVCB") == [
        f'1 web-0.{WEB}. port="8080" ipv4hint="10.0.0.1" ipv6hint="fd00::1"'
    ]
    assert records(server, WEB.replace("web", "bare"), "SVCB") == []
    assert ask(server, f"_gone._tcp.{WEB}", "SVCB").rcode() == codes.NXDOMAIN


def test_a_virtual_service_is_its_own_target() -> None:
    server, vip = responder(catalogue()), WEB.replace("web", "vip")
    assert records(server, vip, "HTTPS") == ['1 . port="443" ipv4hint="10.9.0.1" ipv6hint="fd00::9"']
    assert len(records(server, vip, "SVCB")) == 2
    assert records(server, f"_dns._udp.{vip}", "SVCB") == ['1 . port="53" ipv4hint="10.9.0.1" ipv6hint="fd00::9"']


def test_an_external_name_inside_the_zone_is_chased() -> None:
    assert len(records(responder(catalogue()), WEB.replace("web", "ext"), "HTTPS")) == 2


def test_no_more_records_than_answers_hold() -> None:
    registry = Registry().put(*(instance("web", f"w{n}", f"10.0.0.{n}", ports=BOTH) for n in range(40)))
    for rtype in ("HTTPS", "SVCB"):
        assert len(records(responder(registry, Settings(max_answers=7)), WEB, rtype)) == 7


def test_a_change_is_seen_in_the_next_answer() -> None:
    server = responder(catalogue())
    for _ in range(12):
        assert server.datagram(question(WEB, "HTTPS")) is not None
    server.catalogue.put_instance(instance("web", "web-1", "10.0.0.2", ports={"https": 1}))  # type: ignore[union-attr]
    for _ in range(12):
        reply = server.datagram(question(WEB, "HTTPS"))
        assert reply is not None
        assert any('port="1"' in rr.to_text() for rr in dns.message.from_wire(reply).answer[0])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.integers(0, 65535), st.integers(1, 65535))
def test_whatever_meta_says_the_record_is_well_formed(alpn: str, priority: int, port: int) -> None:
    registry = Registry().put(
        instance("web", "w", "10.0.0.1", ports={"https": port}, priority=priority, meta=(("alpn", alpn),))
    )
    (record,) = records(responder(registry), WEB, "HTTPS")
    assert record.startswith(f"{min(priority + 1, 65535)} w.{WEB}. ")
    assert f'port="{port}"' in record


def test_text_is_that_of_the_rfc() -> None:
    made = binding.record(2, b"\1a\0", [b"h2", b"h3"], 443, [b"\0\4\x0a\0\0\1", b"\0\x10" + bytes(15) + b"\1"])
    assert text.rdata(codes.HTTPS, made[2:]) == "2 a. alpn=h2,h3 port=443 ipv4hint=10.0.0.1 ipv6hint=::1"
