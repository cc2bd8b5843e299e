"""The answer cache: bounded, filled only by names that exist, and never a word behind the catalogue."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.dns import cache, wire
from discovery.dns.cache import AnswerCache
from discovery.dns.responder import Responder
from discovery.dns.service import ALL_OF_IT, ServiceView
from discovery.dns.settings import Settings
from discovery.dns.zone import Origin, Zone
from discovery.model import Service
from discovery.testing.dns_case import Registry, content, instance, question, responder

WEB = "web.default.svc.cluster.local"
ORIGIN = Origin("cluster.local", Settings())
NAMES = [
    WEB,
    f"_http._tcp.{WEB}",
    f"w0.{WEB}",
    f"w1.{WEB}",
    f"same.{WEB}",
    f"_tcp.{WEB}",
    "alias.default.svc.cluster.local",
    "default.svc.cluster.local",
]
STEP = st.one_of(
    st.tuples(
        st.just("put"),
        st.integers(0, 3),
        st.sampled_from(["ready", "ready", "not_ready"]),
        st.none() | st.integers(1, 4),
        st.sampled_from(
            [("10.0.0.1",), ("10.0.0.2",), ("fd00::1",), ("10.0.0.3", "fd00::2"), ("10.0.0.1", "10.0.0.4")]
        ),
        st.sampled_from([None, None, "same", "w1"]),
        st.sampled_from([{}, {"http": 80}, {"http": 81, "dns/udp": 53}]),
    ),
    st.tuples(st.just("settings"), st.sampled_from(["headless", "virtual", "none"]), st.none() | st.integers(1, 4)),
    st.tuples(st.just("drop"), st.integers(0, 3)),
    st.tuples(st.just("serial"), st.integers(1, 3)),
    st.tuples(st.just("stale"), st.booleans()),
    st.tuples(st.just("swap"), st.just(0)),
)


def external(name: str, target: str) -> Service:
    return Service("default", name, type="external", external_name=target)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=15))
def test_a_cached_answer_is_the_one_that_would_be_made_now(steps: list[tuple[object, ...]]) -> None:
    registry = Registry().put()
    zone = Zone(ORIGIN)
    cached, fresh = Responder(Settings()), Responder(Settings())
    cached.install(zone)
    fresh.install(zone)
    for step in steps:
        match step:
            case ("put", int(number), status, ttl, tuple(where), host, dict(ports)):
                spec = instance("web", f"w{number}", *where, ports=ports, status=status, dns_ttl=ttl, hostname=host)
                zone.put_instance(spec)
                registry.put(spec)
            case ("settings", "none", _):
                zone.drop_service("default", "web")
                registry.settings.clear()
            case ("settings", kind, ttl):
                virtual = ("10.9.0.1",) if kind == "virtual" else ()
                put = Service("default", "web", type=kind, virtual_ips=virtual, dns_ttl=ttl)  # type: ignore[arg-type]
                zone.put_service(put)
                registry.put(put)
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


def view() -> ServiceView:
    return ServiceView("default", "web", b"\0")


def change(source: ServiceView) -> None:
    """An instance comes, or one that is there moves: what all of the service and its A records said is no more."""
    source.put(instance("web", "w0", f"10.0.0.{len(source.published) + 1}"))


def ready(held: AnswerCache, key: bytes) -> bytes | None:
    """The next ready reply, as the server takes it."""
    turn = held.ready.get(key)
    if turn is None:
        return None
    try:
        return turn()
    except StopIteration:
        held.worn(key)
        return None


def test_it_begins_anew_when_it_is_full() -> None:
    held = AnswerCache(bytes_max=10_000)
    for number in range(1000):
        held.put(b"%d" % number, view(), 1, b"x" * 100)
        assert held._bytes <= 10_000 + 800
    assert 0 < len(held) < 30
    assert len(held.ready) == len(held)


def test_a_small_set_is_kept_in_every_rotation_and_a_large_one_is_dealt_anew() -> None:
    held, small = AnswerCache(), view()
    for number in range(3):
        assert ready(held, b"k") is None
        held.put(b"k", small, 3, b"%d" % number)
    assert [ready(held, b"k") for _ in range(4)] == [b"0", b"1", b"2", b"0"]
    big = view()
    for _ in range(3):
        for number in range(cache.ROTATIONS_MAX):
            assert ready(held, b"big") is None
            held.put(b"big", big, 50, b"%d" % number)
        hits = 0
        while ready(held, b"big") is not None:
            hits += 1
        assert hits == cache.USES_OF_LARGE
    assert held._keys[big] == {ALL_OF_IT: {b"big"}}, "dealt anew, remembered once"


def test_what_depends_on_more_than_one_service_is_not_kept() -> None:
    """An alias chased, a reverse name, the zone's own names."""
    server = responder(Registry().put(instance("web", "w0", "10.0.0.1"), external("alias", WEB)))
    for name in ("alias.default.svc.cluster.local", "cluster.local", "ns.dns.cluster.local", "1.0.0.10.in-addr.arpa"):
        for rtype in ("A", "PTR", "SOA"):
            server.datagram(question(name, rtype))
    assert len(server._cache) == 0


def test_a_change_of_the_service_drops_what_was_made_from_it_and_nothing_else() -> None:
    held, source, other = AnswerCache(), view(), view()
    held.put(b"k", source, 1, b"x")
    held.put(b"half", source, 2, b"one rotation of two")
    held.put(b"o", other, 1, b"z")
    assert ready(held, b"k") == b"x"
    change(source)
    assert (ready(held, b"k"), ready(held, b"o")) == (None, b"z")
    held.put(b"k", source, 1, b"y")
    assert ready(held, b"k") == b"y"
    change(source)
    change(other)
    assert len(held) == 0
    assert held._bytes == 0
    assert held._keys == {}


def test_a_change_leaves_alone_what_was_made_from_other_parts_of_the_service() -> None:
    """One instance of three moves: its name, the service's addresses and SRV are composed again, nothing else."""
    registry = Registry().put(*(instance("web", f"w{n}", f"10.0.0.{n}", ports={"http": 80}) for n in range(3)))
    zone = registry.zone()
    server = Responder(Settings())
    server.install(zone)
    touched = [
        question(WEB),
        question(f"w0.{WEB}"),
        question(f"w0.{WEB}", "AAAA"),
        question(f"_http._tcp.{WEB}", "SRV"),
    ]
    alone = [question(WEB, "AAAA"), *(question(f"w{n}.{WEB}", rtype) for n in (1, 2) for rtype in ("A", "AAAA"))]
    for packet in (touched + alone) * 2:
        server.datagram(packet)
    assert len(server._cache) == len(touched + alone)
    zone.put_instance(instance("web", "w0", "10.0.0.9", ports={"http": 80}))
    assert len(server._cache) == len(alone)
    hits = server.cache_hits
    for packet in alone:
        server.datagram(packet)
    assert server.cache_hits == hits + len(alone)


def test_names_that_come_and_go_leave_nothing_behind() -> None:
    server = responder(Registry().put(instance("web", "stays", "10.0.0.1")))
    zone = server.catalogue
    assert isinstance(zone, Zone)
    for number in range(300):
        zone.put_instance(instance("web", f"w{number}", "10.0.0.2"))
        for name in (WEB, f"w{number}.{WEB}", f"stays.{WEB}"):
            for rtype in ("A", "AAAA"):
                server.datagram(question(name, rtype))
        zone.drop_instance("default", "web", f"w{number}")
    (held,) = server._cache._keys.values()
    assert sum(map(len, held.values())) == len(server._cache) <= 6
    zone.drop_instance("default", "web", "stays")
    assert (server._cache._keys, server._cache._bytes, len(server._cache)) == ({}, 0, 0)


def test_a_cache_that_was_cleared_is_told_nothing_any_more() -> None:
    held, source = AnswerCache(), view()
    held.put(b"k", source, 1, b"x")
    held.clear()
    assert source.on_change is None
    held.put(b"k", view(), 1, b"y")
    change(source)
    assert ready(held, b"k") == b"y"


def test_a_negative_answer_carries_the_serial_of_the_moment() -> None:
    held, source = AnswerCache(), view()
    for opt in (b"", b"O" * 11):
        held.serial = b"old!"
        held.put_negative(b"k" + opt, source, b"before" + b"old!" + bytes(16) + opt, len(opt))
        assert ready(held, b"k" + opt) == b"before" + b"old!" + bytes(16) + opt
        held.serial = b"new!"
        assert ready(held, b"k" + opt) == b"before" + b"new!" + bytes(16) + opt
    change(source)
    assert len(held) == 0


def test_bits_of_the_opt_record_without_meaning_make_no_entry_each() -> None:
    server = responder(Registry().put(instance("web", "w0", "10.0.0.1")))
    packet = bytearray(question(WEB, edns=1232))
    for number in range(1, 300):
        packet[-3:-2] = (number & 0x7F).to_bytes(1, "big")  # the Z bits of its flags
        server.datagram(bytes(packet))
    assert len(server._cache) <= 1
    assert len(server._quick._shapes) <= 1


def test_questions_that_many_ask() -> None:
    common = wire.read(question(WEB, rd=True))
    assert common is not None
    assert cache.is_common(common)
    odd = wire.read(question(WEB, edns=1231))
    assert odd is not None
    assert not cache.is_common(odd)
