"""The page about the files says what the code does: sizes, magic numbers, layouts and its worked examples."""

from __future__ import annotations

import random
import re
from pathlib import Path

import msgspec

from discovery import limits
from discovery.raft import room, snapshots, wal_frame
from discovery.raft.packing import NO_OP, REGULAR
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.types import Settings
from discovery.raft.wal_segment import PREFIX, SUFFIX, Batch, Segment
from discovery.testing.simdisk import SimDisk

PAGE = (Path(__file__).parents[3] / "docs/storage.md").read_text()
LAYOUT = r"^\| (\d+) \| (\d+|…) \| (.+?) \|$"


def example(first: str) -> bytes:
    """The bytes of the block that begins with ``first``; what is said of them stands behind two spaces."""
    (block,) = re.findall(rf"^```text\n({first}.*?)^```$", PAGE, re.M | re.S)
    return bytes.fromhex("".join(re.split(r"  +", line.strip())[0] for line in block.splitlines()))


def test_the_layout_of_a_frame_is_that_of_the_code():
    rows = [(int(offset), length, what) for offset, length, what in re.findall(LAYOUT, PAGE, re.M)]
    frame = wal_frame.encode(b"payload", 513, 7)
    ends = [0]
    for offset, length, _ in rows[:-1]:
        assert offset == ends[-1]
        ends.append(offset + int(length))
    assert rows[-1][0] == ends[-1] == wal_frame.HEADER_BYTES
    assert frame[: ends[1]] == wal_frame.MAGIC
    assert f"`{wal_frame.MAGIC.decode()}`" in rows[0][2]
    assert f"{wal_frame.FRAME_BYTES_MAX:,}" in rows[1][2]
    assert int.from_bytes(frame[ends[1] : ends[2]], "big") == len(b"payload")
    assert int.from_bytes(frame[ends[2] : ends[3]], "big") == 513


def test_the_example_of_a_batch_is_one():
    salt = wal_frame.salted(b"0123456789abcdef0123456789abcdef")
    batch = Batch(1, "n1", 1, [(2, [(NO_OP, 2, 1)])])
    assert example("44 57 4c 31") == wal_frame.encode(msgspec.msgpack.encode(batch), 2, salt)


def test_the_example_of_a_snapshot_is_one():
    disk = SimDisk(random.Random(1))
    writer = SnapshotStore(disk).writer(2, 1)
    writer.append(b"abc")
    file = writer.commit_sync()
    assert example("44 53 53 31") == disk.read(file.name)
    assert example("44 53 53 31").startswith(b"DSS1")


def test_names_sizes_and_times_are_those_of_the_code():
    assert Segment(1).name == f"{PREFIX}{1:016x}{SUFFIX}"
    assert f"`raft/{PREFIX}SEQUENCE{SUFFIX}`" in PAGE
    assert snapshots.file_name(1, 2) == f"snapshot-{1:016x}-{2:016x}"
    assert f"at most {snapshots.CHUNK_BYTES_MAX:,})" in PAGE
    assert f"command is `{NO_OP.hex()}` (a leader's first entry) or `{REGULAR.hex()}`" in PAGE
    assert f"reached {limits.WAL_SEGMENT_BYTES // 2**20} MiB is closed" in PAGE
    assert f"{limits.LOG_RETAINED_BYTES // 2**20} MiB stay" in PAGE
    assert f"holds {limits.UNWRITTEN_LOG_BYTES_MAX // 2**20} MiB" in PAGE
    assert Settings().snapshot_bytes == limits.SNAPSHOT_LOG_BYTES_MIN
    assert f"after {limits.SNAPSHOT_LOG_BYTES_MIN // 2**20} MiB of log" in PAGE
    assert f"the log after {room.RETRY_S_MIN:g} s, then ever less often up to each second" in PAGE
    assert room.RETRY_S_MAX == 1
    assert f"a snapshot after {room.SAVE_RETRY_S_MIN:g} s, up to each {room.SAVE_RETRY_S_MAX:g} s" in PAGE
    assert f"({Settings().election_min_s:g} s to {Settings().election_max_s:g} s)" in PAGE
