"""The write-ahead log: Raft's entries, term and vote, in segments of framed batches (:mod:`.wal_frame`).

It duck-types PySyncObj's journal, so the Raft core works on it as on a list; nothing is written until the driver
asks for what has gathered (:meth:`Wal.take`) and writes it (:meth:`Wal.write`): one batch, one append, one
fdatasync. Every batch begins with the hard state (term, vote) and the commit hint, so each segment does too. No
clock, socket, thread or file of its own: all I/O goes through a :class:`Disk`.

Contract:
    * After :meth:`Wal.write` returned, :meth:`Wal.open` on the same disk gives at least that state, whatever
      crashes. An interrupted write is wholly there or wholly gone.
    * :meth:`Wal.open` never reads something else: damage before the tail raises :class:`CorruptData`.
    * :class:`DiskFull` from :meth:`Wal.write` leaves the disk as it was before, and what was taken waits for the next
      :meth:`Wal.take`. Any other exception from it is final: the caller must end the process (a second fsync after a
      failed one may report success for pages that were thrown away).
    * :meth:`Wal.open` believes no page cache: a batch whose sync may have failed is written anew before it counts.
    * Between :meth:`Wal.take` and the end of :meth:`Wal.write` (which may run in another thread) nothing but reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, overload

import msgspec

from discovery import limits
from discovery.errors import DiskFull
from discovery.raft import wal_frame
from discovery.raft.wal_segment import Batch, Entry, Segment, corrupt, ours

if TYPE_CHECKING:
    from discovery.raft.disk import Disk

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Batch)


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
        self._segments: list[Segment] = []
        self._doomed: list[Segment] = []
        self._sequence = 1
        self._tail = (0, b"")
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
        names = sorted(filter(ours, disk.list()))
        for position, name in enumerate(names):
            wal._load(name, last=position == len(names) - 1)
        last = wal._entries[-1][1] if wal._entries else 1
        wal._commit = max(1, min(wal._commit, last))
        if names:
            wal._prove(names[-1])
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
        return _encoder.encode(Batch(self._term, self._vote, self._commit, self._taken))

    def write(self, batch: bytes) -> None:
        """Append the batch and wait until the disk has it (blocking; for a thread).

        Args:
            batch: what :meth:`take` gave; batches are written in the order of their taking.

        Raises:
            DiskFull: there is no room; the disk is as it was, :meth:`take` will give all of it again.
            OSError: the disk failed; the process must end.
        """
        try:
            segment = self._append_or_make_room(batch)
        except DiskFull:
            self._parts, self._taken, self._hard_state_moved = self._taken, [], True
            raise
        self._note(segment, self._taken)
        self._taken = []
        self._remove_doomed()

    def begin(self) -> None:
        """Write a first, empty batch (blocking), so that a log that is missing later can be told from a new one."""
        if self.blank:
            self.write(self.take() or _encoder.encode(Batch(self._term, self._vote, self._commit, [])))

    def compact(self, index: int) -> None:
        """Give up whole segments whose entries all lie below ``index``, but never the last ``retained_bytes``.

        The entries are forgotten now, the files removed within the next :meth:`write`, oldest first. Entry
        ``index`` itself stays, so that its term can be asked for.

        Args:
            index: a snapshot that was synced holds all up to it.
        """
        index = min(index, self._entries[-1][1]) if self._entries else 0
        retained = self.bytes_retained
        while len(self._segments) > 1 and self._segments[1].size:  # the hard state stands in every batch: one must stay
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

    def _append_or_make_room(self, batch: bytes) -> Segment:
        """Append durably. On a full disk, segments that are given up anyway go first, as long as a batch remains."""
        try:
            return self._append(batch)
        except DiskFull:
            if not self._doomed or not any(segment.size for segment in self._segments):
                raise
        self._remove_doomed()
        return self._append(batch)

    def _append(self, batch: bytes) -> Segment:
        segment = self._segment_for_next()
        frame = wal_frame.encode(batch, self._sequence, self._salt)
        try:
            self._disk.append(segment.name, frame)
        except DiskFull:
            # The part that was written would otherwise stand between this batch and the next attempt. It is no matter
            # if the cut is lost in a crash: then it is the torn tail that the next start cuts.
            self._disk.truncate(segment.name, segment.size)
            raise
        self._disk.sync(segment.name)
        segment.size += len(frame)
        self.bytes_written += len(frame)
        self._sequence += 1
        return segment

    def _segment_for_next(self) -> Segment:
        """The segment to append to; a new one, durably created, when there is none or the last is full."""
        if self._segments and self._segments[-1].size < self._segment_bytes:
            return self._segments[-1]
        segment = Segment(self._sequence)
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

    def _note(self, segment: Segment, parts: Sequence[tuple[int, list[Entry]]]) -> None:
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
        begin = 0
        for frame in wal_frame.frames(data, self._sequence, self._salt):
            begin = segment.size
            self._replay(segment, frame)
        self._tail = (begin, bytes(data[begin : segment.size]))
        if segment.size < len(data):
            self._cut(segment, data, last=last)

    def _prove(self, name: str) -> None:
        """Make durable what may have been read from the page cache only, before anything rests on it.

        A killed process may not have come to its sync; and one whose sync *failed* leaves pages that the kernel calls
        clean and that are not on the medium, so that another sync reports success for them. Only the last batch can be
        such: the one before was synced before it was written. Its own bytes are written over it, which harms nothing
        that is there, and now the sync must fetch them.
        """
        offset, last_batch = self._tail
        if last_batch:
            self._disk.rewrite(name, offset, last_batch)
        self._disk.sync(name)

    def _next_segment(self, name: str) -> Segment:
        segment = Segment.of(name)
        if not self._segments:
            self._sequence = segment.sequence
        if segment.sequence != self._sequence or segment.name != name:
            raise corrupt(name, 0, f"the log before it ends at batch {self._sequence - 1}")
        return segment

    def _replay(self, segment: Segment, frame: wal_frame.Frame) -> None:
        try:
            batch = _decoder.decode(frame.payload)
        except msgspec.MsgspecError as error:
            raise corrupt(segment.name, segment.size, f"its checksum is right, its content is not ({error})") from error
        for start, entries in batch.parts:
            self._replace(segment, start, entries)
        self._term, self._vote, self._commit = batch.term, batch.vote, batch.commit
        self._note(segment, batch.parts)
        segment.size = frame.end
        self._sequence = frame.sequence + 1

    def _replace(self, segment: Segment, start: int, entries: list[Entry]) -> None:
        log = self._entries
        if log and start <= log[-1][1]:
            del log[max(0, start - log[0][1]) :]
        if entries and log and entries[0][1] != log[-1][1] + 1:
            raise corrupt(segment.name, segment.size, f"entry {entries[0][1]} follows entry {log[-1][1]}")
        log += entries

    def _cut(self, segment: Segment, data: memoryview, *, last: bool) -> None:
        """Remove the torn end of the last segment, or refuse when it cannot be one."""
        offset = segment.size
        later = wal_frame.later_frame(data, offset, self._sequence, self._salt)
        if later is not None:
            raise corrupt(segment.name, offset, f"but a later batch begins at offset {later}")
        if not last:
            raise corrupt(segment.name, offset, "but a later segment exists")
        if wal_frame.strangers(data, offset):
            raise corrupt(segment.name, offset, "what follows was written for another data directory (its identity)")
        self._disk.truncate(segment.name, offset)
        self._disk.sync(segment.name)
