"""A question's flags, options and fate before and after the catalogue is asked."""

from __future__ import annotations

import struct

import dnslib
import pytest

from discovery.dns import codes
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.testing.dns_case import Registry, instance, question, responder

WEB = "web.default.svc.cluster.local"
QUESTION = b"\3web\7default\3svc\7cluster\5local\0\0\1\0\1"


def packet(flags: int = 0, opt: bytes = b"", body: bytes = QUESTION) -> bytes:
    return struct.pack("!HHHHHH", 99, flags, 1, 0, 0, 1 if opt else 0) + body + opt


def opt(size: int = 1232, version: int = 0, flags: int = 0, options: bytes = b"") -> bytes:
    return b"\0" + struct.pack("!HHBBHH", codes.OPT, size, 0, version, flags, len(options)) + options


def server() -> Responder:
    registry = Registry().put(*(instance("web", f"web-{n}", f"10.0.0.{n}", ports={"http": 80}) for n in range(3)))
    return responder(registry, Settings(node="n1"))


def parsed(reply: bytes | None) -> dnslib.DNSRecord:
    assert reply is not None
    return dnslib.DNSRecord.parse(reply)


def ede(reply: bytes | None) -> list[int]:
    """Extended error codes of a reply's OPT."""
    options = [option for record in parsed(reply).ar if record.rtype == codes.OPT for option in record.rdata]
    return [int.from_bytes(option.data[:2], "big") for option in options if option.code == 15]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (0x0000, 0x8400),
        (0x0100, 0x8500),  # RD is copied
        (0x0010, 0x8410),  # CD too
        (0x0120, 0x8500),  # AD, which dig sends by default, is cleared
        (0x0040, 0x8400),  # Z is cleared
        (0x0080, 0x8400),  # RA is ours to say: no recursion here
        (0x0600, 0x8400),  # AA and TC of a question mean nothing
        (0x000F, 0x8400),  # nor does its response code
    ],
)
def test_flags(asked: int, told: int) -> None:
    host = server()
    for _ in range(5):  # composed, then from the cache
        reply = host.datagram(packet(asked))
        assert reply is not None
        assert struct.unpack_from("!HH", reply) == (99, told)


def test_letter_case_is_given_back_as_it_came() -> None:
    host = server()
    for body in (QUESTION, QUESTION.upper(), b"\3wEb\7DEfault\3svC\7clusTer\5LOCal\0\0\1\0\1"):
        for _ in range(4):
            reply = host.datagram(packet(body=body))
            assert reply is not None
            assert reply[12 : 12 + len(body)] == body
            assert len(parsed(reply).rr) == 3


def test_type_https_of_a_lower_case_name_is_not_type_97() -> None:
    reply = server().datagram(packet(body=QUESTION[:-3] + b"\x41\0\1"))
    assert reply is not None
    assert parsed(reply).q.qtype == 65
    assert parsed(reply).header.rcode == codes.NOERROR
    assert parsed(reply).rr == []


def test_only_who_sends_opt_gets_opt() -> None:
    host = server()
    assert parsed(host.datagram(packet())).ar == []
    reply = parsed(host.datagram(packet(opt=opt(4096))))
    assert [(record.rtype, record.rclass) for record in reply.ar] == [(codes.OPT, 1232)]


def test_dnssec_ok_is_copied() -> None:
    for flags in (0x8000, 0):
        reply = server().datagram(packet(opt=opt(flags=flags)))
        assert reply is not None
        assert parsed(reply).ar[0].ttl == flags


def test_a_later_version_of_edns_is_refused_with_ours() -> None:
    reply = parsed(server().datagram(packet(opt=opt(version=1))))
    assert reply.header.rcode == 0
    assert reply.ar[0].ttl >> 24 == 1, "BADVERS is 16: one in the upper bits"
    assert reply.ar[0].ttl >> 16 & 0xFF == 0
    assert reply.rr == []


@pytest.mark.parametrize("options", [b"\0\x0a\0\x08abcdefgh", b"\0\x0b\0\0", b"\xff\xff\0\1x", b"\0\x0c\0\4\0\0\0\0"])
def test_options_that_we_do_not_know_change_nothing(options: bytes) -> None:
    """A cookie where there are none, keepalive over UDP, something new, padding."""
    host = server()
    for _ in range(4):
        reply = parsed(host.datagram(packet(0x0120, opt(options=options))))
        assert len(reply.rr) == 3
        assert reply.ar[0].rdata == []


def test_stale_is_told_to_clients_with_edns_at_once_and_no_longer_than_it_lasts() -> None:
    host = server()
    asked = packet(opt=opt())
    for _ in range(5):
        assert ede(host.datagram(asked)) == []
    host.stale = True
    for _ in range(5):
        assert ede(host.datagram(asked)) == [codes.EDE_STALE]
        assert parsed(host.datagram(packet())).ar == []
        assert len(parsed(host.datagram(asked)).rr) == 3
    host.stale = False
    assert ede(host.datagram(asked)) == []


def test_before_the_first_sync_nothing_is_denied() -> None:
    host = Responder(Settings())
    for name in (WEB, "gone.default.svc.cluster.local", "web", "cluster.local"):
        reply = host.datagram(question(name, edns=1232))
        assert parsed(reply).header.rcode == codes.SERVFAIL
        assert ede(reply) == [codes.EDE_NOT_READY]
    assert parsed(host.message(question(WEB))).header.rcode == codes.SERVFAIL


def test_what_is_not_ours_says_so() -> None:
    host = server()
    reply = host.datagram(question("example.com", edns=1232))
    assert (parsed(reply).header.rcode, ede(reply)) == (codes.REFUSED, [codes.EDE_NOT_AUTHORITATIVE])
    reply = host.datagram(question("web", edns=1232))
    assert (parsed(reply).header.rcode, ede(reply)) == (codes.NXDOMAIN, [codes.EDE_NOT_AUTHORITATIVE])


@pytest.mark.parametrize("rtype", ["AXFR", "IXFR"])
def test_transfers_are_refused(rtype: str) -> None:
    for ask in (server().datagram, server().message):
        reply = parsed(ask(question("cluster.local", rtype)))
        assert (reply.header.rcode, reply.rr) == (codes.REFUSED, [])


def chaos(name: bytes, rtype: int = codes.TXT, rclass: int = codes.CH) -> dnslib.DNSRecord:
    return parsed(server().datagram(packet(body=name + struct.pack("!HH", rtype, rclass))))


def test_class_chaos_tells_version_and_node() -> None:
    for name, expected in ((b"\7VERSION\4bind\0", "discovery 0.1.0"), (b"\2id\6server\0", "n1")):
        reply = chaos(name)
        assert [str(record.rdata) for record in reply.rr] == [f'"{expected}"']
        assert reply.rr[0].rclass == codes.CH
    assert chaos(b"\7authors\4bind\0").header.rcode == codes.REFUSED
    assert chaos(b"\7version\4bind\0", codes.A).header.rcode == codes.REFUSED


@pytest.mark.parametrize("rclass", [0, 2, 4, 254, 255])
def test_other_classes_are_refused(rclass: int) -> None:
    assert chaos(QUESTION[:-4], codes.A, rclass).header.rcode == codes.REFUSED


def test_a_bug_of_ours_costs_one_servfail_and_not_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    host = server()
    host.catalogue = object()  # type: ignore[assignment]
    host._cache.get = lambda key, serial: None  # type: ignore[method-assign]
    host.catalogue = type("Broken", (), {"serial": 1})()
    replies = [host.message(packet()) for _ in range(100)]
    assert {parsed(reply).header.rcode for reply in replies} == {codes.SERVFAIL}
    assert host.errors == 100
    assert len(caplog.records) == 7, "logged at powers of two only"


def test_a_batch_is_answered_in_order_without_what_deserves_no_answer() -> None:
    host = server()
    batch = [(packet(), "a"), (b"", "b"), (packet(0x8000), "c"), (packet(0x2800), "d"), (packet(), "e")]
    replies = host.serve(batch)
    assert [address for _, address in replies] == ["a", "d", "e"]
    assert host.dropped == 2


def test_a_burst_in_one_batch_gets_different_first_addresses() -> None:
    replies = server().serve([(packet(), number) for number in range(6)])
    assert len({str(parsed(reply).rr[0].rdata) for reply, _ in replies}) == 3


def test_a_and_aaaa_asked_in_pairs_rotate_all_the_same() -> None:
    registry = Registry().put(*(instance("web", f"w{n}", f"10.0.0.{n}", f"fd00::{n}") for n in range(1, 3)))
    host = responder(registry)
    firsts = {"A": set(), "AAAA": set()}
    for _ in range(4):
        for rtype, seen in firsts.items():
            seen.add(str(parsed(host.datagram(question(WEB, rtype))).rr[0].rdata))
    assert {len(seen) for seen in firsts.values()} == {2}
