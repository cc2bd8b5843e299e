"""Snapshots: what was committed is read back whole or refused, what was not committed never existed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.errors import CorruptData
from discovery.raft.disk import RealDisk
from discovery.raft.snapshots import SnapshotStore, file_name


class MemoryDisk:
    """Files in memory, with what was synced of each."""

    def __init__(self):
        self.files = {}
        self.log = []

    def list(self):
        return list(self.files)

    def read(self, name, offset=0, size=-1):
        if name not in self.files:
            raise FileNotFoundError(name)
        return bytes(self.files[name][offset:] if size < 0 else self.files[name][offset : offset + size])

    def size(self, name):
        return len(self.files[name])

    def create(self, name):
        self.files[name] = bytearray()

    def append(self, name, data):
        self.files[name] += data

    def sync(self, name):
        self.log.append(("sync", name))

    def rename(self, old, new):
        self.files[new] = self.files.pop(old)
        self.log.append(("rename", new))

    def remove(self, name):
        del self.files[name]
        self.log.append(("remove", name))

    def sync_dir(self):
        self.log.append(("sync_dir", ""))


CHUNKS = [b"a" * 1000, b"b", b"c" * 5000]


def written(disk, index=7, term=2, chunks=CHUNKS):
    writer = SnapshotStore(disk).writer(index, term)
    for chunk in chunks:
        writer.append(chunk)
    return writer.commit_sync()


def test_there_is_none_at_first():
    assert SnapshotStore(MemoryDisk()).latest() is None


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=20), st.integers(0, 2**60), st.integers(0, 2**60))
def test_a_committed_snapshot_is_read_back_as_it_was(chunks, index, term):
    disk = MemoryDisk()
    file = written(disk, index, term, chunks)
    again = SnapshotStore(disk).latest()
    assert list(again.chunks()) == chunks
    assert (again.index, again.term, again.size, again.digest) == (index, term, file.size, file.digest)


def test_it_is_durable_before_it_has_its_name_and_the_older_one_goes_last():
    disk = MemoryDisk()
    store = SnapshotStore(disk)
    store.writer(3, 1).commit_sync()
    disk.log.clear()
    store.writer(7, 2).commit_sync()
    assert [kind for kind, _ in disk.log] == ["sync", "rename", "sync_dir", "remove"]
    assert disk.log[-1] == ("remove", file_name(3, 1))
    assert store.latest().index == 7


def test_an_unfinished_one_never_existed():
    disk = MemoryDisk()
    written(disk, 3, 1)
    SnapshotStore(disk).writer(9, 1).append(b"half")
    assert SnapshotStore(disk).latest().index == 3
    assert disk.list() == [file_name(3, 1)]


def test_a_discarded_one_leaves_nothing():
    disk = MemoryDisk()
    writer = SnapshotStore(disk).writer(9, 1)
    writer.discard()
    writer.discard()
    assert disk.list() == []


def test_a_late_older_snapshot_does_not_replace_a_newer_one():
    store = SnapshotStore(MemoryDisk())
    late = store.writer(5, 1)
    store.writer(9, 2).commit_sync()
    late.commit_sync()
    assert store.latest().index == 9
    assert store.disk.list() == [file_name(9, 2)]


def test_hazard_08_any_flipped_bit_is_refused_and_never_an_empty_or_older_state():
    disk = MemoryDisk()
    written(disk, 7, 2, [b"state", b"more"])
    name = file_name(7, 2)
    for position in range(len(disk.files[name])):
        disk.files[name][position] ^= 4
        with pytest.raises(CorruptData, match=rf"{name}: damaged at offset \d+: .*Way out"):
            SnapshotStore(disk).latest()
        disk.files[name][position] ^= 4
    assert list(SnapshotStore(disk).latest().chunks()) == [b"state", b"more"]


@pytest.mark.parametrize("cut", [1, 5, 20, 40])
def test_a_snapshot_that_is_too_short_is_refused(cut):
    disk = MemoryDisk()
    written(disk)
    del disk.files[file_name(7, 2)][-cut:]
    with pytest.raises(CorruptData):
        SnapshotStore(disk).latest()


def test_a_snapshot_travels_raw_and_arrives_the_same(tmp_path):
    source = written(MemoryDisk())
    store = SnapshotStore(RealDisk(tmp_path))
    receiver = store.receiver(source.index, source.term, source.size, source.digest)
    for offset in range(0, source.size, 700):
        receiver.append(source.read(offset, 700))
    assert list(receiver.commit_sync().chunks()) == CHUNKS
    assert list(SnapshotStore(RealDisk(tmp_path)).latest().chunks()) == CHUNKS
    store.disk.close()


@pytest.mark.parametrize("change", ["short", "long", "bit"])
def test_a_snapshot_that_arrives_damaged_is_refused_and_the_present_one_stays(change):
    source = written(MemoryDisk())
    raw = bytearray(source.read(0, source.size))
    damaged = {"short": raw[:-1], "long": raw + b"x", "bit": raw[:500] + bytes([raw[500] ^ 1]) + raw[501:]}[change]
    disk = MemoryDisk()
    written(disk, 3, 1)
    store = SnapshotStore(disk)
    receiver = store.receiver(source.index, source.term, source.size, source.digest)
    receiver.append(bytes(damaged))
    with pytest.raises(CorruptData):
        receiver.commit_sync()
    assert store.latest().index == 3
    assert disk.list() == [file_name(3, 1)]


def test_a_file_with_the_right_digest_and_foreign_content_is_refused():
    import hashlib

    junk = b"not a snapshot at all, but honestly announced"
    receiver = SnapshotStore(MemoryDisk()).receiver(4, 1, len(junk), hashlib.sha256(junk).digest())
    receiver.append(junk)
    with pytest.raises(CorruptData):
        receiver.commit_sync()


def test_a_replaced_snapshot_can_no_longer_be_read_and_says_so():
    store = SnapshotStore(MemoryDisk())
    old = store.writer(3, 1).commit_sync()
    store.writer(4, 1).commit_sync()
    with pytest.raises(OSError, match="snapshot-"):
        old.read(0, 10)
