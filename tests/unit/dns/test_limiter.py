"""Response-rate limiting: who is limited, what he gets instead, and that it costs nothing without a reason."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Any, cast

import dns.flags
import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery import limits
from discovery.dns import codes, wire
from discovery.dns import limiter as limiter_module
from discovery.dns.cookies import Cookies
from discovery.dns.limiter import Limited, Limiter, Verdict
from discovery.dns.responder import Responder
from discovery.dns.settings import RATE_EXEMPT, Settings
from discovery.dns.wire import Query
from discovery.testing.dns_case import Registry, instance, question

WEB = "web.default.svc.cluster.local"
ASKED = question(WEB, edns=1232, rd=True)
PLAIN = question(WEB)
FAR = ("198.51.100.7", 5353)
NOW = 1_700_000_000
Batch = list[tuple[bytes, tuple[str, int]]]
Serve = Callable[[Limited, Batch], Batch]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def server(rate: int = 10, slip: int = 2, exempt: tuple[str, ...] = RATE_EXEMPT) -> tuple[Limited, Clock]:
    clock = Clock()
    responder = Responder(Settings(), "", Cookies(b"secret"), lambda: NOW)
    responder.install(Registry().put(*(instance("web", f"w{n}", f"10.0.0.{n}") for n in range(20))).zone())
    return Limited(responder, responder, Limiter(rate, slip, exempt, clock)), clock


def with_cookie(cookie: bytes) -> bytes:
    options = struct.pack("!HH", 10, len(cookie)) + cookie
    return ASKED[:-2] + struct.pack("!H", len(options)) + options


class Slots:
    """A batch of datagrams as :mod:`discovery.dns.mmsg` holds it."""

    def __init__(self, batch: Batch) -> None:
        self.memory = bytearray(4096 * len(batch))
        self.starts = [4096 * slot + 2 for slot in range(len(batch))]
        self.sizes = [len(packet) for packet, _ in batch]
        self.lengths = [0] * len(batch)
        self.looked_at: list[int] = []
        self._clients = [ipaddress.ip_address(address[0]).packed for _, address in batch]
        for start, (packet, _) in zip(self.starts, batch, strict=True):
            self.memory[start - 2 : start - 2 + len(packet)] = packet

    def is_cut(self, slot: int) -> bool:
        return False

    def client(self, slot: int) -> bytes:
        self.looked_at.append(slot)
        return self._clients[slot]


class Memory(bytearray):
    """Slices are bytes, as those of an ``mmap``."""

    def __getitem__(self, at: object) -> object:  # type: ignore[override]
        return bytes(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)  # type: ignore[call-overload]


def in_slots(host: Limited, batch: Batch) -> Batch:
    slots = Slots(batch)
    slots.memory = Memory(slots.memory)
    silent = host.serve_slots(cast(Any, slots), len(batch))
    assert silent == slots.lengths.count(0)
    found = zip(slots.starts, slots.lengths, batch, strict=True)
    return [(bytes(slots.memory[start - 2 : start - 2 + length]), one[1]) for start, length, one in found if length]


@pytest.fixture(name="serve", params=["one by one", "in slots"])
def _serve(request: pytest.FixtureRequest) -> Serve:
    return in_slots if request.param == "in slots" else lambda host, batch: host.serve(list(batch))


def kinds(replies: Batch) -> tuple[int, int, int]:
    """How many replies are whole, truncated, BADCOOKIE."""
    parsed = [dns.message.from_wire(reply) for reply, _ in replies]
    truncated = sum(bool(message.flags & dns.flags.TC) for message in parsed)
    bad = sum(message.rcode() == codes.BADCOOKIE for message in parsed)
    return len(parsed) - truncated - bad, truncated, bad


def test_beyond_the_limit_every_second_gets_tc_and_the_others_nothing(serve: Serve) -> None:
    host, _ = server()
    replies = serve(host, [(ASKED, FAR)] * 30)
    assert kinds(replies) == (10, 10, 0)
    assert (host._limiter.slipped, host._limiter.dropped) == (10, 10)


def test_a_brief_answer_repeats_the_question_and_is_no_longer_than_it(serve: Serve) -> None:
    for asked in (ASKED, PLAIN, question(WEB.upper(), edns=512)):
        host, _ = server(rate=1, slip=1)
        replies = serve(host, [(asked, FAR)] * 3)
        brief = dns.message.from_wire(replies[-1][0])
        assert brief.flags & dns.flags.TC
        assert brief.answer == []
        assert brief.question == dns.message.from_wire(asked).question
        assert brief.edns == dns.message.from_wire(asked).edns
        assert len(replies[-1][0]) <= len(asked)


def test_who_asks_too_much_learns_too_that_others_are_asked_here(serve: Serve) -> None:
    host, _ = server(rate=1, slip=1)
    host._responder.offered = wire.RA
    for asked in (ASKED, PLAIN):
        *_, (reply, _) = serve(host, [(asked, FAR)] * 3)
        brief = dns.message.from_wire(reply)
        assert brief.flags & dns.flags.TC
        assert brief.flags & dns.flags.RA


def test_the_next_second_is_another(serve: Serve) -> None:
    host, clock = server()
    for _ in range(3):
        assert kinds(serve(host, [(ASKED, FAR)] * 30)) == (10, 10, 0)
        clock.now += 1.0


@pytest.mark.parametrize("slip", [0, 1, 3])
def test_slip_is_an_option(serve: Serve, slip: int) -> None:
    host, _ = server(slip=slip)
    assert kinds(serve(host, [(ASKED, FAR)] * 40)) == (10, 30 // slip if slip else 0, 0)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("198.51.100.7", "198.51.100.200", True),
        ("198.51.100.7", "198.51.101.7", False),
        ("2001:db8:0:0::1", "2001:db8:0:ff::1", True),
        ("2001:db8:0:0::1", "2001:db8:0:100::1", False),
    ],
)
def test_clients_are_counted_by_network(serve: Serve, one: str, other: str, together: bool) -> None:
    host, _ = server(slip=0)
    batch = [(ASKED, (one, 1)), (ASKED, (other, 2))] * 10
    assert len(serve(host, batch)) == (10 if together else 20)


@pytest.mark.parametrize("client", ["127.0.0.1", "10.1.2.3", "172.17.0.2", "192.168.1.1", "fd00::1", "::1", "fe80::1"])
def test_hosts_of_our_own_networks_ask_as_they_like(serve: Serve, client: str) -> None:
    host, _ = server()
    assert kinds(serve(host, [(ASKED, (client, 1))] * 60)) == (60, 0, 0)


def test_who_has_a_cookie_of_ours_is_not_limited_and_who_begins_one_gets_it(serve: Serve) -> None:
    host, _ = server(slip=1)
    begun = with_cookie(b"abcdefgh")
    replies = serve(host, [(begun, FAR)] * 20)
    assert kinds(replies) == (10, 0, 10)
    (option,) = dns.message.from_wire(replies[-1][0]).options
    whole = option.to_wire()
    assert kinds(serve(host, [(with_cookie(whole), FAR)] * 50)) == (50, 0, 0)
    stolen = serve(host, [(with_cookie(whole), ("203.0.113.5", 1))] * 20)
    assert kinds(stolen) == (10, 0, 10), "it is another's"


def test_below_the_limit_nobodys_address_is_looked_at() -> None:
    host, _ = server(rate=50)
    slots = Slots([(ASKED, FAR)] * 50)
    slots.memory = Memory(slots.memory)
    host.serve_slots(cast(Any, slots), 50)
    assert slots.looked_at == []


def test_who_asks_too_much_gets_no_complaint_and_responses_none_ever(serve: Serve) -> None:
    host, _ = server(rate=1, slip=1)
    response = ASKED[:2] + b"\x80" + ASKED[3:]
    assert len(serve(host, [(ASKED, FAR)] * 2)) == 2
    assert serve(host, [(ASKED[:-3], FAR), (response, FAR), (b"", FAR)] * 5) == []


def test_memory_is_bounded_under_a_flood_of_made_up_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_RATE_COUNTS_MAX", 256)
    limiter = Limiter(1, 2, (), Clock())
    for number in range(20_000):
        limiter.judge(number.to_bytes(4, "little"))
    assert len(limiter._counts) <= 256


def test_a_made_up_address_costs_a_few_comparisons_of_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = Limiter(1, 2, RATE_EXEMPT, Clock())
    monkeypatch.setattr("ipaddress.ip_address", lambda value: pytest.fail("an object for each address"))
    verdicts = [limiter.judge(number.to_bytes(4, "big")) for number in range(1 << 31, (1 << 31) + 1000)]
    assert 1 <= verdicts.count(Verdict.ANSWER) <= 4  # networks, two of which may share a count


@given(
    st.lists(
        st.one_of(
            st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
        ),
        max_size=4,
    ),
    st.ip_addresses(),
    st.integers(0, 128),
)
def test_exempt_is_who_is_in_a_network_that_is(networks: list[tuple[Any, int]], address: Any, prefix: int) -> None:
    around = f"{address}/{min(prefix, address.max_prefixlen)}"
    for texts in ([f"{host}/{size}" for host, size in networks], [around]):
        limiter = Limiter(1, 0, texts, Clock())
        limiter.judge(address.packed)
        inside = any(address in ipaddress.ip_network(text, strict=False) for text in texts)
        assert (limiter.judge(address.packed) is Verdict.ANSWER) == inside


def test_who_is_exempt_takes_nothing_from_his_neighbours(serve: Serve) -> None:
    host, _ = server(rate=5, slip=0, exempt=("198.51.100.53/32",))
    batch = [(ASKED, ("198.51.100.53", 1))] * 100 + [(ASKED, FAR)] * 5
    assert kinds(serve(host, batch)) == (105, 0, 0)


@pytest.mark.parametrize(
    ("asked", "slip", "parsed"),
    [(PLAIN, 0, 0), (PLAIN, 1, 20), (ASKED, 0, 20), (with_cookie(b"abcdefgh"), 1, 20)],
    ids=["no OPT, nothing to say", "no OPT, a brief answer", "OPT, nothing to say", "a cookie, a brief answer"],
)
def test_what_is_beyond_the_limit_is_parsed_once_and_only_when_something_may_come_of_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, asked: bytes, slip: int, parsed: int
) -> None:
    host, _ = server(rate=10, slip=slip)
    seen: list[bytes] = []
    read = limiter_module._read

    def counting(packet: bytes) -> Query | None:
        seen.append(packet)
        return read(packet)

    monkeypatch.setattr(limiter_module, "_read", counting)
    serve(host, [(asked, FAR)] * 30)
    assert len(seen) == parsed


packets = st.one_of(
    st.sampled_from([ASKED, PLAIN, with_cookie(b"abcdefgh"), ASKED[:20], b"", ASKED[:2] + b"\x80" + ASKED[3:]]),
    st.binary(max_size=64),
)
hosts = st.sampled_from(["198.51.100.7", "198.51.100.9", "203.0.113.1", "10.0.0.1"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(packets, hosts), min_size=1, max_size=30), max_size=4), st.integers(0, 3))
def test_both_ways_of_moving_datagrams_limit_alike(batches: list[list[tuple[bytes, str]]], slip: int) -> None:
    one, other = server(rate=5, slip=slip)[0], server(rate=5, slip=slip)[0]
    for batch in batches:
        asked = [(packet, (host, 1)) for packet, host in batch]
        plain, slotted = one.serve(list(asked)), in_slots(other, asked)
        assert len(plain) == len(slotted)
        assert all(len(reply) >= 12 and reply[2] & 0x80 for reply, _ in plain + slotted)
    counts = [(host._limiter.slipped, host._limiter.dropped) for host in (one, other)]
    assert counts[0] == counts[1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=20), st.integers(1, 20))
def test_a_network_gets_no_more_than_twice_the_limit_in_a_second(bursts: list[int], rate: int) -> None:
    """What came before anybody was counted is not counted."""
    limiter = Limiter(rate, 0, (), Clock())
    answered = 0
    for burst in bursts:
        busy = limiter.is_busy(burst)
        verdicts = [limiter.judge(b"\xc6\x33\x64\x07") if busy else Verdict.ANSWER for _ in range(burst)]
        answered += verdicts.count(Verdict.ANSWER)
    assert answered <= 2 * rate
