"""The answer cache: bounded, filled only by names that exist, and never a word behind the catalogue."""

from __future__ import annotations

import dnslib
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns import cache, codes, wire
from discovery.dns.answer import Answer, RRSet
from discovery.dns.cache import AnswerCache
from discovery.dns.responder import Responder
from discovery.dns.service import ServiceView
from discovery.dns.settings import Settings
from discovery.dns.zone import Origin, Zone
from discovery.testing.dns_case import Registry, instance, question, responder

WEB = "web.default.svc.cluster.local"
ORIGIN = Origin("cluster.local", Settings())
NAMES = [
    WEB,
    f"_http._tcp.{WEB}",
    f"w0.{WEB}",
    f"w1.{WEB}",
    "alias.default.svc.cluster.local",
    "default.svc.cluster.local",
]
STEP = st.one_of(
    st.tuples(
        st.just("put"), st.integers(0, 3), st.sampled_from(["ready", "not_ready"]), st.none() | st.integers(1, 4)
    ),
    st.tuples(st.just("drop"), st.integers(0, 3)),
    st.tuples(st.just("serial"), st.integers(1, 3)),
    st.tuples(st.just("stale"), st.booleans()),
    st.tuples(st.just("swap"), st.just(0)),
)


def content(reply: bytes | None) -> object:
    """A reply without the order of its records and what was left out of ADDITIONAL."""
    assert reply is not None
    message = dnslib.DNSRecord.parse(reply)
    return (
        message.header.rcode,
        sorted(map(str, message.rr)),
        sorted(map(str, message.auth)),
        sorted(map(str, message.ar)),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, max_size=15))
def test_a_cached_answer_is_the_one_that_would_be_made_now(steps: list[tuple[object, ...]]) -> None:
    registry = Registry().put()
    zone = Zone(ORIGIN)
    cached, fresh = Responder(Settings()), Responder(Settings())
    cached.install(zone)
    fresh.install(zone)
    for step in steps:
        match step:
            case ("put", int(number), str(status), ttl):
                spec = instance("web", f"w{number}", f"10.0.0.{number}", ports={"http": 80}, status=status, dns_ttl=ttl)
                zone.put_instance(spec)
                registry.put(spec)
            case ("drop", int(number)):
                zone.drop_instance("default", "web", f"w{number}")
                registry.specs.pop(("default", "web", f"w{number}"), None)
            case ("serial", int(serial)):
                zone.serial += serial
            case ("stale", bool(stale)):
                cached.stale = fresh.stale = stale
            case _:
                serial, zone = zone.serial, registry.zone()
                zone.serial = serial
                cached.install(zone)
                fresh.install(zone)
        for name in NAMES:
            for rtype in ("A", "AAAA", "SRV"):
                asked = question(name, rtype, edns=1232)
                expected = content(fresh.message(asked))
                assert content(cached.datagram(asked)) == expected
                assert content(cached.datagram(asked)) == expected


def test_a_hit_is_taken_from_the_cache() -> None:
    server = responder(Registry().put(instance("web", "w0", "10.0.0.1")))
    for ident in range(10):
        reply = server.datagram(question(WEB, ident=ident))
        assert reply is not None
        assert int.from_bytes(reply[:2], "big") == ident
    assert server.cache_hits == 9


def test_a_flood_of_names_types_sizes_and_flags_stores_next_to_nothing() -> None:
    registry = Registry().put(*(instance("web", f"w{n}", f"10.0.0.{n}") for n in range(3)))
    server = responder(registry)
    for number in range(2000):
        server.datagram(question(f"x{number}.default.svc.cluster.local"))
        server.datagram(question(f"x{number}.example.com"))
        server.datagram(question(f"x{number}"))
        server.datagram(question(f"{number % 250}.0.0.10.in-addr.arpa", "PTR"))
        server.datagram(question(WEB, edns=number + 513))
        mixed = bytearray(question(WEB))
        mixed[13:16] = bytes(byte ^ (0x20 if number >> bit & 1 else 0) for bit, byte in enumerate(b"web"))
        server.datagram(bytes(mixed))
        typed = bytearray(question(WEB))
        typed[-4:-2] = (number + 1000).to_bytes(2, "big")
        server.datagram(bytes(typed))
        flagged = bytearray(question(WEB))
        flagged[3] = number & 0xFF
        server.datagram(bytes(flagged))
    assert len(server._cache) < 30


def view(version: int = 1) -> ServiceView:
    made = ServiceView("default", "web", b"\0")
    made.version = version
    return made


def answer(records: int, source: ServiceView | None) -> Answer:
    return Answer(answer=[RRSet(codes.A, 5, [b"\0\4aaaa"] * records)], view=source)


def test_it_begins_anew_when_it_is_full() -> None:
    held = AnswerCache(bytes_max=10_000)
    for number in range(1000):
        held.put(b"%d" % number, 1, answer(1, view()), b"x" * 100)
        assert held._bytes <= 10_000 + 600
    assert 0 < len(held) < 30


def test_a_small_set_is_kept_in_every_rotation_and_a_large_one_is_dealt_anew() -> None:
    held, small = AnswerCache(), view()
    for number in range(3):
        assert held.get(b"k", 1) is None
        held.put(b"k", 1, answer(3, small), b"%d" % number)
    assert [held.get(b"k", 1) for _ in range(4)] == [b"0", b"1", b"2", b"0"]
    big = view()
    for number in range(cache.ROTATIONS_MAX):
        assert held.get(b"big", 1) is None
        held.put(b"big", 1, answer(50, big), b"%d" % number)
    hits = 0
    while held.get(b"big", 1) is not None:
        hits += 1
    assert hits == cache.USES_OF_LARGE


def test_what_depends_on_more_than_one_service_is_not_kept() -> None:
    held = AnswerCache()
    held.put(b"k", 1, answer(1, None), b"x")
    held.put(b"n", 1, Answer(rcode=codes.NXDOMAIN, view=view()), b"x")
    assert len(held) == 0


def test_a_version_or_serial_that_moved_drops_the_entry() -> None:
    held, source = AnswerCache(), view()
    held.put(b"k", 1, answer(1, source), b"x")
    assert held.get(b"k", 2) == b"x", "no SOA in it, no matter what the serial is"
    source.version += 1
    assert held.get(b"k", 1) is None
    held.put(b"k", 1, Answer(view=source, negative=True), b"y")
    assert held.get(b"k", 1) == b"y"
    assert held.get(b"k", 2) is None
    assert len(held) == 0
    assert held._bytes == 0


def test_questions_that_many_ask() -> None:
    common = wire.read(question(WEB, rd=True))
    assert common is not None
    assert cache.is_common(common)
    odd = wire.read(question(WEB, edns=1231))
    assert odd is not None
    assert not cache.is_common(odd)
