"""The brake: mass expiry is held back, visibly and for a bounded time; everything else passes (DESIGN guarantee 9).

First in virtual time, with the leader's clocks and the state machine as they are; then on a real Raft member.
"""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discovery.command import (
    Deregister,
    Evict,
    Failure,
    Found,
    Meta,
    Register,
    SetService,
    SetStatus,
    Unbrake,
    decode,
    encode,
)
from discovery.errors import NotApplied
from discovery.evictions import Brakes
from discovery.leases import Lessor
from discovery.model import Instance, Service
from discovery.store import Store

TTL_S = 2.0
BRAKE_S = 10.0
STEP_S = 0.05
LATE_S = 0.25


class Leader:
    """The leader's loop in virtual time: clocks, state, and what it proposes; a round and an entry take no time."""

    def __init__(self, fraction: float | None) -> None:
        self.store, self.lessor, self.brakes = Store(), Lessor(), Brakes()
        self.term, self.now, self.index = 1, 100.0, 0
        self.proposed: list[Evict] = []
        self.apply(Found("h"))
        self.lessor.promote(self.now, {})
        self.configure(fraction)

    def configure(self, fraction: float | None) -> None:
        ppm = None if fraction is None else round(fraction * 1_000_000)
        spec = Service("default", "web", min_healthy_ppm=ppm, brake_timeout_ms=round(BRAKE_S * 1000))
        self.apply(SetService(spec))

    def apply(self, command):
        self.index += 1
        outcome = self.store.apply(encode(command), Meta(self.index, self.term, round(self.now * 1000)))
        assert not isinstance(outcome.result, Failure), outcome.result
        for effect in outcome.leases:
            if effect.kind == "started":
                self.lessor.start(effect.id, effect.version, effect.ttl_ms, self.now)
            elif effect.kind == "gone":
                self.lessor.forget(effect.id)
        return outcome.result

    def register(self, number: int, service: str = "web", status: str = "ready") -> None:
        spec = Instance("default", service, f"i{number}", ("10.0.0.1",), status=status)
        holder = number if self.store.instance("default", service, spec.id) else 0
        self.apply(Register(spec, True, round(TTL_S * 1000), True, 0, holder, number))

    def beat(self, number: int) -> bool:
        if not self.lessor.heartbeat(number, self.now):
            return False
        if number in self.lessor.braked:
            self.brakes.renewed(self.lessor, [number], self.now)
            self.apply(Unbrake(self.term, (number,)))
        return True

    def elected(self) -> None:
        """Another term begins: all clocks anew, what was parked is forgotten here and marked in the state."""
        self.term += 1
        self.brakes.clear()
        self.lessor.promote(self.now, self.store.lease_terms())
        self.lessor.braked.update(self.store.braked_leases())

    def tick(self) -> None:
        self.now += STEP_S
        if self.lessor.braked:
            self.brakes.end(self.lessor, self.store.unbraked_leases(), self.now)
        dead = self.lessor.still_due(self.lessor.due(self.now), self.now)
        if not dead:
            return
        self.lessor.hold(one.id for one in dead)
        pairs = tuple((one.id, one.version, None) for one in dead)
        self.proposed.append(Evict(self.term, pairs, self.brakes.overdue(dead)))
        result = self.apply(self.proposed[-1])
        renewed = self.brakes.park(self.lessor, result.braked, self.now)
        assert renewed == []
        parked = {id for id, _ in result.braked} & self.lessor.braked
        self.lessor.release([one.id for one in dead if one.id not in parked], self.now)

    def ids(self, service: str = "web") -> set[int]:
        return {int(name[1:]) for name in self.store.instance_ids("default", service)}

    def run(self, seconds: float, living=()) -> None:
        for _ in range(round(seconds / STEP_S)):
            for number in living:
                assert self.beat(number), f"{number} lives and was evicted"
            self.tick()


def kinds(store: Store) -> list[str]:
    return [event.kind for event in store.events() if event.kind in ("expired", "braked")]


def test_off_by_default() -> None:
    leader = Leader(None)
    for number in range(1, 11):
        leader.register(number)
    leader.run(TTL_S + LATE_S)
    assert leader.ids() == set()
    assert kinds(leader.store) == ["expired"] * 10


def test_thousands_at_once_are_held_back_in_one_entry_and_go_in_one() -> None:
    leader = Leader(0.5)
    for number in range(1, 2_001):
        leader.register(number)
    revision = leader.store.revision
    leader.run(TTL_S + LATE_S)
    assert len(leader.ids()) == leader.store.braked("default", "web") == 1_000
    assert kinds(leader.store).count("braked") == kinds(leader.store).count("expired") == 1_000
    assert (leader.store.revision, len(leader.proposed)) == (revision + 1, 1)
    leader.run(BRAKE_S - TTL_S)
    assert len(leader.ids()) == 1_000
    leader.run(TTL_S)
    assert leader.ids() == set()
    assert (leader.store.revision, len(leader.proposed)) == (revision + 2, 2)
    assert leader.store.braked_leases() == set()


def test_dying_one_after_the_other_is_no_way_round_it() -> None:
    leader = Leader(0.5)
    for number in range(1, 11):
        leader.register(number)
        leader.run(0.15)
    leader.run(TTL_S + LATE_S)
    assert len(leader.ids()) == 5


def test_small_losses_pass_at_once() -> None:
    leader = Leader(0.5)
    for number in range(1, 11):
        leader.register(number)
    leader.run(TTL_S + LATE_S, living=range(5, 11))
    assert leader.ids() == set(range(5, 11))
    assert "braked" not in kinds(leader.store)


def test_who_comes_back_while_held_back_stays() -> None:
    leader = Leader(0.5)
    for number in range(1, 11):
        leader.register(number)
    leader.run(TTL_S + LATE_S)
    survivors = leader.ids()
    assert leader.store.braked("default", "web") == 5
    leader.run(BRAKE_S + 2 * TTL_S, living=survivors)
    assert leader.ids() == survivors
    assert leader.store.braked("default", "web") == 0
    leader.run(TTL_S + LATE_S, living=list(survivors)[:4])
    assert len(leader.ids()) == 4


def test_a_registration_ends_it_too_and_says_so_with_a_revision() -> None:
    leader = Leader(1.0)
    leader.register(1)
    leader.run(TTL_S + LATE_S)
    revision, index = leader.store.revision, leader.store.index_of_service("default", "web")
    assert (leader.store.braked("default", "web"), index) == (1, revision)
    spec = leader.store.instance("default", "web", "i1").spec
    leader.apply(Register(spec, True, round(TTL_S * 1000), True, 0, 1, 99))
    assert leader.store.braked("default", "web") == 0
    assert leader.store.index_of_service("default", "web") == revision + 1
    leader.run(TTL_S / 2)
    assert leader.ids() == {1}


def test_deregistration_and_a_dead_container_pass() -> None:
    leader = Leader(1.0)
    for number in range(1, 4):
        leader.register(number)
    leader.run(TTL_S + LATE_S)
    assert leader.ids() == {1, 2, 3}
    leader.apply(Deregister("default", "web", "i1"))
    leader.apply(Deregister("default", "web", "i2", reason="container_died"))
    assert leader.ids() == {3}
    assert leader.store.braked("default", "web") == 1


def test_it_counts_the_ready_only() -> None:
    leader = Leader(1.0)
    leader.register(1)
    leader.register(2, status="draining")
    leader.register(3, status="not_ready")
    leader.run(TTL_S + LATE_S, living=[1])
    assert leader.ids() == {1}


def test_other_services_are_not_held_back() -> None:
    leader = Leader(1.0)
    for number in range(1, 11):
        leader.register(number, "other" if number % 2 else "web")
    leader.run(TTL_S + LATE_S)
    assert leader.ids("other") == set()
    assert len(leader.ids()) == 5


def test_new_instances_make_room_for_the_old_to_go() -> None:
    leader = Leader(0.5)
    for number in range(1, 11):
        leader.register(number)
    leader.run(TTL_S + LATE_S)
    assert len(leader.ids()) == 5
    for number in range(11, 31):
        leader.register(number)
    leader.run(LATE_S, living=range(11, 31))
    assert leader.ids() == set(range(11, 31))


def test_one_whose_eviction_is_proposed_again_is_held_until_its_outcome_is_known() -> None:
    leader = Leader(1.0)
    leader.register(1)
    leader.run(TTL_S + LATE_S)
    assert leader.lessor.braked == {1}
    leader.configure(None)
    leader.brakes.end(leader.lessor, leader.store.unbraked_leases(), leader.now)
    leader.now += LATE_S
    leader.lessor.hold(one.id for one in leader.lessor.due(leader.now))
    assert leader.lessor.held == {1}
    for later_s in (0.0, BRAKE_S):  # there is room still; its time is over, too
        leader.brakes.end(leader.lessor, leader.store.unbraked_leases(), leader.now + later_s)
        assert leader.lessor.held == {1}


@pytest.mark.parametrize("fraction", [None, 0.0])
def test_without_the_setting_what_was_held_back_goes(fraction: float | None) -> None:
    leader = Leader(1.0)
    leader.register(1)
    leader.run(TTL_S + LATE_S)
    assert leader.ids() == {1}
    leader.configure(fraction)
    leader.run(LATE_S)
    assert leader.ids() == set()


def test_an_election_holds_them_no_longer_than_a_ttl_more() -> None:
    leader = Leader(1.0)
    leader.register(1)
    leader.run(TTL_S + LATE_S)
    leader.elected()
    leader.run(BRAKE_S - TTL_S)
    assert leader.ids() == {1}
    leader.run(TTL_S + LATE_S)
    assert leader.ids() == set()
    assert kinds(leader.store) == ["braked", "expired"]


def test_what_lived_in_between_is_held_back_for_its_full_time_again() -> None:
    leader = Leader(1.0)
    leader.register(1)
    leader.run(TTL_S + LATE_S)
    leader.run(TTL_S, living=[1])
    leader.run(BRAKE_S)
    assert leader.ids() == {1}
    leader.run(TTL_S + LATE_S)
    assert leader.ids() == set()


def test_seven_tenths_of_ten_are_seven() -> None:
    leader = Leader(0.7)
    for number in range(1, 11):
        leader.register(number)
    leader.run(TTL_S + LATE_S)
    assert len(leader.ids()) == 7


def test_a_brake_survives_a_snapshot() -> None:
    leader = Leader(0.5)
    for number in range(1, 11):
        leader.register(number)
    leader.run(TTL_S + LATE_S)
    loaded = Store.load(leader.store.snapshot().chunks())
    assert loaded.digest() == leader.store.digest()
    assert loaded.braked("default", "web") == 5
    leader.store = loaded
    leader.run(BRAKE_S)
    assert leader.ids() == set()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["die", "die", "storm", "register", "revive", "deregister", "drain", "elect"]),
        st.integers(1, 12),
        st.sampled_from([0.0, 0.3, 2.5, BRAKE_S / 2]),
    ),
    min_size=4,
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([0.1, 0.5, 0.7, 1.0]), STEPS)
def test_never_too_few_before_the_time_never_held_for_ever_never_the_living(fraction, steps) -> None:
    leader, living = Leader(fraction), set(range(1, 9))
    judge = Judge(leader, fraction)
    for number in living:
        leader.register(number)
    for what, number, seconds in steps:
        take(leader, living, what, number)
        for _ in range(round(seconds / STEP_S)):
            for one in living:
                assert leader.beat(one), f"{one} lives and was evicted"
            judge.tick()
    leader.run(BRAKE_S + TTL_S + 2 * LATE_S, living)
    assert leader.ids() == living, "the dead go in the end, the living stay"
    assert leader.store.braked("default", "web") == 0


def take(leader: Leader, living: set[int], what: str, number: int) -> None:
    """One step of a story."""
    if what == "elect":
        leader.elected()
    elif what == "storm":
        living.intersection_update(range(number))
    elif what == "register":
        leader.register(number)
        living.add(number)
    elif number in leader.ids():
        if what == "revive":
            living.add(number)
        elif what == "drain":
            leader.apply(SetStatus("default", "web", f"i{number}", "draining"))
        elif what in ("die", "deregister"):
            living.discard(number)
            if what == "deregister":
                leader.apply(Deregister("default", "web", f"i{number}"))


class Judge:
    """The rule in other words: what goes leaves enough of what there was, or has been held back for its time."""

    def __init__(self, leader: Leader, fraction: float) -> None:
        self.leader, self.fraction = leader, fraction
        self.lost: list[tuple[float, int]] = []

    def ready(self) -> set[str]:
        instances = self.leader.store.instances("default", "web")
        return {name for name, record in instances.items() if record.spec.status == "ready"}

    def tick(self) -> None:
        before, proposed = self.ready(), len(self.leader.proposed)
        self.leader.tick()
        gone = before - self.ready()
        assert len(self.leader.proposed) <= proposed + 1, "one entry, however many"
        if not gone:
            return
        if any(self.waited(name) for name in gone):
            self.lost.clear()
            return
        recent = sum(count for when, count in self.lost if when > self.leader.now - BRAKE_S * 15 / 16)
        enough = math.ceil(round(self.fraction * (len(before) + recent), 6))
        assert len(before) - len(gone) >= enough, f"{gone} of {before} went, {recent} lost before"
        self.lost.append((self.leader.now, len(gone)))

    def waited(self, name: str) -> bool:
        """Whether the instance was held back for as long as the brake holds."""
        told = [event.time_ms for event in self.leader.store.events() if (event.kind, event.id) == ("braked", name)]
        return bool(told) and self.leader.now * 1000 - told[-1] >= BRAKE_S * 1000 - 1


# On a real Raft member


def web(node) -> list[str]:
    return list(node.registry.store.instance_ids("default", "web"))


async def brake(node, fraction: float, seconds: float) -> None:
    spec = Service(
        "default", "web", min_healthy_ppm=round(fraction * 1_000_000), brake_timeout_ms=round(seconds * 1000)
    )
    await node.registry.write(SetService(spec))


async def test_the_leader_holds_back_and_lets_go_by_itself(node, register, until) -> None:
    await brake(node, 1.0, 1.0)
    begin = time.monotonic()
    await node.registry.write(register("a", 1_000, lease=7))
    await until(lambda: node.registry.store.braked("default", "web") == 1)
    assert web(node) == ["a"]
    await until(lambda: not web(node))
    assert 2.0 <= time.monotonic() - begin <= 2.6
    assert [event.kind for event in node.registry.store.events()] == ["registered", "braked", "expired"]


async def test_a_heartbeat_ends_it_and_the_log_is_told(node, register, until) -> None:
    await brake(node, 1.0, 60.0)
    await node.registry.write(register("a", 1_000, lease=7))
    await until(lambda: node.registry.store.braked("default", "web") == 1)
    assert (await node.registry.heartbeat([("default", "web", "a", 7)])).renewed == 1
    await until(lambda: node.registry.store.braked("default", "web") == 0)
    assert 800 < (await node.registry.remaining([7]))[7] <= 1_000
    assert web(node) == ["a"]


async def test_one_that_was_held_back_goes_although_its_eviction_was_refused_at_first(
    node, register, until, monkeypatch
) -> None:
    await brake(node, 1.0, 1.0)
    await node.registry.write(register("a", 1_000, lease=7))
    await until(lambda: node.registry.store.braked("default", "web") == 1)
    propose, refused = node.raft.propose, []

    async def refuse_once(command, timeout_s, term=None):
        if isinstance(decode(command).command, Evict) and not refused:
            refused.append(command)
            raise NotApplied("too many commands wait")
        return await propose(command, timeout_s, term)

    monkeypatch.setattr(node.raft, "propose", refuse_once)
    await until(lambda: not web(node))
    assert refused


async def test_a_heartbeat_that_waited_for_the_outcome_of_an_eviction_that_was_held_back_is_acknowledged(
    node, register, until, monkeypatch
) -> None:
    await brake(node, 1.0, 60.0)
    gate, propose, seen = asyncio.Event(), node.raft.propose, []

    async def held(command, timeout_s, term=None):
        if isinstance(decode(command).command, Evict):
            seen.append(command)
            await gate.wait()
        return await propose(command, timeout_s, term)

    monkeypatch.setattr(node.raft, "propose", held)
    await node.registry.write(register("a", 1_000, lease=7))
    await until(lambda: seen)
    late = asyncio.ensure_future(node.registry.heartbeat([("default", "web", "a", 7)]))
    await asyncio.sleep(0.05)
    assert not late.done()
    gate.set()
    assert (await late).renewed == 1
    await until(lambda: node.registry.store.braked("default", "web") == 0)
    assert web(node) == ["a"]
