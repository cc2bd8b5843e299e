"""Commands that wait for their outcome, at the node whose callers proposed them. Pure.

What is known about a command decides its answer (guarantee 7, no silent maybe):

* A command travels under a *wire id* (incarnation of this process, counter), and only to the leader of one term: that
  leader alone may append it, in that term (hazard 24). So when an entry of a higher term is applied and the wire id was
  not, it is *surely dead*: it is proposed again, under a new wire id, within its deadline.
* A refusal proves something only when it answers the only copy: a copy lost with a connection may be in the log.
* Over a snapshot install commands are applied unseen: what may be inside is answered "outcome unknown".
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from typing import Final

import msgspec

from discovery.errors import NotApplied, OutcomeUnknown, Overloaded, TooLarge
from discovery.raft.codec import Item
from discovery.raft.packing import ITEM_BYTES
from discovery.raft.types import Settings

_SLOT_S: Final = 0.05
"""Deadlines are looked at in slots, so that a command costs no heap operation."""


class Proposal(msgspec.Struct, eq=False):
    """A command and what is known of it. ``sent_term`` 0: no copy of it can be in any log."""

    token: Hashable
    command: bytes
    deadline: float
    bound: int | None
    wire: bytes = b""
    sent_term: int = 0
    copies: int = 0
    done: bool = False


class Proposals:
    """The table of waiting commands. Outcomes gather in :attr:`resolved`."""

    def __init__(self, incarnation: bytes, settings: Settings) -> None:
        """``incarnation``: 8 random bytes of this process; a former process's entries must not answer our callers."""
        self._incarnation = incarnation
        self._settings = settings
        self._counter = 0
        self._idle: deque[Proposal] = deque()
        self._flying: dict[bytes, Proposal] = {}
        self._slots: dict[int, dict[Proposal, None]] = {}
        self._slot_heap: list[int] = []
        self._bound_idle = 0
        self._count = 0
        self._bytes = 0
        self.resolved: list[tuple[Hashable, object]] = []

    def __len__(self) -> int:
        return self._count

    def submit(self, token: Hashable, command: bytes, deadline: float, bound: int | None) -> None:
        """Take a command of a caller, or refuse it at once."""
        if len(command) + ITEM_BYTES > self._settings.entry_bytes:
            self.resolved.append((token, TooLarge(f"a command of {len(command)} bytes fits no log entry")))
            return
        if self._count >= self._settings.waiting_max or self._bytes > self._settings.waiting_bytes_max:
            self.resolved.append((token, Overloaded("too many writes wait for the log")))
            return
        proposal = Proposal(token, command, deadline, bound)
        self._count += 1
        self._bytes += len(command)
        self._idle.append(proposal)
        if bound is not None:
            self._bound_idle += 1
        slot = _slot(proposal)
        waiting = self._slots.get(slot)
        if waiting is None:
            waiting = self._slots[slot] = {}
            heapq.heappush(self._slot_heap, slot)
            # Slots that became empty leave their number behind: not more of them than of full ones.
            if len(self._slot_heap) > 2 * len(self._slots) + 1024:
                self._slot_heap = sorted(self._slots)
        waiting[proposal] = None

    @property
    def idle(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._idle)

    def take(self, term: int, bytes_max: int) -> list[Item]:
        """Idle commands for the leader of ``term``, up to about ``bytes_max`` bytes; they are flying from now on."""
        items: list[Item] = []
        idle, flying = self._idle, self._flying
        while idle and bytes_max > 0:
            proposal = idle.popleft()
            if proposal.bound is not None:
                self._bound_idle -= 1
            if proposal.done:
                continue
            self._counter += 1
            wire = self._incarnation + self._counter.to_bytes(8, "big")
            proposal.wire, proposal.sent_term, proposal.copies = wire, term, 1
            flying[wire] = proposal
            items.append((wire, proposal.command))
            bytes_max -= len(proposal.command) + ITEM_BYTES
        return items

    def again(self, term: int) -> list[Item]:
        """What flies to the leader of ``term`` and may have been lost with a connection, in its first order."""
        items = []
        for proposal in self._flying.values():
            if proposal.sent_term == term:
                proposal.copies += 1
                items.append((proposal.wire, proposal.command))
        return items

    def drop_bound(self, lead_term: int | None) -> None:
        """Drop what another leadership than ``lead_term`` (``None``: no leader here) decided (hazard 17)."""
        if not self._bound_idle:
            return
        for proposal in self._idle:
            if proposal.bound is not None and proposal.bound != lead_term and not proposal.done:
                self._resolve(proposal, NotApplied(f"decided by the leader of term {proposal.bound}, which is over"))
        self._forget_answered()

    def refuse_idle(self, error: Exception) -> None:
        """Answer everything of which no copy can be in any log."""
        for proposal in self._idle:
            if not proposal.done:
                self._resolve(proposal, error)
        self._idle.clear()
        self._bound_idle = 0

    def died(self, ids: Iterable[bytes], error: Exception) -> None:
        """The only log that had these copies gave them up."""
        for wire in ids:
            if (proposal := self._flying.get(wire)) is not None:
                self._resolve(proposal, error)

    def applied(self, wire: bytes, result: object) -> None:
        """A command of the log was applied here."""
        proposal = self._flying.get(wire)
        if proposal is not None:
            self._resolve(proposal, result)

    def term_applied(self, term: int) -> None:
        """The first entry of ``term`` is being applied: what was sent to leaders before it is surely dead."""
        dead = [proposal for proposal in self._flying.values() if proposal.sent_term < term]
        for proposal in reversed(dead):
            self._revive(proposal)

    def refused(self, ids: Iterable[bytes], overloaded: bool) -> int:
        """The leader did not take these copies; returns the term they were aimed at (0: nobody waits for them)."""
        alone, term = [], 0
        for wire in ids:
            proposal = self._flying.get(wire)
            if proposal is None:
                continue
            term = proposal.sent_term
            proposal.copies -= 1
            if proposal.copies == 0:
                alone.append(proposal)
        for proposal in reversed(alone):
            if overloaded:
                self._resolve(proposal, Overloaded("the leader's queue is full"))
            else:
                self._revive(proposal)
        return term

    def installed(self, term: int) -> None:
        """A snapshot whose last entry is of ``term`` replaced the state: commands in it were applied unseen."""
        for proposal in list(self._flying.values()):
            if proposal.sent_term <= term:
                self._resolve(proposal, OutcomeUnknown("this node was brought up to date by a snapshot meanwhile"))

    def expire(self, now: float) -> None:
        """Answer the callers whose time is over."""
        before = self._count
        while self._slot_heap and self._slot_heap[0] * _SLOT_S <= now:
            for proposal in self._slots.pop(heapq.heappop(self._slot_heap), ()):
                if proposal.sent_term:
                    self._resolve(proposal, OutcomeUnknown("no outcome within the time given"))
                else:
                    self._resolve(proposal, NotApplied("no leader took it within the time given"))
        if self._count < before and self._idle:
            self._forget_answered()

    def next_deadline(self) -> float:
        """When :meth:`expire` may have something to do (``inf``: nothing waits)."""
        while self._slot_heap and self._slot_heap[0] not in self._slots:
            heapq.heappop(self._slot_heap)
        return self._slot_heap[0] * _SLOT_S if self._slot_heap else float("inf")

    def _forget_answered(self) -> None:
        kept = [proposal for proposal in self._idle if not proposal.done]
        self._idle = deque(kept)
        self._bound_idle = sum(1 for proposal in kept if proposal.bound is not None)

    def _revive(self, proposal: Proposal) -> None:
        """No copy can be in a log: back to the idle ones, at the front; a bound one ends."""
        del self._flying[proposal.wire]
        proposal.wire, proposal.sent_term, proposal.copies = b"", 0, 0
        if proposal.bound is None:
            self._idle.appendleft(proposal)
        else:
            self._resolve(proposal, NotApplied(f"the leadership of term {proposal.bound} ended before it was applied"))

    def _resolve(self, proposal: Proposal, result: object) -> None:
        proposal.done = True
        self._unslot(proposal)
        self._count -= 1
        self._bytes -= len(proposal.command)
        if proposal.wire:
            del self._flying[proposal.wire]
        self.resolved.append((proposal.token, result))

    def _unslot(self, proposal: Proposal) -> None:
        """What is answered is forgotten now, not at its deadline: an eviction's is a day away."""
        slot = _slot(proposal)
        waiting = self._slots.get(slot)
        if waiting is not None:
            waiting.pop(proposal, None)
            if not waiting:
                del self._slots[slot]


def _slot(proposal: Proposal) -> int:
    return int(proposal.deadline / _SLOT_S) + 1


class Accepted:
    """Commands that followers forwarded to this leader, not yet in the log."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[tuple[str, Item]] = deque()
        self._seen: dict[bytes, bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, peer: str, items: Iterable[Item]) -> list[bytes]:
        """Take what is new; returns the wire ids refused for want of room.

        A process sends its wire ids in rising order, again in that order after a reconnect: what is not above the
        highest one taken in this leadership is here already.
        """
        refused = []
        seen = self._seen
        for item in items:
            wire = item[0]
            incarnation = wire[:8]
            if len(wire) != 16 or wire <= seen.get(incarnation, b""):
                continue
            if self._bytes > self._settings.waiting_bytes_max or len(item[1]) + ITEM_BYTES > self._settings.entry_bytes:
                refused.append(wire)
                continue
            seen[incarnation] = wire
            self._queue.append((peer, item))
            self._bytes += len(item[1]) + ITEM_BYTES
        return refused

    def take(self, bytes_max: int) -> list[Item]:
        """Up to about ``bytes_max`` bytes for the log."""
        items: list[Item] = []
        while self._queue and bytes_max > 0:
            item = self._queue.popleft()[1]
            items.append(item)
            size = len(item[1]) + ITEM_BYTES
            self._bytes -= size
            bytes_max -= size
        return items

    def clear(self) -> dict[str, list[bytes]]:
        """End of a leadership: forget all; returns what must be refused, by peer."""
        refused: dict[str, list[bytes]] = {}
        for peer, item in self._queue:
            refused.setdefault(peer, []).append(item[0])
        self._queue.clear()
        self._seen.clear()
        self._bytes = 0
        return refused
