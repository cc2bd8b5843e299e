"""Hazards 1-14: each is shown on PySyncObj as shipped, and not to exist here."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from discovery.command import Failure, Meta
from discovery.command import decode as decode_command
from discovery.errors import CorruptData
from discovery.raft import codec, packing
from discovery.raft.disk import RealDisk
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.wal import Wal
from discovery.store import Store
from discovery.testing.rig import Rig
from discovery.testing.simdisk import SimDisk

# The shipped journal leaves files to the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GRANT_B = {"type": "request_vote", "term": 7, "last_log_index": 1, "last_log_term": 0}


def test_hazard_01_term_and_vote_are_stored(shop, tmp_path):
    journal = str(tmp_path / "journal")
    assert shop.node("a", "bc", journalFile=journal).hear("b", **GRANT_B)
    assert shop.node("a", "bc", journalFile=journal).hear("c", **GRANT_B), "stock votes twice in term 7"

    rig = Rig(3)
    rig.inject("b", "a", codec.RequestVote(7, 1, 0))
    assert ("a", "b", codec.ResponseVote(7, granted=True)) in rig.queue
    rig["a"].restart(power=True)
    rig.join("a")
    rig.inject("c", "a", codec.RequestVote(7, 1, 0))
    assert ("a", "c", codec.ResponseVote(7, granted=False)) in rig.queue
    assert rig["a"].status.term == 7


def test_hazard_02_a_full_restart_loses_no_acknowledged_write(shop, tmp_path):
    names = {"a": "bc", "b": "ac", "c": "ab"}

    def nodes(which: str):
        return {n: shop.node(n, names[n], journalFile=str(tmp_path / n)) for n in which}

    cluster = nodes("abc")
    for node in cluster.values():
        node._SyncObj__raftCurrentTerm = 4
    cluster["a"].campaign()
    shop.exchange(cluster)
    cluster = nodes("abc")
    two = {n: cluster[n] for n in "ab"}
    two["a"].campaign()
    shop.exchange(two)
    acknowledged: list[int] = []
    two["a"].put("kept?", callback=lambda result, error: acknowledged.append(error))
    shop.exchange(two)
    assert acknowledged == [0]
    votes = two["b"].hear("c", type="request_vote", term=9, last_log_index=2, last_log_term=5)
    assert votes, "stock elects c, whose log lacks the acknowledged write, and erases it"

    rig = Rig(3)
    rig.elect("a")
    rig.isolate("c")
    for name in "abc":
        rig[name].restart(power=True)
    rig.join("a", "b")
    rig.elect("a")
    rig.propose("a", b"kept")
    rig.settle()
    assert rig["a"].answers[b"kept"] == 1
    rig.join("c", "b")
    rig.inject("c", "b", codec.RequestVote(9, rig["c"].status.last_index, rig["c"].log[-1][1]))
    assert ("b", "c", codec.ResponseVote(9, granted=False)) in rig.queue


def test_hazard_03_an_index_and_term_name_one_entry(shop, tmp_path):
    a = shop.node("a", "bc", journalFile=str(tmp_path / "a"))
    a.campaign()
    a.hear("b", type="response_vote", term=1)
    a.put("unacknowledged")
    a.tick()
    after = {n: shop.node(n, o, journalFile=str(tmp_path / n)) for n, o in (("b", "ac"), ("c", "ab"))}
    after["b"].campaign()
    shop.exchange(after)
    after["b"].put("other")
    shop.exchange(after)
    (mine,), (other,) = a.log()[2:3], after["b"].log()[2:3]
    assert mine[1:] == other[1:], "stock: the same index and term"
    assert mine[0] != other[0], "… and another content, which no check will ever find"

    rig = Rig(3)
    rig.elect("a")
    rig.isolate("a")
    rig.propose("a", b"unacknowledged")
    rig["a"].step()
    for name in "abc":
        rig[name].restart(power=True)
    rig.join("b", "c")
    rig.elect("b")
    rig.propose("b", b"other")
    rig.settle()
    assert rig["a"].log[-1] != rig["b"].log[-1]
    rig.join("a")
    rig.run(0.5)
    assert rig["a"].log == rig["b"].log


def test_hazard_04_everything_acknowledged_was_synced(shop, tmp_path, count_calls):
    synced = [count_calls(os, name) for name in ("fsync", "fdatasync")]
    node = shop.node("a", "", journalFile=str(tmp_path / "journal"))
    node.campaign()
    for number in range(10):
        node.put(number)
        node.tick()
        node.tick()
    assert len(node.values) == 10
    assert not any(synced), "stock: 10 commits, no sync"

    wal = Wal.open(RealDisk(tmp_path / "raft"))
    for index in range(1, 11):
        wal.add(packing.NO_OP, index, 1)
        wal.write(wal.take())
    assert len(synced[1]) >= 10


def test_hazard_05_a_flipped_bit_is_noticed(shop, tmp_path):
    path = tmp_path / "journal"
    node = shop.node("a", "bc", journalFile=str(path))
    node.append("good", 2, 1)
    node._SyncObj__raftLog._destroy()
    data = bytearray(path.read_bytes())
    data[data.index(b"good")] ^= 4
    path.write_bytes(data)
    assert b"cood" in shop.node("a", "bc", journalFile=str(path)).log()[1][0], "stock reads another command"

    disk = RealDisk(tmp_path / "raft")
    wal = Wal.open(disk)
    for index in (1, 2):
        wal.add(b"\x00good", index, 1)
        wal.write(wal.take())
    (name,) = disk.list()
    data = bytearray(disk.read(name))
    data[data.index(b"good")] ^= 4
    (tmp_path / "raft" / name).write_bytes(data)
    with pytest.raises(CorruptData, match="damaged at offset"):
        Wal.open(RealDisk(tmp_path / "raft"))


def test_hazard_06_the_commit_index_stays_within_the_log(shop, tmp_path):
    journal = str(tmp_path / "journal")
    node = shop.node("a", "bc", journalFile=journal)
    node._SyncObj__raftLog.setRaftCommitIndex(50)
    node._SyncObj__raftLog.onOneSecondTimer()
    again = shop.node("a", "bc", journalFile=journal)
    assert again.raftCommitIndex == 50 > again.log()[-1][1], "stock believes the file"

    rig = Rig(1)
    rig["a"].wal.setRaftCommitIndex(50)
    rig["a"].wal.add(packing.NO_OP, 2, 0)
    rig["a"].wal.write(rig["a"].wal.take())
    rig["a"].disk.settle()
    rig["a"].restart()
    assert rig["a"].status.commit == 2


def test_hazard_07_compaction_may_be_interrupted(shop, tmp_path):
    journal = str(tmp_path / "journal")
    node = shop.node("a", "bc", journalFile=journal)
    for index in range(2, 10):
        node.append(index, index, 1)
    log = node._SyncObj__raftLog
    kept, add = [], log.add

    def dies(*entry):
        if kept:
            raise KeyboardInterrupt
        kept.append(entry)
        add(*entry)

    log.add = dies
    with pytest.raises(KeyboardInterrupt):
        log.deleteEntriesTo(4)
    assert len(shop.node("a", "bc", journalFile=journal).log()) == 1, "stock lost the entries behind the snapshot"

    for seed in range(30):
        disk = SimDisk(random.Random(seed))
        wal = Wal.open(disk, segment_bytes=100, retained_bytes=0)
        for index in range(1, 10):
            wal.add(b"\x00" + bytes(60), index, 1)
            wal.write(wal.take())
            disk.settle()
        wal.compact(5)
        wal.term = 2
        wal.write(wal.take())  # drops the segments; power fails somewhere in it
        disk.crash()
        indices = [entry[1] for entry in Wal.open(disk)[:]]
        assert indices[0] <= 5
        assert indices[-1] == 9


def test_hazard_08_a_bad_snapshot_stops_the_node(shop, tmp_path):
    dump = tmp_path / "dump"
    node = shop.node("a", "", fullDumpFile=str(dump), useFork=False)
    node.campaign()
    for number in range(5):
        node.put(number)
        node.tick()
        node.tick()
    node.forceLogCompaction()
    node.tick()
    data = bytearray(dump.read_bytes())
    data[len(data) // 2] ^= 16
    dump.write_bytes(data)
    again = shop.node("a", "", fullDumpFile=str(dump), useFork=False)
    again.campaign()
    assert again._isLeader(), "stock leads …"
    assert again.values == [], "… an empty state"

    rig = Rig(1)
    disk = rig["a"].disk
    writer = SnapshotStore(disk).writer(9, 3)
    writer.append(b"state")
    writer.commit_sync()
    (name,) = [name for name in disk.list() if name.startswith("snapshot")]
    disk._seen[name].seen[30] ^= 16
    with pytest.raises(CorruptData, match="snapshot"):
        rig["a"].start()


def append(prev: int, entries: list[tuple[bytes, int, int]], commit: int = 1, term: int = 1, round: int = 0):
    prev_term = 0 if prev == 1 else 1
    return codec.AppendEntries(term, prev, prev_term, commit, round, tuple(entries))


def test_hazard_09_a_repeated_message_cuts_nothing(shop):
    entries = [(packing.NO_OP, index, 1) for index in range(2, 9)]
    older = {"type": "append_entries", "term": 1, "commit_index": 8, "prevLogIdx": 1, "prevLogTerm": 0}
    node = shop.node("a", "bc")
    node.hear("b", **older, entries=entries)
    node.hear("b", **older, entries=entries[:4])
    assert len(node.log()) == 5, "stock gave up entries 6 to 8, which it had acknowledged"

    rig = Rig(3)
    rig.inject("b", "a", append(1, entries, commit=8))
    rig.inject("b", "a", append(1, entries[:4], commit=8))
    rig.inject("b", "a", append(1, [], commit=8))
    assert rig["a"].status.last_index == 8


def test_hazard_10_an_acknowledgement_counts_in_its_own_term_only(shop):
    node = shop.node("a", "bc")
    node._SyncObj__raftCurrentTerm = 1
    node.campaign()
    node.hear("b", type="response_vote", term=2)
    node.put("nobody else has it")
    node.tick()
    node.hear("b", type="next_node_idx", next_node_idx=4, reset=False, success=True)  # of term 1
    node.tick()
    assert node.values == ["nobody else has it"], "stock committed what one node has"

    rig = Rig(3)
    rig["a"].core.adopt(1)
    rig.elect("a")
    rig.isolate("c")
    rig.queue.clear()
    rig.propose("a", b"x")
    rig["a"].step()
    rig.inject("b", "a", codec.NextIndex(1, 4, reset=False, success=True))
    rig["a"].step()
    assert rig["a"].machine.applied == []
    rig.inject("b", "a", codec.NextIndex(2, 4, reset=False, success=True))
    assert rig["a"].machine.applied == [b"x"]


def test_hazard_11_a_doubled_vote_counts_once(shop):
    node = shop.node("a", "bcde")
    node.campaign()
    node.hear("b", type="response_vote", term=1)
    node.hear("b", type="response_vote", term=1)
    assert node._isLeader(), "stock: elected by two of five"

    rig = Rig(5)
    rig["a"].engine._prevoting.campaign()
    rig["a"].step()
    rig.inject("b", "a", codec.ResponseVote(1, granted=True))
    rig.inject("b", "a", codec.ResponseVote(1, granted=True))
    assert rig["a"].status.role == "candidate"
    rig.inject("c", "a", codec.ResponseVote(1, granted=True))
    assert rig["a"].status.role == "leader"


def test_hazard_12_a_long_wrong_tail_is_replaced(shop):
    options = {"appendEntriesBatchSizeBytes": 2048}
    leader, follower = shop.node("a", "b", **options), shop.node("b", "a", **options)
    for index in range(2, 42):
        leader.append("x" * 400, index, 2)
        follower.append("y" * 400, index, 1)
    leader._SyncObj__raftCurrentTerm = 2
    leader._SyncObj__votesCount = 1
    leader._SyncObj__onBecomeLeader()
    shop.exchange({"a": leader, "b": follower}, rounds=300)
    assert follower.log() != leader.log(), "stock: both answers arrive together and the last one wins, for ever"

    rig = Rig(3)
    rig.elect("a")
    rig.isolate("a")
    for number in range(40):
        rig.propose("a", bytes([number]) * 400)
        rig["a"].step()
    rig.elect("b")
    for number in range(40):
        rig.propose("b", bytes([100 + number]) * 400)
        rig.settle()
    rig.join("a")
    rig.run(1.0)
    assert rig["a"].log == rig["b"].log
    assert rig["a"].machine.applied == rig["b"].machine.applied


def test_hazard_13_an_exception_in_apply_is_passed_by(shop):
    node = shop.node("a", "")
    node.campaign()
    node.put("boom")
    node.tick()
    for _ in range(3):
        with pytest.raises(ValueError, match="boom"):
            node.tick()
    assert node.values == ["boom"] * 3, "stock tries it again at every tick, on every node, for ever"

    rig = Rig(3)
    rig.elect("a")
    rig.propose("a", b"boom")
    rig.propose("a", b"next")
    rig.settle()
    assert isinstance(rig["a"].answers[b"boom"], ValueError)
    assert [node.machine.applied for node in rig.nodes.values()] == [[b"next"]] * 3


def test_hazard_14_an_unknown_version_is_applied_to_nothing(shop):
    node = shop.node("a", "")
    node.campaign()
    node._applyCommand(b"\x03" + b"\x80\x04K\x05.", None)  # version 5, pickled
    node.put("once")
    for _ in range(4):
        node.tick()
    assert node.values == ["once", "once"], (
        "stock passes the version by, is one index short, and applies the last twice"
    )

    store = Store()
    before = store.digest()
    newer = b"\x94\xcd\x03\xe7\x92\xa6delete\xa1k\xc0\xa0"  # version 999
    assert isinstance(decode_command(newer), Failure)
    assert isinstance(store.apply(newer, Meta(2, 1, 1)).result, Failure)
    assert store.digest() == before


def test_a_journal_as_shipped_raises_for_a_long_entry(shop, tmp_path: Path):
    node = shop.node("a", "bc", journalFile=str(tmp_path / "journal"))
    with pytest.raises(IndexError):
        node.append("x" * 10_000, 2, 1)
