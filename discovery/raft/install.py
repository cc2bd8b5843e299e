"""A follower's side of a snapshot transfer: collect the raw file, make it durable, give it its place in log and state.

Order of safety: the file is synced and renamed by the job; then state and log move in one pass, and the
acknowledgement leaves after that pass's sync. A crash in between is healed at start (:func:`reconcile`): the snapshot
wins over a log that does not hold its last entry.
"""

from __future__ import annotations

from typing import Any

from discovery.errors import CorruptData, DiskFull
from discovery.raft.codec import SnapshotAck, SnapshotChunk
from discovery.raft.configuration import Configuration
from discovery.raft.core import Core
from discovery.raft.packing import NO_OP
from discovery.raft.types import InstallSnapshot, Job, Log, SnapshotFile, SnapshotReceiver, SnapshotStore


class Incoming:
    """The one transfer that may be arriving."""

    def __init__(self, core: Core, snapshots: SnapshotStore) -> None:
        self._core = core
        self._snapshots = snapshots
        self._receiver: SnapshotReceiver | None = None
        self._identity: tuple[int, int, int, bytes] | None = None
        self._offset = 0
        self._installing: InstallSnapshot | None = None
        self._from = ""
        self._missed: tuple[str, int, int] | None = None
        self._jobs: list[Job] = []

    @property
    def installing(self) -> bool:
        """Whether a snapshot is complete and on its way into the state."""
        return self._installing is not None

    def take_jobs(self) -> list[Job]:
        """What the driver must do."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def on_chunk(self, peer: str, message: SnapshotChunk) -> None:
        """Take the chunk if it continues what is here; the answer says where to continue.

        A snapshot at or below what is applied here is refused: it would travel back (hazard 18). "Done" is the true
        answer to it, because everything up to its index is applied, hence committed, here.
        """
        if message.index <= self._core.applied:
            self._answer(peer, message.index, message.size, done=True)
            return
        self._from = peer
        if self._installing is None:
            self._take(message)
            self._missed = None if self._offset else self._missed
        self._answer(peer, message.index, self._offset, done=False)

    def _take(self, message: SnapshotChunk) -> None:
        identity = (message.index, message.last_term, message.size, message.digest)
        if identity != self._identity:
            self._drop()
            self._identity = identity
            self._receiver = self._snapshots.receiver(*identity)
        if message.offset != self._offset or self._receiver is None:
            return
        self._receiver.append(message.data)
        self._offset += len(message.data)
        if self._offset >= message.size:
            self._installing = InstallSnapshot(message.index, message.last_term, self._receiver)
            self._jobs.append(self._installing)

    @property
    def receiving(self) -> bool:
        """Whether a part of a snapshot is here."""
        return self._receiver is not None

    def miss(self, peer: str, index: int, size: int) -> None:
        """There is no room for it: what came so far is removed, and the leader asked for it anew when there is."""
        self._missed = peer, index, size
        if self._installing is None:  # else a thread reads what came
            self._drop()

    def ask_again(self) -> bool:
        """Whether a leader was told to begin anew with what was missed, as now there seems to be room for it."""
        if self._missed is None:
            return False
        peer, index, size = self._missed
        if index <= self._core.applied:
            self._missed = None
            return False
        if peer != self._core.leader or self._snapshots.room_bytes() < size:
            return False
        self._answer(peer, index, 0, done=False)
        return True

    def _drop(self) -> None:
        if self._receiver is not None:
            self._receiver.discard()
        self._receiver, self._identity, self._offset = None, None, 0

    def _answer(self, peer: str, index: int, offset: int, *, done: bool) -> None:
        self._core.outbox.late.append((peer, SnapshotAck(self._core.term, index, offset, done)))

    def finished(self, job: InstallSnapshot, result: Any) -> bool:
        """The job ended; whether its state is to be installed. After damage the leader's next question begins anew."""
        self._installing = None
        if isinstance(result, DiskFull) and self._identity is not None:
            self._missed = self._from, job.index, self._identity[2]
        self._receiver, self._identity, self._offset = None, None, 0
        return not isinstance(result, Exception) and job.index > self._core.applied

    def place(self, index: int, term: int, members: Configuration | None) -> None:
        """Make (index, term) the applied prefix; a log that holds that entry keeps what follows it (hazards 18, 19).

        ``members``: as the snapshot has them; what the log still holds behind it goes on counting (hazard 22).
        """
        core = self._core
        if not holds(core.wal, index, term):
            core.restart_at(index, term)
        core.applied = index
        core._SyncObj__raftCommitIndex = index
        core.wal.setRaftCommitIndex(core.commit)
        core.electorate.rebuild(members, core.wal, index)
        core.members_changed()

    def acknowledge(self, index: int) -> None:
        """Tell the leader, after the sync of this pass."""
        if self._from:
            self._answer(self._from, index, 0, done=True)


def holds(wal: Log, index: int, term: int) -> bool:
    """Whether the log has the entry (index, term)."""
    first, last = wal[0][1], wal[-1][1]
    return bool(first <= index <= last and wal[index - first][2] == term)


def reconcile(wal: Log, snapshot: SnapshotFile | None) -> None:
    """At start: bring the log in line with the newest snapshot; its retained entries survive (hazard 19).

    Raises:
        CorruptData: entries between the snapshot and the log, or before a log without snapshot, are missing.
    """
    if len(wal) == 0:
        wal.add(NO_OP, 1, 0)
    first = wal[0][1]
    if snapshot is None:
        if first > 1:
            raise CorruptData(
                f"the log begins at entry {first}, and there is no snapshot of what came before. {_WAY_OUT}"
            )
        return
    if first > snapshot.index:
        raise CorruptData(f"the snapshot ends at entry {snapshot.index}, the log begins at {first}. {_WAY_OUT}")
    if not holds(wal, snapshot.index, snapshot.term):
        wal.clear()
        wal.add(NO_OP, snapshot.index, snapshot.term)
    wal.setRaftCommitIndex(max(wal.getRaftCommitIndex(), snapshot.index))


_WAY_OUT = (
    "Way out: put back the missing file, or empty the data directory, remove this node from the cluster and add "
    "it again (the other nodes send it everything)."
)
