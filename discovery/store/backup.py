r"""A backup as bytes: what a state holds, with a head that people can read and a checksum over all of it. Pure.

Format 1::

    "discovery-snapshot 1\n"
    the header as one line of JSON, ended by "\n"
    frames of a state's content (store/snapshot.py, ``CONTENT``): length u32, big endian, then the frame
    the end: length 0 u32, then the SHA-256 of everything before the digest

It holds what is (namespaces, services, leases, instances, keys) and not what happened: no change log, no events, no
remembered results of requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from discovery import limits
from discovery.errors import CorruptData
from discovery.store.restore import frame_decoder
from discovery.store.snapshot import CONTENT, LENGTH, Snapshot

FORMAT: Final = 1
MAGIC: Final = b"discovery-snapshot "
_END: Final = LENGTH.pack(0)
_DIGEST_BYTES: Final = 32
_LINE_BYTES_MAX: Final = 64 * 1024
_FRAME_BYTES_MAX: Final = limits.COMMAND_BYTES_MAX - 4096  # a frame must fit in a command
_ARRAY_32: Final = 0xDD


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of.

    Args:
        version: of the program that wrote it.
        node, zone: of the node that wrote it.
        history, revision, serial: of the state.
        time_ms: when it was taken, Unix ms.
        counts: rows of each section.
    """

    version: str
    node: str
    zone: str
    history: str
    revision: int
    serial: int
    time_ms: int
    counts: dict[str, int]


def header(snapshot: Snapshot, *, version: str, node: str, zone: str, time_ms: int) -> Header:
    """The header of a state's backup."""
    head = snapshot.head
    return Header(
        version=version,
        node=node,
        zone=zone,
        history=head.history,
        revision=head.revision,
        serial=head.serial,
        time_ms=time_ms,
        counts=snapshot.counts(),
    )


def write(snapshot: Snapshot, head: Header) -> Iterator[bytes]:
    """The bytes of a backup in chunks of about ``limits.RESTORE_PART_BYTES``; may run in a thread of its own."""
    whole = hashlib.sha256()
    pending = bytearray(MAGIC + b"%d\n" % FORMAT + msgspec.json.encode(head) + b"\n")
    for frame in snapshot.content():
        pending += frame
        if len(pending) >= limits.RESTORE_PART_BYTES:
            whole.update(pending)
            yield bytes(pending)
            pending.clear()
    pending += _END
    whole.update(pending)
    yield bytes(pending) + whole.digest()


class Reader:
    """Takes the bytes of a backup as they come, cut anywhere, and gives whole frames; believes nothing before the end.

    Attributes:
        header: once its line has come.
        complete: the end has come, and checksum and counts are right.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self.complete = False
        self.size = 0
        self._pending = bytearray()
        self._whole = hashlib.sha256()
        self._counts = dict.fromkeys(CONTENT, 0)
        self._ended = False

    def push(self, data: bytes) -> list[bytes]:
        """Take the bytes that follow; the frames that are complete now, each with its length, may be none.

        Raises:
            CorruptData: this is no backup, or a damaged one.
        """
        self.size += len(data)
        self._pending += data
        if self.header is None and not self._head():
            return []
        return self._frames()

    def finish(self) -> Header:
        """Everything has come.

        Raises:
            CorruptData: the file is cut off.
        """
        if self.header is None or not self.complete:
            raise CorruptData(f"the file is no whole snapshot of discovery: it ends after {self.size} bytes")
        return self.header

    def _take(self, size: int) -> bytes:
        taken = bytes(self._pending[:size])
        self._whole.update(taken)
        del self._pending[:size]
        return taken

    def _head(self) -> bool:
        """Read the two lines; whether they have come."""
        start = bytes(self._pending[: len(MAGIC)])
        if not MAGIC.startswith(start):
            raise CorruptData("the file is no snapshot of discovery: it begins otherwise")
        lines = self._pending.split(b"\n", 2)
        if len(lines) < 3:
            if len(self._pending) > _LINE_BYTES_MAX:
                raise CorruptData("the file is no snapshot of discovery: its header has no end")
            return False
        if lines[0] != MAGIC + b"%d" % FORMAT:
            name = lines[0][len(MAGIC) :][:20].decode("ascii", "replace")
            raise CorruptData(f"the snapshot has format {name}, this version reads {FORMAT}: use the one that wrote it")
        try:
            self.header = msgspec.json.decode(lines[1], type=Header)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CorruptData(f"the snapshot is damaged: its header does not decode: {error}") from error
        self._take(len(lines[0]) + len(lines[1]) + 2)
        return True

    def _frames(self) -> list[bytes]:
        taken = []
        while not self._ended and len(self._pending) >= LENGTH.size:
            length = LENGTH.unpack_from(self._pending)[0]
            if length > _FRAME_BYTES_MAX:
                raise self._damaged(f"a frame of {length} bytes")
            if not length:
                self._take(LENGTH.size)
                self._ended = True
            elif len(self._pending) < LENGTH.size + length:
                break
            else:
                frame = self._take(LENGTH.size + length)
                self._count(frame)
                taken.append(frame)
        if self._ended:
            self._check_end()
        return taken

    def _count(self, frame: bytes) -> None:
        try:
            section, rows = frame_decoder.decode(memoryview(frame)[LENGTH.size :])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._damaged(str(error)) from error
        raw = bytes(memoryview(rows)[:5])
        if section not in self._counts or len(raw) < 5 or raw[0] != _ARRAY_32:
            raise self._damaged(f"a section {section!r}")
        self._counts[section] += int.from_bytes(raw[1:], "big")

    def _check_end(self) -> None:
        assert self.header is not None
        if len(self._pending) > _DIGEST_BYTES:
            raise self._damaged("bytes after its end")
        if len(self._pending) < _DIGEST_BYTES:
            return
        if bytes(self._pending) != self._whole.digest():
            raise self._damaged("the checksum fails")
        if self._counts != self.header.counts:
            raise self._damaged(f"it holds {self._counts}, its header says {self.header.counts}")
        self.complete = True

    def _damaged(self, why: str) -> CorruptData:
        return CorruptData(f"the snapshot is damaged, at or before byte {self.size - len(self._pending)}: {why}")
