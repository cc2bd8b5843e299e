"""Questions on their way to other servers, in virtual time: who is asked when, who is told what, what stays bounded."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery import limits
from discovery.dns import codes, forward_message, name
from discovery.dns.forward_cache import ForwardCache, Key
from discovery.dns.forward_core import FORGERIES_MAX, RETRY_S, STAGGER_S, Forwarder
from discovery.dns.forward_flight import STALE_S, Attempt
from discovery.dns.forward_health import FAILURES_MAX, Pool, Upstream
from discovery.dns.sections import Answer
from discovery.testing.upstream import reply_to

OWN = b"ourselves"[:8]
RECORD = "www.example.com. 60 IN A 192.0.2.1"


class World:
    """Servers, a clock, and what was sent to whom."""

    def __init__(self, servers: int = 2, seed: int = 0) -> None:
        self.now = 1000.0
        self.open: list[Attempt] = []
        self.sent: list[tuple[str, bool, float]] = []
        self.told: list[Answer] = []
        self.can_send = True
        self.tries = 0
        self.servers = [Upstream(f"10.0.0.{number + 1}", 53) for number in range(servers)]
        self.pool = Pool(self.servers)
        rng = random.Random(seed)
        self.core = Forwarder({(): self.pool}, ForwardCache(), self, rng.getrandbits, OWN)

    def start(self, attempt: Attempt) -> bool:
        self.tries += 1
        if self.can_send:
            self.open.append(attempt)
            self.sent.append((attempt.upstream.host, attempt.stream, round(self.now - 1000.0, 3)))
        return self.can_send

    def stop(self, attempt: Attempt) -> None:
        if attempt in self.open:
            self.open.remove(attempt)

    def ask(self, text: str = "www.example.com", client: str = "a", **fields: Any) -> Answer | None:
        labels = name.from_text(text)
        key = Key(labels, codes.A, False, False, ())
        asked = fields.pop("asked", name.wire(labels) + b"\0\1\0\1")
        return self.core.ask(key, fields.pop("path", []), asked, client, self.now, self.told.append)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + max(self.core.tick(self.now), 0.001))
        self.core.tick(self.now)

    def reply(self, attempt: Attempt, *records: str, **fields: Any) -> None:
        packet = bytes(reply_to(attempt.sent.packet, *records, **fields).pack())
        self.core.received(attempt, packet, self.now)


def test_the_next_server_is_asked_when_the_first_is_silent_and_the_first_answer_counts() -> None:
    world = World()
    assert world.ask() is None
    world.run(STAGGER_S)
    assert [(host, at) for host, _, at in world.sent] == [("10.0.0.1", 0.0), ("10.0.0.2", STAGGER_S)]
    world.reply(world.open[1], RECORD)
    assert [answer.rcode for answer in world.told] == [codes.NOERROR]
    assert world.open == []
    assert (world.servers[0].failures, world.servers[1].failures) == (1, 0)


def test_a_late_answer_of_the_first_counts_too() -> None:
    world = World()
    world.ask()
    world.run(STAGGER_S)
    world.reply(world.open[0], RECORD)
    assert len(world.told) == 1
    assert world.servers[0].failures == 0


def test_a_silent_lone_server_is_asked_again_and_in_the_end_nobody_answered() -> None:
    world = World(servers=1)
    world.ask()
    world.run(limits.DNS_FORWARD_S_MAX)
    assert [at for _, _, at in world.sent] == [0.0, RETRY_S, 2 * RETRY_S, 3 * RETRY_S]
    assert [(answer.rcode, answer.ede) for answer in world.told] == [(codes.SERVFAIL, codes.EDE_NOBODY_REACHED)]
    assert world.open == []
    assert len(world.core) == 0
    assert world.servers[0].failures == 1  # one question, one failure, however often it was sent


def test_when_all_fail_at_once_nobody_waits() -> None:
    world = World()
    world.ask()
    for _ in world.servers:
        world.core.failed(world.open[0], world.now)
    assert [answer.rcode for answer in world.told] == [codes.SERVFAIL]


def test_when_nothing_can_be_sent_the_answer_is_there_at_once() -> None:
    world = World()
    world.can_send = False
    found = world.ask()
    assert found is not None
    assert found.rcode == codes.SERVFAIL
    assert world.core.waiting == 0


def test_a_short_name_is_unknown_when_nobody_answers() -> None:
    world = World()
    world.ask("web")
    world.run(limits.DNS_FORWARD_S_MAX)
    assert [answer.rcode for answer in world.told] == [codes.NXDOMAIN]


def test_servfail_of_one_is_an_answer_of_the_next() -> None:
    world = World()
    world.ask()
    world.reply(world.open[0], rcode="SERVFAIL")
    assert [host for host, _, _ in world.sent] == ["10.0.0.1", "10.0.0.2"]
    world.reply(world.open[0], RECORD)
    assert [answer.rcode for answer in world.told] == [codes.NOERROR]


def plain(attempt: Attempt, rcode: str) -> bytes:
    """The refusal of a server that knows no EDNS: it has no OPT record."""
    answer = reply_to(attempt.sent.packet, rcode=rcode)
    answer.ar = []
    return bytes(answer.pack())


@pytest.mark.parametrize("rcode", ["FORMERR", "NOTIMP"])
def test_a_server_that_refuses_in_plain_words_is_asked_in_plain_words(rcode: str) -> None:
    world = World()
    world.ask()
    world.core.received(world.open[0], plain(world.open[0], rcode), world.now)
    assert [(attempt.upstream, attempt.sent.edns) for attempt in world.open] == [(world.servers[0], False)]
    assert not world.servers[0].takes_edns(world.now)
    world.reply(world.open[0], RECORD)
    assert [answer.rcode for answer in world.told] == [codes.NOERROR]


@pytest.mark.parametrize("rcode", ["FORMERR", "NOTIMP"])
def test_a_refusal_in_edns_is_no_reason_to_ask_without(rcode: str) -> None:
    world = World()
    world.ask()
    world.reply(world.open[0], rcode=rcode)
    assert [(attempt.upstream, attempt.sent.edns) for attempt in world.open] == [(world.servers[1], True)]
    assert world.servers[0].takes_edns(world.now)


def test_many_who_ask_are_told_once_each_and_one_question_is_sent() -> None:
    world = World()
    for number in range(20):
        assert world.ask(client=str(number)) is None
    assert len(world.sent) == 1
    world.reply(world.open[0], RECORD)
    assert len(world.told) == 20
    assert world.core.waiting == 0
    assert world.ask() is not None


def test_one_that_cannot_be_told_keeps_it_from_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def raises(answer: Answer) -> None:
        raise ValueError("a name that no message holds")

    world = World()
    key = Key(name.from_text("www.example.com"), codes.A, False, False, ())
    world.ask(client="first")
    assert world.core.ask(key, [], b"", "second", world.now, raises) is None
    world.ask(client="third")
    world.reply(world.open[0], RECORD)
    assert len(world.told) == 2
    assert world.core.waiting == 0
    assert "could not be given" in caplog.text


def test_forgeries_are_counted_and_too_many_move_the_question_to_tcp() -> None:
    world = World()
    world.ask()
    good = bytes(reply_to(world.open[0].sent.packet, RECORD).pack())
    forged = bytes((good[0] ^ 1,)) + good[1:]
    for _ in range(FORGERIES_MAX):
        assert world.told == []
        world.core.received(world.open[0], forged, world.now)
    assert [stream for _, stream, _ in world.sent] == [False, True]
    world.reply(world.open[0], RECORD)
    assert len(world.told) == 1
    assert world.servers[0].mismatched == FORGERIES_MAX


def test_an_answer_in_other_letters_is_not_taken_but_asked_for_over_tcp() -> None:
    world = World()
    world.ask()
    HAPPENS["swap"](world, world.open[0])
    assert world.told == []
    assert [stream for _, stream, _ in world.sent] == [False, True]
    HAPPENS["swap"](world, world.open[0])  # over TCP nobody forges who does not see the connection
    assert len(world.told) == 1


def test_an_answer_cut_short_is_asked_for_over_tcp_and_half_of_it_given_only_when_that_fails() -> None:
    world = World(servers=1)
    world.ask()
    world.reply(world.open[0], RECORD, tc=1)
    assert world.told == []
    assert [stream for _, stream, _ in world.sent] == [False, True]
    world.core.failed(world.open[0], world.now)
    assert [(answer.truncated, len(answer.answer)) for answer in world.told] == [(True, 1)]
    assert world.ask() is None  # half an answer is not kept


def test_what_was_known_is_told_after_a_while_and_the_question_goes_on() -> None:
    world = World(servers=1)
    world.ask()
    world.reply(world.open[0], RECORD.replace(" 60 ", " 1 "))
    world.run(2.0)
    assert world.ask() is None
    world.run(STALE_S)
    assert [answer.ede for answer in world.told] == [None, codes.EDE_STALE]
    assert len(world.core) == 1
    world.reply(world.open[-1], RECORD)
    found = world.ask()
    assert found is not None
    assert found.ede is None


def test_when_all_are_down_what_was_known_is_told_at_once_and_they_are_asked_all_the_same() -> None:
    world = World(servers=1)
    world.ask()
    world.reply(world.open[0], RECORD.replace(" 60 ", " 1 "))
    world.run(2.0)
    for number in range(FAILURES_MAX):
        world.ask(f"n{number}.example.com")
        world.run(limits.DNS_FORWARD_S_MAX)
    assert world.pool.is_down
    before = len(world.sent)
    found = world.ask()
    assert found is not None
    assert found.ede == codes.EDE_STALE
    assert len(world.sent) == before + 1


def test_a_server_that_is_down_is_asked_last_and_looked_after_until_it_answers() -> None:
    world = World()
    first, second = world.servers
    for number in range(FAILURES_MAX):
        first.mean_s, second.mean_s = 0.0, 1.0
        world.ask(f"n{number}.example.com")
        world.run(STAGGER_S)
        attempt = next(one for one in world.open if one.upstream is second)
        world.reply(attempt, RECORD)
    assert first.is_down
    world.sent.clear()
    world.ask("later.example.com")
    assert [host for host, _, _ in world.sent] == [second.host]
    world.reply(world.open[-1], RECORD)
    for _ in range(4):
        world.run(60.0)
    probes = [attempt for attempt in world.open if attempt.flight is None]
    asked = [host for host, _, _ in world.sent].count(first.host)
    assert 5 <= asked <= 60  # at growing intervals, at most 30 s
    while not probes:
        world.run(1.0)
        probes = [attempt for attempt in world.open if attempt.flight is None]
    world.reply(probes[0], rcode="REFUSED")  # any answer shows that it lives
    assert not first.is_down


def test_a_server_that_nothing_can_be_sent_to_is_looked_after_no_more_often() -> None:
    world = World(servers=1)
    world.can_send = False
    for number in range(FAILURES_MAX):
        world.servers[0].fails(world.now, number)
    for _ in range(600):
        world.now += 0.1
        world.core.tick(world.now)
    assert 3 <= world.tries <= 10  # in a minute, at growing intervals


def test_a_question_that_was_here_before_goes_no_further() -> None:
    world = World()
    found = world.ask(path=[b"somebody", OWN])
    assert found is not None
    assert found.rcode == codes.SERVFAIL
    assert world.ask(path=[bytes((number,)) * 8 for number in range(4)]) is not None
    assert world.core.loops == 2
    assert world.sent == []


def test_a_path_that_a_client_made_up_spoils_nobody_elses_answer() -> None:
    world = World(servers=1)
    assert world.ask(path=[b"made up!"], client="evil") is None
    assert world.ask(client="good") is None
    first, second = world.open
    assert [forward_message.path(one.sent.packet) for one in (first, second)] == [[b"made up!", OWN], [OWN]]
    world.reply(first, rcode="SERVFAIL")  # of a server of ours that takes itself for a part of the circle
    assert [answer.rcode for answer in world.told] == [codes.SERVFAIL]
    assert world.ask(client="another") is None, "nothing is remembered of it"
    world.reply(second, RECORD)
    assert [answer.rcode for answer in world.told[1:]] == [codes.NOERROR] * 2
    assert world.core.waiting == len(world.core) == 0


def test_our_own_letters_give_a_loop_away() -> None:
    world = World()
    world.ask()
    found = world.ask(asked=world.open[0].sent.question)
    assert found is not None
    assert world.core.loops == 1
    assert world.ask(asked=name.wire(name.from_text("www.example.com")) + b"\0\1\0\1") is None


@pytest.mark.parametrize("bits", [0, -1], ids=["all lower", "all upper"])
def test_letters_that_came_out_alike_are_no_loop(bits: int) -> None:
    """Nobody is taken for ourselves who writes a name as everybody does."""
    world = World()
    world.core._random = lambda count: bits & (1 << count) - 1
    assert world.ask("abcdefgh.com") is None
    ours = world.open[0].sent.question
    assert ours[:-4] in (ours[:-4].lower(), ours[:-4].upper())
    assert world.ask("abcdefgh.com", asked=ours) is None
    assert world.core.loops == 0


def test_letters_that_came_out_alike_are_drawn_again() -> None:
    world = World()
    drawn = iter([0, 0, 0b0110 << 16, 0])
    world.core._random = lambda count: next(drawn) if count > 32 else 1
    world.ask("abcdefgh.com")
    assert world.open[0].sent.question.startswith(b"\x08aBCdefgh\3com")


def test_who_asks_much_leaves_room_for_who_comes_after() -> None:
    world = World(servers=1)
    greedy = [world.ask(f"g{number}.example", client="greedy") for number in range(2 * limits.DNS_FORWARDS_MAX)]
    assert greedy.count(None) == limits.DNS_FORWARDS_MAX // 2
    others = [world.ask(f"o{number}.example", client=f"other {number}") for number in range(50)]
    assert others.count(None) == 50
    assert world.core.waiting <= limits.DNS_FORWARDS_MAX
    assert world.core.overloaded > 0
    world.run(limits.DNS_FORWARD_S_MAX)
    assert world.core.waiting == 0
    assert len(world.told) == greedy.count(None) + 50


def test_at_the_end_everybody_is_told() -> None:
    world = World()
    world.ask()
    world.ask("other.example")
    world.core.close(world.now)
    assert [answer.rcode for answer in world.told] == [codes.SERVFAIL] * 2
    assert world.open == []


def test_who_asks_behind_the_end_is_told_at_once() -> None:
    """A socket is emptied when it is closed: what is answered then must not begin anything."""
    world = World()
    world.ask()
    world.reply(world.open[0], RECORD.replace(" 60 ", " 1 "))
    world.ask("young.example.com")
    world.reply(world.open[0], RECORD.replace("www", "young"))
    world.run(2.0)
    world.core.close(world.now)
    told = [world.ask(text) for text in ("new.example.com", "www.example.com", "young.example.com")]
    assert [(answer.rcode, answer.ede) for answer in told if answer is not None] == [
        (codes.SERVFAIL, codes.EDE_NOBODY_REACHED), (codes.NOERROR, codes.EDE_STALE), (codes.NOERROR, None),
    ]  # fmt: skip
    assert world.open == []
    assert len(world.core) == 0


ACTS = st.sampled_from(
    ["ask", "ask", "answer", "cut", "servfail", "formerr", "plain", "fail", "forge", "swap", "noise", "wait"]
)


@settings(max_examples=60)
@given(st.lists(st.tuples(ACTS, st.integers(0, 50)), max_size=120), st.integers(0, 3), st.integers(1, 4))
def test_whatever_happens_everybody_is_told_once_in_time_and_nothing_stays_open(
    acts: list[tuple[str, int]], seed: int, servers: int
) -> None:
    world = World(servers, seed)
    asked = at_once = 0
    for what, number in acts:
        if what == "ask":
            asked += 1
            at_once += world.ask(f"name{number % 5}.example.com", client=str(number % 3)) is not None
        elif what == "wait":
            world.run(number / 25)
        elif world.open:
            HAPPENS[what](world, world.open[number % len(world.open)])
    assert world.core.waiting == asked - at_once - len(world.told)
    world.run(limits.DNS_FORWARD_S_MAX)
    assert len(world.told) == asked - at_once
    assert world.core.waiting == len(world.core) == 0
    assert all(attempt.flight is None for attempt in world.open)


def broken(change: Callable[[bytes], bytes]) -> Callable[[World, Attempt], None]:
    def happen(world: World, attempt: Attempt) -> None:
        packet = bytes(reply_to(attempt.sent.packet, RECORD).pack())
        world.core.received(attempt, change(packet), world.now)

    return happen


HAPPENS: dict[str, Callable[[World, Attempt], None]] = {
    "answer": lambda world, attempt: world.reply(attempt, RECORD),
    "cut": lambda world, attempt: world.reply(attempt, RECORD, tc=1),
    "servfail": lambda world, attempt: world.reply(attempt, rcode="SERVFAIL"),
    "formerr": lambda world, attempt: world.reply(attempt, rcode="FORMERR"),
    "plain": lambda world, attempt: world.core.received(attempt, plain(attempt, "FORMERR"), world.now),
    "fail": lambda world, attempt: world.core.failed(attempt, world.now),
    "forge": broken(lambda packet: bytes((packet[0] ^ 1,)) + packet[1:]),
    "swap": broken(lambda packet: packet[:12] + packet[12:30].swapcase() + packet[30:]),
    "noise": broken(lambda packet: packet[:-3]),
}
