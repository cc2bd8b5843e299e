"""Confirmed leadership: rounds at the leader (DESIGN guarantee 5), and reads that rest on them at any node.

A round numbered n is answered by a follower's acknowledgement that echoes n in the same term. A majority of answers
meets every majority of votes: so nobody else was elected, in any later term, before the round began. No clock is
believed. One round is in flight, the next begins when it ends, and each serves all that came before it began.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

import msgspec

from discovery.errors import NotApplied, Unavailable
from discovery.raft.codec import ReadIndex, ReadIndexReply

_RETRY_S: Final = 0.05


class Confirmation(msgspec.Struct, frozen=True):
    """Somebody waits for a round: a caller of ``confirm``."""

    token: Hashable


class LocalRead(msgspec.Struct, frozen=True):
    """Somebody waits for a round: reads of this node."""

    reads: list[tuple[Hashable, float]]


class RemoteRead(msgspec.Struct, frozen=True):
    """Somebody waits for a round: reads of a follower."""

    peer: str
    token: int


Waiter = Confirmation | LocalRead | RemoteRead


class Rounds:
    """The leader's rounds. ``number`` only grows, over all terms, so that no echo is ambiguous."""

    def __init__(self, majority: int) -> None:
        self._majority = majority
        self._waiting: list[Waiter] = []
        self._flying: list[Waiter] = []
        self._answered: set[str] = set()
        self._index = 0
        self.number = 0

    def members_changed(self, voters: frozenset[str], majority: int) -> None:
        """Other members count from now on.

        That holds for the round in flight too: whoever was elected before it began had a majority of the members
        before or after one step, and each of those shares a voter with each majority of the members now.
        """
        self._answered &= voters
        self._majority = majority

    def wait(self, waiter: Waiter) -> None:
        """Join the next round."""
        self._waiting.append(waiter)

    def begin(self, commit: int) -> bool:
        """Begin the next round if somebody waits and none is in flight; ``commit`` is the index its reads need."""
        if self._flying or not self._waiting:
            return False
        self._flying, self._waiting = self._waiting, []
        self._answered = set()
        self._index = commit
        self.number += 1
        return True

    def answer(self, peer: str, number: int) -> None:
        """A follower echoed ``number`` in this term."""
        if self._flying and number >= self.number:
            self._answered.add(peer)

    def finish(self) -> tuple[int, list[Waiter]] | None:
        """(index, those served) when the round in flight has its majority."""
        if not self._flying or len(self._answered) + 1 < self._majority:
            return None
        served, self._flying = self._flying, []
        return self._index, served

    def abort(self) -> list[Waiter]:
        """The leadership ended: those that waited in vain."""
        waiters = self._flying + self._waiting
        self._flying, self._waiting = [], []
        return waiters


class Reads:
    """Linearizable reads of this node: they need an index from the leader, then wait until it is applied here."""

    def __init__(self, counter: int) -> None:
        """``counter``: random, so that an answer to what a former process asked fits no question of this one."""
        self._pending: list[tuple[Hashable, float]] = []
        self._asked: list[tuple[Hashable, float]] = []
        self._asked_whom: str | None = None
        self._asked_term = 0
        self._known: list[tuple[int, Hashable, float]] = []
        self._counter = counter
        self._not_before = float("-inf")
        self.readable: list[tuple[Hashable, int | Exception]] = []

    def wait(self, token: Hashable, deadline: float) -> None:
        """A read begins."""
        self._pending.append((token, deadline))

    def take_local(self) -> LocalRead | None:
        """At the leader: all that have no index yet."""
        if not self._pending:
            return None
        taken, self._pending = self._pending, []
        return LocalRead(taken)

    def back(self, read: LocalRead) -> None:
        """Their leadership ended: they look for another."""
        self._pending += read.reads

    def ask(self, leader: str, term: int, now: float) -> ReadIndex | None:
        """At a follower: the question for the leader, when one is needed and none is on its way."""
        if not self._pending or self._asked_whom is not None or now < self._not_before:
            return None
        self._counter += 1
        self._asked, self._pending = self._pending, []
        self._asked_whom, self._asked_term = leader, term
        return ReadIndex(term, self._counter)

    def lost(self, peer: str | None) -> None:
        """The stream to ``peer`` ended, or (``None``) leadership changed: ask again."""
        if self._asked_whom is not None and (peer is None or peer == self._asked_whom):
            self._pending = self._asked + self._pending
            self._asked, self._asked_whom = [], None
            self._counter += 1

    def on_reply(self, message: ReadIndexReply, now: float) -> int:
        """The leader's answer; the term it was asked in when it says that it does not lead, else 0."""
        if message.token != self._counter or self._asked_whom is None:
            return 0
        if message.index is None:
            self.lost(None)
            self._not_before = now + _RETRY_S
            return self._asked_term
        self.know(message.index, self._asked)
        self._asked, self._asked_whom = [], None
        return 0

    def know(self, index: int, reads: list[tuple[Hashable, float]]) -> None:
        """These reads need ``index``."""
        self._known += [(index, token, deadline) for token, deadline in reads]

    def applied(self, index: int) -> None:
        """Local state holds everything up to ``index``."""
        if self._known:
            self.readable += [(token, index) for needed, token, _ in self._known if needed <= index]
            self._known = [known for known in self._known if known[0] > index]

    def expire(self, now: float) -> None:
        """Answer those whose time is over."""
        if self.next_deadline() > now:
            return
        error = Unavailable("no leader confirmed the read in time")
        waiting = self._pending + self._asked + [(token, deadline) for _, token, deadline in self._known]
        self.readable += [(token, error) for token, deadline in waiting if deadline <= now]
        self._pending = [read for read in self._pending if read[1] > now]
        self._asked = [read for read in self._asked if read[1] > now]
        self._known = [known for known in self._known if known[2] > now]

    def next_deadline(self) -> float:
        """The earliest deadline of a read, or when to ask again."""
        deadlines = [deadline for _, deadline in self._pending]
        deadlines += [deadline for _, deadline in self._asked]
        deadlines += [deadline for _, _, deadline in self._known]
        return min(deadlines, default=float("inf"))

    def retry_at(self, now: float) -> float:
        """When a refused question may be asked again (``inf``: nothing waits for that)."""
        return self._not_before if self._pending and self._not_before > now else float("inf")


def failed(waiter: Confirmation) -> tuple[Hashable, NotApplied]:
    """The answer to a confirmation whose leadership ended."""
    return waiter.token, NotApplied("this node does not lead (any more)")
