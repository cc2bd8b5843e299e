"""Asking before campaigning (Raft thesis section 9.6), and who is answered yes.

A node that cannot win must not raise the term: that would depose a healthy leader. The base class campaigns whenever
its election deadline is past; so the deadline is held back until a majority has said yes to the present attempt.
"""

from __future__ import annotations

from discovery.raft.codec import PreVote, PreVoteResponse
from discovery.raft.core import LEADER, Core
from discovery.raft.seam import instant
from discovery.raft.types import Settings

_AT_ONCE = -1.0
"""An election deadline that is past."""

_HOLD_S = 0.05
"""How long an own attempt makes this node refuse a worse candidate: it keeps two from splitting the votes."""


class PreVoting:
    """One node's numbered attempts; any append, and any change of term, makes the present one void (hazard 16)."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self._core = core
        self._settings = settings
        self._attempt = 0
        self._term: int | None = None
        self._granted: set[str] = set()
        self._hold_until = float("-inf")
        self._won = False
        self.elections = 0
        self.may_campaign = True
        self.may_vote = True

    def void(self) -> None:
        """A leader was heard: whatever was asked before is answered by that."""
        self._term = None
        self._won = False

    def tick(self) -> None:
        """Begin an attempt when the election deadline is past."""
        core = self._core
        won, self._won = self._won, False
        if core.state == LEADER or core.election_deadline > instant.now:
            return
        may_campaign = self.may_campaign and core.standing == "voter"
        if may_campaign and (won or not core.voters):
            self.elections += 1
            core.election_deadline = _AT_ONCE
            return
        # A new attempt before the answers of this one could arrive would void them.
        core.election_deadline = instant.now + self._between(self._settings.retry_min_s, self._settings.retry_max_s)
        core.forget_leader(core.leader, core.term)
        if may_campaign and core.voters_near() >= core.majority:
            self._ask()

    def _ask(self) -> None:
        core = self._core
        self._attempt += 1
        self._term = core.term
        self._granted = set()
        self._hold_until = instant.now + _HOLD_S
        # Every term that was ever seen was adopted, so the next one is above all of them.
        question = PreVote(core.term, core.term + 1, self._attempt, core.last_index, core.wal[-1][2])
        for node in core.connected:
            if node.id in core.voters:
                core.outbox.early.append((node.id, question))

    def on_question(self, peer: str, message: PreVote) -> None:
        """Answer; nothing changes here, but that a worse attempt of our own is given up."""
        granted = self._grants(peer, message)
        if granted:
            self.void()
        self._core.outbox.early.append((peer, PreVoteResponse(self._core.term, message.attempt, granted)))

    def _grants(self, peer: str, message: PreVote) -> bool:
        core = self._core
        if not self.may_vote or core.state == LEADER or message.next_term <= core.term:
            return False
        if not core.up_to_date(message.last_log_term, message.last_log_index):
            return False
        if core.leader is not None and instant.now - core.heard_at < self._settings.election_min_s:
            return False
        # Who has won campaigns in this very pass. A yes now would void that and begin a new attempt, whose question
        # travels with the yes: the peer would do the same, and two nodes would ask each other for ever.
        return not (self._won or (self._asking() and self._better_than(peer, message)))

    def _asking(self) -> bool:
        return self._term == self._core.term and instant.now < self._hold_until

    def _better_than(self, peer: str, message: PreVote) -> bool:
        """Of two that ask each other, exactly one goes on."""
        core = self._core
        ours = (core.wal[-1][2], core.last_index, core._SyncObj__selfNode.id)
        return ours > (message.last_log_term, message.last_log_index, peer)

    def on_answer(self, peer: str, message: PreVoteResponse) -> None:
        """Count a yes to the present attempt; with a majority the base class may campaign in this pass."""
        core = self._core
        if message.attempt != self._attempt or self._term != core.term or core.state == LEADER:
            return
        if message.granted and peer in core.voters:
            self._granted.add(peer)
            if len(self._granted) + 1 >= core.majority:
                self.campaign()

    def campaign(self) -> None:
        """Let the base class hold an election in this pass."""
        self.void()
        self._won = True
        self._core.election_deadline = _AT_ONCE

    def hint(self) -> None:
        """The leader's connection was closed, or all of us just met: ask soon, each at another moment."""
        wait = self._between(self._settings.hint_min_s, self._settings.hint_max_s)
        self._core.election_deadline = min(self._core.election_deadline, instant.now + wait)

    def stood_still(self, late_s: float) -> None:
        """The process was stopped, or a sync took long: what it could not hear meanwhile counts against nobody."""
        core = self._core
        soon = instant.now + 2 * self._settings.append_period_s
        core.election_deadline = max(core.election_deadline + late_s, soon)
        for node, at in core.responded.items():
            core.responded[node] = min(at + late_s, instant.now)

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * instant.random()
