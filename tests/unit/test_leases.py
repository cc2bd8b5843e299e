"""Lease clocks in virtual time: never early, late by two slots at most, full TTL after an election."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from discovery import limits
from discovery.leases import CHECKPOINT_STEP_S, SLOT_S, Due, LeaseClock, Lessor
from discovery.model import Lease

EPSILON_S = 1e-6


def by_id(leases: Iterable[Lease]) -> dict[int, Lease]:
    return {lease.id: lease for lease in leases}


def lessor(*leases: Lease, now: float = 0.0) -> Lessor:
    made = Lessor()
    made.promote(now, by_id(leases))
    return made


def ids(found: list[Due]) -> list[int]:
    return sorted(due.id for due in found)


class LessorAgainstNaiveModel(RuleBasedStateMachine):
    """The model is a dictionary id -> (version, ttl, last renewal) that is scanned whole."""

    @initialize()
    def begin(self):
        self.now = 100.0
        self.lessor = Lessor()
        self.model: dict[int, tuple[int, float, float]] = {}
        self.taken: set[int] = set()
        self.released = 0.0  # when evictions last did not take place: what is overdue then is due again two slots later
        self.leading = False

    @rule(ttls=st.lists(st.integers(1_000, 90_000), max_size=5))
    def promote(self, ttls):
        leases = [Lease(number, ttl_ms) for number, ttl_ms in enumerate(ttls)]
        self.lessor.promote(self.now, by_id(leases))
        self.model = {lease.id: (1, lease.ttl_ms / 1000, self.now) for lease in leases}
        self.taken = set()
        self.leading = True

    @rule()
    def demote(self):
        self.lessor.demote()
        self.model, self.taken, self.leading = {}, set(), False

    @rule(id=st.integers(0, 7), version=st.integers(1, 3), ttl_ms=st.integers(1_000, 90_000))
    def start(self, id, version, ttl_ms):
        self.lessor.start(id, version, ttl_ms, self.now)
        if self.leading:
            self.model[id] = (version, ttl_ms / 1000, self.now)
            self.taken.discard(id)
            self.lessor.release([id], self.now)

    @rule(id=st.integers(0, 7))
    def forget(self, id):
        self.lessor.forget(id)
        self.model.pop(id, None)
        self.taken.discard(id)

    @rule(id=st.integers(0, 7))
    def heartbeat(self, id):
        assert self.lessor.heartbeat(id, self.now) == (id in self.model)
        if id in self.model:
            version, ttl_s, _ = self.model[id]
            self.model[id] = (version, ttl_s, self.now)

    @rule()
    def evictions_that_did_not_take_place(self):
        self.lessor.hold(self.taken)
        assert self.lessor.held == self.taken
        self.lessor.release(list(self.taken), self.now)
        self.taken, self.released = set(), self.now

    @rule()
    def evictions_applied(self):
        for id in self.taken:
            self.lessor.forget(id)
            del self.model[id]
        self.taken = set()

    @rule(step_s=st.floats(0, 60))
    def time_passes(self, step_s):
        self.now += step_s
        for due in self.lessor.due(self.now):
            version, ttl_s, renewed = self.model[due.id]
            assert due.id not in self.taken
            assert due.version == version
            assert renewed + ttl_s <= self.now, "early"
            self.taken.add(due.id)
        self.nothing_is_left()

    def nothing_is_left(self):
        for id, (_, ttl_s, renewed) in self.model.items():
            if id not in self.taken:
                assert self.now - max(renewed + ttl_s, self.released) < 2 * SLOT_S + EPSILON_S, "late"

    @precondition(lambda self: self.leading)
    @invariant()
    def the_next_wake_up_is_not_later_than_the_first_deadline(self):
        waiting = [renewed + ttl_s for id, (_, ttl_s, renewed) in self.model.items() if id not in self.taken]
        if waiting:
            assert self.lessor.next_due() <= max(min(waiting), self.now) + 2 * SLOT_S + EPSILON_S

    @invariant()
    def remaining_is_what_the_model_says(self):
        for id in range(8):
            left = self.lessor.remaining_ms(id, self.now)
            if id in self.model:
                _, ttl_s, renewed = self.model[id]
                assert left == pytest.approx(max(0, renewed + ttl_s - self.now) * 1000, abs=1)
            else:
                assert left is None


LessorAgainstNaiveModel.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestLessorAgainstNaiveModel = LessorAgainstNaiveModel.TestCase


@given(
    start_s=st.floats(0, 1e6),
    ttl_ms=st.integers(limits.LEASE_TTL_MS_MIN, limits.LEASE_TTL_MS_MAX),
    beats=st.lists(st.floats(0, 0.99), max_size=5),
)
def test_woken_when_it_asks_a_lease_is_never_early_and_at_most_two_slots_late(start_s, ttl_ms, beats):
    clocks, now, ttl_s = lessor(Lease(1, ttl_ms), now=start_s), start_s, ttl_ms / 1000
    for share in beats:
        now += share * ttl_s
        assert clocks.due(now) == []
        assert clocks.heartbeat(1, now)
    renewed = now
    while not (found := clocks.due(now)):
        now = clocks.next_due()
    assert ids(found) == [1]
    assert ttl_s - EPSILON_S <= now - renewed <= ttl_s + 2 * SLOT_S + EPSILON_S


def test_promote_gives_every_lease_its_full_ttl_whatever_was_before():
    clocks = lessor(Lease(1, 2_000), now=0.0)
    assert ids(clocks.due(1.9)) == []
    clocks.promote(1.9, by_id([Lease(1, 2_000)]))
    assert clocks.due(3.89) == []
    assert clocks.remaining_ms(1, 1.9) == 2_000
    assert ids(clocks.due(3.95)) == [1]


def test_a_node_that_does_not_lead_has_no_clocks():
    clocks = lessor(Lease(1, 1_000))
    clocks.demote()
    clocks.start(2, 1, 1_000, 0.0)
    assert not clocks.heartbeat(1, 0.5)
    assert clocks.due(100.0) == []
    assert clocks.next_due() is None
    assert len(clocks) == 0


def test_thousands_that_die_at_once_are_due_at_once():
    clocks = lessor(*(Lease(number, 10_000) for number in range(5_000)))
    assert len(clocks.due(10.04)) == 5_000


def test_a_call_does_bounded_work_and_says_that_more_is_left():
    clocks = lessor(*(Lease(number, 10_000) for number in range(25)))
    sizes = []
    while clocks.next_due() is not None and clocks.next_due() <= 10.04:
        sizes.append(len(clocks.due(10.04, work_max=10)))
    assert sizes == [10, 10, 5]


def test_renewed_between_due_and_decision_goes_back_on_the_wheel():
    clocks = lessor(Lease(1, 1_000), Lease(2, 1_000))
    found = clocks.due(1.1)
    clocks.heartbeat(1, 1.15)
    assert ids(clocks.still_due(found, 1.2)) == [2]
    assert clocks.due(2.1) == []
    assert ids(clocks.due(2.2)) == [1]


def test_registered_anew_between_due_and_decision_is_not_due():
    clocks = lessor(Lease(1, 1_000))
    found = clocks.due(1.1)
    clocks.start(1, 2, 5_000, 1.1)
    assert clocks.still_due(found, 1.2) == []
    assert ids(clocks.due(6.2)) == [1]


def test_a_held_lease_notes_heartbeats_and_uses_them_once_released():
    clocks = lessor(Lease(1, 1_000))
    assert ids(clocks.due(1.1)) == [1]
    clocks.hold([1, 99])
    assert clocks.held == {1}
    assert clocks.heartbeat(1, 1.2)
    clocks.release([1], 1.3)
    assert not clocks.held
    assert clocks.due(2.19) == []
    assert ids(clocks.due(2.25)) == [1]


def test_released_without_a_heartbeat_is_due_again_with_the_next_slot():
    clocks = lessor(Lease(1, 1_000))
    clocks.hold([due.id for due in clocks.due(1.1)])
    clocks.release([1], 1.1)
    assert ids(clocks.due(1.12)) == [1]


def test_a_shorter_ttl_takes_effect_at_once_and_a_longer_one_too():
    clocks = lessor(Lease(1, 60_000), Lease(2, 1_000))
    clocks.start(1, 2, 1_000, 0.5)
    clocks.start(2, 2, 60_000, 0.5)
    assert ids(clocks.due(1.6)) == [1]
    assert clocks.due(60.4) == []
    assert ids(clocks.due(60.6)) == [2]


def test_the_last_heartbeat_is_known_only_since_the_election():
    clocks = lessor(Lease(1, 2_000), Lease(2, 2_000), now=5.0)
    clocks.heartbeat(1, 6.0)
    assert clocks.last_heartbeat(1) == 6.0
    assert clocks.last_heartbeat(2) is None
    assert sorted(clocks.due(9.0), key=lambda due: due.id) == [Due(1, 1, 6.0), Due(2, 1, None)]


def test_slots_that_became_empty_do_not_pile_up():
    clocks = lessor()
    for number in range(50_000):
        now = number * 0.02
        clocks.start(number, 1, limits.LEASE_TTL_MS_MAX, now)
        clocks.forget(number)
    assert len(clocks._wheel._order) < 3_000
    assert len(clocks._wheel._slots) == 0


def test_a_long_lease_that_fell_silent_is_checkpointed_and_the_next_leader_goes_on_from_there():
    clocks = lessor(Lease(1, 60_000))
    assert clocks.checkpoints(29.0, 10) == []
    assert clocks.checkpoints(31.0, 10) == [(1, 1, 29_000)]
    assert clocks.checkpointed == {1}
    assert clocks.checkpoints(32.0, 10) == []
    assert clocks.checkpoints(31.0 + CHECKPOINT_STEP_S + 1, 10) == [(1, 1, 13_000)]
    clocks.promote(100.0, by_id([Lease(1, 60_000, 1, 13_000)]))
    assert clocks.due(112.9) == []
    assert ids(clocks.due(113.1)) == [1]


def test_elections_more_often_than_the_ttl_cannot_keep_the_dead_alive():
    lease, now, clocks = Lease(1, 3_600_000), 0.0, Lessor()
    while now < 10_800:
        clocks.promote(now, by_id([lease]))
        for _ in range(600):
            now += 1.0
            for _, _, remaining_ms in clocks.checkpoints(now, 10):
                lease.remaining_ms = remaining_ms
            if clocks.due(now):
                assert 3_600 <= now <= 3_600 + 10 * (CHECKPOINT_STEP_S + 300)
                return
    pytest.fail("the dead lived on")


def test_a_holder_that_renews_every_third_of_its_ttl_is_never_checkpointed():
    clocks = lessor(Lease(1, 90_000))
    for second in range(1_000):
        if second % 30 == 0:
            clocks.heartbeat(1, float(second))
        assert clocks.checkpoints(float(second), 10) == []


def test_a_short_lease_is_never_checkpointed_and_ignores_a_checkpoint():
    clocks = lessor(Lease(1, 59_000, 1, 5_000))
    assert clocks.checkpoints(58.0, 10) == []
    assert clocks.remaining_ms(1, 0.0) == 59_000


def test_a_checkpoint_is_outstanding_until_cleared_for_the_same_version():
    clocks = lessor(Lease(1, 60_000, 4, 5_000))
    assert clocks.checkpointed == {1}
    clocks.cleared(1, 3)
    assert clocks.checkpointed == {1}
    clocks.cleared(1, 4)
    assert not clocks.checkpointed


def test_a_registration_voids_the_checkpoint():
    clocks = lessor(Lease(1, 60_000, 1, 5_000))
    clocks.start(1, 2, 60_000, 1.0)
    assert not clocks.checkpointed
    assert clocks.due(60.9) == []


def test_checkpoints_come_in_batches():
    clocks = lessor(*(Lease(number, 60_000) for number in range(25)))
    assert [len(clocks.checkpoints(40.0, 10)) for _ in range(4)] == [10, 10, 5, 0]


def test_a_look_at_many_long_leases_that_are_well_is_made_in_slices():
    """A hundred thousand at once would keep everybody waiting for a tenth of a second."""
    clocks = Lessor()
    clocks.promote(0.0, {id: Lease(id, 60_000) for id in range(1, 1_001)})
    for id in range(1, 1_001):
        clocks.heartbeat(id, 25.0)
    looks = 0
    while clocks.checks_due(40.0):
        assert clocks.checkpoints(40.0, 10, work_max=100) == []
        looks += 1
    assert looks == 10
    assert not clocks.checks_due(54.9)
    assert clocks.checks_due(55.0)


def test_lease_time_runs_with_the_clock_while_someone_looks():
    clock = LeaseClock(10.0)
    assert [clock.now(10.1), clock.now(10.2)] == [pytest.approx(10.1), pytest.approx(10.2)]
    assert clock.stalls == 0


def test_a_stall_is_counted_against_nobody():
    clock = LeaseClock(10.0)
    before = clock.now(10.1)
    assert clock.now(70.1) == pytest.approx(before)
    assert clock.now(70.2) == pytest.approx(before + 0.1)
    assert clock.stalls == 1


def test_a_clock_that_jumps_back_stands_still():
    clock = LeaseClock(10.0)
    assert clock.now(9.0) == pytest.approx(10.0)
    assert clock.now(9.1) == pytest.approx(10.1)


@given(st.lists(st.floats(-5, 100), max_size=30))
def test_lease_time_never_falls_and_never_runs_ahead(steps):
    clock, monotonic, last = LeaseClock(100.0), 100.0, 100.0
    for step in steps:
        monotonic += step
        now = clock.now(monotonic)
        assert -EPSILON_S <= now - last <= max(step, 0) + EPSILON_S
        last = now
