"""Messages as bytes: what is refused, what fits, and that two foreign libraries read what we write."""

from __future__ import annotations

import contextlib
import random
import struct

import dns.flags
import dns.message
import dns.rdatatype
import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns import codes, wire
from discovery.dns.responder import Responder
from discovery.dns.sections import Answer, RRSet
from discovery.dns.settings import Settings
from discovery.testing.dns_case import Registry, instance, question, responder

WEB = b"\3web\7default\3svc\7cluster\5local\0"
A_IN = b"\0\1\0\1"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def packet(*, flags: int = 0, counts: tuple[int, int, int, int] = (1, 0, 0, 0), body: bytes = WEB + A_IN) -> bytes:
    return struct.pack("!HHHHHH", 4711, flags, *counts) + body


REFUSED = [
    ("an opcode that is not QUERY", packet(flags=0x2800), codes.NOTIMP),
    ("NOTIFY", packet(flags=4 << 11), codes.NOTIMP),
    ("no question", packet(counts=(0, 0, 0, 0), body=b""), codes.FORMERR),
    ("two questions", packet(counts=(2, 0, 0, 0), body=(WEB + A_IN) * 2), codes.FORMERR),
    ("an answer record", packet(counts=(1, 1, 0, 0), body=WEB + A_IN + OPT), codes.FORMERR),
    ("an authority record", packet(counts=(1, 0, 1, 0), body=WEB + A_IN + OPT), codes.FORMERR),
    ("five additional records", packet(counts=(1, 0, 0, 5), body=WEB + A_IN + OPT * 5), codes.FORMERR),
    ("65535 additional records", packet(counts=(1, 0, 0, 65535)), codes.FORMERR),
    ("a record promised but missing", packet(counts=(1, 0, 0, 1)), codes.FORMERR),
    ("junk behind the question", packet(body=WEB + A_IN + b"x"), codes.FORMERR),
    ("junk behind OPT", packet(counts=(1, 0, 0, 1), body=WEB + A_IN + OPT + b"x"), codes.FORMERR),
    ("two OPT", packet(counts=(1, 0, 0, 2), body=WEB + A_IN + OPT * 2), codes.FORMERR),
    ("OPT that is not the root's", packet(counts=(1, 0, 0, 1), body=WEB + A_IN + b"\1a" + OPT), codes.FORMERR),
    ("OPT cut off", packet(counts=(1, 0, 0, 1), body=WEB + A_IN + OPT[:-1]), codes.FORMERR),
    ("OPT longer than the packet", packet(counts=(1, 0, 0, 1), body=WEB + A_IN + OPT[:-1] + b"\4"), codes.FORMERR),
    ("an option longer than OPT",
     packet(counts=(1, 0, 0, 1), body=WEB + A_IN + OPT[:-1] + b"\4\0\x0a\0\x08"), codes.FORMERR),
    ("half an option", packet(counts=(1, 0, 0, 1), body=WEB + A_IN + OPT[:-1] + b"\3\0\x0a\0"), codes.FORMERR),
    ("a question cut off", packet(body=WEB + b"\0\1\0"), codes.FORMERR),
    ("a name cut off", packet(body=WEB[:9]), codes.FORMERR),
    ("a pointer to itself", packet(body=b"\xc0\x0c" + A_IN), codes.FORMERR),
    ("a label of 64", packet(body=b"\x40" + b"a" * 64 + b"\0" + A_IN), codes.FORMERR),
    ("a name of 256 octets", packet(body=(b"\x3f" + b"a" * 63) * 4 + b"\0" + A_IN), codes.FORMERR),
    ("a signature", packet(counts=(1, 0, 0, 1), body=WEB + A_IN + b"\0\0\xfa\0\xff\0\0\0\0\0\0"), codes.NOTAUTH),
]  # fmt: skip


@pytest.mark.parametrize(("data", "rcode"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_no_question_of_ours_gets_a_bare_code(data: bytes, rcode: int) -> None:
    with pytest.raises(wire.Refused) as refused:
        wire.read(data)
    assert refused.value.rcode == rcode
    reply = wire.refusal(data, rcode)
    assert len(reply) == 12
    header = dnslib.DNSRecord.parse(reply).header
    assert (header.id, header.qr, header.rcode) == (4711, 1, rcode)
    assert header.opcode == (data[2] >> 3) & 15, "the opcode is kept"


@pytest.mark.parametrize("data", [b"", b"\0", packet()[:11], packet(flags=0x8000), packet(flags=0x8580), b"\xff" * 600])
def test_a_response_or_less_than_a_header_is_dropped(data: bytes) -> None:
    assert wire.read(data) is None


def test_ixfr_may_bring_its_soa() -> None:
    record = dnslib.DNSRecord.question("cluster.local", "IXFR")
    record.add_auth(dnslib.RR("cluster.local", dnslib.QTYPE.SOA, rdata=dnslib.SOA("a.", "b.", (1, 2, 3, 4, 5))))
    query = wire.read(bytes(record.pack()))
    assert query is not None
    assert query.rtype == codes.IXFR


def test_lowering_a_name_leaves_type_and_size_alone() -> None:
    """Type 65 is HTTPS, its byte the letter A; lowered it would be 97. An OPT size of 0x4141 must stay too."""
    body = WEB.upper() + b"\0\x41\0\1" + b"\0\0\x29\x41\x41\0\0\0\0\0\0"
    query = wire.read(packet(counts=(1, 0, 0, 1), body=body))
    assert query is not None
    assert query.edns is not None
    assert (query.rtype, query.edns.size) == (65, 0x4141)
    assert query.labels == (b"web", b"default", b"svc", b"cluster", b"local")
    assert query.question == WEB.upper() + b"\0\x41\0\1", "as asked"


@settings(max_examples=500)
@given(st.binary(max_size=600))
def test_any_bytes_are_read_refused_or_dropped(data: bytes) -> None:
    with contextlib.suppress(wire.Refused):
        wire.read(data)


def test_a_hundred_thousand_random_and_mutated_packets_never_raise() -> None:
    registry = Registry().put(*(instance("web", f"w-{n}", f"10.0.0.{n}", ports={"http": 80}) for n in range(60)))
    server = responder(registry)
    rng = random.Random(20_261_124)
    names = ["web.default.svc.cluster.local", "_http._tcp.web.default.svc.cluster.local", "1.0.0.10.in-addr.arpa", "x"]
    seeds = [question(n, t, edns=e) for n in names for t in ("A", "SRV", "PTR", "ANY") for e in (None, 1232)]
    answered = 0
    for number in range(100_000):
        if number % 4 == 0:
            data = rng.randbytes(rng.randrange(80))
        else:
            mutated = bytearray(rng.choice(seeds))
            for _ in range(rng.randrange(1, 6)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            data = bytes(mutated[: rng.randrange(len(mutated) + 1)]) if rng.random() < 0.2 else bytes(mutated)
        reply = server.datagram(data)
        if reply is not None:
            answered += 1
            assert 12 <= len(reply) <= 1232
            assert reply[:2] == data[:2]
            assert reply[2] & 0x80
    assert server.errors == 0
    assert answered > 50_000


# Composition

OWNERS = st.sampled_from(
    [
        b"\3web\7default\3svc\7cluster\5local\0",
        b"\1a\3web\7default\3svc\7cluster\5local\0",
        b"\7cluster\5local\0",
        b"\1x\0",
    ]
)
RDATA = st.integers(0, 0xFFFFFFFF).map(lambda value: b"\0\4" + value.to_bytes(4, "big"))
SETS = st.builds(
    RRSet,
    st.just(codes.A),
    st.integers(0, 9),
    st.lists(RDATA, min_size=1, max_size=40, unique=True),
    st.none() | OWNERS,
)


def distinct(sets: list[RRSet]) -> list[RRSet]:
    return list({rrset.owner or WEB: rrset for rrset in sets}.values())


SECTION = st.lists(SETS, max_size=4).map(distinct)


@settings(max_examples=150, deadline=None)
@given(SECTION, SECTION, SECTION, st.integers(512, 4096), st.booleans())
def test_an_answer_fits_is_whole_and_two_libraries_read_it(
    answer: list[RRSet], authority: list[RRSet], additional: list[RRSet], size: int, with_opt: bool
) -> None:
    query = wire.read(packet(flags=0x0100))
    assert query is not None
    opt = OPT if with_opt else b""
    reply = wire.compose(query, Answer(answer=answer, authority=authority, additional=additional), size, opt)
    assert len(reply) <= size
    ours = dnslib.DNSRecord.parse(reply)
    theirs = dns.message.from_wire(reply, raise_on_truncation=False)
    sections = ((ours.rr, theirs.answer), (ours.auth, theirs.authority))
    for parsed, foreign in sections:
        assert len(parsed) == sum(map(len, foreign))
    wanted = [(rrset.owner, data) for rrset in answer for data in rrset.data]
    assert ours.header.tc == (len(ours.rr) < len(wanted)), "TC says exactly that ANSWER records are missing"
    found = [record.rdata.data for record in ours.rr]
    assert [bytes(data) for data in found] == [data[2:] for _, data in wanted][: len(found)], "whole records, in order"
    if ours.header.tc:
        assert found, "never none"
        assert not ours.auth
        assert [record.rtype for record in ours.ar] == [codes.OPT] * with_opt
    labels = [str(record.rname) for record in ours.rr]
    owners = [dnslib.DNSBuffer(owner or WEB).decode_name() for owner, _ in wanted]
    assert labels == [str(owner) for owner in owners][: len(labels)]


class Server:
    """Asks for all addresses or ports of ``web`` and tells what came."""

    def __init__(self, server: Responder) -> None:
        self.server = server

    def ask(self, rtype: str = "A", edns: int | None = None, stream: bool = False) -> tuple[int, bool, int, int]:
        """Records in ANSWER, TC, records in ADDITIONAL without OPT, bytes."""
        name = "web.default.svc.cluster.local" if rtype == "A" else "_http._tcp.web.default.svc.cluster.local"
        data = question(name, rtype, edns=edns)
        reply = self.server.message(data) if stream else self.server.datagram(data)
        assert reply is not None
        parsed = dnslib.DNSRecord.parse(reply)
        extra = [record for record in parsed.ar if record.rtype != codes.OPT]
        return len(parsed.rr), bool(parsed.header.tc), len(extra), len(reply)


def server_of(count: int, settings: Settings | None = None) -> Server:
    registry = Registry().put(
        *(instance("web", f"web-{n}", f"10.0.{n // 256}.{n % 256}", ports={"http": 80}) for n in range(count))
    )
    return Server(responder(registry, settings))


@pytest.mark.parametrize(
    ("instances", "edns", "records", "tc"),
    [
        (28, None, 28, False),
        (29, None, 29, False),
        (30, None, 29, True),
        (60, None, 29, True),
        (29, 0, 28, True),  # a size below 512 means 512; OPT takes 11 bytes
        (60, 1232, 60, False),
        (73, 1232, 73, False),
        (74, 1232, 73, True),
        (74, 65535, 73, True),  # ours is 1232
    ],
)
def test_the_limit_of_a_datagram(instances: int, edns: int | None, records: int, tc: bool) -> None:
    server = server_of(instances)
    for _ in range(2 * instances):  # in every rotation, from the cache too
        count, truncated, _, size = server.ask(edns=edns)
        assert (count, truncated) == (records, tc)
        assert size <= (1232 if edns and edns > 512 else 512)


def test_a_client_that_takes_more_gets_more_when_we_are_told_to() -> None:
    server = server_of(100, Settings(udp_max=4096))
    assert server.ask(edns=4096)[:2] == (100, False)
    assert server.ask(edns=1232)[:2] == (73, True)
    assert server.ask(edns=None)[:2] == (29, True)


def test_additional_is_dropped_before_anything_is_truncated() -> None:
    server = server_of(8)
    count, tc, extra, size = server.ask("SRV")
    assert (count, tc) == (8, False)
    assert 0 <= extra < 8
    assert size <= 512
    assert server.ask("SRV", edns=1232)[:3] == (8, False, 8)


def test_srv_too_large_is_truncated_to_whole_records() -> None:
    count, tc, extra, size = server_of(40).ask("SRV")
    assert 5 < count < 12
    assert tc
    assert extra == 0
    assert size <= 512


@pytest.mark.parametrize(("instances", "records"), [(99, 99), (100, 100), (101, 100), (300, 100)])
def test_no_more_than_a_hundred_records_of_a_type(instances: int, records: int) -> None:
    server = server_of(instances)
    assert server.ask(stream=True)[:2] == (records, False)
    assert server.ask("SRV", stream=True)[:2] == (records, False)


def test_all_of_many_instances_get_their_turn_at_the_head_of_an_answer() -> None:
    """Cached rotations must not leave the load to the few that they begin with."""
    server = server_of(300).server
    firsts = set()
    for _ in range(9000):
        reply = server.datagram(question("web.default.svc.cluster.local"))
        assert reply is not None
        firsts.add(reply[12 + len(WEB + A_IN) + 12 :][:4])  # behind header, question, and the first record's head
    assert len(firsts) == 300


def test_the_longest_names_of_all_still_get_a_record_within_512_bytes() -> None:
    zone = "z" * 28 + "." + "y" * 28
    service, namespace, host = "s" * 63, "n" * 63, "h" * 63
    registry = Registry().put(
        instance(service, "x", "10.0.0.1", namespace=namespace, hostname=host, ports={"p" * 15: 1})
    )
    server = responder(registry, zone=zone)
    name = f"_{'p' * 15}._tcp.{service}.{namespace}.svc.{zone}"
    reply = server.datagram(question(name, "SRV"))
    assert reply is not None
    assert len(dnslib.DNSRecord.parse(reply).rr) == 1
    assert len(reply) <= 512
    target = f"{host}.{service}.{namespace}.svc.{zone}"
    reply = server.datagram(question(target, "A"))
    assert reply is not None
    assert len(dnslib.DNSRecord.parse(reply).rr) == 1
