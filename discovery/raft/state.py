"""A member's Raft state: PySyncObj's fields under plain names, with term, vote and log in our own log on the disk.

``_SyncObj__name`` is how Python spells the base class's private ``__name``: overriding that attribute replaces it
there too. A property on the subclass wins over the base class's assignments, so none of them can be forgotten.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node

from discovery.errors import CorruptData
from discovery.raft.codec import Entry
from discovery.raft.configuration import Electorate, Standing
from discovery.raft.packing import NO_OP
from discovery.raft.seam import NoPoller, Outbox, instant
from discovery.raft.types import Log, Settings

FOLLOWER: Final = 0
CANDIDATE: Final = 1
LEADER: Final = 2
_NEVER: Final = 10**9


def configuration(settings: Settings) -> SyncObjConf:
    """PySyncObj's configuration: no thread, no files, no pickled membership, our times."""
    return SyncObjConf(
        autoTick=False,
        appendEntriesUseBatch=True,
        commandsWaitLeader=False,
        raftMinTimeout=settings.election_min_s,
        raftMaxTimeout=settings.election_max_s,
        appendEntriesPeriod=settings.append_period_s,
        leaderFallbackTimeout=settings.fallback_s,
        connectionTimeout=10 * settings.election_max_s,
        appendEntriesBatchSizeBytes=settings.batch_bytes,
        logCompactionMinEntries=_NEVER,
        logCompactionMinTime=_NEVER,
        dynamicMembershipChange=False,
        journalFile=None,
        fullDumpFile=None,
    )


class Peer(Node):  # type: ignore[misc]
    """A member. Its hash is the same in every process, so that sets of members are walked in one order (simulation)."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._hash = zlib.crc32(id.encode())

    def __hash__(self) -> int:
        return self._hash


class State(SyncObj):  # type: ignore[misc]
    """One member's Raft state. Time is :data:`.seam.instant`, frozen for a pass; messages gather in :attr:`outbox`.

    The owner sets :attr:`on_elected`, :attr:`on_deposed`, :attr:`on_members`, :attr:`on_pack` and :attr:`on_apply`
    before the first tick.

    PySyncObj's set of other nodes are the voters: its majorities are counted there. Learners are what it calls
    read-only nodes. :mod:`.configuration` says who is what.
    """

    def __init__(self, node_id: str, incarnation: str, electorate: Electorate, wal: Log, settings: Settings) -> None:
        if len(wal) == 0:
            wal.add(NO_OP, 1, 0)
        self.wal = wal
        self._built = False  # until the base class has set its zeroes, hard state and commit index are not touched
        self._commit = 1
        self._SyncObj__newAppendEntriesTime = 0.0
        self.hard_moved = False
        """Whether term or vote moved since this flag was cleared: then nothing may be sent before the sync."""
        self.durable = 0
        """Last log index known to be on the disk; the leader counts itself only up to here."""
        self.append_due = False
        self.heard_at = float("-inf")
        self.outbox = Outbox()
        self.node_id, self.incarnation, self.electorate = node_id, incarnation, electorate
        self.links: dict[str, str] = {}
        """Who has a stream to this node, with the incarnation of its data directory: members, and others (22)."""
        self.told = 0
        """Index of the configuration by which, as others say, this node is no member any more."""
        self.nodes: dict[str, Node] = {peer: Peer(peer) for peer in electorate.active.members if peer != node_id}
        self.on_elected: Callable[[], None] = _nothing
        self.on_members: Callable[[], None] = _nothing
        self.on_deposed: Callable[[], None] = _nothing
        self.on_pack: Callable[[], None] = _nothing
        self.on_apply: Callable[[], None] = _nothing
        super().__init__(Peer(node_id), [], configuration(settings), transport=self.outbox)
        self._poller = NoPoller()
        self._SyncObj__raftLog = wal
        self._built = True
        # Hazard 6: the hint may speak of entries that a crash took.
        self._commit = max(1, min(wal.getRaftCommitIndex(), self.last_index))
        self._voters: set[str] = set()
        self._count_members()

    # -- members (hazards 15 and 22) --------------------------------------------------------------------------------

    def members_changed(self) -> None:
        """What snapshot and log say of the members moved: it is in effect at once, whether committed or not."""
        known, members = self.nodes, self.electorate.active.members
        self.nodes = {
            peer: known[peer] if peer in known and self._counted.get(peer) == member.incarnation else Peer(peer)
            for peer, member in members.items()
            if peer != self.node_id
        }
        for peer, node in known.items():
            if self.nodes.get(peer) is not node:  # removed, or the same id with another data directory: forget it
                self.connected.discard(node)
                for table in (self.match, self.next, self.responded):
                    table.pop(node, None)
        if self.state == LEADER:
            for node in self.nodes.values():
                if node not in self.match:
                    self.match[node], self.next[node] = 0, self.last_index + 1
                    self.responded[node] = instant.now
        self._count_members()
        self.on_members()

    def _count_members(self) -> None:
        active = self.electorate.active
        self._counted = {peer: member.incarnation for peer, member in active.members.items()}
        self.voters = active.voters() - {self.node_id}
        voting = {self.nodes[peer] for peer in self.voters}
        self._SyncObj__otherNodes = voting
        self._SyncObj__readonlyNodes = set(self.nodes.values()) - voting
        self.majority = (len(self.voters) + 1) // 2 + 1

    @property
    def standing(self) -> Standing:
        """What this node is: by its own log, or by what others told of a later configuration."""
        active = self.electorate.active
        if self.told > active.index:
            return "removed"
        return active.standing(self.node_id, self.incarnation)

    def is_member(self, peer: str) -> bool:
        """Whether the peer, with the data directory it has, is in the configuration in effect."""
        return peer in self.nodes and self.links.get(peer) == self._counted[peer]

    def peer(self, peer: str) -> Node:
        """The peer, member or not."""
        return self.nodes.get(peer) or Peer(peer)

    def voters_near(self) -> int:
        """Voters that this node can ask, itself included."""
        return len(self._SyncObj__otherNodes & self.connected) + 1

    def append_members(self, command: bytes) -> None:
        """Leader: change who counts; in effect from this very entry on."""
        index = self.last_index + 1
        self.wal.add(command, index, self.term)
        if self.electorate.follow(command, index):
            self.members_changed()

    # -- hard state (hazards 1-3): every assignment in the base class passes through here ---------------------------

    @property
    def _SyncObj__raftCurrentTerm(self) -> int:
        return self.wal.term

    @_SyncObj__raftCurrentTerm.setter
    def _SyncObj__raftCurrentTerm(self, term: int) -> None:
        if not self._built or term == self.wal.term:
            return
        assert term > self.wal.term, "a term never falls"
        # A vote belongs to one term: both move in one batch, so no crash can pair a new term with an old vote.
        self.wal.term, self.wal.voted_for = term, None
        self._voters = set()
        self.hard_moved = True

    @property
    def _SyncObj__votedForNodeId(self) -> str | None:
        return self.wal.voted_for

    @_SyncObj__votedForNodeId.setter
    def _SyncObj__votedForNodeId(self, node_id: str | None) -> None:
        if self._built and node_id != self.wal.voted_for:
            self.wal.voted_for = node_id
            self.hard_moved = True

    @property
    def _SyncObj__raftCommitIndex(self) -> int:
        return self._commit

    @_SyncObj__raftCommitIndex.setter
    def _SyncObj__raftCommitIndex(self, index: int) -> None:
        """Never falls; at a leader never passes what its own disk holds.

        The base class counts the leader for every entry of its log, also one that it added in this very tick (the no-op
        of a cluster of one). Below the clamp the entry is on a majority of disks, if its term is the leader's own
        (Raft section 5.4.2); otherwise nothing may be concluded.
        """
        if not self._built:
            return
        if self._SyncObj__raftState == LEADER and index > self.durable:
            index = self.durable
            if index > self._commit and self.term_at(index) != self.term:
                return
        self._commit = max(self._commit, index)

    # -- plain views --------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        """Current term."""
        return self.wal.term

    @property
    def commit(self) -> int:
        """Commit index."""
        return self._commit

    @property
    def state(self) -> int:
        """FOLLOWER, CANDIDATE or LEADER."""
        state: int = self._SyncObj__raftState
        return state

    @property
    def leader(self) -> str | None:
        """The leader this node follows (itself when it leads)."""
        node = self._SyncObj__raftLeader
        return None if node is None else node.id

    @property
    def applied(self) -> int:
        """Last applied index."""
        index: int = self._SyncObj__raftLastApplied
        return index

    @applied.setter
    def applied(self, index: int) -> None:
        self._SyncObj__raftLastApplied = index

    @property
    def ready(self) -> bool:
        """Leader, and the no-op of its own term is committed and applied: only now its state is the newest."""
        return self.state == LEADER and self.applied >= self._SyncObj__noopIDx

    @property
    def election_deadline(self) -> float:
        """When a follower begins to campaign."""
        deadline: float = self._SyncObj__raftElectionDeadline
        return deadline

    @election_deadline.setter
    def election_deadline(self, deadline: float) -> None:
        self._SyncObj__raftElectionDeadline = deadline

    @property
    def next_append(self) -> float:
        """When a leader sends its next heartbeat."""
        deadline: float = self._SyncObj__newAppendEntriesTime
        return deadline

    @property
    def connected(self) -> set[Node]:
        """Peers with a stream."""
        nodes: set[Node] = self._SyncObj__connectedNodes
        return nodes

    @property
    def match(self) -> dict[Node, int]:
        """Leader: last index verified and durable at each peer."""
        indices: dict[Node, int] = self._SyncObj__raftMatchIndex
        return indices

    @property
    def next(self) -> dict[Node, int]:
        """Leader: next index to send to each peer."""
        indices: dict[Node, int] = self._SyncObj__raftNextIndex
        return indices

    @property
    def responded(self) -> dict[Node, float]:
        """Leader: when each peer last answered."""
        times: dict[Node, float] = self._SyncObj__lastResponseTime
        return times

    # -- log ----------------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """Index of the first entry in the log; its term is known, the ones before are gone."""
        index: int = self.wal[0][1]
        return index

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        index: int = self.wal[-1][1]
        return index

    def term_at(self, index: int) -> int:
        """The term of an entry in the log."""
        term: int = self.wal[index - self.first_index][2]
        return term

    def entries_from(self, index: int, bytes_max: int) -> tuple[Entry, ...]:
        """Entries from ``index`` on, at least one, up to about ``bytes_max`` bytes."""
        position = index - self.first_index
        end, size = position, 0
        for end in range(position, len(self.wal)):
            size += len(self.wal[end][0])
            if size >= bytes_max:
                break
        return tuple(self.wal[position : end + 1])

    def cut(self, index: int) -> None:
        """Remove entries from ``index`` on: only what is proven to differ from the leader's log comes here.

        Raises:
            CorruptData: something committed would be cut; no protocol step leads there, so this node's data or
            another's is
                damaged, and going on would lose acknowledged writes.
        """
        if index <= self.commit:
            raise CorruptData(
                f"the leader's log differs at index {index}, which is committed here (up to {self.commit}): the data "
                f"directory of this node or of {self.leader} was damaged or exchanged"
            )
        self.wal.deleteEntriesFrom(index - self.first_index)
        self.durable = min(self.durable, index - 1)
        if self.electorate.cut(index):
            self.members_changed()

    def restart_at(self, index: int, term: int) -> None:
        """Begin the log anew behind a snapshot of (index, term)."""
        self.wal.clear()
        self.wal.add(NO_OP, index, term)
        self.durable = 0


def _nothing() -> None:
    return None
