"""Lease clocks of the leader: who is due, in lease time that is handed in. Pure.

The replicated state knows leases and their TTLs; *when* one ends is known only here, in the memory of the present
leader (DESIGN guarantees 4 and 5). The rules:

1. A lease is never due before its TTL has passed since it was last started or renewed, and at most two slots of
   20 ms later: a deadline is rounded up to the next slot, plus one.
2. ``promote`` gives every lease its full TTL: who is elected starts its clocks after every acknowledged heartbeat.
   A lease of 60 s or more goes on from its checkpoint instead, which errs late only, because a heartbeat is not
   acknowledged before a checkpoint older than it is cleared (``checkpointed``).
3. ``demote`` drops all clocks; nothing is due on a node that does not lead.
4. A lease whose eviction is decided is *held*: heartbeats are still noted, but not acknowledged before the outcome
   is known. Who took leases by :meth:`Lessor.due` ends each by ``forget``, ``release`` or ``demote``.
5. Time in which the process did not run (a pause, swapping) is not lease time: :class:`LeaseClock`.

The structure is a lazy timing wheel: a heartbeat only stores a float; the lease is moved when its old slot comes up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from discovery import limits
from discovery.wheel import Wheel

SLOTS_PER_S: Final = 50
SLOT_S: Final = 1 / SLOTS_PER_S
STALL_S: Final = 0.2
WORK_PER_CALL_MAX: Final = 5_000
CHECKPOINT_AFTER_S_MAX: Final = 300.0
CHECKPOINT_STEP_S: Final = 15.0
_NOWHERE: Final = 0


class LeaseClock:
    """Lease time from monotonic time: gaps in which nobody looked at the clock are not counted.

    The owner must look (call :meth:`now`) several times within ``stall_s``, by a timer when nothing else does. A
    longer gap means that the process was stopped or starved; it could not take heartbeats then, so that time counts
    against nobody. Leases may thereby live longer, never shorter.
    """

    __slots__ = ("_last", "_lost", "_stall_s", "stalls")

    def __init__(self, monotonic: float, stall_s: float = STALL_S) -> None:
        self._last = monotonic
        self._lost = 0.0
        self._stall_s = stall_s
        self.stalls = 0

    def now(self, monotonic: float) -> float:
        """Lease time in seconds at ``monotonic`` (seconds; a value that fell is no progress)."""
        gap = monotonic - self._last
        if gap > self._stall_s:
            self._lost += gap
            self.stalls += 1
        elif gap < 0:
            self._lost += gap
        self._last = monotonic
        return monotonic - self._lost


class Due(msgspec.Struct, frozen=True, gc=False):
    """A lease whose time is over.

    Args:
        last_heartbeat: lease time in seconds of the last sign of life that this leader saw, ``None`` if none.
    """

    id: int
    version: int
    last_heartbeat: float | None


class _Clock(msgspec.Struct, gc=False):
    version: int
    ttl_ms: int
    renewed: float
    slot: int = _NOWHERE
    check: int = _NOWHERE

    def deadline(self) -> float:
        return self.renewed + self.ttl_ms / 1000


class Timed(Protocol):
    """What of a lease the clocks need."""

    @property
    def ttl_ms(self) -> int:
        """The TTL."""

    @property
    def version(self) -> int:
        """Moves when the lease begins anew."""

    @property
    def remaining_ms(self) -> int | None:
        """Of a long lease: what a checkpoint left of its TTL."""


class Lessor:
    """The clocks of all leases while this node leads. ``now`` is lease time in seconds everywhere."""

    def __init__(self) -> None:
        self._clocks: dict[int, _Clock] = {}
        self._wheel = Wheel()
        self._checks = Wheel()
        self._promoted = 0.0
        self.active = False
        self.held: set[int] = set()
        self.checkpointed: set[int] = set()
        self.braked: set[int] = set()
        """Leases that have expired and are held back: off the wheel until :meth:`release`. Who renews one says so."""

    def __len__(self) -> int:
        return len(self._clocks)

    def promote(self, now: float, leases: Mapping[int, Timed]) -> None:
        """Start the clocks of all leases, by id: this node leads and has applied the no-op of its term.

        All at once, or a heartbeat in between would find no lease: 25 ms for 100,000.
        """
        self.demote()
        self.active = True
        self._promoted = now
        # Leases of one TTL share everything but their id, and mostly stand side by side.
        alike: dict[tuple[int, int | None], tuple[float, int, list[int]]] = {}
        clocks = self._clocks
        last_ttl_ms, last_remaining_ms = 0, None
        for id, lease in leases.items():
            ttl_ms, remaining_ms = lease.ttl_ms, lease.remaining_ms
            if ttl_ms != last_ttl_ms or remaining_ms != last_remaining_ms:
                shared = alike.get((ttl_ms, remaining_ms))
                if shared is None:
                    left_s = _left_s(lease)
                    shared = alike[ttl_ms, remaining_ms] = (now + left_s - ttl_ms / 1000, _slot(now + left_s), [])
                renewed, slot, ids = shared
                last_ttl_ms, last_remaining_ms = ttl_ms, remaining_ms
            clock = clocks[id] = _Clock(lease.version, ttl_ms, renewed, slot)
            ids.append(id)
            if ttl_ms >= limits.LEASE_CHECKPOINT_TTL_MS_MIN:
                self._watch(id, clock, now)
                if remaining_ms is not None:
                    self.checkpointed.add(id)
        for _, slot, alike_ids in alike.values():
            self._wheel.add(slot, alike_ids)

    def demote(self) -> None:
        """Drop all clocks: this node does not lead (any more)."""
        self.active = False
        self._clocks.clear()
        self.held.clear()
        self.checkpointed.clear()
        self.braked.clear()
        self._wheel = Wheel()
        self._checks = Wheel()

    def start(self, id: int, version: int, ttl_ms: int, now: float) -> None:
        """A lease was granted, or started afresh by a registration: its full TTL begins (ignored while not leading)."""
        if not self.active:
            return
        clock = self._clocks.get(id)
        if clock is None:
            clock = self._clocks[id] = _Clock(version, ttl_ms, now)
        else:
            clock.version, clock.ttl_ms, clock.renewed = version, ttl_ms, now
        # The version moved: a checkpoint of the old one is void, and one under way will be skipped.
        self.checkpointed.discard(id)
        self.braked.discard(id)
        if id not in self.held:
            self._place(id, clock, now)
        self._unwatch(id, clock)
        if ttl_ms >= limits.LEASE_CHECKPOINT_TTL_MS_MIN:
            self._watch(id, clock, now)

    def forget(self, id: int) -> None:
        """A lease is gone."""
        clock = self._clocks.pop(id, None)
        if clock is None:
            return
        self._wheel.remove(clock.slot, id)
        self._unwatch(id, clock)
        self.held.discard(id)
        self.checkpointed.discard(id)
        self.braked.discard(id)

    def heartbeat(self, id: int, now: float) -> bool:
        """Note a heartbeat; False when there is no such lease. As :meth:`renew`."""
        return self.renew(id, now) is not None

    def renew(self, id: int, now: float) -> int | None:
        """Note a heartbeat; the TTL in milliseconds, ``None`` when there is no such lease.

        It may be acknowledged only after a leadership round begun afterwards; and, when the id stands in ``held`` or
        ``checkpointed``, only after the outcome of the eviction, or after the checkpoint was cleared in the log.
        """
        clock = self._clocks.get(id)
        if clock is None:
            return None
        clock.renewed = now
        return clock.ttl_ms

    def remaining_ms(self, id: int, now: float) -> int | None:
        """Milliseconds until the TTL has passed, 0 when it has; ``None`` when there is no such lease here."""
        clock = self._clocks.get(id)
        return None if clock is None else max(0, round((clock.deadline() - now) * 1000))

    def version(self, id: int) -> int | None:
        """The version of a lease that has a clock here."""
        clock = self._clocks.get(id)
        return None if clock is None else clock.version

    def ttl_ms(self, id: int) -> int | None:
        """The TTL of a lease that has a clock here, milliseconds."""
        clock = self._clocks.get(id)
        return None if clock is None else clock.ttl_ms

    def last_heartbeat(self, id: int) -> float | None:
        """Lease time of the last registration or heartbeat since this node was elected, ``None`` when none came."""
        clock = self._clocks.get(id)
        return None if clock is None or clock.renewed <= self._promoted else clock.renewed

    def due(self, now: float, work_max: int = WORK_PER_CALL_MAX) -> list[Due]:
        """Take the leases whose time is over.

        A call does at most ``work_max`` moves; when more is left :meth:`next_due` names a time that has come already,
        and the caller calls again after it let others run.
        """
        if not self.active:
            return []
        slot_now = _slot_now(now)
        found: list[Due] = []
        moved: dict[int, list[int]] = {}
        while work_max > 0 and (ids := self._wheel.take(slot_now, work_max)):
            work_max -= len(ids)
            for id in ids:
                clock = self._clocks[id]
                slot = _slot(clock.deadline())
                if slot <= slot_now:
                    clock.slot = _NOWHERE
                    found.append(Due(id, clock.version, self.last_heartbeat(id)))
                else:
                    clock.slot = slot
                    moved.setdefault(slot, []).append(id)
        for slot, batch in moved.items():
            self._wheel.add(slot, batch)
        return found

    def next_due(self) -> float | None:
        """Lease time at which :meth:`due` has work, ``None`` when there is nothing to wait for."""
        slot = self._wheel.first()
        return None if slot is None else slot / SLOTS_PER_S

    def still_due(self, candidates: Sequence[Due], now: float) -> list[Due]:
        """Of leases taken by :meth:`due` those that nobody renewed meanwhile; the others go back on the wheel."""
        still: list[Due] = []
        for due in candidates:
            clock = self._clocks.get(due.id)
            if clock is None:
                continue
            if clock.version == due.version and clock.slot == _NOWHERE and clock.deadline() <= now:
                still.append(due)
            else:
                self._place(due.id, clock, now)
        return still

    def hold(self, ids: Iterable[int]) -> None:
        """An eviction of these leases, taken by :meth:`due`, is about to be proposed."""
        self.held.update(id for id in ids if id in self._clocks)

    def release(self, ids: Iterable[int], now: float) -> None:
        """The eviction did not take place: back on the wheel, with whatever heartbeats came meanwhile."""
        for id in ids:
            self.held.discard(id)
            clock = self._clocks.get(id)
            if clock is not None and clock.slot == _NOWHERE:
                self._place(id, clock, now)

    def park(self, id: int, now: float) -> bool:
        """The eviction was held back: off the wheel; False when the lease was renewed or started anew meanwhile."""
        clock = self._clocks.get(id)
        if clock is None or clock.slot != _NOWHERE or clock.deadline() > now:
            self.release((id,), now)
            return False
        self.held.discard(id)
        self.braked.add(id)
        return True

    def checkpoints(self, now: float, count: int, work_max: int = WORK_PER_CALL_MAX) -> list[tuple[int, int, int]]:
        """At most ``count`` long leases that were silent for a while, as (id, version, remaining ms), to be logged.

        They count as ``checkpointed`` from now on. A holder that renews every third of its TTL is never among them.
        A call looks at no more than ``work_max`` leases; :meth:`checks_due` says whether some are left.
        """
        found: list[tuple[int, int, int]] = []
        while self.active and (most := min(count - len(found), work_max)) > 0:
            ids = self._checks.take(math.floor(now), most)
            if not ids:
                break
            work_max -= len(ids)
            for id in ids:
                clock = self._clocks[id]
                clock.check = _NOWHERE
                silent_s = now - clock.renewed
                if silent_s >= _patience_s(clock.ttl_ms) and id not in self.held:
                    left_ms = max(1, math.ceil(clock.ttl_ms - silent_s * 1000))
                    found.append((id, clock.version, left_ms))
                    self.checkpointed.add(id)
                self._watch(id, clock, now)
        return found

    def checks_due(self, now: float) -> bool:
        """Whether long leases wait to be looked at."""
        first = self._checks.first()
        return first is not None and first <= math.floor(now)

    def cleared(self, id: int, version: int) -> None:
        """The log says again that this lease has its full TTL (unless its version moved since)."""
        clock = self._clocks.get(id)
        if clock is not None and clock.version == version:
            self.checkpointed.discard(id)

    def _place(self, id: int, clock: _Clock, now: float) -> None:
        """Put a lease where its deadline is, unless it waits in an earlier slot anyway (which moves it in time)."""
        slot = max(_slot(clock.deadline()), _slot_now(now) + 1)
        if clock.slot != _NOWHERE:
            if clock.slot <= slot:
                return
            self._wheel.remove(clock.slot, id)
        clock.slot = slot
        self._wheel.add(slot, (id,))

    def _watch(self, id: int, clock: _Clock, now: float) -> None:
        at = max(clock.renewed + _patience_s(clock.ttl_ms), now + CHECKPOINT_STEP_S)
        clock.check = math.ceil(at)
        self._checks.add(clock.check, (id,))

    def _unwatch(self, id: int, clock: _Clock) -> None:
        self._checks.remove(clock.check, id)
        clock.check = _NOWHERE


def _slot_now(now: float) -> int:
    """The slot that ``now`` lies in; within a thousandth of a slot of the next one it is the next (float rounding)."""
    return math.floor(now * SLOTS_PER_S + 0.001)


def _slot(deadline: float) -> int:
    """The first slot that may act on a deadline: the next one, plus one."""
    return math.ceil(deadline * SLOTS_PER_S) + 1


def _left_s(lease: Timed) -> float:
    """What a newly elected leader grants: the full TTL, or a long lease's checkpoint."""
    left_ms = lease.ttl_ms
    if lease.remaining_ms is not None and lease.ttl_ms >= limits.LEASE_CHECKPOINT_TTL_MS_MIN:
        left_ms = min(left_ms, lease.remaining_ms)
    return left_ms / 1000


def _patience_s(ttl_ms: int) -> float:
    """How long a long lease may be silent before it is checkpointed."""
    return min(ttl_ms / 2000, CHECKPOINT_AFTER_S_MAX)
