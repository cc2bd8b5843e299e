"""What the rooms of Raft agree on: protocols of the seams, and the structs that cross them.

The engine (:mod:`.engine`) is sans-I/O: events go in, :class:`Output` comes out. Its driver (asyncio, or the
simulator in virtual time) does this, and nothing else, in a loop::

    output = engine.step()                      # the pass of one wake-up
    send(output.early)                          # append_entries, forwarded proposals: their term is already durable
    for job in output.jobs: run_job(job) in a thread, afterwards engine.job_done(job, result)
    if output.batch is not None:
        wal.write(output.batch)                 # in a thread; the engine is not touched except by events
    engine.synced()                             # always, also without a batch
    send(output.late)                           # votes, acknowledgements: they speak of what is durable now
    (or, when writing raised DiskFull: engine.unsynced(why), and output.late is dropped: nothing of it may be promised)
    answer(output.resolved, output.confirmed, output.readable)
    wait for an event or until engine.next_deadline()

Events (:meth:`EngineAPI.receive`, ``connected``, ``disconnected``, ``propose``, ``confirm``, ``read_index``,
``job_done``) only queue and may come at any time, also during the sync; after each, step again. If writing raises,
end the process at once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

import msgspec

from discovery import levels, limits
from discovery.command import Meta
from discovery.errors import DiskFull
from discovery.raft.codec import RaftMessage
from discovery.raft.configuration import Change, Configuration, before_state, split
from discovery.raft.status import CertificateStatus as CertificateStatus
from discovery.raft.status import DiskStatus as DiskStatus
from discovery.raft.status import EngineStatus as EngineStatus
from discovery.raft.status import MemberStatus as MemberStatus
from discovery.raft.status import PeerStatus as PeerStatus
from discovery.raft.status import RaftStatus as RaftStatus
from discovery.raft.status import Role as Role


class Machine(Protocol):
    """The replicated state machine, as the engine sees it."""

    @property
    def time_ms(self) -> int:
        """Log time of the last command applied (0: none); the next leader's log time never falls below it."""

    def apply(self, command: bytes, meta: Meta) -> object:
        """Apply one committed command; the value goes to the proposer. Deterministic and total (hazard 13)."""

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """A cheap copy now; the function returned produces chunks (<= SNAPSHOT_CHUNK_BYTES), maybe in a thread."""

    def load(self, chunks: Iterator[bytes]) -> Any:
        """Build a state from a snapshot's chunks without touching the present one; may run in a thread.

        Raises:
            CorruptData: the chunks are no state.
        """

    def install(self, state: Any) -> None:
        """Make what :meth:`load` built the present state."""

    def role(self, role: Role, term: int, leader: str | None, ready: bool) -> None:
        """Called on every change of any argument. ``ready``: leader, and the no-op of its term is applied."""


class Log(Protocol):
    """The write-ahead log (:class:`discovery.raft.wal.Wal`), as the engine sees it; PySyncObj's journal and more."""

    term: int
    voted_for: str | None

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry."""

    def clear(self) -> None:
        """Forget all entries."""

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Cut from a *position* on."""

    def __getitem__(self, item: Any) -> Any: ...
    def __len__(self) -> int: ...
    def getRaftCommitIndex(self) -> int:
        """The commit hint."""

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Note the commit index; written only with something else."""

    def take(self) -> bytes | None:
        """What has gathered, as one batch."""

    def compact(self, index: int) -> None:
        """Give up what a durable snapshot at ``index`` holds, but not entry ``index`` itself."""

    @property
    def bytes_retained(self) -> int:
        """Bytes on the disk."""

    @property
    def bytes_written(self) -> int:
        """Bytes written since the start; only grows."""


class SnapshotFile(Protocol):
    """A finished snapshot. It stays readable while held, also after a newer one replaced it (or raises OSError)."""

    @property
    def index(self) -> int:
        """Last log index it holds."""

    @property
    def term(self) -> int:
        """The term of that entry."""

    @property
    def size(self) -> int:
        """Bytes of the raw file."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the raw file."""

    def read(self, offset: int, size: int) -> bytes:
        """Raw bytes of the file (for a transfer)."""

    def chunks(self) -> Iterator[bytes]:
        """What the writer was given, chunk by chunk, checksums verified; raises CorruptData."""


class SnapshotWriter(Protocol):
    """A snapshot being written here."""

    def append(self, chunk: bytes) -> None:
        """Add a chunk."""

    def commit_sync(self) -> SnapshotFile:
        """fsync, rename, fsync the directory, remove older ones (blocking)."""

    def discard(self) -> None:
        """Forget what was written."""


class SnapshotReceiver(Protocol):
    """A snapshot file arriving from the leader, raw."""

    def append(self, data: bytes) -> None:
        """Add the bytes that follow."""

    def commit_sync(self) -> SnapshotFile:
        """Verify size, SHA-256 and checksums, then as :meth:`SnapshotWriter.commit_sync`; raises CorruptData."""

    def discard(self) -> None:
        """Forget what was written."""


class SnapshotStore(Protocol):
    """Where snapshots are."""

    def latest(self) -> SnapshotFile | None:
        """The newest finished one; raises CorruptData when it cannot be read (hazard 8: that stops the node)."""

    def writer(self, index: int, term: int) -> SnapshotWriter:
        """Begin a snapshot of the state at ``index``."""

    def receiver(self, index: int, term: int, size: int, digest: bytes) -> SnapshotReceiver:
        """Begin to receive a file."""

    def room_bytes(self) -> int:
        """How many bytes there is room for, as far as the file system says."""


class SaveSnapshot(msgspec.Struct, frozen=True, eq=False):
    """Job: write a snapshot of state and members at ``index``."""

    index: int
    term: int
    produce: Callable[[], Iterator[bytes]]
    members: Configuration = Configuration({})


class InstallSnapshot(msgspec.Struct, frozen=True, eq=False):
    """Job: make a received snapshot durable and build its state."""

    index: int
    term: int
    receiver: SnapshotReceiver


Job = SaveSnapshot | InstallSnapshot


def loaded(
    snapshot: SnapshotFile, machine: Machine, known_level: int = levels.LEVEL
) -> tuple[Configuration | None, Any]:
    """Members (``None``: nothing was changed before it) and state of a snapshot; raises CorruptData, Beyond."""
    members, chunks = split(snapshot.chunks())
    if members is not None:
        levels.check(members.level, known_level, "the snapshot is that of a cluster")
    return members, machine.load(chunks)


def run_job(job: Job, snapshots: SnapshotStore, machine: Machine) -> Any:
    """Do a job's blocking work (in a thread); its value goes into ``engine.job_done``.

    Raises:
        OSError: the disk failed; the process must end.
        CorruptData: a received snapshot is damaged; give the exception to ``engine.job_done``.
        DiskFull: what was written so far is removed; give the exception to ``engine.job_done``.
    """
    if isinstance(job, InstallSnapshot):
        return loaded(job.receiver.commit_sync(), machine)
    writer = snapshots.writer(job.index, job.term)
    try:
        for chunk in before_state(job.members, job.produce()):
            writer.append(chunk)
        writer.commit_sync()
    except DiskFull:
        writer.discard()
        raise
    return None


class Output(msgspec.Struct, eq=False):
    """What a pass asks of the driver.

    Args:
        early: may leave before the sync. One message object may stand for several peers: encode it once.
        batch: bytes for ``wal.write``, or ``None``.
        late: must leave after the sync, in this order.
        jobs: blocking work for a thread, beside everything else.
        resolved: (token of ``propose``, result of ``apply`` or an exception), to be answered after the sync.
        confirmed: (token of ``confirm``, term or NotApplied).
        readable: (token of ``read_index``, index now applied or Unavailable).
    """

    early: list[tuple[str, RaftMessage]] = []
    batch: bytes | None = None
    late: list[tuple[str, RaftMessage]] = []
    jobs: list[Job] = []
    resolved: list[tuple[Hashable, object]] = []
    confirmed: list[tuple[Hashable, int | Exception]] = []
    readable: list[tuple[Hashable, int | Exception]] = []


class Settings(msgspec.Struct, frozen=True):
    """Times in seconds and sizes in bytes; slow disks or loaded hosts double the times."""

    election_min_s: float = 0.5
    election_max_s: float = 1.0
    append_period_s: float = 0.1
    fallback_s: float = 1.0
    hint_min_s: float = 0.010
    hint_max_s: float = 0.160
    retry_min_s: float = 0.125
    retry_max_s: float = 0.25
    stall_s: float = 0.25
    transfer_s: float = 1.0
    batch_bytes: int = 1024 * 1024
    entry_bytes: int = limits.ENTRY_BYTES_MAX
    window_bytes: int = 4 * 1024 * 1024
    chunk_bytes: int = limits.SNAPSHOT_CHUNK_BYTES
    chunks_in_flight: int = 4
    snapshot_bytes: int = limits.SNAPSHOT_LOG_BYTES_MIN
    waiting_max: int = limits.PROPOSALS_WAITING_MAX
    waiting_bytes_max: int = limits.PROPOSALS_WAITING_BYTES_MAX


class EngineAPI(Protocol):
    """The engine's public methods.

    Constructor::

        Engine(*, node_id: str, peers: Sequence[str], wal: Log, snapshots: SnapshotStore, machine: Machine,
               clock: Callable[[], float], wall_ms: Callable[[], int], random: random.Random,
               settings: Settings = Settings(), incarnation: str = "", members: Configuration | None = None,
               level: int = LEVEL)

    ``members`` were founded (or, for tests, are this node and ``peers``): what snapshot and log say goes before them.
    ``level`` is the highest feature level that this node knows.
    ``clock`` is monotonic seconds, the one that ``next_deadline`` speaks of;
    ``random`` must differ from process to process (it also names this incarnation of the process). It loads the
    newest snapshot (blocking) and raises CorruptData.

    ``before_round``: attribute, ``Callable[[], None] | None``; called inside ``step`` before a round is answered;
    what it hands to the transport stands before the answer in the stream.
    """

    before_round: Callable[[], None] | None

    def receive(self, peer: str, message: RaftMessage) -> None:
        """A message of a member, of its present connection only."""

    def connected(self, peer: str, incarnation: str = "") -> None:
        """A stream to and from a node of this cluster begins. Loss within it is impossible: a dropped frame ends it.

        ``incarnation``: of its data directory; only with the one in the configuration the node counts as a member.
        """

    def met(self, peer: str, incarnation: str) -> None:
        """A node with an empty data directory is connected: a learner of that id may be waited for."""

    def knows(self, peer: str, level: int) -> None:
        """A node announced the highest feature level that it knows; what was never announced holds the cluster's."""

    def told(self, index: int) -> None:
        """Others have applied a configuration, at ``index``, in which this node is not."""

    def change(self, token: Hashable, change: Change) -> None:
        """Leader only: add or remove a member; the answer (a :class:`Configuration`) comes in ``Output.resolved``."""

    def members(self) -> tuple[Configuration, Configuration]:
        """The configurations (in effect, applied)."""

    def disconnected(self, peer: str, hint: bool = True) -> None:
        """The stream ended; ``hint``: the peer's side was closed, its process may be dead."""

    def propose(self, token: Hashable, command: bytes, deadline: float, term: int | None = None) -> None:
        """Replicate a command; the answer comes in ``Output.resolved`` under ``token``.

        Args:
            token: given back with the answer.
            command: at most COMMAND_BYTES_MAX bytes.
            deadline: on ``clock``; then OutcomeUnknown, or NotApplied if it surely was not.
            term: given: decided by the leader of that term; dropped (NotApplied) by any change of role or term, never
                forwarded.
        """

    def confirm(self, token: Hashable) -> None:
        """Leader only: a round that begins after this call; answered in ``Output.confirmed``."""

    def read_index(self, token: Hashable, deadline: float) -> None:
        """Any node: answered in ``Output.readable`` once local state holds all acknowledged before this call."""

    def transfer(self, peer: str) -> None:
        """Leader only: hand leadership to ``peer``; given up after ``transfer_s``."""

    def job_done(self, job: Job, result: Any) -> None:
        """A job of an output ended with this value (or CorruptData)."""

    def step(self) -> Output:
        """One pass; raises CorruptData or RuntimeError: end the process."""

    def synced(self) -> None:
        """The batch of the last output is on the disk."""

    def unsynced(self, cause: str) -> None:
        """Instead of ``synced``: there was no room for the batch (``cause``: for people); nothing of it was written."""

    def next_deadline(self) -> float:
        """When to step next although nothing happened (on ``clock``; ``inf``: never)."""

    def status(self) -> EngineStatus:
        """The Raft state of this node."""
