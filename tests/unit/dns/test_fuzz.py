"""Packets bred from a kept corpus: whatever comes, the server answers as it should, and every way says the same.

A fuzzer in plain Python. What leads to an answer of a new kind (response code, flags, counts, the way it was made) is
bred from in turn, so that it finds its way past the first checks. Meanwhile the catalogue changes. What once went
wrong is kept in ``packets.txt``.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

import dns.message
import dnslib
import pytest

from discovery import limits
from discovery.dns import codes
from discovery.dns.responder import Responder
from discovery.dns.settings import Settings
from discovery.dns.zone import Zone
from discovery.model import Service
from discovery.testing.dns_case import Registry, content, instance, responder

ZONE = b"\7cluster\5local\0"
NAMES = [
    b"\3web\7default\3svc" + ZONE, b"\2w0\3web\7default\3svc" + ZONE, b"\4same\3web\7default\3svc" + ZONE,
    b"\5_http\4_tcp\3web\7default\3svc" + ZONE, b"\4_tcp\3web\7default\3svc" + ZONE, b"\3big\7default\3svc" + ZONE,
    b"\3vip\7default\3svc" + ZONE, b"\5alias\7default\3svc" + ZONE, b"\2ns\3dns" + ZONE, ZONE, b"\5local\0", b"\0",
    b"\0011\0010\0010\00210\7in-addr\4arpa\0", b"\7version\4bind\0", b"\3www\7example\3com\0", b"\4nope" + ZONE,
]  # fmt: skip
KEPT_MAX = 3000
PARSED_EACH = 20  # of answers of kinds that were seen before, one in so many is read by the two libraries
CHANGED_EACH = 50  # packets between two changes of the catalogue
CLIENT = ("192.0.2.1", 53)
Kind = tuple[object, ...]


class Breeder:
    """Packets made from kept ones, by one to four changes."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        lines = Path(__file__).with_name("packets.txt").read_text().splitlines()
        self.kept = [bytes.fromhex(text) for line in lines if (text := line.partition("#")[0].strip())]
        self.seen: set[Kind] = set()

    def packet(self) -> bytes:
        data = bytearray(self.draw.choice(self.kept))
        for _ in range(self.draw.randint(1, 4)):
            self.draw.choice(CHANGES)(self, data)
        return bytes(data[:4096])

    def learn(self, packet: bytes, kind: Kind) -> bool:
        """Keep a packet whose answer is of a new kind; whether it is."""
        if kind in self.seen:
            return False
        self.seen.add(kind)
        if len(self.kept) < KEPT_MAX:
            self.kept.append(packet)
        return True

    def byte(self, data: bytearray) -> None:
        if data:
            data[self.draw.randrange(len(data))] = self.draw.randrange(256)

    def bit(self, data: bytearray) -> None:
        if data:
            data[self.draw.randrange(len(data))] ^= 1 << self.draw.randrange(8)

    def cut(self, data: bytearray) -> None:
        at = self.draw.randrange(len(data) + 1)
        del data[at : at + self.draw.randint(1, 6)]

    def insert(self, data: bytearray) -> None:
        at = self.draw.randrange(len(data) + 1)
        data[at:at] = self.draw.randbytes(self.draw.randint(1, 6))

    def splice(self, data: bytearray) -> None:
        other = self.draw.choice(self.kept)
        data[self.draw.randrange(len(data) + 1) :] = other[self.draw.randrange(len(other) + 1) :]

    def header(self, data: bytearray) -> None:
        """A flag word or a count of another packet's taste."""
        if len(data) >= 12:
            at = self.draw.choice([2, 4, 6, 8, 10])
            values = [0, 1, 2, 0xFFFF] if at > 2 else [0, 0x100, 0x120, 0x130, 0x8000, 0x2800, 0x2000, 0x40, 0x7FFF]
            data[at : at + 2] = struct.pack("!H", self.draw.choice(values))

    def question(self, data: bytearray) -> None:
        """A name that means something, a type and a class, with an OPT record or none; in any letter case."""
        name = self.draw.choice(NAMES)
        if self.draw.random() < 0.3:
            name = bytes(b ^ 0x20 if 97 <= b <= 122 and self.draw.random() < 0.5 else b for b in name)
        if self.draw.random() < 0.2:
            label = self.draw.randbytes(self.draw.randint(1, 63))
            name = bytes((len(label),)) + label + name
        rtype, rclass = (
            self.draw.choice([*codes.TYPE_TEXT, 41, 250, 251, 252, 65000]),
            self.draw.choice([1] * 9 + [3, 255]),
        )
        flags = self.draw.choice([0, 0x100, 0x120, 0x110])
        data[:] = struct.pack("!HHHHHH", self.draw.randrange(65536), flags, 1, 0, 0, 0) + name
        data += struct.pack("!HH", rtype, rclass)
        if self.draw.random() < 0.5:
            self.opt(data)

    def opt(self, data: bytearray) -> None:
        """One more record: an OPT with options that are known or not, of the right length or not."""
        if len(data) < 12:
            return
        options = b""
        for _ in range(self.draw.choice([0, 0, 0, 1, 1, 3])):
            code, size = self.draw.choice([3, 8, 10, 11, 12, 15, 65001]), self.draw.choice([0, 2, 8, 8, 16, 24, 40])
            options += struct.pack("!HH", code, size) + self.draw.randbytes(size)
        size = self.draw.choice([0, 512, 1232, 4096, 0x4141, 65535, self.draw.randrange(65536)])
        ttl = self.draw.choice([0, 0, 0, 0x8000, 0x10000, 0x4000, 1 << 24])
        data += b"\0" + struct.pack("!HHIH", 41, size, ttl, len(options)) + options
        data[10:12] = struct.pack("!H", (int.from_bytes(data[10:12], "big") + 1) & 0xFFFF)


CHANGES = [
    Breeder.byte, Breeder.bit, Breeder.cut, Breeder.insert, Breeder.splice, Breeder.header, Breeder.opt,
    Breeder.question, Breeder.question,
]  # fmt: skip


def catalogue() -> Registry:
    registry = Registry().put(
        *(instance("web", f"w{n}", f"10.0.0.{n}", ports={"http": 80, "dns/udp": 53}) for n in range(1, 4)),
        instance("web", "both", "10.0.0.9", "fd00::9", ports={"https": 443}, hostname="same", dns_ttl=2),
        *(instance("big", f"b{n}", f"10.2.{n >> 8}.{n & 255}", ports={"http": 80}) for n in range(120)),
        Service("default", "vip", type="virtual", virtual_ips=("10.9.0.1", "fd00::9")),
        Service("default", "alias", type="external", external_name="web.default.svc.cluster.local"),
    )
    return registry


class Bench:
    """The same catalogue behind three servers: one that keeps answers, one that keeps none, one without fast ways."""

    def __init__(self) -> None:
        registry, settings = catalogue(), Settings(node="n1")
        self.cached, self.fast, self.slow = (responder(registry, settings) for _ in range(3))
        self.fast._cache.put = lambda *rest: None  # type: ignore[method-assign]
        self.fast._cache.put_all = lambda *rest: None  # type: ignore[method-assign]
        self.fast._cache.put_negative = lambda *rest: None  # type: ignore[method-assign]
        self.all = (self.cached, self.fast, self.slow)

    def change(self, number: int) -> None:
        """One instance comes, moves or goes, in every catalogue."""
        for server in self.all:
            zone = server.catalogue
            assert isinstance(zone, Zone)
            zone.serial += 1
            if number % 3 == 2:
                zone.drop_instance("default", "web", f"w{number % 5}")
            else:
                host = "same" if number % 7 == 0 else None
                zone.put_instance(
                    instance("web", f"w{number % 5}", f"10.0.1.{number % 250}", ports={"http": 80}, hostname=host)
                )

    def ask(self, packet: bytes) -> tuple[bytes | None, Kind]:
        """The answer, the same from all, and of which kind it is."""
        before = (self.fast.composed, self.fast._quick.denied, self.fast._quick.answered)
        fast, slow, cached = (asked(server, packet, quick=server is not self.slow) for server in self.all_in_turn())
        assert fast == slow, f"the fast ways say {fast!r}, the general way {slow!r}"
        assert (cached is None) == (fast is None)
        if fast is None or cached is None:
            return None, (None, len(packet) < 12)
        same = 8 if is_whole(fast) else 4  # up to the number of answers, or to the flags
        assert cached[:same] == fast[:same], f"kept is {cached!r}, made now {fast!r}"
        after = (self.fast.composed, self.fast._quick.denied, self.fast._quick.answered)
        way = tuple(a - b for a, b in zip(after, before, strict=True))
        return fast, (fast[2:4], fast[4:12], len(fast) // 100, way)

    def all_in_turn(self) -> tuple[Responder, Responder, Responder]:
        return self.fast, self.slow, self.cached

    def same(self, packet: bytes, reply: bytes) -> None:
        """What is kept holds the records made now, but for sets that do not fit: each answer is another part."""
        if not is_whole(reply):
            return
        kept = asked(self.cached, packet, quick=True)
        assert records(kept) == records(reply)


def is_whole(reply: bytes) -> bool:
    """Whether the answer is not a part of a larger set."""
    return not reply[2] & 2 and int.from_bytes(reply[6:8], "big") < limits.DNS_ANSWERS_MAX


def records(reply: bytes | None) -> object:
    """Response code, answer and authority; ADDITIONAL may have found no room, in one order or the other."""
    rcode, answer, authority, _ = content(reply)
    return rcode, answer, authority


def asked(server: Responder, packet: bytes, *, quick: bool) -> bytes | None:
    if quick:
        return next((reply for reply, _ in server.serve([(packet, CLIENT)])), None)
    server.serve([])  # whose cookies: the same client's
    server._place = CLIENT
    return server._guarded(packet)


def judge(packet: bytes, reply: bytes | None) -> None:
    """What holds of every answer, whatever was asked."""
    is_question = len(packet) >= 12 and not packet[2] & 0x80
    assert (reply is not None) == is_question, "a question is answered, nothing else ever"
    if reply is None:
        return
    assert reply[:2] == packet[:2]
    assert reply[2] & 0xF9 == packet[2] & 0x79 | 0x80, "a response, opcode and RD as asked"
    assert reply[3] & 0xE0 == 0, "no RA, no Z, no AD"
    assert len(reply) <= 1232


def read_by_others(reply: bytes) -> bool:
    """dnspython and dnslib read the whole of it; whether dnslib can: labels it takes for UTF-8."""
    message = dns.message.from_wire(reply)
    labels = [label for question in message.question for label in question.name.labels]
    try:
        b".".join(labels).decode()
    except UnicodeDecodeError:
        return False
    dnslib.DNSRecord.parse(reply)
    return True


def fuzz(packets: int, seed: int) -> Breeder:
    bench, breeder = Bench(), Breeder(seed)
    for number in range(packets):
        if number % CHANGED_EACH == 0:
            bench.change(number // CHANGED_EACH)
        packet = breeder.packet()
        try:
            reply, kind = bench.ask(packet)
            judge(packet, reply)
            is_new = breeder.learn(packet, kind)
            if reply is not None and (is_new or number % PARSED_EACH == 0) and read_by_others(reply):
                bench.same(packet, reply)
        except Exception as error:
            raise AssertionError(f"seed {seed}, packet {number}: {packet.hex()}") from error
    assert not any(server.errors for server in bench.all)
    return breeder


def test_bred_packets_get_the_same_answer_every_way_and_others_can_read_it() -> None:
    breeder = fuzz(6000, seed=20261124)
    assert len(breeder.seen) > 100, "it finds its way past the first checks"


@pytest.mark.long
def test_a_million_bred_packets_get_the_same_answer_every_way() -> None:
    for seed in range(10):
        fuzz(100_000, seed)
