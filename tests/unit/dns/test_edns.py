"""EDNS options, and what each kind of client with EDNS is owed (RFC 6891, and the tests at ednscomp.isc.org)."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns import codes
from discovery.dns.cookies import Cookies
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.testing.dns_case import Registry, instance

WEB = "web.default.svc.cluster.local"
QUESTION = b"\3web\7default\3svc\7cluster\5local\0\0\1\0\1"
NOW = 1_700_000_000
CLIENT = ("192.0.2.7", 5353)
OWN = b"abcdefgh"
COOKIE = b"\0\x0a\0\x08" + OWN


def server(**fields: object) -> Responder:
    made = Responder(Settings(node="n1", **fields), "1", Cookies(b"secret"), lambda: NOW)  # type: ignore[arg-type]
    registry = Registry().put(*(instance("web", f"web-{n}", f"10.0.0.{n}") for n in range(60)))
    made.install(registry.zone())
    return made


def packet(options: bytes = b"", *, flags: int = 0, ttl: int = 0, size: int = 1232, body: bytes = QUESTION) -> bytes:
    opt = b"\0" + struct.pack("!HHIH", codes.OPT, size, ttl, len(options)) + options
    return struct.pack("!HHHHHH", 99, flags, 1 if body else 0, 0, 0, 1) + body + opt


def ask(host: Responder, asked: bytes, client: object = CLIENT) -> dns.message.Message:
    ((reply, _),) = host.serve([(asked, client)])
    return dns.message.from_wire(reply)


def told(message: dns.message.Message) -> dict[int, bytes]:
    return {int(option.otype): option.to_wire() or b"" for option in message.options}


def test_who_asks_for_our_name_gets_it() -> None:
    assert told(ask(server(), packet(b"\0\3\0\0"))) == {3: b"n1"}
    assert told(ask(server(), packet())) == {}


def test_a_client_gets_a_cookie_and_keeps_it_while_it_is_young() -> None:
    host = server()
    whole = told(ask(host, packet(COOKIE)))[10]
    assert whole[:8] == OWN
    assert len(whole) == 24
    again = packet(b"\0\x0a\0\x18" + whole)
    assert told(ask(host, again))[10] == whole
    assert told(ask(host, again, ("192.0.2.8", 1)))[10] != whole, "another address, another cookie"
    assert ask(host, again).rcode() == 0


def test_a_cookie_of_another_server_is_no_reason_to_refuse() -> None:
    message = ask(server(), packet(b"\0\x0a\0\x10" + OWN + b"whatever"))
    assert (message.rcode(), len(message.answer[0])) == (0, 60)
    assert told(message)[10][:8] == OWN


@pytest.mark.parametrize("length", [0, 1, 7, 9, 15, 41, 60])
def test_a_cookie_of_an_impossible_length_is_malformed(length: int) -> None:
    assert ask(server(), packet(struct.pack("!HH", 10, length) + bytes(length))).rcode() == codes.FORMERR


def test_a_cookie_without_a_question_is_a_question_for_a_cookie() -> None:
    message = ask(server(), packet(COOKIE, body=b""))
    assert (message.rcode(), message.question, message.answer) == (0, [], [])
    assert len(told(message)[10]) == 24
    assert ask(server(), packet(body=b"")).rcode() == codes.FORMERR, "no cookie, no question"


@pytest.mark.parametrize("client", [("192.0.2.7", 1), ("2001:db8::7", 1, 0, 0), ("fe80::1%eth0", 1, 0, 2)])
def test_a_cookie_is_the_same_by_every_way_of_moving_datagrams(client: tuple[object, ...]) -> None:
    host = server()
    plain, behind_control = (ask(host, packet(COOKIE), one) for one in (client, ([], client)))
    assert told(plain) == told(behind_control)
    stream = host.message(packet(COOKIE), str(client[0]))
    assert stream is not None
    assert told(dns.message.from_wire(stream)) == told(plain)


def test_how_long_a_connection_may_be_idle_is_told_over_tcp_alone() -> None:
    asked = packet(b"\0\x0b\0\0")
    reply = server().message(asked, "192.0.2.7", 10.0)
    assert reply is not None
    assert told(dns.message.from_wire(reply)) == {11: (100).to_bytes(2, "big")}
    assert told(ask(server(), asked)) == {}


def test_an_answer_with_options_fits_all_the_same() -> None:
    for size in (512, 700, 1232):
        ((reply, _),) = server().serve([(packet(COOKIE + b"\0\3\0\0", size=size), CLIENT)])
        assert len(reply) <= size
        message = dns.message.from_wire(reply)
        assert set(told(message)) == {3, 10}
        assert bool(message.flags & dns.flags.TC) == (size < 1232)


# What ednscomp.isc.org asks: name, question, response code, flags of the OPT, records in the answer
COMPLIANCE = {
    "plain": (packet(), 0, 0, True),
    "unknown version": (packet(ttl=1 << 16), codes.BADVERS, 0, False),
    "unknown option": (packet(b"\0\x64\0\0"), 0, 0, True),
    "unknown flag": (packet(ttl=0x40), 0, 0, True),
    "unknown version with an unknown option": (packet(b"\0\x64\0\0", ttl=1 << 16), codes.BADVERS, 0, False),
    "unknown version with an unknown flag": (packet(ttl=1 << 16 | 0x40), codes.BADVERS, 0, False),
    "DNSSEC OK": (packet(ttl=0x8000), 0, 0x8000, True),
    "DNSSEC OK and an unknown flag": (packet(ttl=0x8040), 0, 0x8000, True),
    "a list of options": (packet(b"\0\3\0\0" + COOKIE + b"\0\x08\0\4\0\1\0\0"), 0, 0, True),
    "another opcode": (packet(flags=0x7800), codes.NOTIMP, 0, False),
}


@pytest.mark.parametrize(("asked", "rcode", "flags", "answered"), COMPLIANCE.values(), ids=COMPLIANCE)
def test_compliance(asked: bytes, rcode: int, flags: int, answered: bool) -> None:
    host = server()
    for reply in (host.serve([(asked, CLIENT)])[0][0], host.message(asked, CLIENT[0], 10.0)):
        assert reply is not None
        message = dns.message.from_wire(reply)
        assert (message.rcode(), message.edns, message.ednsflags & 0xFFFF) == (rcode, 0, flags)
        assert message.payload == 1232
        assert bool(message.answer) == answered
        assert not {100, 8} & set(told(message)), "no option is sent back that we do not know"


def test_who_is_refused_gets_an_opt_for_his_opt() -> None:
    tsig = b"\0" + struct.pack("!HHIH", codes.TSIG, 255, 0, 0)
    signed = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 2) + QUESTION + packet()[12 + len(QUESTION) :] + tsig
    message = dns.message.from_wire(server().datagram(signed) or b"")
    assert (message.rcode(), message.edns) == (codes.NOTAUTH, 0)
    broken = packet(b"\0\3\0\xff")
    assert dns.message.from_wire(server().datagram(broken) or b"").edns == -1, "illegible: none"


options = st.lists(
    st.tuples(st.sampled_from([3, 5, 8, 10, 11, 12, 15, 100, 65001]), st.binary(max_size=41)), max_size=5
)


@settings(max_examples=300, deadline=None)
@given(options, st.sampled_from([0, 0x8000, 1 << 16, 0x4000]), st.integers(0, 65535), st.booleans())
def test_whatever_options_come_the_answer_is_well_formed_and_fits(
    given_options: list[tuple[int, bytes]], ttl: int, size: int, question: bool
) -> None:
    wire = b"".join(struct.pack("!HH", code, len(data)) + data for code, data in given_options)
    host = server()
    asked = packet(wire, ttl=ttl, size=size, body=QUESTION if question else b"")
    ((reply, _),) = host.serve([(asked, CLIENT)])
    message = dns.message.from_wire(reply)
    assert host.errors == 0
    assert len(reply) <= max(512, min(size, 1232))
    assert message.rcode() in (0, codes.FORMERR, codes.BADVERS)
    assert set(told(message)) <= {3, 10}
