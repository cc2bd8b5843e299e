"""Each broken node is caught: by chaos where chaos finds it, else by the shortest story that must go wrong."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from discovery.command import Register, Written, encode
from discovery.leases import Due
from discovery.model import Instance
from discovery.raft import codec, install, member, packing
from discovery.raft.changes import Changes
from discovery.raft.configuration import Add
from discovery.raft.core import Core
from discovery.testing.mutants import (
    AcknowledgesBeforeQuorum,
    AcknowledgesUnconfirmed,
    AnswersBeforeCommitted,
    BeginsBeforeCommitted,
    BelievesOldAnswers,
    BelievesTheWall,
    CommitsEarlierTerms,
    CountsNoVotes,
    CountsStalls,
    EvictsUnconditionally,
    ForgetsKeys,
    ForgetsVotes,
    ForwardsEvictions,
    GrantsAfterWinning,
    IgnoresFailedSyncs,
    LeapsWithEachEntry,
    NeverAdopts,
    NeverLooks,
    ObeysStaleResets,
    PromisesWithoutRoom,
    ReadsLocally,
    SkipsGroups,
    TrustsThePageCache,
    UsesItsOwnClock,
    WipedVoter,
    breed,
    first_caught,
)
from discovery.testing.rig import Rig
from discovery.testing.simmembers import MemberNode, MemberSimulation
from discovery.testing.simnode import SimNode
from discovery.testing.simregistry import SimRegistry
from discovery.testing.simulation import Plan, Simulation
from discovery.testing.simwatch import Violation

CAUGHT_BY_CHAOS = {
    "acknowledges before a quorum has it": (breed(AcknowledgesBeforeQuorum), 5, "", {}),
    "adopts no higher term": (breed(NeverAdopts), 60, "", {}),
    "never elects": (breed(CountsNoVotes), 1, "nobody leads", {}),
    "grants a pre-vote after winning one": (
        breed(parts={"PreVoting": GrantsAfterWinning}),
        20,
        "nobody leads",
        {"chaos_s": 15, "fault_every_s": (1.8, 2.2), "weights": (("absence", 1),), "busy_s": 0.03},
    ),
    "evicts for a time in which it stood still": (breed(registry=CountsStalls), 40, "listened in vain", {}),
    "looks for dead leases too seldom": (breed(registry=NeverLooks), 5, "is alive", {}),
    "forgets Idempotency-Keys": (breed(registry=ForgetsKeys), 10, "repeated with its key", {}),
    "reads what it has and calls it strong": (breed(registry=ReadsLocally), 10, "read begun", {}),
    "lets its own clock into the state": (breed(registry=UsesItsOwnClock), 3, "", {}),
    "leaves a revision out of the feed": (breed(registry=SkipsGroups), 3, "published revision", {}),
    "takes the page cache for durable": (
        breed(node=TrustsThePageCache),
        40,
        "",
        {"weights": (("kill", 6), ("power_all", 4), ("slow_disk", 4)), "fault_every_s": (0.05, 0.4)},
    ),
    "goes on after a sync that failed": (
        breed(node=IgnoresFailedSyncs),
        40,
        "",
        {"weights": (("bad_sync", 6), ("power_all", 4), ("kill", 1)), "fault_every_s": (0.05, 0.4)},
    ),
    "promises what found no room": (
        breed(node=PromisesWithoutRoom),
        40,
        "",
        {"weights": (("full_disk", 3), ("power_all", 1), ("kill", 1)), "fault_every_s": (0.05, 0.8)},
    ),
    "lets anybody vote under a known name": (WipedVoter, 20, "", {}),
    "answers for a change of members before it is committed": (
        breed(node=MemberNode, kind=MemberSimulation, parts={"Changes": AnswersBeforeCommitted}),
        10,
        "without the changes of members",
        {"chaos_s": 14.0, "weights": (("partition", 1),), "fault_every_s": (0.5, 2.5)},
    ),
    "looks for dead leases too seldom while members change": (
        breed(registry=NeverLooks, node=MemberNode, kind=MemberSimulation),
        5,
        "is alive",
        {"chaos_s": 14.0},
    ),
}


@pytest.mark.parametrize("name", CAUGHT_BY_CHAOS)
def test_chaos_catches_a_node_that(name):
    kind, seeds, how, plan = CAUGHT_BY_CHAOS[name]
    caught = first_caught(kind, range(1, seeds + 1), Plan(**plan))
    assert caught is not None
    assert how in caught[1]


def test_a_log_that_is_not_synced_is_caught():
    assert first_caught(Simulation, range(1, 10), lying_disk=True) is not None


def votes_twice(core_class: type[Core]) -> bool:
    rig = Rig(3, core_class=core_class)
    rig.inject("b", "a", codec.RequestVote(7, 1, 0))
    rig["a"].restart(power=True)
    rig.join("a")
    rig.inject("c", "a", codec.RequestVote(7, 1, 0))
    return ("a", "c", codec.ResponseVote(7, granted=True)) in rig.queue


def test_a_vote_that_is_not_stored_is_caught():
    assert not votes_twice(Core)
    assert votes_twice(ForgetsVotes)


def acknowledges_what_only_the_leader_has(core_class: type[Core]) -> bool:
    rig = Rig(3, core_class=core_class)
    rig.elect("a")
    rig.elect("b")
    rig.elect("a")
    rig.queue.clear()
    rig.propose("a", b"x")
    rig["a"].step()
    last = rig["a"].status.last_index
    rig.inject("b", "a", codec.NextIndex(rig["a"].status.term - 2, last + 1, reset=False, success=True))
    rig["a"].step()
    return b"x" in rig["a"].answers


def test_acknowledgements_without_a_term_are_caught():
    assert not acknowledges_what_only_the_leader_has(Core)
    assert acknowledges_what_only_the_leader_has(BelievesOldAnswers)


class Story:
    """Three nodes, a leader, an instance with a TTL of a second."""

    def __init__(self, registry: type[SimRegistry] = SimRegistry) -> None:
        self.simulation = breed(registry=registry)(1, Plan())
        self.world, self.nodes = self.simulation.world, self.simulation.nodes
        for node in self.nodes:
            node.start()
        self.run(1.0)
        self.leader = self.leading()
        self.lease = 77
        self.simulation.watch.ttl_s[self.lease] = 1.0
        self.put(self.leader)
        self.run(0.1)

    def run(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)

    def leading(self) -> SimNode:
        return max((node for node in self.nodes if node.engine.status().ready), key=lambda n: n.engine.status().term)

    def run_until_led_by(self, nodes: list[SimNode]) -> None:
        while not any(node.engine.status().ready for node in nodes):
            self.run(0.01)

    def put(self, node: SimNode) -> None:
        sent = self.world.now

        def answered(result: Any) -> None:
            assert isinstance(result, Written)
            self.simulation.watch.heartbeat_acknowledged(self.lease, sent)

        spec = Instance("default", "web", "i1", ("10.0.0.1",))
        node.registry.propose(encode(Register(spec, False, 1000, True, 0, 0, self.lease)), answered)

    def beat(self, node: SimNode) -> None:
        sent, watch = self.world.now, self.simulation.watch

        def answered(renewed: bool) -> None:
            if renewed:
                watch.heartbeat_acknowledged(self.lease, sent)

        node.request(lambda: node.registry.heartbeat(self.lease, answered))


def registers_again_while_its_eviction_is_decided(registry: type[SimRegistry]) -> None:
    story = Story(registry)
    lessor = story.leader.registry.lessor
    due = Due(story.lease, lessor.version(story.lease), None)
    spec = Instance("default", "web", "i1", ("10.0.0.1",))
    sent = story.world.now
    story.leader.registry.propose(
        encode(Register(spec, False, 1000, True, 0, story.lease, 78)),
        lambda result: story.simulation.watch.heartbeat_acknowledged(result.lease.id, sent),
    )
    story.leader.registry._evict([due], story.leader.engine.status().term)
    story.run(0.2)


def test_an_eviction_without_conditions_is_caught():
    registers_again_while_its_eviction_is_decided(SimRegistry)
    with pytest.raises(Violation, match="after an acknowledged heartbeat"):
        registers_again_while_its_eviction_is_decided(EvictsUnconditionally)


def leader_is_cut_off_while_the_living_beat_elsewhere(registry: type[SimRegistry]) -> None:
    story = Story(registry)
    others = [node for node in story.nodes if node is not story.leader]
    for other in others:
        story.simulation.network.block(story.leader.name, other.name)
        story.simulation.network.block(other.name, story.leader.name)
    for _ in range(10):
        story.run(0.2)
        story.beat(others[0])
    story.simulation.network.heal()
    story.run(0.3)
    story.beat(others[0])
    story.run(0.3)


def test_an_eviction_forwarded_by_a_deposed_leader_is_caught():
    leader_is_cut_off_while_the_living_beat_elsewhere(SimRegistry)
    with pytest.raises(Violation, match="after an acknowledged heartbeat"):
        leader_is_cut_off_while_the_living_beat_elsewhere(ForwardsEvictions)


def applies_twice_after_an_old_snapshot() -> bool:
    rig = Rig(3)
    rig.elect("a")
    for command in (b"1", b"2", b"3"):
        rig.propose("a", command)
        rig.settle()
    rig.run(0.2)
    writer = rig["a"].snapshots.writer(3, 1)
    writer.append(b"\x92\x00\x91\xc4\x011")
    file = writer.commit_sync()
    rig.inject("a", "b", codec.SnapshotChunk(1, 3, 1, 0, file.size, file.digest, file.read(0, 10_000)))
    rig["b"].run_jobs()
    rig["b"].step()
    indices = [meta.index for meta in rig["b"].machine.metas]
    return len(indices) != len(set(indices))


def test_a_snapshot_that_travels_back_is_caught(monkeypatch):
    assert not applies_twice_after_an_old_snapshot()
    monkeypatch.setattr(install.Incoming, "on_chunk", lambda self, peer, message: self._take(message))
    monkeypatch.setattr(install.Incoming, "finished", lambda self, job, result: True)
    assert applies_twice_after_an_old_snapshot()


def leader_is_stopped_and_goes_on(registry: type[SimRegistry]) -> None:
    """While it stands still another is elected; then it finds a heartbeat in its queue before it hears of that."""
    story = Story(registry)
    others = [node for node in story.nodes if node is not story.leader]
    story.leader.pause()
    story.run_until_led_by(others)
    story.run(0.7)
    story.beat(story.leader)
    story.leader.request(story.leader.registry.flush_heartbeats)
    story.leader.resume()
    story.run(1.0)


def test_a_heartbeat_acknowledged_without_confirmation_is_caught():
    leader_is_stopped_and_goes_on(SimRegistry)
    with pytest.raises(Violation, match="after an acknowledged heartbeat"):
        leader_is_stopped_and_goes_on(AcknowledgesUnconfirmed)


def test_log_time_that_follows_the_wall_clock_is_caught(monkeypatch):
    monkeypatch.setattr(packing, "LogClock", BelievesTheWall)
    caught = first_caught(Simulation, range(1, 10))
    assert caught is not None
    assert "log time fell" in caught[1] or "log time ran ahead" in caught[1]


def test_log_time_that_gains_with_each_entry_is_caught(monkeypatch):
    monkeypatch.setattr(packing, "LogClock", LeapsWithEachEntry)
    jumps = Plan(weights=(("clock", 6), ("kill", 2), ("transfer", 2)), fault_every_s=(0.1, 0.6))
    caught = first_caught(Simulation, range(1, 4), jumps)
    assert caught is not None
    assert "log time ran ahead" in caught[1]


X = b"x" * 3000
"""Longer than a batch: it travels alone."""


def commits_by_count_alone(core_class: type[Core]) -> bool:
    """Raft figure 8: a majority has X, but nothing of the present term; a later leader may still remove it."""
    rig = Rig(5, core_class=core_class)
    rig.elect("a")
    for peer in ("c", "d", "e"):
        rig.isolate(peer)
    rig.propose("a", X)
    rig["a"].step()
    index = rig["a"].status.last_index
    rig.deliver()
    rig["b"].step()
    rig["a"].restart()
    rig.join("a", "b", "c")
    rig["a"].engine._prevoting.campaign()
    for _ in range(20):
        for name in ("a", "b", "c"):
            rig[name].step()
        rig.queue = [(source, target, _up_to(index, message)) for source, target, message in rig.queue]
        rig.deliver()
    assert rig["a"].core.match[rig["a"].core.nodes["c"]] == index
    return X in rig["a"].machine.applied


def _up_to(index: int, message: codec.RaftMessage) -> codec.RaftMessage:
    """The message without the entries beyond ``index``."""
    if not isinstance(message, codec.AppendEntries):
        return message
    return structs.replace(message, entries=tuple(entry for entry in message.entries if entry[1] <= index))


def test_a_commit_by_count_of_an_earlier_term_is_caught():
    assert not commits_by_count_alone(Core)
    assert commits_by_count_alone(CommitsEarlierTerms)


def sends_again_what_was_acknowledged(core_class: type[Core]) -> bool:
    rig = Rig(3, core_class=core_class)
    rig.elect("a")
    rig.propose("a", b"x")
    rig.settle()
    rig["a"].engine.receive("b", codec.NextIndex(rig["a"].status.term, 2, reset=True, success=False))
    output = rig["a"].begin()
    return any(isinstance(message, codec.AppendEntries) and message.entries for _, message in output.early)


def test_a_stale_reset_is_caught():
    assert not sends_again_what_was_acknowledged(Core)
    assert sends_again_what_was_acknowledged(ObeysStaleResets)


def both_sides_decide(changes: type[Changes], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Cut off from its voters, a leader adds two nodes, which carry it, and the voters elect another."""
    monkeypatch.setattr(member, "Changes", changes)
    rig = Rig(5, voters=3)
    rig.elect("a")
    for name in ("a", "d", "e"):
        rig.isolate(name, "b", "c")
    for name in ("d", "e"):
        rig.change("a", Add(name, "", ""))
        rig.run(0.02)
    rig.propose("a", b"by a")
    rig.run(0.1)
    rig.elect("b")
    rig.propose("b", b"by b")
    rig.run(0.1)
    assert b"by b" in rig["c"].machine.applied
    return b"by a" in rig["a"].machine.applied


def test_a_change_of_members_begun_before_the_last_one_is_committed_is_caught(monkeypatch):
    assert not both_sides_decide(Changes, monkeypatch)
    assert both_sides_decide(BeginsBeforeCommitted, monkeypatch)
