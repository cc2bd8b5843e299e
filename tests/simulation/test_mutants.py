"""Each broken node is caught: by chaos where chaos finds it, else by the shortest story that must go wrong."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.command import Register, Written, encode
from discovery.leases import Due
from discovery.model import Instance
from discovery.raft import codec, install
from discovery.raft.core import Core
from discovery.testing.mutants import (
    BelievesOldAnswers,
    EvictsUnconditionally,
    ForgetsVotes,
    ForwardsEvictions,
    NeverAdopts,
    breed,
    first_caught,
)
from discovery.testing.rig import Rig
from discovery.testing.simnode import SimNode
from discovery.testing.simregistry import SimRegistry
from discovery.testing.simulation import Plan, Simulation
from discovery.testing.simwatch import Violation


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


def test_a_node_that_adopts_no_term_is_caught_by_chaos():
    assert first_caught(breed(NeverAdopts), range(37, 38)) is not None


class CountsNoVotes(Core):
    def on_response_vote(self, peer, message):
        pass


def test_a_cluster_that_never_elects_is_caught_by_the_liveness_rule():
    caught = first_caught(breed(CountsNoVotes), range(1, 2))
    assert caught is not None
    assert "nobody leads" in caught[1]


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

    def put(self, node: SimNode) -> None:
        sent = self.world.now

        def answered(result: Any) -> None:
            assert isinstance(result, Written)
            self.simulation.watch.heartbeat_acknowledged(self.lease, sent)

        spec = Instance("default", "web", "i1", ("10.0.0.1",))
        node.registry.propose(encode(Register(spec, False, 1000, True, 0, 0, self.lease)), answered)

    def beat(self, node: SimNode) -> None:
        sent, watch = self.world.now, self.simulation.watch
        node.registry.heartbeat(
            self.lease, lambda renewed: watch.heartbeat_acknowledged(self.lease, sent) if renewed else None
        )


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


class Trusting(SimNode):
    """Takes everybody by name, also one with an emptied disk."""

    def knows(self, other) -> bool:
        return True


class WipedVoter(Simulation):
    """Wipes a node in the middle of it all."""

    node_class = Trusting

    def _down(self, node: SimNode, *, power: bool, back: tuple[float, float] = (0.02, 2.0)) -> None:
        if node.alive and self.world.chance(0.3):
            node.kill(power=power)
            node.disk.wipe()
            node.incarnation += "'"
            self.world.after(self.world.between(*back), lambda: None if node.alive else node.start())
        else:
            super()._down(node, power=power, back=back)


def test_a_wiped_voter_is_caught_by_chaos():
    assert first_caught(WipedVoter, range(1, 20)) is not None
