"""A full disk: what a node without room says, does and forgets; that it harms nobody and ends by itself."""

from __future__ import annotations

import contextlib
import hashlib
import random

import msgspec
import pytest

from discovery import limits
from discovery.errors import CorruptData, DiskFull
from discovery.raft.codec import SnapshotChunk
from discovery.raft.install import Incoming
from discovery.raft.replication import Transfer
from discovery.raft.room import RECEIVE_LOOK_S, RECEIVE_S, SAVE_RETRY_S_MAX, Room
from discovery.raft.wal import Wal
from discovery.testing.rig import SMALL, Rig
from discovery.testing.simdisk import SimDisk

SMALL_SNAPSHOTS = msgspec.structs.replace(SMALL, snapshot_bytes=2000)


def seen(wal: Wal) -> tuple[int, str | None, list[tuple[bytes, int, int]]]:
    return wal.term, wal.voted_for, wal[:]


def sync(wal: Wal) -> None:
    batch = wal.take()
    if batch is not None:
        wal.write(batch)


# -- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_a_batch_without_room_leaves_the_log_as_it_was_and_is_written_when_there_is_some(seed):
    disk = SimDisk(random.Random(seed))
    wal = Wal.open(disk, segment_bytes=600)
    for index in range(1, 1 + seed % 9):
        wal.add(b"x" * 100, index, 1)
        sync(wal)
    before = seen(wal)
    following = len(wal) + 1
    wal.term, wal.voted_for = 2, "b"
    wal.add(b"y" * 400, following, 2)
    disk.full = True
    for _ in range(3):
        with pytest.raises(DiskFull):
            sync(wal)
    disk.settle()
    if seed % 2:
        disk.crash()
        disk.full = False
        assert seen(Wal.open(disk, segment_bytes=600)) == before
        return
    wal.add(b"z", following + 1, 2)
    disk.full = False
    sync(wal)
    disk.settle()
    disk.crash()
    assert seen(Wal.open(disk, segment_bytes=600)) == seen(wal)
    assert len(wal) == following + 1


def test_what_was_cut_while_there_was_no_room_stays_cut():
    disk = SimDisk(random.Random(1))
    wal = Wal.open(disk)
    wal.add(b"a", 1, 1)
    sync(wal)
    wal.add(b"b", 2, 1)
    disk.full = True
    with pytest.raises(DiskFull):
        sync(wal)
    wal.deleteEntriesFrom(1)
    wal.add(b"c", 2, 2)
    disk.full = False
    sync(wal)
    assert Wal.open(disk)[:] == [(b"a", 1, 1), (b"c", 2, 2)]


def test_segments_that_are_given_up_make_room_at_once_and_the_hard_state_stays():
    class Small(SimDisk):
        """Has room for so many bytes."""

        def append(self, name, data):
            self.full = sum(map(self.size, self.list())) + len(data) > 3000
            super().append(name, data)

        def create(self, name):
            self.full = False
            super().create(name)

    disk = Small(random.Random(2))
    wal = Wal.open(disk, segment_bytes=500, retained_bytes=0)
    wal.term, wal.voted_for = 7, "a"
    with contextlib.suppress(DiskFull):
        for index in range(1, 100):
            wal.add(b"x" * 100, index, 7)
            sync(wal)
    assert 10 < len(wal) < 99
    wal.compact(wal[-1][1])
    sync(wal)
    disk.settle()
    disk.crash()
    assert seen(Wal.open(disk)) == seen(wal)
    assert wal.term == 7


# -- failed syncs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_after_a_failed_sync_what_is_read_at_the_start_is_durable_before_it_counts(seed):
    disk = SimDisk(random.Random(seed))
    wal = Wal.open(disk)
    for index in range(1, 4):
        wal.add(b"x" * 700, index, 1)
        sync(wal)
    disk.settle()
    wal.add(b"y" * 2000, 4, 1)
    disk.failing = True
    with pytest.raises(OSError, match="fsync failed"):
        sync(wal)
    disk.stop()  # the process ends; the kernel shows pages as clean that are not on the medium
    again = Wal.open(disk)
    assert len(again) == 4
    disk.settle()
    disk.crash()
    assert Wal.open(disk)[:] == again[:]


def test_without_the_rewrite_the_page_cache_would_be_believed(monkeypatch):
    monkeypatch.setattr(SimDisk, "rewrite", lambda *arguments: None)
    lost = 0
    for seed in range(40):
        try:
            test_after_a_failed_sync_what_is_read_at_the_start_is_durable_before_it_counts(seed)
        except AssertionError:
            lost += 1
    assert lost > 10


# -- the node ---------------------------------------------------------------------------------------------------------


def full(rig: Rig, *names: str, full: bool = True) -> None:
    for name in names:
        rig[name].disk.full = full


@pytest.fixture
def rig() -> Rig:
    rig = Rig(3)
    rig.elect("a")
    rig.propose("a", b"before")
    rig.settle()
    return rig


def test_a_leader_without_room_hands_over_and_its_write_has_the_true_outcome(rig):
    full(rig, "a")
    rig.propose("a", b"during")
    rig.run(0.2)
    (leader,) = rig.leaders()
    assert leader != "a"
    assert "disk is full" in rig["a"].status.full
    rig.run(0.5)
    assert rig["a"].answers[b"during"] == rig[leader].machine.applied.index(b"during") + 1
    rig.propose("a", b"later")
    rig.propose("b", b"elsewhere")
    rig.run(0.2)
    assert isinstance(rig["a"].answers[b"later"], DiskFull)
    assert rig["b"].answers[b"elsewhere"] == 3


def test_a_node_without_room_listens_applies_and_reads(rig):
    full(rig, "a")
    rig.propose("a", b"during")
    rig.run(0.3)
    rig.propose("b", b"elsewhere")
    rig.run(0.3)
    assert rig["a"].machine.applied == rig["b"].machine.applied
    rig["a"].engine.read_index("strong", rig.now + 1)
    rig.run(0.3)
    assert isinstance(rig["a"].answers["strong"], int)


def test_a_node_without_room_acknowledges_nothing(rig):
    full(rig, "c")
    rig.propose("a", b"one")
    rig.settle()
    durable = rig["a"].core.match[rig["a"].core.nodes["c"]]
    rig.propose("a", b"two")
    rig.run(1.0)
    assert rig["a"].answers[b"two"] == 3
    assert rig["a"].core.match[rig["a"].core.nodes["c"]] == durable
    rig.isolate("b")
    rig.propose("a", b"three")
    rig.run(0.8)
    assert b"three" not in rig["a"].answers, "a full disk was counted"


def test_a_node_without_room_neither_votes_nor_campaigns(rig):
    full(rig, "c")
    rig.propose("a", b"one")
    rig.settle()
    rig.isolate("a")
    elections = rig["c"].status.elections
    rig.run(5.0)
    assert rig.leaders() in ([], ["a"]), "two of three cannot elect when one of them cannot write"
    assert rig["c"].status.elections == elections
    full(rig, "c", full=False)
    rig.run(3.0)
    assert set(rig.leaders()) & {"b", "c"}


def test_with_room_again_it_takes_part_without_a_restart(rig):
    full(rig, "a")
    for number in range(5):
        rig.propose("b", b"%d" % number)
        rig.run(0.3)
    full(rig, "a", full=False)
    rig.run(2.0)
    assert rig["a"].status.full == ""
    (leader,) = rig.leaders()
    other = next(name for name in "bc" if name != leader)
    rig.isolate(other)
    rig.propose(leader, b"with a only")
    rig.run(0.5)
    assert isinstance(rig[leader].answers[b"with a only"], int)
    rig["a"].restart(power=True)
    assert [entry[0] for entry in rig["a"].wal[:]] == [entry[0] for entry in rig[leader].wal[:]]


def test_when_all_are_full_everything_is_refused_and_all_goes_on_later(rig):
    full(rig, *"abc")
    rig.propose("a", b"first", within=2.0)
    rig.run(3.0)
    assert rig.leaders() == []
    for name in "abc":
        rig.propose(name, f"at {name}".encode())
    rig.run(0.5)
    refused = [rig[name].answers[f"at {name}".encode()] for name in "abc"]
    assert all(isinstance(answer, Exception) for answer in refused)
    assert any(isinstance(answer, DiskFull) for answer in refused)
    full(rig, *"abc", full=False)
    rig.run(3.0)
    (leader,) = rig.leaders()
    rig.propose(leader, b"after")
    rig.run(1.0)
    assert isinstance(rig[leader].answers[b"after"], int)
    states = [rig[name].machine.applied for name in "abc"]
    assert states[0] == states[1] == states[2]
    assert not {b"at a", b"at b", b"at c"} & set(states[0]), "what was refused was applied"


def test_alone_what_found_no_room_is_refused_at_once_and_never_applied():
    rig = Rig(1)
    rig.run(1.0)
    rig.propose("a", b"before")
    rig.run(0.1)
    full(rig, "a")
    rig.propose("a", b"during")
    rig.run(0.1)
    assert isinstance(rig["a"].answers[b"during"], DiskFull)
    rig.propose("a", b"later")
    rig.run(0.1)
    assert isinstance(rig["a"].answers[b"later"], DiskFull)
    assert rig["a"].machine.applied == [b"before"]
    full(rig, "a", full=False)
    rig.run(2.0)
    rig.propose("a", b"after")
    rig.run(0.1)
    assert rig["a"].machine.applied == [b"before", b"after"]
    rig["a"].restart(power=True)
    rig.run(1.0)
    assert rig["a"].machine.applied == [b"before", b"after"]


def test_a_node_started_on_a_full_disk_listens_and_takes_part_once_there_is_room(rig):
    full(rig, "c")
    rig["c"].restart()
    rig.join("c")
    rig.propose("a", b"one")
    rig.run(1.0)
    assert rig["c"].status.full
    assert rig["c"].machine.applied == rig["a"].machine.applied
    full(rig, "c", full=False)
    rig.run(2.0)
    assert not rig["c"].status.full


def test_what_a_mute_node_keeps_in_memory_is_bounded_and_then_it_looks_stale(rig, monkeypatch):
    monkeypatch.setattr(limits, "UNWRITTEN_LOG_BYTES_MAX", 3000)
    full(rig, "c")
    for number in range(20):
        rig.propose("a", b"%03d" % number + b"x" * 500)
        rig.run(0.2)
    assert len(rig["c"].machine.applied) < 10
    assert rig["c"].status.leader is None
    assert rig["c"].status.leaderless_s > 1
    full(rig, "c", full=False)
    rig.run(2.0)
    assert rig["c"].machine.applied == rig["a"].machine.applied
    assert rig["c"].status.leader == rig["a"].status.leader


def test_a_snapshot_without_room_is_tried_again_and_leaves_nothing_behind():
    rig = Rig(3, settings=SMALL_SNAPSHOTS)
    rig.elect("a")
    rig.hold_jobs = True
    for number in range(40):
        rig.propose("a", b"%03d" % number + b"x" * 50)
        rig.settle()
    full(rig, "a")
    rig["a"].run_jobs()
    full(rig, "a", full=False)
    rig.hold_jobs = False
    assert not [name for name in rig["a"].disk.list() if name.endswith(".part")]
    rig.run(0.5)
    assert rig.leaders() in (["b"], ["c"]), "who cannot keep a snapshot does not lead"
    assert "disk is full" in rig["a"].status.full
    rig.run(3.0)
    assert rig["a"].status.full == ""
    assert rig["a"].status.snapshot_index > 1


def follower_without_room() -> Rig:
    """A follower that needs a snapshot and has no room for it."""
    rig = Rig(3, settings=SMALL_SNAPSHOTS, retained_bytes=0)
    rig.elect("a")
    rig.isolate("c")
    for number in range(80):
        rig.propose("a", b"%03d" % number + b"x" * 50)
        rig.run(0.05)
    assert rig["a"].core.first_index > rig["c"].core.last_index
    full(rig, "c")
    rig.join("c", "a", "b")
    rig.run(1.0)
    assert rig["c"].status.full
    return rig


@pytest.mark.parametrize("seconds", [0.0, 3.0, 30.0])
def test_a_transfer_without_room_begins_anew_as_soon_as_there_is_room(seconds):
    rig = follower_without_room()
    rig.run(seconds)
    assert rig["c"].machine.applied == []
    full(rig, "c", full=False)
    rig.run(2 * RECEIVE_LOOK_S)
    assert rig["c"].machine.applied == rig["a"].machine.applied
    assert not rig["c"].status.full


def test_a_leader_that_is_not_asked_begins_anew_by_itself(monkeypatch):
    rig = follower_without_room()
    monkeypatch.setattr(Incoming, "ask_again", lambda self: False)
    full(rig, "c", full=False)
    rig.run(1.0)
    assert rig["c"].machine.applied == []
    rig.run(14.0)
    assert rig["c"].machine.applied == rig["a"].machine.applied


# -- when to try again ------------------------------------------------------------------------------------------------


def test_retries_come_ever_less_often_until_one_succeeds():
    room = Room()
    waits = []
    for now in range(8):
        room.save.failed("full", float(now))
        waits.append(room.save.retry_at - now)
    assert waits == sorted(waits)
    assert waits[-1] == SAVE_RETRY_S_MAX
    room.save.done()
    assert not room.cause
    room.save.failed("full", 0.0)
    assert room.save.retry_at == waits[0]


def test_a_failed_transfer_is_forgotten_when_nobody_sends_it_again():
    room = Room()
    room.receive_failed("full", 100.0)
    assert room.next_deadline(100.0) == 100.0 + RECEIVE_LOOK_S
    room.look(100.0 + RECEIVE_S - 0.1)
    assert room.cause
    room.look(100.0 + RECEIVE_S)
    assert not room.cause


def test_a_transfer_is_asked_for_when_there_is_room_and_not_in_every_pass():
    room, asked, free = Room(), [], False

    def ask() -> bool:
        asked.append(now)
        return free

    room.receive_failed("full", 100.0)
    for step in range(30):
        now, free = 100.0 + step / 10, step >= 20
        room.receive_again(now, ask)
    assert 8 <= len(asked) <= 12
    assert asked[-1] <= 102.0 + RECEIVE_LOOK_S


def test_an_answer_that_has_less_than_before_begins_anew_by_a_question():
    class File:
        size = 1000

    transfer = Transfer(File())
    transfer.answered(0)
    transfer.offset = 400
    transfer.answered(300)
    assert (transfer.acked, transfer.agreed) == (300, True)
    for offset in (0, 200):
        transfer.answered(offset)
        assert (transfer.offset, transfer.agreed, transfer.asked) == (offset, False, False)
        transfer.answered(offset)
        transfer.offset = 400
        transfer.answered(300)


def test_what_a_thread_installs_is_not_removed_when_room_for_the_log_ends_meanwhile():
    rig = Rig(1)
    incoming = Incoming(rig["a"].core, rig["a"].snapshots)
    whole = b"all of it"
    digest = hashlib.sha256(whole).digest()
    incoming.on_chunk("b", SnapshotChunk(1, 90, 1, 0, len(whole), digest, whole))
    (job,) = incoming.take_jobs()
    incoming.miss("b", 90, len(whole))
    assert incoming.receiving
    with pytest.raises(CorruptData, match="its head"):  # read from the disk, where it still is
        job.receiver.commit_sync()


def test_what_is_applied_already_is_not_missed(rig):
    full(rig, "c")
    rig.propose("a", b"one")
    rig.run(1.0)
    node = rig["c"]
    (leader,) = rig.leaders()
    node.engine._missed(leader, SnapshotChunk(1, node.core.applied, 1, 0, 9, b"", b""), "no room")
    assert not node.engine._room.receive.cause
