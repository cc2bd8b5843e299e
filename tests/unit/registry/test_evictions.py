"""What stops heartbeating goes, what lives stays: the leader's loop on a real Raft member."""

from __future__ import annotations

import asyncio
import time

import pytest

from discovery import evictions, limits
from discovery.command import Evict, Grant, Put, decode
from discovery.errors import NotApplied, OutcomeUnknown
from discovery.leases import CHECKPOINT_STEP_S


def beat(id: str, holder: int = 0) -> tuple[str, str, str, int]:
    return ("default", "web", id, holder)


def ids(node) -> list[str]:
    return list(node.registry.store.instance_ids("default", "web"))


class Proposals:
    """Sees the leader's proposals of one kind and can hold them back or answer in their place."""

    def __init__(self, node, kind, monkeypatch):
        self.seen = []
        self.terms = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._kind = kind
        self._propose = node.raft.propose
        monkeypatch.setattr(node.raft, "propose", self.propose)

    async def propose(self, command, timeout_s, term=None):
        wanted = decode(command).command
        if isinstance(wanted, self._kind):
            self.seen.append(wanted)
            self.terms.append(term)
            await self.gate.wait()
            if self.error is not None:
                raise self.error
        return await self._propose(command, timeout_s, term)


async def forward(node, seconds):
    """Let lease time pass in steps that are no stall."""
    for _ in range(round(seconds / 0.15)):
        node.clock.ahead_s += 0.15
        node.registry.lead.now()
    node.registry.evictions._again.set()


async def test_the_dead_leave_on_time_with_reason_and_last_heartbeat(node, register, until):
    wall = time.time() * 1000
    begin = time.monotonic()
    await node.registry.write(register("a", 1_000, lease=7))
    await until(lambda: not ids(node))
    assert 1.0 <= time.monotonic() - begin <= 1.25
    event = node.registry.store.events()[-1]
    assert (event.kind, event.id) == ("expired", "a")
    assert event.last_heartbeat_ms == pytest.approx(wall, abs=500)
    assert node.registry.store.lease(7) is None


async def test_the_living_stay(node, register):
    await node.registry.write(register("a", 1_000))
    for _ in range(25):
        assert (await node.registry.heartbeat([beat("a")])).renewed == 1
        await asyncio.sleep(0.1)
    assert ids(node) == ["a"]


async def test_thousands_leave_together_in_one_revision(node, register, until, monkeypatch):
    proposals = Proposals(node, Evict, monkeypatch)
    await asyncio.gather(*(node.registry.write(register(f"i{number}", 1_000)) for number in range(2_000)))
    # A registration starts the clock; here all start it at one moment.
    now = node.registry.lead.now()
    for lease in node.registry.store.leases():
        node.registry.lead.lessor.start(lease.id, lease.version, 1_000, now)
    revision = node.registry.store.revision
    await until(lambda: not ids(node))
    assert [len(evict.leases) for evict in proposals.seen] == [2_000]
    assert node.registry.store.revision == revision + 1


async def test_leases_that_hold_much_leave_in_several_commands(node, until, monkeypatch):
    monkeypatch.setattr(limits, "EVICTIONS_PER_COMMAND_MAX", 5)
    for lease in (1, 2, 3):
        await node.registry.write(Grant(lease, 60_000))
        for number in range(3):
            await node.registry.write(Put(f"k/{lease}/{number}", b"", lease))
    proposals = Proposals(node, Evict, monkeypatch)
    now = node.registry.lead.now()
    for lease in (1, 2, 3):
        node.registry.lead.lessor.start(lease, 1, 1_000, now)
    await until(lambda: not node.registry.store.keys("k/"))
    assert [len(evict.leases) for evict in proposals.seen] == [1, 1, 1]


@pytest.mark.parametrize(("patience_s", "proposed"), [(60.0, 1), (0.01, 2)])
async def test_while_very_many_evictions_are_open_the_next_ones_wait_a_while(
    node, register, until, monkeypatch, patience_s, proposed
):
    monkeypatch.setattr(limits, "EVICTIONS_OPEN_MAX", 1)
    monkeypatch.setattr(evictions, "ROOM_S_MAX", patience_s)
    proposals = Proposals(node, Evict, monkeypatch)
    proposals.gate.clear()
    await node.registry.write(register("a", 1_000))
    await node.registry.write(register("b", 2_000))
    await forward(node, 1.2)
    await until(lambda: len(proposals.seen) == 1)
    await forward(node, 1.2)
    await asyncio.sleep(0.1)
    await until(lambda: len(proposals.seen) == proposed)
    proposals.gate.set()
    await until(lambda: not ids(node))
    assert [len(evict.leases) for evict in proposals.seen] == [1, 1]


async def test_an_eviction_is_bound_to_the_term_it_was_decided_in(node, register, until, monkeypatch):
    proposals = Proposals(node, Evict, monkeypatch)
    await node.registry.write(register("a", 1_000))
    await forward(node, 1.2)
    await until(lambda: not ids(node))
    assert proposals.terms == [proposals.seen[0].term] == [node.registry.lead.term]


async def test_renewed_during_the_round_is_not_evicted(node, register, until, monkeypatch):
    proposals = Proposals(node, Evict, monkeypatch)
    await node.registry.write(register("a", 1_000, lease=7))
    confirm, asked, gate = node.raft.confirm, asyncio.Event(), asyncio.Event()

    async def slow():
        asked.set()
        await gate.wait()
        return await confirm()

    monkeypatch.setattr(node.raft, "confirm", slow)
    await forward(node, 1.2)
    await asked.wait()
    living = asyncio.ensure_future(node.registry.heartbeat([beat("a")]))
    await asyncio.sleep(0.01)
    gate.set()
    assert (await living).renewed == 1
    await asyncio.sleep(0.1)
    assert ids(node) == ["a"]
    assert proposals.seen == []


async def test_no_round_no_eviction(node, register, monkeypatch):
    await node.registry.write(register("a", 1_000, lease=7))

    async def deposed():
        raise NotApplied("deposed")

    with monkeypatch.context() as patch:
        patch.setattr(node.raft, "confirm", deposed)
        await forward(node, 1.2)
        await asyncio.sleep(0.15)
        assert ids(node) == ["a"]


async def test_a_heartbeat_waits_for_the_outcome_of_a_proposed_eviction_that_takes_place(
    node, register, until, monkeypatch
):
    proposals = Proposals(node, Evict, monkeypatch)
    proposals.gate.clear()
    await node.registry.write(register("a", 1_000, lease=7))
    await forward(node, 1.2)
    await until(lambda: proposals.seen)
    late = asyncio.ensure_future(node.registry.heartbeat([beat("a", 7)]))
    await asyncio.sleep(0.05)
    assert not late.done()
    proposals.gate.set()
    assert (await late).missing == [("default", "web", "a")]
    assert ids(node) == []


async def test_an_eviction_that_a_registration_overtook_skips_the_lease_and_the_heartbeat_is_acknowledged(
    node, register, until, monkeypatch
):
    proposals = Proposals(node, Evict, monkeypatch)
    proposals.gate.clear()
    await node.registry.write(register("a", 1_000, lease=7))
    await forward(node, 1.2)
    await until(lambda: proposals.seen)
    await node.registry.write(register("a", 1_000, holder=7))
    late = asyncio.ensure_future(node.registry.heartbeat([beat("a", 7)]))
    await asyncio.sleep(0.05)
    assert not late.done()
    proposals.gate.set()
    assert (await late).renewed == 1
    assert ids(node) == ["a"]
    assert not node.registry.lead.lessor.held
    await until(lambda: not ids(node))


async def test_a_heartbeat_that_waited_is_judged_by_who_holds_the_instance_then(node, register, until, monkeypatch):
    """To hear that nothing is registered makes the old holder register, and take the place from the new one."""
    proposals = Proposals(node, Evict, monkeypatch)
    proposals.gate.clear()
    await node.registry.write(register("a", 1_000, lease=7))
    await forward(node, 1.2)
    await until(lambda: proposals.seen)
    old = asyncio.ensure_future(node.registry.heartbeat([beat("a", 7)]))
    whoever = asyncio.ensure_future(node.registry.heartbeat([beat("a")]))
    await asyncio.sleep(0.05)
    await node.registry.write(register("a", 10_000, lease=8))
    proposals.gate.set()
    assert (await old).conflict == [("default", "web", "a")]
    assert (await whoever).ttls == [10_000]


async def test_an_eviction_that_was_surely_not_applied_is_decided_anew(node, register, until, monkeypatch):
    proposals = Proposals(node, Evict, monkeypatch)
    proposals.error = NotApplied("queue full")
    await node.registry.write(register("a", 1_000, lease=7))
    await forward(node, 1.2)
    await until(lambda: len(proposals.seen) > 1)
    proposals.error = None
    await until(lambda: not ids(node))


async def test_a_heartbeat_is_refused_when_the_outcome_of_the_eviction_stays_unknown(
    node, register, until, monkeypatch
):
    proposals = Proposals(node, Evict, monkeypatch)
    proposals.error = OutcomeUnknown("lost")
    await node.registry.write(register("a", 1_000, lease=7))
    await forward(node, 1.2)
    await until(lambda: proposals.seen)
    late = asyncio.ensure_future(node.registry.heartbeat([beat("a", 7)]))
    await asyncio.sleep(0.05)
    assert not late.done()
    node.registry.role("follower", node.registry.lead.term + 1, None, False)
    with pytest.raises(NotApplied):
        await late


async def test_every_lease_gets_its_full_ttl_when_this_node_is_elected_anew(node, register):
    await node.registry.write(register("a", 1_000, lease=7))
    await forward(node, 0.9)
    term = node.registry.lead.term
    node.registry.role("follower", term + 1, None, False)
    assert (await node.registry.remaining([7])) == {7: None}
    node.registry.role("leader", term, "n1", True)
    assert (await node.registry.remaining([7]))[7] > 950


async def test_a_term_that_follows_without_a_break_begins_the_clocks_anew_too(node, register):
    await node.registry.write(register("a", 1_000, lease=7))
    await forward(node, 0.9)
    node.registry.role("leader", node.registry.lead.term + 1, "n1", True)
    assert (await node.registry.remaining([7]))[7] > 950


async def test_a_stall_is_counted_against_nobody(node, register):
    await node.registry.write(register("a", 1_000, lease=7))
    node.clock.ahead_s += 60.0
    await asyncio.sleep(0.1)
    assert ids(node) == ["a"]
    assert node.registry.lead.stalls == 1


async def test_a_follower_runs_no_clocks(cluster, register, leader, until):
    nodes = await cluster(3)
    await nodes[0].registry.write(register("a", 1_000))
    assert [len(node.registry.lead.lessor) for node in nodes if node is not leader(nodes)] == [0, 0]
    await until(lambda: all(not ids(node) for node in nodes))


async def test_keys_on_an_expired_lease_go_too(node, until):
    await node.registry.write(Grant(9, 1_000))
    await node.registry.write(Put("k", b"1", lease=9))
    await forward(node, 1.2)
    await until(lambda: node.registry.store.key("k") is None)


async def test_a_silent_long_lease_is_checkpointed_and_a_heartbeat_clears_it_first(node, register, until):
    await node.registry.write(register("a", 60_000, lease=7))
    await forward(node, 31.0 + CHECKPOINT_STEP_S)
    await until(lambda: node.registry.store.lease(7).remaining_ms is not None)
    assert node.registry.store.lease(7).remaining_ms < 30_000
    assert (await node.registry.heartbeat([beat("a")])).renewed == 1
    assert node.registry.store.lease(7).remaining_ms == 60_000
    assert not node.registry.lead.lessor.checkpointed


async def test_a_checkpoint_that_cannot_be_cleared_refuses_the_heartbeat(node, register, until, monkeypatch):
    await node.registry.write(register("a", 60_000, lease=7))
    await forward(node, 31.0 + CHECKPOINT_STEP_S)
    await until(lambda: node.registry.store.lease(7).remaining_ms is not None)

    async def lost(*arguments):
        raise OutcomeUnknown("lost")

    with monkeypatch.context() as patch:
        patch.setattr(node.raft, "propose", lost)
        with pytest.raises(NotApplied):
            await node.registry.heartbeat([beat("a")])
    assert node.registry.lead.lessor.checkpointed == {7}
