"""Snapshots on a disk: written by chunk, checked by chunk and as a whole, replaced only once durable.

A file ``snapshot-INDEX-TERM`` is, big endian::

    "DSS1" | index u64 | term u64 | CRC-32 of these u32
    then for each chunk   length u32 (not 0) | CRC-32 of the chunk u32 | chunk
    then the end          length 0 u32       | CRC-32 of all the checksums u32

The SHA-256 of the whole file travels with it between nodes. A snapshot that cannot be read stops the node
(hazard 8): a state that is quietly empty could lead.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from discovery import limits
from discovery.errors import CorruptData, DiskFull

if TYPE_CHECKING:
    from discovery.raft.disk import Disk

_HEAD: Final = struct.Struct(">4sQQ")
_CHUNK: Final = struct.Struct(">II")
_CRC: Final = struct.Struct(">I")
_MAGIC: Final = b"DSS1"
_PREFIX: Final = "snapshot-"
_TEMPORARY: Final = ".part"
HEAD_BYTES: Final = _HEAD.size + _CRC.size
CHUNK_BYTES_MAX: Final = 4 * limits.SNAPSHOT_CHUNK_BYTES


class SnapshotFile:
    """A finished snapshot of the state at ``index`` (whose entry has ``term``); readable until a newer one comes."""

    def __init__(self, disk: Disk, index: int, term: int, size: int, digest: bytes, name: str = "") -> None:
        self._disk = disk
        self.name = name or file_name(index, term)
        self.index = index
        self.term = term
        self.size = size
        self.digest = digest

    def read(self, offset: int, size: int) -> bytes:
        """Raw bytes for a transfer.

        Raises:
            OSError: a newer snapshot replaced it.
        """
        return self._disk.read(self.name, offset, size)

    def chunks(self) -> Iterator[bytes]:
        """What was given to the writer, chunk by chunk, each checked before it is given on.

        Raises:
            CorruptData: names file, offset and way out.
            OSError: a newer snapshot replaced it.
        """
        _check_head(self._disk, self.name, self.index, self.term)
        offset, sums = HEAD_BYTES, 0
        while True:
            length, crc = _chunk_head(self._disk, self.name, offset)
            if not length:
                break
            chunk = self._disk.read(self.name, offset + _CHUNK.size, length)
            if len(chunk) != length or zlib.crc32(chunk) != crc:
                raise _corrupt(self.name, offset, "the checksum of a chunk fails")
            yield chunk
            sums = zlib.crc32(_CRC.pack(crc), sums)
            offset += _CHUNK.size + length
        if crc != sums or offset + _CHUNK.size != self._disk.size(self.name):
            raise _corrupt(self.name, offset, "the end is not where the chunks say")


class _Incoming:
    """A file that grows under a temporary name and is given its own only when it is durable."""

    def __init__(self, store: SnapshotStore, index: int, term: int) -> None:
        self._store = store
        self._disk = store.disk
        self._index, self._term = index, term
        self._temporary = f"{file_name(index, term)}.{next(store.numbers)}{_TEMPORARY}"
        self._disk.create(self._temporary)
        self._sha = hashlib.sha256()
        self._size = 0
        self._open = True

    def _append(self, data: bytes) -> None:
        self._disk.append(self._temporary, data)
        self._sha.update(data)
        self._size += len(data)

    def _commit(self) -> SnapshotFile:
        self._disk.sync(self._temporary)
        try:
            self._disk.rename(self._temporary, file_name(self._index, self._term))
        except DiskFull:
            self.discard()
            raise
        self._disk.sync_dir()
        self._open = False
        file = SnapshotFile(self._disk, self._index, self._term, self._size, self._sha.digest())
        self._store.replace(file)
        return file

    def discard(self) -> None:
        """Forget what was written."""
        if self._open:
            self._open = False
            self._disk.remove(self._temporary)


class Writer(_Incoming):
    """A snapshot being written from the state's chunks (for a thread: each call blocks)."""

    def __init__(self, store: SnapshotStore, index: int, term: int) -> None:
        super().__init__(store, index, term)
        self._sums = 0
        try:
            self._append(_head(index, term))
        except DiskFull:
            self.discard()
            raise

    def append(self, chunk: bytes) -> None:
        """Add one chunk, not empty, at most ``CHUNK_BYTES_MAX``; empty ones are left out."""
        if not chunk:
            return
        if len(chunk) > CHUNK_BYTES_MAX:
            raise ValueError(f"a snapshot chunk of {len(chunk)} bytes is above {CHUNK_BYTES_MAX}")
        crc = zlib.crc32(chunk)
        self._sums = zlib.crc32(_CRC.pack(crc), self._sums)
        self._append(_CHUNK.pack(len(chunk), crc) + chunk)

    def commit_sync(self) -> SnapshotFile:
        """Make it durable and the latest; older ones are removed (blocking)."""
        self._append(_CHUNK.pack(0, self._sums))
        return self._commit()


class Receiver(_Incoming):
    """A snapshot file that arrives from the leader, raw."""

    def __init__(self, store: SnapshotStore, index: int, term: int, size: int, digest: bytes) -> None:
        super().__init__(store, index, term)
        self._expected = (size, digest)

    def append(self, data: bytes) -> None:
        """Add the bytes that follow."""
        self._append(data)

    def commit_sync(self) -> SnapshotFile:
        """Check size, digest and every checksum, then make it durable and the latest (blocking).

        Raises:
            CorruptData: what arrived is not what was announced; it is discarded.
        """
        if (self._size, self._sha.digest()) != self._expected:
            self.discard()
            raise CorruptData(f"the snapshot at {self._index} arrived damaged (size or digest); it must be sent again")
        try:
            _verify(self._disk, self._temporary, self._index, self._term, self._size)
        except CorruptData:
            self.discard()
            raise
        return self._commit()


class SnapshotStore:
    """All snapshots of a node: the latest, and at most one in the making of each kind."""

    def __init__(self, disk: Disk) -> None:
        """Look at ``disk``; what an interrupted process left unfinished is removed."""
        self.disk = disk
        self.numbers = itertools.count()
        """Makes the names of unfinished files differ: one may be discarded after its successor began."""
        for name in disk.list():
            if name.startswith(_PREFIX) and name.endswith(_TEMPORARY):
                disk.remove(name)
        self._latest: SnapshotFile | None = None
        self._looked = False

    def latest(self) -> SnapshotFile | None:
        """The newest finished snapshot (blocking at the first call: its file is read whole).

        Raises:
            CorruptData: it cannot be read; an older one is never taken instead.
        """
        if not self._looked:
            self._latest = self._newest()
            self._looked = True
        return self._latest

    @property
    def latest_bytes(self) -> int:
        """Bytes of the newest finished one."""
        latest = self.latest()
        return 0 if latest is None else latest.size

    def writer(self, index: int, term: int) -> Writer:
        """Begin a snapshot of the state at ``index``."""
        return Writer(self, index, term)

    def receiver(self, index: int, term: int, size: int, digest: bytes) -> Receiver:
        """Begin to receive a snapshot file of ``size`` bytes whose SHA-256 is ``digest``."""
        return Receiver(self, index, term, size, digest)

    def room_bytes(self) -> int:
        """How many bytes there is room for."""
        return self.disk.room_bytes()

    def replace(self, file: SnapshotFile) -> None:
        """``file`` is durable: it is the latest unless a newer one is; all others are removed."""
        before = self.latest()
        if before is not None and (before.index, before.term) > (file.index, file.term):
            file = before
        self._latest = file
        for name in self._finished():
            if name != file.name:
                self.disk.remove(name)

    def _finished(self) -> list[str]:
        return sorted(n for n in self.disk.list() if n.startswith(_PREFIX) and not n.endswith(_TEMPORARY))

    def _newest(self) -> SnapshotFile | None:
        names = self._finished()
        if not names:
            return None
        index, term = _numbers(names[-1])
        size = self.disk.size(names[-1])
        _verify(self.disk, names[-1], index, term, size)
        return SnapshotFile(self.disk, index, term, size, _digest(self.disk, names[-1], size))


def file_name(index: int, term: int) -> str:
    """The name under which a finished snapshot stands; names sort by index, then term."""
    return f"{_PREFIX}{index:016x}-{term:016x}"


def _numbers(name: str) -> tuple[int, int]:
    try:
        index, term = (int(part, 16) for part in name.removeprefix(_PREFIX).split("-"))
    except ValueError:
        raise _corrupt(name, 0, "its name is none of this program's") from None
    return index, term


def _head(index: int, term: int) -> bytes:
    head = _HEAD.pack(_MAGIC, index, term)
    return head + _CRC.pack(zlib.crc32(head))


def _check_head(disk: Disk, name: str, index: int, term: int) -> None:
    if disk.read(name, 0, HEAD_BYTES) != _head(index, term):
        raise _corrupt(name, 0, "its head is not that of this snapshot")


def _chunk_head(disk: Disk, name: str, offset: int) -> tuple[int, int]:
    raw = disk.read(name, offset, _CHUNK.size)
    if len(raw) < _CHUNK.size:
        raise _corrupt(name, offset, "it ends too early")
    length, crc = _CHUNK.unpack(raw)
    if length > CHUNK_BYTES_MAX:
        raise _corrupt(name, offset, f"a chunk of {length} bytes is above {CHUNK_BYTES_MAX}")
    return length, crc


def _verify(disk: Disk, name: str, index: int, term: int, size: int) -> None:
    """Read everything once and believe nothing before."""
    for _ in SnapshotFile(disk, index, term, size, b"", name).chunks():
        pass


def _digest(disk: Disk, name: str, size: int) -> bytes:
    sha = hashlib.sha256()
    for offset in range(0, size, CHUNK_BYTES_MAX):
        sha.update(disk.read(name, offset, CHUNK_BYTES_MAX))
    return sha.digest()


def _corrupt(name: str, offset: int, why: str) -> CorruptData:
    return CorruptData(
        f"{name}: damaged at offset {offset}: {why}. Way out: keep a copy of the data directory, empty it, remove this "
        f"node from the cluster and add it again (the other nodes send it everything), or put back a copy of the "
        f"directory taken while the node was stopped."
    )
