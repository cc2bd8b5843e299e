"""The log: what a completed write left is there again, a torn one is wholly gone, damage is refused."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.errors import CorruptData
from discovery.raft import wal_frame
from discovery.raft.disk import RealDisk
from discovery.raft.wal import Wal

BLOCK = 512
SALT = b"incarnation"


class TornDisk:
    """Files in memory; a crash keeps any subset of the 512-byte blocks that were not synced."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.synced: dict[str, int] = {}
        self.names_synced: set[str] = set()

    def list(self):
        return list(self.files)

    def read(self, name):
        return bytes(self.files[name])

    def create(self, name):
        self.files[name] = bytearray()
        self.synced[name] = 0

    def append(self, name, data):
        self.files[name] += data

    def sync(self, name):
        self.synced[name] = len(self.files[name])

    def truncate(self, name, size):
        del self.files[name][size:]

    def rewrite(self, name, offset, data):
        self.files[name][offset : offset + len(data)] = data
        self.synced[name] = min(self.synced[name], offset)

    def remove(self, name):
        del self.files[name]
        self.names_synced.discard(name)

    def sync_dir(self):
        self.names_synced = set(self.files)

    def crash(self, chance: random.Random) -> TornDisk:
        after = TornDisk()
        for name, data in self.files.items():
            if name in self.names_synced:
                after.files[name] = self._torn(data, self.synced[name], chance)
                after.synced[name] = len(after.files[name])
        after.sync_dir()
        return after

    @staticmethod
    def _torn(data: bytearray, synced: int, chance: random.Random) -> bytearray:
        torn = bytearray(data)
        for begin in range(synced - synced % BLOCK, len(data), BLOCK):
            if chance.random() < 0.5:
                lost = slice(max(begin, synced), min(begin + BLOCK, len(data)))
                torn[lost] = bytes(lost.stop - lost.start)
        return torn[: chance.choice([len(data), chance.randint(synced, len(data))])]


def seen(wal: Wal) -> tuple[int, str | None, list[tuple[bytes, int, int]]]:
    return wal.term, wal.voted_for, wal[:]


def sync(wal: Wal) -> None:
    batch = wal.take()
    if batch is not None:
        wal.write(batch)


def filled(disk, entries: int, size: int = 40, **options) -> Wal:
    wal = Wal.open(disk, SALT, **options)
    for index in range(1, entries + 1):
        wal.term = index
        wal.add(bytes([index % 251]) * size, index, index)
        sync(wal)
    return wal


def test_a_new_log_is_empty_and_has_term_zero_and_no_vote():
    assert seen(Wal.open(TornDisk())) == (0, None, [])


def test_term_vote_and_entries_are_there_again():
    disk = TornDisk()
    wal = Wal.open(disk, SALT)
    wal.term, wal.voted_for = 7, "n2"
    wal.add(b"a", 1, 0)
    wal.add(b"b", 2, 7)
    wal.setRaftCommitIndex(2)
    sync(wal)
    again = Wal.open(disk, SALT)
    assert seen(again) == (7, "n2", [(b"a", 1, 0), (b"b", 2, 7)])
    assert again.getRaftCommitIndex() == 2


def test_nothing_is_taken_when_nothing_changed():
    wal = filled(TornDisk(), 3)
    wal.term = wal.term
    wal.setRaftCommitIndex(3)
    assert wal.take() is None


def test_what_was_taken_is_not_taken_twice():
    wal = Wal.open(TornDisk())
    wal.add(b"a", 1, 1)
    assert wal.take() is not None
    assert wal.take() is None


def test_the_commit_hint_is_clamped_to_the_end_of_the_log():
    disk = TornDisk()
    wal = Wal.open(disk)
    wal.add(b"a", 1, 1)
    wal.setRaftCommitIndex(900)
    sync(wal)
    assert Wal.open(disk).getRaftCommitIndex() == 1


def test_cut_entries_stay_cut_and_their_successors_stand():
    disk = TornDisk()
    wal = filled(disk, 9)
    wal.deleteEntriesFrom(4)
    wal.add(b"new", 5, 20)
    sync(wal)
    assert Wal.open(disk, SALT)[:] == wal[:]
    assert [entry[1] for entry in wal[:]] == [1, 2, 3, 4, 5]


def test_a_cleared_log_may_begin_anywhere():
    disk = TornDisk()
    wal = filled(disk, 9)
    wal.clear()
    wal.add(b"snapshot", 500, 30)
    wal.add(b"next", 501, 30)
    sync(wal)
    assert Wal.open(disk, SALT)[:] == [(b"snapshot", 500, 30), (b"next", 501, 30)]


def test_segments_rotate_and_every_one_begins_with_the_hard_state():
    disk = TornDisk()
    wal = Wal.open(disk, SALT, segment_bytes=300, retained_bytes=0)
    wal.term, wal.voted_for = 3, "n1"
    for index in range(1, 40):
        wal.add(b"x" * 50, index, 3)
        sync(wal)
    wal.compact(39)
    wal.term = 4
    sync(wal)
    assert len(disk.files) < 3
    assert seen(Wal.open(disk, SALT)) == (4, "n1", wal[:])


def test_compaction_keeps_the_entry_of_the_snapshot_and_what_is_to_be_retained():
    disk = TornDisk()
    wal = filled(disk, 60, segment_bytes=500, retained_bytes=2000)
    wal.compact(55)
    wal.term = 99
    sync(wal)
    assert 2000 <= wal.bytes_retained < 2700
    assert wal[0][1] <= 55
    assert Wal.open(disk, SALT)[:] == wal[:]


def test_compaction_removes_the_oldest_file_first_and_each_durably():
    events = []

    class Told(TornDisk):
        def remove(self, name):
            super().remove(name)
            events.append(name)

        def sync_dir(self):
            super().sync_dir()
            events.append("dir")

    wal = filled(Told(), 40, segment_bytes=300, retained_bytes=0)
    events.clear()
    wal.compact(40)
    wal.term = 99
    sync(wal)
    removals = events[events.index("wal-0000000000000001.log") :]
    assert len(removals) > 6
    assert removals[::2] == sorted(removals[::2])
    assert set(removals[1::2]) == {"dir"}


def test_a_torn_tail_is_cut_durably_once():
    disk = TornDisk()
    wal = filled(disk, 5)
    before = seen(wal)
    (name,) = disk.files
    disk.files[name] += b"DWL1 half a batch"
    again = Wal.open(disk, SALT)
    assert seen(again) == before
    assert disk.synced[name] == len(disk.files[name])
    again.add(b"after", 6, 9)
    sync(again)
    assert Wal.open(disk, SALT)[:] == again[:]


def test_hazard_23_a_bad_batch_before_a_later_one_is_refused_with_file_offset_and_way_out():
    disk = TornDisk()
    filled(disk, 5)
    (name,) = disk.files
    disk.files[name][wal_frame.HEADER_BYTES + 3] ^= 1
    with pytest.raises(CorruptData, match=rf"{name}: damaged at offset 0: .*Way out"):
        Wal.open(disk, SALT)


def test_a_bad_batch_before_a_torn_one_is_refused():
    disk = TornDisk()
    filled(disk, 2)
    (name,) = disk.files
    disk.files[name][wal_frame.HEADER_BYTES + 3] ^= 1
    del disk.files[name][-5:]
    with pytest.raises(CorruptData):
        Wal.open(disk, SALT)


def test_a_segment_that_is_missing_is_noticed():
    disk = TornDisk()
    filled(disk, 40, segment_bytes=300)
    names = sorted(disk.files)
    disk.remove(names[len(names) // 2])
    with pytest.raises(CorruptData, match="the log before it ends at batch"):
        Wal.open(disk, SALT)


def test_a_segment_that_lost_its_end_is_noticed_because_a_later_one_exists():
    disk = TornDisk()
    filled(disk, 40, segment_bytes=300)
    first = min(disk.files)
    del disk.files[first][-7:]
    with pytest.raises(CorruptData, match="a later segment exists"):
        Wal.open(disk, SALT)


def test_a_client_cannot_make_a_torn_value_look_like_a_later_batch():
    disk = TornDisk()
    wal = filled(disk, 3)
    before = seen(wal)
    forged = b"".join(wal_frame.encode(b"x", n, wal_frame.salted(b"guess")) for n in range(100))
    wal.add(b"." * 600 + forged, 4, 9)
    sync(wal)
    (name,) = disk.files
    disk.files[name][-1] ^= 1
    assert seen(Wal.open(disk, SALT)) == before


def test_files_of_others_are_left_alone():
    disk = TornDisk()
    filled(disk, 3)
    disk.create("snapshot-1")
    assert len(Wal.open(disk, SALT)) == 3


def test_the_real_disk_gives_back_what_it_took(tmp_path):
    disk = RealDisk(tmp_path / "log")
    wal = filled(disk, 60, segment_bytes=500, retained_bytes=1000)
    wal.compact(50)
    wal.term = 99
    sync(wal)
    disk.close()
    again = RealDisk(tmp_path / "log")
    assert seen(Wal.open(again, SALT)) == seen(wal)
    again.close()


def test_a_hundred_thousand_entries_load_within_a_second():
    disk = TornDisk()
    wal = Wal.open(disk, SALT)
    for index in range(1, 100_001):
        wal.add(b"x" * 100, index, 1)
        if index % 4 == 0:
            sync(wal)
    took = min(timed(lambda: Wal.open(disk, SALT)) for _ in range(3))
    print(f"\n100,000 entries in 25,000 batches: {took:.3f} s")
    assert took < 1.0


def timed(call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


operations = st.lists(
    st.one_of(
        st.tuples(st.just("term"), st.integers(1, 5)),
        st.tuples(st.just("vote"), st.sampled_from([None, "n1", "n2"])),
        st.tuples(st.just("add"), st.integers(0, 1500)),
        st.tuples(st.just("cut"), st.integers(1, 6)),
        st.tuples(st.just("rebase"), st.integers(1, 50)),
        st.tuples(st.just("compact"), st.integers(0, 4)),
        st.tuples(st.just("sync"), st.none()),
    ),
    max_size=40,
)


def run(wal: Wal, step: tuple[str, int | str | None]) -> None:
    kind, value = step
    last = wal[-1][1] if len(wal) else 0
    if kind == "term":
        wal.term += value
    elif kind == "vote":
        wal.voted_for = value
    elif kind == "add":
        wal.add(bytes(value), last + 1, wal.term)
    elif kind == "cut":
        wal.deleteEntriesFrom(max(0, len(wal) - value))
    elif kind == "rebase":
        wal.clear()
        wal.add(b"base", last + value, wal.term)
    elif kind == "compact":
        wal.compact(last - value)


@settings(max_examples=300, deadline=None)
@given(operations, st.integers(0, 2**32), st.integers(200, 3000))
def test_after_any_crash_the_log_is_as_the_last_write_left_it_or_holds_the_torn_one_wholly(steps, seed, segment):
    options = {"segment_bytes": segment, "retained_bytes": segment}
    disk = TornDisk()
    wal = Wal.open(disk, SALT, **options)
    synced = seen(wal)
    for step in steps:
        run(wal, step)
        if step[0] == "sync":
            sync(wal)
            synced = seen(wal)
    torn, in_flight = interrupted(wal, disk)
    again = Wal.open(torn.crash(random.Random(seed)), SALT, **options)
    assert holds(again, synced) or holds(again, in_flight)


def interrupted(wal: Wal, disk: TornDisk) -> tuple[TornDisk, tuple]:
    """The disk while the last batch was appended but not synced."""
    in_flight = seen(wal)
    batch = wal.take()
    if batch is not None:

        class PowerLoss(Exception):
            pass

        def fail(_name):
            raise PowerLoss

        creating = disk.create
        disk.create = lambda name: (creating(name), setattr(disk, "sync", lambda n: setattr(disk, "sync", fail)))
        disk.sync = fail
        with pytest.raises(PowerLoss):
            wal.write(batch)
    return disk, in_flight


def holds(wal: Wal, state: tuple) -> bool:
    """Whether the log is that state; older entries that compaction had given up may still be there."""
    term, vote, entries = state
    tail = wal[len(wal) - len(entries) :] if entries else wal[:]
    return (wal.term, wal.voted_for, tail) == (term, vote, entries)


@settings(max_examples=300, deadline=None)
@given(operations, st.data())
def test_a_flipped_bit_is_never_read_as_something_else(steps, data):
    disk = TornDisk()
    wal = Wal.open(disk, SALT, segment_bytes=1000)
    states = [seen(wal)]
    for step in steps:
        if step[0] == "compact":
            continue
        run(wal, step)
        sync(wal)
        states.append(seen(wal))
    name = data.draw(st.sampled_from(sorted(disk.files) or [""]))
    if not name or not disk.files[name]:
        return
    position = data.draw(st.integers(0, len(disk.files[name]) - 1))
    disk.files[name][position] ^= 1 << data.draw(st.integers(0, 7))
    in_last_batch = name == max(disk.files) and position >= last_frame(disk.files[name])
    try:
        again = Wal.open(disk, SALT, segment_bytes=1000)
    except CorruptData:
        assert not in_last_batch
    else:
        assert in_last_batch
        assert seen(again) in states


def last_frame(data: bytearray) -> int:
    return bytes(data).rfind(wal_frame.MAGIC) if wal_frame.MAGIC in data else 0


def test_what_was_read_at_the_start_is_durable():
    """A process killed between write and sync leaves its batch in the page cache, where the next one reads it."""
    disk = TornDisk()
    wal = Wal.open(disk, SALT)
    wal.add(b"written", 1, 1)
    wal.write(wal.take())
    name = disk.list()[-1]
    disk.synced[name] = 0
    disk.names_synced.clear()
    again = Wal.open(disk, SALT)
    assert again[-1][0] == b"written"
    after = Wal.open(disk.crash(random.Random(1)), SALT)
    assert after[-1][0] == b"written"


def test_the_log_of_another_data_directory_is_refused_and_left_alone():
    disk = TornDisk()
    wal = Wal.open(disk, SALT)
    for number in range(1, 4):
        wal.add(b"x", number, 1)
        wal.write(wal.take())
    before = {name: bytes(data) for name, data in disk.files.items()}
    with pytest.raises(CorruptData, match="written for another data directory"):
        Wal.open(disk, b"another incarnation")
    assert {name: bytes(data) for name, data in disk.files.items()} == before
