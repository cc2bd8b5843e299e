"""PySyncObj's Raft with its holes closed: a subclass without I/O, driven by :mod:`.engine`.

Kept from the base class: election, the commit rule, the leader's fallback, the order of a tick. Replaced, each with the
hazard it answers (numbers as in ``tests/unit/raft/test_hazards*.py``): the hard state lives in the log (1-3,
:mod:`.state`), one vote a node (11), terms on every message and adoption of higher ones (10, 16), the follower's
append handler by the Raft paper (9, 12, 21), the leader's book-keeping (18), apply (13), never a dump (8, 19).
"""

from __future__ import annotations

from typing import Any

from pysyncobj import SyncObj
from pysyncobj.node import Node

from discovery.errors import CorruptData
from discovery.raft.codec import AppendEntries, Entry, NextIndex, RequestVote, ResponseVote
from discovery.raft.seam import instant
from discovery.raft.state import CANDIDATE, FOLLOWER, LEADER, State

__all__ = ["CANDIDATE", "FOLLOWER", "LEADER", "Core"]


class Core(State):
    """One member's rules. Time is :data:`.seam.instant`, frozen for a pass; messages gather in :attr:`outbox`."""

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

    def step_down(self) -> None:
        """Stop leading, or campaigning, in this term for good."""
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None
        self.election_deadline = instant.now + self._SyncObj__generateRaftTimeout()

    def up_to_date(self, last_log_term: int, last_log_index: int) -> bool:
        """Whether a log with that end may lead us (Raft section 5.4.1)."""
        return (last_log_term, last_log_index) >= (self.wal[-1][2], self.last_index)

    def on_request_vote(self, peer: str, message: RequestVote) -> None:
        """The base class decides; a refusal tells our term, so that a candidate left behind catches up."""
        late = self.outbox.late
        before = len(late)
        # Whoever asks gets an answer, member by our log or not: our log may be the one that is behind (22).
        self._base_receive(
            self.peer(peer),
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
        """One vote for each (voter, term): a doubled answer must not elect a minority (hazard 11)."""
        if not message.granted or message.term != self.term or peer in self._voters or peer not in self.voters:
            return
        self._voters.add(peer)
        self._base_receive(self.nodes[peer], {"type": "response_vote", "term": message.term})

    def _base_receive(self, node: Node, message: dict[str, Any]) -> None:
        SyncObj._SyncObj__onMessageReceived(self, node, message)

    # -- follower -----------------------------------------------------------------------------------------------

    def follow(self, peer: str) -> None:
        """A message of the leader of our term arrived: its leadership lasts a while longer.

        Raises:
            CorruptData: this node leads the same term; somebody voted twice.
        """
        if self.state == LEADER:
            raise CorruptData(f"{peer} and this node both lead term {self.term}: a vote was forgotten somewhere")
        self.heard_at = instant.now
        self.election_deadline = instant.now + self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftLeader = self.peer(peer)
        self._SyncObj__setState(FOLLOWER)

    def on_append(self, peer: str, message: AppendEntries) -> None:
        """The receiver's rules of AppendEntries (Raft figure 2), as written there and not as in the base class.

        Nothing committed and nothing that matches is ever cut: a late or repeated message must not shorten the log
        (hazard 9). A proven mismatch is cut at once, so that each question shortens the wrong tail and "go to the
        mismatch" and "go to my end" cannot chase each other (hazard 12). What is acknowledged or committed was
        verified against *this* leader (21).
        """
        if message.term < self.term:
            self.answer(peer, message.round, self.commit + 1, success=False)
            return
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
        moved = False
        for command, index, term in entries:
            self.wal.add(command, index, term)
            moved = self.electorate.follow(command, index) or moved
        if moved:
            self.members_changed()

    # -- leader -------------------------------------------------------------------------------------------------

    def on_next_index(self, peer: str, message: NextIndex) -> bool:
        """Book an acknowledgement; whether it belongs to this leadership.

        One of another term says nothing about entries of this one (hazard 10). What a follower acknowledged in this
        term it keeps: a reset at or below it is late or a lie (hazard 18). Who was removed counts no more (22).
        """
        if self.state != LEADER or message.term != self.term or not self.is_member(peer):
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
