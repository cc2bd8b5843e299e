"""PySyncObj's Raft with its holes closed: a subclass without I/O, driven by :mod:`.engine`.

Kept from the base class: election, the commit rule, the leader's fallback, the order of a tick. Replaced, each with the
hazard it answers (numbers of the hazard list in ``docs/decisions``): the hard state lives in the log (1-3), one vote a node (11), terms
on every message and adoption of higher ones (10, 16), the follower's append handler by the Raft paper (9, 12, 21), the
leader's book-keeping (18), apply (13), never a dump (8, 19).

``_SyncObj__name`` is how Python spells the base class's private ``__name``: overriding that attribute replaces it there too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node

from discovery.errors import CorruptData
from discovery.raft.codec import AppendEntries, Entry, NextIndex, RequestVote, ResponseVote
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


class Core(SyncObj):  # type: ignore[misc]
    """One member's Raft state. Time is :data:`.seam.instant`, frozen for a pass; messages gather in :attr:`outbox`.

    The owner sets :attr:`on_elected`, :attr:`on_deposed`, :attr:`on_pack` and :attr:`on_apply` before the first tick.
    """

    def __init__(self, node_id: str, peers: Sequence[str], wal: Log, settings: Settings) -> None:
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
        self.nodes: dict[str, Node] = {peer: Peer(peer) for peer in peers}
        self.on_elected: Callable[[], None] = _nothing
        self.on_deposed: Callable[[], None] = _nothing
        self.on_pack: Callable[[], None] = _nothing
        self.on_apply: Callable[[], None] = _nothing
        super().__init__(Peer(node_id), list(self.nodes.values()), configuration(settings), transport=self.outbox)
        self._poller = NoPoller()
        self._SyncObj__raftLog = wal
        self._built = True
        # Hazard 6: the hint may speak of entries that a crash took.
        self._commit = max(1, min(wal.getRaftCommitIndex(), self.last_index))
        self._voters: set[str] = set()
        self.majority = (len(self.nodes) + 1) // 2 + 1

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
            CorruptData: something committed would be cut; no protocol step leads there, so this node's data or another's is
                damaged, and going on would lose acknowledged writes.
        """
        if index <= self.commit:
            raise CorruptData(
                f"the leader's log differs at index {index}, which is committed here (up to {self.commit}): the data "
                f"directory of this node or of {self.leader} was damaged or exchanged"
            )
        self.wal.deleteEntriesFrom(index - self.first_index)
        self.durable = min(self.durable, index - 1)

    def restart_at(self, index: int, term: int) -> None:
        """Begin the log anew behind a snapshot of (index, term)."""
        self.wal.clear()
        self.wal.add(NO_OP, index, term)
        self.durable = 0

    # -- terms and votes ----------------------------------------------------------------------------------------

    def adopt(self, term: int) -> None:
        """A peer has seen a higher term: take it, with no vote, and follow (Raft section 5.1; hazard 16).

        Whoever ignores a higher term can be ignored in turn for ever: a leader whose appends are refused, a
        candidate whose pre-votes are refused.
        """
        if term > self.term:
            self._SyncObj__raftCurrentTerm = term
            self._SyncObj__setState(FOLLOWER)
            self._SyncObj__raftLeader = None

    def forget_leader(self, peer: str | None, term: int) -> None:
        """``peer`` said that it does not lead ``term`` (it never will again: a term is led once)."""
        if self.state != LEADER and self.leader == peer and term == self.term:
            self._SyncObj__raftLeader = None

    def up_to_date(self, last_log_term: int, last_log_index: int) -> bool:
        """Whether a log with that end may lead us (Raft section 5.4.1)."""
        return (last_log_term, last_log_index) >= (self.wal[-1][2], self.last_index)

    def on_request_vote(self, peer: str, message: RequestVote) -> None:
        """The base class decides; a refusal tells our term, so that a candidate left behind catches up."""
        late = self.outbox.late
        before = len(late)
        self._base_receive(
            self.nodes[peer],
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_term": message.last_log_term,
                "last_log_index": message.last_log_index,
            },
        )
        if len(late) == before:
            late.append((peer, ResponseVote(self.term, granted=False)))

    def on_response_vote(self, peer: str, message: ResponseVote) -> None:
        """One vote for each (node, term): a doubled answer must not elect a minority (hazard 11)."""
        if not message.granted or message.term != self.term or peer in self._voters:
            return
        self._voters.add(peer)
        self._base_receive(self.nodes[peer], {"type": "response_vote", "term": message.term})

    def _base_receive(self, node: Node, message: dict[str, Any]) -> None:
        SyncObj._SyncObj__onMessageReceived(self, node, message)

    # -- follower -----------------------------------------------------------------------------------------------

    def follow(self, peer: str) -> None:
        """A message of the leader of our term arrived: its leadership lasts a while longer."""
        self.heard_at = instant.now
        self.election_deadline = instant.now + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = self.nodes[peer]
        self._SyncObj__setState(FOLLOWER)

    def on_append(self, peer: str, message: AppendEntries) -> None:
        """The receiver's rules of AppendEntries (Raft figure 2), as written there and not as in the base class.

        Nothing committed and nothing that matches is ever cut: a late or repeated message must not shorten the log
        (hazard 9). A proven mismatch is cut at once, so that each question shortens the wrong tail and "go to the mismatch" and
        "go to my end" cannot chase each other (hazard 12). What is acknowledged or committed was verified against *this* leader (21).
        """
        if message.term < self.term:
            self.answer(peer, message.round, self.commit + 1, success=False)
            return
        if self.state == LEADER:
            raise CorruptData(f"{peer} and this node both lead term {self.term}: a vote was forgotten somewhere")
        self.follow(peer)
        matches, index = self._verify(message)
        if not matches:
            self.answer(peer, message.round, index, success=False, reset=True)
            return
        self._SyncObj__raftCommitIndex = min(message.commit, index)
        self.wal.setRaftCommitIndex(self.commit)
        self.answer(peer, message.round, index + 1, success=True)

    def answer(self, peer: str, number: int, following: int, *, success: bool, reset: bool = False) -> None:
        """Acknowledge, after the sync: it says that entries are durable and that a term was adopted."""
        reply = NextIndex(self.term, following, reset, success, number, self.applied)
        self.outbox.late.append((peer, reply))

    def _verify(self, message: AppendEntries) -> tuple[bool, int]:
        """Bring the log in line; (True, last index known to equal the leader's) or (False, where to continue)."""
        previous = message.prev_index
        if previous > self.last_index:
            return False, self.last_index + 1
        # Below the commit index every log that may lead agrees (Leader Completeness), so nothing is compared there; the
        # entries may not even be in the log any more.
        if previous > self.commit and self.term_at(previous) != message.prev_term:
            start = self._start_of_term(previous)
            self.cut(previous)
            return False, start
        self._merge(message.entries, previous)
        return True, max(previous + len(message.entries), self.commit)

    def _start_of_term(self, index: int) -> int:
        """First uncommitted index of the run of entries that share the term at ``index``: one question a term (5.3)."""
        term = self.term_at(index)
        while index - 1 > self.commit and self.term_at(index - 1) == term:
            index -= 1
        return index

    def _merge(self, entries: tuple[Entry, ...], previous: int) -> None:
        """Add what is new; cut only where an entry proves to be another one."""
        for position, (_, index, term) in enumerate(entries):
            if index != previous + 1 + position:
                raise CorruptData(f"the leader's entry {index} follows {previous + position}")
            if index <= self.commit:
                continue
            if index <= self.last_index:
                if self.term_at(index) == term:
                    continue
                self.cut(index)
            self._extend(entries[position:])
            return

    def _extend(self, entries: tuple[Entry, ...]) -> None:
        for command, index, term in entries:
            self.wal.add(command, index, term)

    # -- leader -------------------------------------------------------------------------------------------------

    def on_next_index(self, peer: str, message: NextIndex) -> bool:
        """Book an acknowledgement; whether it belongs to this leadership.

        One of another term says nothing about entries of this one (hazard 10). What a follower acknowledged in this
        term it keeps: a reset at or below it is late or a lie (hazard 18).
        """
        if self.state != LEADER or message.term != self.term:
            return False
        node = self.nodes[peer]
        self.responded[node] = instant.now
        if message.success and message.next - 1 <= self.last_index:
            self.match[node] = max(self.match[node], message.next - 1)
            self.next[node] = max(self.next[node], message.next)
        elif message.reset and message.next > self.match[node]:
            self.next[node] = min(message.next, self.last_index + 1)
        return True

    # -- overridden in the base class -----------------------------------------------------------------------------

    def _SyncObj__setState(self, state: int) -> None:
        before = self.state
        self._SyncObj__raftState: int = state
        if before == LEADER and state != LEADER:
            self.on_deposed()

    def _SyncObj__onBecomeLeader(self) -> None:
        SyncObj._SyncObj__onBecomeLeader(self)
        self.on_elected()

    def _SyncObj__sendAppendEntries(self) -> None:
        """The base class says when; :mod:`.replication` sends at the end of the pass, all at once."""
        self._SyncObj__newAppendEntriesTime = instant.now + self._SyncObj__conf.appendEntriesPeriod
        self.append_due = True

    def _checkCommandsToApply(self) -> None:
        """After the commit rule of the same tick: an entry added now is counted in the next pass, behind its sync."""
        if self.state == LEADER:
            self.on_pack()

    def _SyncObj__applyLogEntries(self) -> bool:
        self.on_apply()
        return False

    def _SyncObj__onMessageReceived(self, node: Node, message: dict[str, Any]) -> None:
        raise RuntimeError("messages reach the core through its own handlers only")

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise RuntimeError("snapshots are installed by the engine: PySyncObj's would clear the log (hazard 19)")

    def _SyncObj__tryLogCompaction(self) -> None:
        """The engine decides when to take a snapshot."""


def _nothing() -> None:
    return None
