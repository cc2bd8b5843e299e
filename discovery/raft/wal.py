"""The write-ahead log: Raft's entries, term and vote, in segments of framed batches (:mod:`.wal_frame`).

It duck-types PySyncObj's journal, so the Raft core works on it as on a list; nothing is written until the driver
asks for what has gathered (:meth:`Wal.take`) and writes it (:meth:`Wal.write`): one batch, one append, one
fdatasync. Every batch begins with the hard state (term, vote) and the commit hint, so each segment does too. No
clock, socket, thread or file of its own: all I/O goes through a :class:`Disk`.

Contract:
    * After :meth:`Wal.write` returned, :meth:`Wal.open` on the same disk gives at least that state, whatever
      crashes. An interrupted write is wholly there or wholly gone.
    * :meth:`Wal.open` never reads something else: damage before the tail raises :class:`CorruptData`.
    * An exception from :meth:`Wal.write` is final: the caller must end the process (a second fsync after a
      failed one may report success for pages that were thrown away).
    * Between :meth:`Wal.take` and the end of :meth:`Wal.write` (which may run in another thread) nothing but reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, overload

import msgspec

from discovery import limits
from discovery.errors import CorruptData
from discovery.raft import wal_frame

if TYPE_CHECKING:
    from discovery.raft.disk import Disk

Entry = tuple[bytes, int, int]
"""(command, index, term), in PySyncObj's order."""

_PREFIX: Final = "wal-"
_SUFFIX: Final = ".log"


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    """Payload of a frame. Each part replaces the log from ``start`` on (0: all of it) by its entries."""

    term: int
    vote: str | None
    commit: int
    parts: list[tuple[int, list[Entry]]]


class _Segment:
    """One file: its first sequence number, bytes, greatest index ever in it, least index still in force."""

    __slots__ = ("first", "greatest", "name", "sequence", "size")

    def __init__(self, sequence: int) -> None:
        self.name = f"{_PREFIX}{sequence:016x}{_SUFFIX}"
        self.sequence = sequence
        self.size = 0
        self.greatest = 0
        self.first: int | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Batch)


class Wal:
    """Raft's journal on a disk. Build it with :meth:`open`."""

    def __init__(self, disk: Disk, salt: int, segment_bytes: int, retained_bytes: int) -> None:
        self._disk = disk
        self._salt = salt
        self._segment_bytes = segment_bytes
        self._retained_bytes = retained_bytes
        self._entries: list[Entry] = []
        self._term = 0
        self._vote: str | None = None
        self._commit = 1
        self._hard_state_moved = False
        self._parts: list[tuple[int, list[Entry]]] = []
        self._taken: list[tuple[int, list[Entry]]] = []
        self._segments: list[_Segment] = []
        self._doomed: list[_Segment] = []
        self._sequence = 1
        self.bytes_written = 0
        """Bytes appended since :meth:`open`; only grows."""

    @classmethod
    def open(
        cls,
        disk: Disk,
        salt: bytes = b"",
        *,
        segment_bytes: int = limits.WAL_SEGMENT_BYTES,
        retained_bytes: int = limits.LOG_RETAINED_BYTES,
    ) -> Wal:
        """The log as the last completed write left it, or with the interrupted one wholly.

        A torn tail is cut durably before anything else is written.

        Args:
            disk: where the segments are.
            salt: a secret of the data directory (its incarnation), see :mod:`.wal_frame`.
            segment_bytes: a segment that has reached this size is closed.
            retained_bytes: :meth:`compact` keeps at least this much.

        Raises:
            CorruptData: damage that no crash explains; names file, offset and the way out.
        """
        wal = cls(disk, wal_frame.salted(salt), segment_bytes, retained_bytes)
        names = sorted(name for name in disk.list() if name.startswith(_PREFIX) and name.endswith(_SUFFIX))
        for position, name in enumerate(names):
            wal._load(name, last=position == len(names) - 1)
        last = wal._entries[-1][1] if wal._entries else 1
        wal._commit = max(1, min(wal._commit, last))
        # What a killed process wrote but had not synced was read from the page cache: it must not be taken for durable,
        # let alone be acknowledged or followed by another segment, before it is.
        if names:
            disk.sync(names[-1])
        disk.sync_dir()
        return wal

    # -- hard state ---------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """Raft's current term; assigning it makes it part of the next batch."""
        return self._term

    @term.setter
    def term(self, term: int) -> None:
        if term != self._term:
            self._term, self._hard_state_moved = term, True

    @property
    def voted_for(self) -> str | None:
        """Whom this node voted for in the current term; assigning it makes it part of the next batch."""
        return self._vote

    @voted_for.setter
    def voted_for(self, node: str | None) -> None:
        if node != self._vote:
            self._vote, self._hard_state_moved = node, True

    # -- PySyncObj's journal ------------------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry. ``idx`` follows the last one; any index may begin an empty log."""
        entry = (command, idx, term)
        if not self._entries and not (self._parts and self._parts[-1] == (0, [])):
            self._parts = [(0, [])]
        self._entries.append(entry)
        if self._parts:
            _start, entries = self._parts[-1]
            if not entries or entries[-1][1] + 1 == idx:
                entries.append(entry)
                return
        self._parts.append((idx, [entry]))

    def clear(self) -> None:
        """Forget all entries (before a snapshot's)."""
        self._entries.clear()
        self._parts = [(0, [])]

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut the log from *position* ``entryFrom`` on."""
        if not entryFrom:
            self.clear()
        elif entryFrom < len(self._entries):
            index = self._entries[entryFrom][1]
            del self._entries[entryFrom:]
            self._parts.append((index, []))

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Forget the entries before *position* ``entryTo`` in memory; the files follow by :meth:`compact`."""
        del self._entries[:entryTo]

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def getRaftCommitIndex(self) -> int:
        """The commit hint: an index known to be committed (hazard 6: never beyond the log's end)."""
        return self._commit

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Note the commit index; it is written only together with something else."""
        self._commit = raftCommitIndex

    def onOneSecondTimer(self) -> None:
        """Nothing: the driver decides when to write."""

    def _destroy(self) -> None:
        """Nothing: what was not written was not promised."""

    # -- writing ------------------------------------------------------------------------------------------------

    @property
    def blank(self) -> bool:
        """Whether no batch was ever written."""
        return self._sequence == 1

    @property
    def bytes_retained(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def take(self) -> bytes | None:
        """All that has gathered since the last call, as one batch for :meth:`write`, or ``None``."""
        if not self._parts and not self._hard_state_moved:
            return None
        self._taken, self._parts, self._hard_state_moved = self._parts, [], False
        return _encoder.encode(_Batch(self._term, self._vote, self._commit, self._taken))

    def write(self, batch: bytes) -> None:
        """Append the batch and wait until the disk has it (blocking; for a thread).

        Args:
            batch: what :meth:`take` gave; batches are written in the order of their taking.

        Raises:
            OSError: the disk failed; the process must end.
        """
        segment = self._segment_for_next()
        frame = wal_frame.encode(batch, self._sequence, self._salt)
        self._disk.append(segment.name, frame)
        self._disk.sync(segment.name)
        self._note(segment, self._taken)
        self._taken = []
        segment.size += len(frame)
        self.bytes_written += len(frame)
        self._sequence += 1
        self._remove_doomed()

    def begin(self) -> None:
        """Write a first, empty batch (blocking), so that a log that is missing later can be told from a new one."""
        if self.blank:
            self.write(self.take() or _encoder.encode(_Batch(self._term, self._vote, self._commit, [])))

    def compact(self, index: int) -> None:
        """Give up whole segments whose entries all lie below ``index``, but never the last ``retained_bytes``.

        The entries are forgotten now, the files removed within the next :meth:`write`, oldest first. Entry
        ``index`` itself stays, so that its term can be asked for.

        Args:
            index: a snapshot that was synced holds all up to it.
        """
        index = min(index, self._entries[-1][1]) if self._entries else 0
        retained = self.bytes_retained
        while len(self._segments) > 1:
            segment = self._segments[0]
            if segment.greatest >= index or retained - segment.size < self._retained_bytes:
                break
            retained -= segment.size
            self._doomed.append(self._segments.pop(0))
        self._forget_dropped()

    def _forget_dropped(self) -> None:
        """Drop the entries that no segment holds any more, unless what waits to be written replaces them anyway."""
        first = next((segment.first for segment in self._segments if segment.first is not None), None)
        if first is None or not self._entries or any(start <= first for start, _ in self._parts):
            return
        if self._entries[0][1] < first:
            del self._entries[: first - self._entries[0][1]]

    def _segment_for_next(self) -> _Segment:
        """The segment to append to; a new one, durably created, when there is none or the last is full."""
        if self._segments and self._segments[-1].size < self._segment_bytes:
            return self._segments[-1]
        segment = _Segment(self._sequence)
        self._disk.create(segment.name)
        self._disk.sync(segment.name)
        self._disk.sync_dir()
        self._segments.append(segment)
        return segment

    def _remove_doomed(self) -> None:
        """Oldest first, each durably: a crash between leaves a log without a gap."""
        while self._doomed:
            self._disk.remove(self._doomed[0].name)
            self._disk.sync_dir()
            del self._doomed[0]

    def _note(self, segment: _Segment, parts: Sequence[tuple[int, list[Entry]]]) -> None:
        """Keep account of which indices stand in which segment."""
        for start, entries in parts:
            for other in self._segments:
                if other.first is not None and other.first >= start:
                    other.first = None
            if entries:
                segment.greatest = max(segment.greatest, entries[-1][1])
                if segment.first is None:
                    segment.first = entries[0][1]

    # -- loading ------------------------------------------------------------------------------------------------

    def _load(self, name: str, *, last: bool) -> None:
        segment = self._next_segment(name)
        self._segments.append(segment)
        data = memoryview(self._disk.read(name))
        for frame in wal_frame.frames(data, self._sequence, self._salt):
            self._replay(segment, frame)
        if segment.size < len(data):
            self._cut(segment, data, last=last)

    def _next_segment(self, name: str) -> _Segment:
        digits = name[len(_PREFIX) : -len(_SUFFIX)]
        try:
            segment = _Segment(int(digits, 16))
        except ValueError:
            raise _corrupt(name, 0, "its name is none of this program's") from None
        if not self._segments:
            self._sequence = segment.sequence
        if segment.sequence != self._sequence or segment.name != name:
            raise _corrupt(name, 0, f"the log before it ends at batch {self._sequence - 1}")
        return segment

    def _replay(self, segment: _Segment, frame: wal_frame.Frame) -> None:
        try:
            batch = _decoder.decode(frame.payload)
        except msgspec.MsgspecError as error:
            raise _corrupt(
                segment.name, segment.size, f"its checksum is right, its content is not ({error})"
            ) from error
        for start, entries in batch.parts:
            self._replace(segment, start, entries)
        self._term, self._vote, self._commit = batch.term, batch.vote, batch.commit
        self._note(segment, batch.parts)
        segment.size = frame.end
        self._sequence = frame.sequence + 1

    def _replace(self, segment: _Segment, start: int, entries: list[Entry]) -> None:
        log = self._entries
        if log and start <= log[-1][1]:
            del log[max(0, start - log[0][1]) :]
        if entries and log and entries[0][1] != log[-1][1] + 1:
            raise _corrupt(segment.name, segment.size, f"entry {entries[0][1]} follows entry {log[-1][1]}")
        log += entries

    def _cut(self, segment: _Segment, data: memoryview, *, last: bool) -> None:
        """Remove the torn end of the last segment, or refuse when it cannot be one."""
        offset = segment.size
        later = wal_frame.later_frame(data, offset, self._sequence, self._salt)
        if later is not None:
            raise _corrupt(segment.name, offset, f"but a later batch begins at offset {later}")
        if not last:
            raise _corrupt(segment.name, offset, "but a later segment exists")
        self._disk.truncate(segment.name, offset)
        self._disk.sync(segment.name)


def _corrupt(name: str, offset: int, why: str) -> CorruptData:
    return CorruptData(
        f"{name}: damaged at offset {offset}: {why}. No crash explains this; acknowledged writes may be missing here. "
        f"Way out: keep a copy of the data directory, empty it, remove this node from the cluster and add it again "
        f"(the other nodes send it everything), or put back a copy of the directory taken while the node was stopped."
    )
