"""Hazards 16-25: each shown with its guard removed, and not to exist with it."""

from __future__ import annotations

import random
import subprocess
import sys

import msgspec
import pytest

from discovery.command import Put, encode
from discovery.errors import NotApplied
from discovery.raft import codec, install, member, packing, replication, wal_frame
from discovery.raft.core import Core
from discovery.raft.proposals import Proposals
from discovery.raft.types import InstallSnapshot
from discovery.raft.wal import Wal
from discovery.testing.rig import SMALL, Rig
from discovery.testing.simdisk import SimDisk
from discovery.testing.simnode import SimNode
from discovery.testing.simulation import Plan, Simulation


class NeverAdopts(Core):
    """Follows a higher term only where the Raft paper's three RPCs say so, as the first prototype did."""

    def adopt(self, term: int) -> None:
        """Not for answers and questions."""

    def on_append(self, peer, message):
        if message.term >= self.term:
            Core.adopt(self, message.term)
            super().on_append(peer, message)


def one_node_is_ahead_in_term_the_other_in_log(core_class: type[Core]) -> Rig:
    rig = Rig(3, core_class=core_class)
    rig.elect("a")
    rig.stopped.add("c")
    rig.isolate("c")
    rig.propose("a", b"only a has it")
    rig["a"].step()
    rig["b"].engine._prevoting.campaign()
    rig["b"].step()
    assert rig["b"].status.term == 2
    rig.isolate("a")  # term 2 is durable at b, and nobody heard of it
    rig.join("a", "b")
    rig.run(10.0)
    return rig


def test_hazard_16_who_is_ahead_in_term_does_not_block_who_is_ahead_in_log():
    assert one_node_is_ahead_in_term_the_other_in_log(NeverAdopts).leaders() == []
    assert one_node_is_ahead_in_term_the_other_in_log(Core).leaders() == ["a"]


def the_leader_decides_and_is_deposed() -> Rig:
    rig = Rig(3)
    rig.elect("a")
    rig.stopped.add("a")
    rig["b"].engine._prevoting.campaign()
    rig["b"].step()
    rig.settle()
    assert rig.leaders() == ["b"]
    rig.stopped.clear()
    rig.propose("a", b"evict", term=1)  # decided before the pause; then it hears of the new leader
    rig.settle()
    rig.run(0.3)
    return rig


def test_hazard_17_what_a_deposed_leader_decided_is_dropped(monkeypatch):
    rig = the_leader_decides_and_is_deposed()
    assert isinstance(rig["a"].answers[b"evict"], NotApplied)
    assert rig["c"].machine.applied == []

    monkeypatch.setattr(Proposals, "drop_bound", lambda self, term: None)
    assert the_leader_decides_and_is_deposed()["c"].machine.applied == [b"evict"], "forwarded to the new leader"


def chunk_of_an_old_snapshot(rig: Rig) -> codec.SnapshotChunk:
    store = rig["a"].snapshots
    writer = store.writer(3, 1)
    writer.append(msgspec.msgpack.encode((0, [b"1"])))
    file = writer.commit_sync()
    return codec.SnapshotChunk(1, 3, 1, 0, file.size, file.digest, file.read(0, 10_000))


def a_late_snapshot_arrives() -> Rig:
    rig = Rig(3)
    rig.elect("a")
    for command in (b"1", b"2", b"3"):
        rig.propose("a", command)
        rig.settle()
    rig.run(0.2)
    rig.inject("a", "b", chunk_of_an_old_snapshot(rig))
    rig["b"].run_jobs()
    rig["b"].step()
    return rig


def test_hazard_18_a_snapshot_never_travels_back(monkeypatch):
    assert [meta.index for meta in a_late_snapshot_arrives()["b"].machine.metas] == [3, 4, 5]

    monkeypatch.setattr(install.Incoming, "on_chunk", lambda self, peer, message: self._take(message))
    monkeypatch.setattr(install.Incoming, "finished", lambda self, job, result: True)
    again = [meta.index for meta in a_late_snapshot_arrives()["b"].machine.metas]
    assert again == [3, 4, 5, 4, 5], "the state went back, and commands were applied again"


def test_hazard_18_a_snapshot_that_lost_its_race_is_not_installed():
    rig = Rig(3)
    rig.elect("a")
    rig.isolate("b")
    for command in (b"1", b"2", b"3"):
        rig.propose("a", command)
        rig.settle()
    rig.join("b")
    rig["b"].step()
    rig.hold_jobs = True
    rig.inject("a", "b", chunk_of_an_old_snapshot(rig))
    assert [type(job) for job in rig["b"].jobs] == [InstallSnapshot]
    rig.settle()  # the log overtakes the snapshot while it is being loaded
    assert rig["b"].machine.applied == [b"1", b"2", b"3"]
    rig["b"].run_jobs()
    rig["b"].step()
    assert rig["b"].machine.applied == [b"1", b"2", b"3"]


class BelievesResets(Core):
    def on_next_index(self, peer, message):
        if message.reset:
            self.next[self.nodes[peer]] = message.next
        return super().on_next_index(peer, message)


@pytest.mark.parametrize(("core_class", "lowest"), [(Core, 4), (BelievesResets, 2)])
def test_hazard_18_a_late_reset_does_not_undo_an_acknowledgement(core_class, lowest):
    rig = Rig(3, core_class=core_class)
    rig.elect("a")
    rig.propose("a", b"x")
    rig.settle()
    rig["a"].engine.receive("b", codec.NextIndex(1, 2, reset=True, success=False))
    rig["a"].engine._inbox.pop()[0]("b", codec.NextIndex(1, 2, reset=True, success=False))
    assert rig["a"].core.next[rig["a"].core.nodes["b"]] == lowest


def restarted_behind_a_snapshot() -> Rig:
    rig = Rig(3)
    rig.elect("a")
    for command in (b"1", b"2", b"3"):
        rig.propose("a", command)
        rig.settle()
    writer = rig["b"].snapshots.writer(3, 1)
    writer.append(msgspec.msgpack.encode((0, [b"1"])))
    writer.commit_sync()
    rig["b"].disk.settle()
    rig["b"].restart()
    return rig


def test_hazard_19_entries_behind_a_snapshot_survive_a_restart(monkeypatch):
    assert restarted_behind_a_snapshot()["b"].status.last_index == 5

    monkeypatch.setattr(install, "holds", lambda wal, index, term: False)
    assert restarted_behind_a_snapshot()["b"].status.last_index == 3, "acknowledged copies are gone"


class Trusting(SimNode):
    """Takes everybody by name."""

    def knows(self, other) -> bool:
        return True


class Trusted(Simulation):
    node_class = Trusting


def acknowledged_on_a_node_that_is_wiped(simulation: Simulation) -> bool:
    """Whether the write is there after: acknowledged by n1 and n2, n2 wiped, n1 dead, n2 and n3 alone."""
    world, (n1, n2, n3) = simulation.world, simulation.nodes
    for node in (n1, n2, n3):
        node.start()
    n1.engine._prevoting.campaign()
    world.run_until(world.now + 1)
    leader = next(node for node in (n1, n2, n3) if node.engine.status().ready)
    other, third = (node for node in (n1, n2, n3) if node is not leader)
    third.kill(power=False)
    answers: list[object] = []
    leader.registry.propose(encode(Put("kept", b"")), answers.append)
    world.run_until(world.now + 1)
    assert len(answers) == 1
    leader.kill(power=False)
    other.kill(power=False)
    other.disk.wipe()
    other.incarnation = "another"
    other.start()
    third.start()
    world.run_until(world.now + 5)
    erased = third.engine.status().ready or other.engine.status().ready
    leader.start()
    world.run_until(world.now + 5)
    return not erased and leader.registry.has("kept")


def test_hazard_20_a_wiped_node_does_not_vote_with_a_forgotten_past():
    assert acknowledged_on_a_node_that_is_wiped(Simulation(1, Plan()))
    assert not acknowledged_on_a_node_that_is_wiped(Trusted(1, Plan()))


class ActsOnItsWholeLog(Core):
    """Guards 9 and 12 alone: it strips what it holds, and takes its own end for verified."""

    def _verify(self, message):
        matches, index = super()._verify(message)
        return matches, max(index, self.last_index) if matches else index


@pytest.mark.parametrize(("core_class", "committed"), [(Core, 3), (ActsOnItsWholeLog, 5)])
def test_hazard_21_only_what_this_leader_verified_is_committed(core_class, committed):
    rig = Rig(5, core_class=core_class)
    old = tuple((packing.pack(1, [(bytes(16), b"%d" % index)]), index, 1) for index in range(2, 6))
    rig.inject("b", "a", codec.AppendEntries(1, 1, 0, 1, 0, old))
    # The leader of term 2 shares entries up to 3 with us; what it has committed at 4 and 5 is something else.
    rig.inject("c", "a", codec.AppendEntries(2, 3, 1, 5, 0))
    assert rig["a"].status.commit == committed
    assert ("a", "c", codec.NextIndex(2, committed + 1, reset=False, success=True, applied=1)) in rig.queue


def torn(seed: int) -> tuple[list[bytes], list[list[bytes]]]:
    """What a log holds after power failed in the middle of its second write, and what it may hold."""
    disk = SimDisk(random.Random(seed))
    wal = Wal.open(disk)
    first = [bytes([1, number]) * 300 for number in range(4)]
    second = [bytes([2, number]) * 300 for number in range(8)]
    for batch in (first, second):
        for number, command in enumerate(batch):
            wal.add(command, len(wal) + 1, 1)
            assert number >= 0
        if batch is second:
            break
        wal.write(wal.take())
        disk.settle()
    wal.write(wal.take())
    disk.crash()
    return [command for command, _, _ in Wal.open(disk)[:]], [first, first + second]


def test_hazard_23_a_torn_batch_is_wholly_there_or_wholly_gone(monkeypatch):
    for seed in range(60):
        found, allowed = torn(seed)
        assert found in allowed

    class NoChecksum:
        @staticmethod
        def crc32(data, start=0):
            return 0

    monkeypatch.setattr(wal_frame, "zlib", NoChecksum)
    wrong = 0
    for seed in range(60):
        try:
            found, allowed = torn(seed)
            wrong += found not in allowed
        except Exception:
            wrong += 1
    assert wrong


def aimed_at_a_former_term() -> Rig:
    rig = Rig(3)
    rig.elect("a")
    rig.elect("b")
    rig.elect("a")
    term = rig["a"].status.term
    rig.inject("c", "a", codec.Propose(term - 2, ((b"12345678" + bytes(8), b"x"),)))
    rig.settle()
    return rig


def test_hazard_24_a_command_enters_the_log_in_the_term_it_was_aimed_at(monkeypatch):
    rig = aimed_at_a_former_term()
    assert rig["a"].machine.applied == []

    def takes_all(self, peer, message):
        self._accepted.offer(peer, message.items)

    monkeypatch.setattr(member.Member, "_on_propose", takes_all)
    applied = aimed_at_a_former_term()["a"].machine.applied
    assert applied == [b"x"], "a command that its proposer may have found dead and proposed again"


def a_round_during_a_transfer() -> object:
    rig = Rig(3, settings=msgspec.structs.replace(SMALL, snapshot_bytes=4096), retained_bytes=0)
    rig.elect("a")
    rig.isolate("c")
    for number in range(60):
        rig.propose("a", bytes([number]) * 200)
        rig.settle()
    assert rig["a"].status.first_index > 10
    rig.hold_jobs = True
    rig.join("c")
    rig.settle()
    assert rig["c"].engine._incoming.installing
    rig.isolate("b")
    rig["a"].engine.confirm("round")
    rig.run(0.3)
    return rig["a"].answers.get("round")


def test_hazard_25_rounds_go_on_while_a_snapshot_is_installed(monkeypatch):
    assert a_round_during_a_transfer() == 1

    silent = replication.Replication._append

    def only_entries(self, node, flow, message):
        if self._core.next[node] > self._core.first_index:
            silent(self, node, flow, message)

    monkeypatch.setattr(replication.Replication, "_append", only_entries)
    assert a_round_during_a_transfer() is None


def test_hazard_25_no_peer_frame_exceeds_its_limit():
    rig = Rig(3, settings=msgspec.structs.replace(SMALL, batch_bytes=1 << 20, window_bytes=4 << 20))
    rig.elect("a")
    rig.isolate("c")
    for number in range(6):
        rig.propose("a", bytes([number]) * 900_000)
    rig.settle()
    rig.join("c")
    for _ in range(8):
        rig["a"].step()
        assert all(len(codec.frame(codec.encode(message))) < 4 << 20 for _, _, message in rig.queue)
        rig.settle(1)
    assert len(rig["b"].machine.applied) == 6


def test_the_consensus_library_leaves_the_sockets_of_the_process_alone():
    code = "import discovery.raft.core, socket; print(socket.inet_ntop(socket.AF_INET, bytes((10, 0, 0, 7))))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "10.0.0.7\n", done.stderr
