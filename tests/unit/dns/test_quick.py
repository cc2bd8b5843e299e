"""The fast ways to an answer say, byte for byte, what the general way says."""

from __future__ import annotations

import mmap
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import dns.message
import dnslib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery import limits
from discovery.dns import codes, quick
from discovery.dns.name import Kind, parse
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.model import Instance, Port, Service
from discovery.testing.dns_case import Registry, instance, question, responder

WEB = "web.default.svc.cluster.local"
ZONE = b"\7cluster\5local\0"
SEEDS = Path(__file__).with_name("packets.txt")
LABELS = [
    b"web", b"db", b"ext", b"vip", b"default", b"other", b"svc", b"pod", b"dns", b"ns", b"dns-version", b"_http",
    b"_dns", b"_tcp", b"_udp", b"_", b"w0", b"w1", b"same", b"gone", b"cluster", b"local", b"i-2bd5c1f2", b"10-0-0-1",
    b"a\0b", b"\0", b"\3svc\7cluster\5local\0", b"x\7cluster\5local", b"A" * 63, b"\xff\xc3\x28", b"w.0",
]  # fmt: skip
TYPES = [1, 28, 33, 16, 65, 64, 255, 5, 6, 12, 2, 257, 41, 65000]


class Slots:
    """A batch in memory, as the sockets hand it over."""

    def __init__(self, packets: Sequence[bytes]) -> None:
        self.memory = mmap.mmap(-1, limits.DNS_UDP_BYTES_MAX * max(1, len(packets)))
        self.starts = [limits.DNS_UDP_BYTES_MAX * slot + 2 for slot in range(len(packets))]
        self.sizes = [len(packet) for packet in packets]
        self.lengths = [99] * len(packets)
        self.cut: set[int] = set()
        for start, packet in zip(self.starts, packets, strict=True):
            self.memory[start - 2 : start - 2 + len(packet)] = packet

    def is_cut(self, slot: int) -> bool:
        return slot in self.cut

    def client(self, slot: int) -> bytes:
        return bytes((192, 0, 2, slot & 255))

    def replies(self) -> list[bytes | None]:
        found = zip(self.starts, self.lengths, strict=True)
        return [self.memory[start - 2 : start - 2 + length] or None for start, length in found]


def served(server: Responder, packets: Sequence[bytes]) -> list[bytes | None]:
    slots = Slots(packets)
    silent = server.serve_slots(slots, len(packets))
    assert silent == slots.lengths.count(0)
    return slots.replies()


def general(server: Responder, packet: bytes) -> bytes | None:
    """What reading, resolving and composing makes of it."""
    return server._guarded(packet)


def forgetful(server: Responder) -> Responder:
    """Composes every answer anew, so that two servers deal rotations in step."""
    server._cache.put = lambda *rest: None  # type: ignore[method-assign]
    server._cache.put_all = lambda *rest: None  # type: ignore[method-assign]
    server._cache.put_negative = lambda *rest: None  # type: ignore[method-assign]
    return server


# Catalogues and questions

instances = st.builds(
    lambda service, number, addresses, ports, hostname, status, ttl, weight: Instance(
        "default", service, f"w{number}", addresses, ports, hostname=hostname, status=status, dns_ttl=ttl, weight=weight
    ),
    st.sampled_from(["web", "db", "ext", "vip"]),
    st.integers(0, 12),
    st.sampled_from(
        [("10.0.0.1",), ("10.0.0.2",), ("10.0.0.3",), ("fd00::1",), ("10.0.0.4", "fd00::2"), ("fd00::3", "10.0.0.5")]
    ),
    st.sampled_from(
        [(), (Port("http", 80, "tcp"),), (Port("http", 81, "tcp"), Port("dns", 53, "udp")), (Port(None, 9, "tcp"),)]
    ),
    st.sampled_from([None, None, "same", "w0"]),
    st.sampled_from(["ready", "ready", "ready", "not_ready"]),
    st.sampled_from([None, None, 1, 3, 60]),
    st.integers(0, 3),
)
services = st.one_of(
    st.builds(Service, st.just("default"), st.sampled_from(["web", "db"]), dns_ttl=st.sampled_from([None, 2])),
    st.builds(
        lambda name, ports: Service("default", name, type="virtual", virtual_ips=("10.9.0.1", "fd00::9"), ports=ports),
        st.sampled_from(["vip", "db"]),
        st.sampled_from([(), (Port("http", 80, "tcp"),)]),
    ),
    st.sampled_from([WEB, "elsewhere.example"]).map(
        lambda target: Service("default", "ext", type="external", external_name=target)
    ),
)
catalogues = st.builds(
    lambda one, two: Registry().put(*one, *two),
    st.lists(services, max_size=3, unique_by=lambda s: s.name),
    st.lists(instances, max_size=24, unique_by=lambda i: (i.service, i.id)),
)


def wire_name(labels: Sequence[bytes]) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in labels)


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """Mostly what resolvers send, of names that mostly exist, in any letter case; sometimes anything."""
    likely = st.sampled_from(
        [
            b"\3web\7default\3svc", b"\2db\7default\3svc", b"\3vip\7default\3svc", b"\3ext\7default\3svc",
            b"\5_http\4_tcp\3web\7default\3svc", b"\4_dns\4_udp\3web\7default\3svc", b"\4_tcp\3web\7default\3svc",
            b"\5_http\4_tcp\3vip\7default\3svc", b"\2w0\3web\7default\3svc", b"\4same\3web\7default\3svc",
            b"\4nope\3web\7default\3svc", b"\4nope\7default\3svc", b"\7default\3svc", b"\2ns\3dns", b"",
        ]
    )  # fmt: skip
    below = draw(st.one_of(likely, likely, st.lists(st.sampled_from(LABELS), max_size=6).map(wire_name)))
    name = below + draw(st.sampled_from([ZONE, ZONE, ZONE, ZONE, b"\5local\0", b"\0", b"\7cluster\5locam\0"]))
    cased = draw(st.integers(0, 2**64 - 1)) if draw(st.booleans()) else 0
    bits = random.Random(cased)
    if cased:
        name = bytes(b ^ 0x20 if 97 <= b <= 122 and bits.random() < 0.5 else b for b in name)
    rtype = draw(st.sampled_from(TYPES))
    rclass = draw(st.sampled_from([1, 1, 1, 1, 1, 3, 255]))
    flags = draw(st.sampled_from([0, 0x100, 0x120, 0x110, 0x8000, 0x2800, 0x40, 0x0200]))
    opt = draw(st.sampled_from([None, None, 0, 512, 1232, 4096, 0x4141, 65535]))
    ttl = draw(st.sampled_from([0, 0, 0x8000, 0x10000, 0x4000]))
    options = draw(st.sampled_from([b"", b"", b"\0\x0a\0\x08abcdefgh", b"\0\x0a\0\x09short"]))
    tail = b"" if opt is None else b"\0" + struct.pack("!HHIH", 41, opt, ttl, len(options)) + options
    packet = struct.pack("!HHHHHH", 7, flags, 1, 0, 0, int(opt is not None)) + name + struct.pack("!HH", rtype, rclass)
    packet += tail
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(packet) - 1))
        packet = packet[:at] + draw(st.binary(max_size=2)) + packet[at + draw(st.integers(0, 2)) :]
    return packet


@settings(max_examples=200, deadline=None)
@given(catalogues, st.lists(packets(), min_size=1, max_size=12), st.booleans())
def test_composed_in_slices_or_in_general_an_answer_has_the_same_bytes(
    registry: Registry, asked: list[bytes], stale: bool
) -> None:
    fast, slow = forgetful(responder(registry)), responder(registry)
    fast.stale = slow.stale = stale
    for packet in [*asked, *asked]:  # the second time every shape is known
        expected = general(slow, packet)
        assert served(fast, [packet]) == [expected]
    assert fast.errors == slow.errors == 0


USUAL = [
    question(name, rtype, edns=edns)
    for name in (
        WEB, WEB.replace("web", "db"), WEB.replace("web", "vip"), f"W0.{WEB}", f"same.{WEB}", f"_http._tcp.{WEB}"
    )
    for rtype in ("A", "AAAA", "SRV")
    for edns in (None, 1232)
]  # fmt: skip
usual = st.sampled_from(USUAL)


def content(reply: bytes) -> object:
    """All of a reply but the order of its records."""
    parsed = dns.message.from_wire(reply, one_rr_per_rrset=True)
    sections = [sorted(rrset.to_text() for rrset in section) for section in parsed.sections]
    return (reply[:12], sections, parsed.edns, parsed.ednsflags, parsed.payload, parsed.options)


@settings(max_examples=60, deadline=None)
@given(
    catalogues,
    st.lists(st.one_of(usual, usual, packets(), instances, services), min_size=8, max_size=25),
)
def test_what_is_ready_is_what_would_be_composed_now(registry: Registry, steps: list[object]) -> None:
    """Questions and changes in any order; every question three times, so that the last comes from the cache."""
    zone = registry.zone()
    fast, slow = Responder(Settings(udp_max=4096)), Responder(Settings(udp_max=4096))
    fast.install(zone)
    slow.install(registry.zone())
    asked: dict[bytes, None] = {}
    for number, step in enumerate(steps):
        for server in (fast, slow):
            known = server.catalogue
            assert known is not None
            if isinstance(step, Instance):
                known.put_instance(step)  # type: ignore[attr-defined]
            elif isinstance(step, Service):
                known.put_service(step)  # type: ignore[attr-defined]
            known.serial = number  # type: ignore[misc]
        if isinstance(step, bytes):
            asked[step] = None
        for packet in asked:
            expected = general(slow, packet)
            for reply in served(fast, [packet] * 3):
                if expected is None or reply is None or len(expected) == 12 or expected[2] & 2:
                    assert (reply or b"")[:12] == (expected or b"")[:12]
                else:
                    assert content(reply) == content(expected)


@given(st.lists(st.sampled_from(LABELS), max_size=6), catalogues)
@settings(max_examples=60, deadline=None)
def test_a_name_called_absent_does_not_exist(labels: list[bytes], registry: Registry) -> None:
    zone = registry.zone()
    if quick.is_absent(zone, labels):
        host = responder(registry)
        packet = b"\0\1\0\0\0\1\0\0\0\0\0\0" + wire_name(labels) + ZONE + b"\0\1\0\1"
        reply = general(host, packet)
        assert reply is not None
        assert reply[3] & 15 == codes.NXDOMAIN or len(wire_name(labels)) > 240
        assert parse(tuple(labels)).kind not in (Kind.APEX, Kind.VERSION, Kind.NAME_SERVER, Kind.ALWAYS)


# Dangers, one by one


def crowd(count: int) -> Registry:
    return Registry().put(*(instance("web", f"w{n}", f"10.0.{n >> 8}.{n & 255}") for n in range(count)))


def answers(reply: bytes | None) -> list[str]:
    assert reply is not None
    return [str(record.rdata) for record in dnslib.DNSRecord.parse(reply).rr]


def test_random_case_lowers_the_name_alone() -> None:
    """Type 65 has the letter A in it, and so has an EDNS size of 0x4141: neither may become another."""
    host = responder(crowd(3))
    body = b"\3WeB\7DEFAULT\3svc\7cLuster\5local\0\0\x41\0\1\0\0\x29\x41\x41\0\0\0\0\0\0"
    packet = b"\0\7\1\0\0\1\0\0\0\0\0\1" + body
    for reply in served(host, [packet] * 4):
        assert reply is not None
        assert reply[12 : 12 + 35] == body[:35]
        assert dnslib.DNSRecord.parse(reply).q.qtype == 65


def test_a_set_is_dealt_in_every_order_from_the_first_answer_on() -> None:
    """Also SRV, whose additional records stay as they are: no offset in them depends on the order."""
    registry = Registry().put(
        *(instance("web", f"w{n}", f"10.0.0.{n}", f"fd00::{n}", ports={"http": 80 + n}) for n in range(1, 5))
    )
    host = responder(registry)
    for rtype, name in (("A", WEB), ("AAAA", WEB), ("SRV", f"_http._tcp.{WEB}")):
        replies = served(host, [question(name, rtype, edns=1232)] * 9)[1:]  # the first one makes the shape known
        firsts = [answers(reply)[0] for reply in replies]
        assert firsts[:4] == firsts[4:]
        assert len(set(firsts)) == 4
        assert len({repr(content(reply or b"")) for reply in replies}) == 1


def test_random_case_costs_no_entry_and_rotates() -> None:
    host = responder(crowd(3))
    replies = []
    for number in range(64):
        asked = bytearray(question(WEB))
        for bit in range(6):
            asked[13 + bit * 2] ^= 0x20 if number >> bit & 1 and 97 <= asked[13 + bit * 2] <= 122 else 0
        replies += served(host, [bytes(asked)])
        assert (replies[-1] or b"")[12 : len(asked)] == asked[12:]
    assert len(host._cache) == 1
    assert {answers(reply)[0] for reply in replies} == {"10.0.0.0", "10.0.0.1", "10.0.0.2"}
    assert host.folded > 50


@pytest.mark.parametrize(
    "name",
    [
        b"\x11web\3svc\7cluster" + b"\5local\0",  # a label that swallows the length of the next
        b"\x13x\3svc\7cluster\5local" + b"\0",
        b"\x0ea\7cluster\5local\7cluster\5local\0",
        b"\3a\0b\7default\3svc\7cluster\5local\0",
        b"\4\0web\7default\3svc\7cluster\5local\0",
        b"\x40" + b"w" * 64 + b"\3svc\7cluster\5local\0",
        b"\xc0\x0c\3svc\7cluster\5local\0",
        b"\3web\7default\3svc\7cluster\5local",  # no end
    ],
)
def test_the_zone_is_found_on_label_boundaries_and_names_end_where_they_end(name: bytes) -> None:
    fast, slow = forgetful(responder(crowd(3))), responder(crowd(3))
    served(fast, [question(f"x.{WEB}")])  # the shape is known
    packet = b"\0\7\0\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1"
    assert served(fast, [packet] * 2) == [general(slow, packet)] * 2


@pytest.mark.parametrize(
    ("edns", "room", "records"), [(None, 512, 29), (100, 512, 28), (1232, 1232, 73), (4096, 1232, 73)]
)
def test_each_shape_of_a_question_has_its_own_limit_in_every_rotation(
    edns: int | None, room: int, records: int
) -> None:
    asked = question(WEB, edns=edns)
    for count in (records - 1, records, records + 1, 2 * records):
        replies = served(responder(crowd(count), Settings(max_answers=1000)), [asked] * 100)
        for reply in replies:
            assert reply is not None
            assert len(reply) <= room
            assert bool(reply[2] & 2) == (count > records)
            assert len(answers(reply)) == min(count, records)
        assert len({answers(reply)[0] for reply in replies}) >= min(count, 8)


def test_a_message_cut_by_its_slot_gets_no_answer() -> None:
    host = responder(crowd(1))
    cut = question(WEB, edns=1232)[:-2] + struct.pack("!H", 4065 - 11 + 4 - 4)
    slots = Slots([question(WEB), cut + bytes(limits.DNS_UDP_BYTES_MAX - len(cut)), question(WEB)])
    slots.cut = {1}
    assert host.serve_slots(slots, 3) == 1
    assert [bool(reply) for reply in slots.replies()] == [True, False, True]
    assert host.dropped == 1


def test_a_batch_is_counted_as_one_by_one() -> None:
    asked = [
        question(WEB),
        b"",
        question(WEB)[:5],
        question("gone." + WEB),
        question("x.example"),
        b"\0\1\x80" + bytes(9),
    ]
    batch, single = responder(crowd(2)), responder(crowd(2))
    for _ in range(5):
        served(batch, asked)
        for packet in asked:
            single.datagram(packet)
    for host in (batch, single):
        assert (host.queries, host.dropped) == (30, 15)
        assert host.answered() == {codes.NOERROR: 5, codes.NXDOMAIN: 5, codes.REFUSED: 5}
    assert batch.cache_hits == single.cache_hits > 0


def test_a_flood_of_shapes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "SHAPES_MAX", 20)
    host = responder(crowd(2))
    for rtype in codes.TYPES:
        for flags in (0, 0x100, 0x120, 0x130):
            packet = bytearray(question(WEB, rtype))
            packet[2:4] = flags.to_bytes(2, "big")
            host.datagram(bytes(packet))
            assert len(host._quick._shapes) <= 20


def test_a_bug_in_the_fast_way_costs_one_servfail(caplog: pytest.LogCaptureFixture) -> None:
    host = responder(crowd(2))
    host._quick.answer = lambda *rest: 1 // 0  # type: ignore[method-assign, assignment, return-value]
    for reply in served(host, [question(WEB)] * 3):
        assert reply is not None
        assert (reply[:2], reply[3] & 15) == (question(WEB)[:2], codes.SERVFAIL)
    assert host.errors == 3


# Packets from anywhere: what once went wrong is kept


def seeds() -> list[bytes]:
    lines = SEEDS.read_text().splitlines()
    return [
        bytes.fromhex(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip() or "#" not in line
    ]


def mutated(packet: bytes, draw: random.Random) -> bytes:
    data = bytearray(packet)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0 if data:
                data[at % len(data)] = draw.randrange(256)
            case 1 if data:
                del data[at : at + draw.randrange(1, 5)]
            case 2:
                data[at:at] = draw.randbytes(draw.randrange(1, 5))
            case _ if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
    return bytes(data)


def test_packets_of_the_corpus_and_their_mutants_get_what_the_general_way_gives() -> None:
    registry = crowd(3).put(instance("db", "d0", "10.1.0.1", ports={"http": 80}))
    fast, slow = forgetful(responder(registry)), responder(registry)
    draw = random.Random(20261124)
    kept = seeds()
    assert len(kept) > 20
    noise = [draw.randbytes(draw.randrange(64)) for _ in range(2000)]
    mutants = [mutated(draw.choice(kept), draw) for _ in range(5000)]
    for packet in [*kept, *kept, *noise, *mutants]:
        assert served(fast, [packet]) == [general(slow, packet)], packet.hex()
    assert fast.errors == slow.errors == 0
    assert len(fast._quick._shapes) <= quick.SHAPES_MAX
