"""Removal of what stopped heartbeating: the leader's loop (DESIGN guarantees 4 and 5).

Leases that are due -> a leadership round begun afterwards -> whoever was renewed meanwhile is dropped -> the others are
held and one command, bound to the term, removes them all. While the outcome of that command is open their heartbeats
wait for it (:meth:`Evictions.outcome`); whatever the command skipped lives on. What it held back (a service's brake) is
parked until there is room again, its time is over, or its holder renews it after all.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final

from discovery import limits
from discovery.command import Evict, Failure, Unbrake, Written, encode
from discovery.consensus import Consensus, Leadership, Tasks
from discovery.errors import NotApplied, RegistryError
from discovery.leases import Due, Lessor
from discovery.store import Store

logger: Final = logging.getLogger(__name__)

WAIT_S_MAX: Final = 1.0
RETRY_S: Final = 0.05
ROOM_S_MAX: Final = 1.0
OUTCOME_S_MAX: Final = 86_400.0
"""An eviction stays open until it is applied or the leadership ends: only then its heartbeats can be answered."""


class Brakes:
    """When leases that are held back must go; pure, times are lease time in seconds."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, int]] = []
        self._end_of: dict[int, float] = {}
        self._overdue: set[int] = set()

    def park(self, lessor: Lessor, braked: Iterable[tuple[int, int]], now: float) -> list[int]:
        """Leave (lease, ms that are left) be; those are returned that were renewed meanwhile."""
        renewed = []
        for id, left_ms in braked:
            if lessor.park(id, now):
                self._end_of[id] = end = now + left_ms / 1000
                heapq.heappush(self._ends, (end, id))
            else:
                renewed.append(id)
        return renewed

    def end(self, lessor: Lessor, free: Iterable[int], now: float) -> None:
        """Let go again of those whose time is over, and of those in ``free``: their service can do without them."""
        # Of one that is held an eviction is under way already: until its outcome is known no heartbeat may be answered.
        lessor.release([id for id in free if id in lessor.braked and id not in lessor.held], now)
        while self._ends and self._ends[0][0] <= now:
            end, id = heapq.heappop(self._ends)
            if self._end_of.get(id) != end:
                continue  # it lived in between
            del self._end_of[id]
            if id in lessor.braked:
                self._overdue.add(id)
                if id not in lessor.held:
                    lessor.release((id,), now)

    def overdue(self, dead: Iterable[Due]) -> tuple[int, ...]:
        """Those of ``dead`` that were held back for as long as the brake holds."""
        return tuple(due.id for due in dead if due.id in self._overdue)

    def renewed(self, lessor: Lessor, ids: Iterable[int], now: float) -> None:
        """They live: their clocks run again."""
        for id in ids:
            self._overdue.discard(id)
            self._end_of.pop(id, None)
            lessor.braked.discard(id)
        # One whose eviction is proposed again is left to the outcome of that.
        lessor.release([id for id in ids if id not in lessor.held], now)

    def next_end(self) -> float:
        """Lease time at which :meth:`end` has work, ``inf`` when there is nothing to wait for."""
        return self._ends[0][0] if self._ends else float("inf")

    def clear(self) -> None:
        """The leadership ended."""
        self._ends.clear()
        self._end_of.clear()
        self._overdue.clear()


class Evictions:
    """The loop of one node; it runs from :meth:`promote` to :meth:`demote`.

    Args:
        wall_ms: Unix time in milliseconds, for the last heartbeats that events tell.
        store: the state, for the leases that are held back.
    """

    def __init__(
        self,
        raft: Consensus,
        lead: Leadership,
        tasks: Tasks,
        wall_ms: Callable[[], int],
        store: Callable[[], Store],
    ) -> None:
        self._raft = raft
        self._lead = lead
        self._tasks = tasks
        self._wall_ms = wall_ms
        self._running: dict[asyncio.Task[None], None] = {}
        self._outcomes: dict[int, asyncio.Future[bool]] = {}
        self._again = asyncio.Event()
        self._store = store
        self._brakes = Brakes()
        self._unbraked: dict[int, None] = {}
        self.evicted = 0

    def promote(self, term: int) -> None:
        """Begin: the node leads, the clocks run."""
        self.demote()
        self._lead.lessor.braked.update(self._store().braked_leases())
        self._spawn("evictions", self._run(term))

    def demote(self) -> None:
        """End: what was decided is dropped, and who waits for an outcome will not get one here."""
        for task in list(self._running):
            task.cancel()
        self._running.clear()
        for outcome in set(self._outcomes.values()):
            if not outcome.done():
                outcome.set_result(False)
        self._outcomes.clear()
        self._brakes.clear()
        self._unbraked.clear()

    def outcome(self, id: int) -> asyncio.Future[bool] | None:
        """For a held lease: True once its eviction was applied, skipped, or surely was not; False: nobody knows."""
        return self._outcomes.get(id)

    def unbrake(self, ids: Iterable[int]) -> None:
        """Leases that are held back were renewed; the log is told, which nobody has to wait for."""
        self._brakes.renewed(self._lead.lessor, ids, self._lead.now())
        self._unbraked.update(dict.fromkeys(ids))
        self._again.set()

    def _spawn(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.spawn(what, work)
        self._running[task] = None
        task.add_done_callback(lambda done: self._running.pop(done, None))

    async def _run(self, term: int) -> None:
        lessor = self._lead.lessor
        while True:
            now = self._lead.now()
            self._look_at_brakes(term, now)
            if candidates := lessor.due(now):
                await self._decide(term, candidates)
                await self._room()
                await asyncio.sleep(0)
                continue
            due, end = lessor.next_due(), self._brakes.next_end()
            wait_s = min(end - now, WAIT_S_MAX, WAIT_S_MAX if due is None else due - now)
            self._again.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait_s)):
                    await self._again.wait()

    async def _room(self) -> None:
        """Wait while very many are open: applied in one go they would hold up the heartbeats of all the others.

        Not for ever: one whose outcome nobody knows stays open until the leadership ends.
        """
        if len(self._outcomes) >= limits.EVICTIONS_OPEN_MAX:
            open_ones = set(self._outcomes.values())
            await asyncio.wait(open_ones, timeout=ROOM_S_MAX, return_when=asyncio.FIRST_COMPLETED)

    def _look_at_brakes(self, term: int, now: float) -> None:
        """Let go of what may go or must; tell the log of what lives again."""
        lessor = self._lead.lessor
        if lessor.braked:
            self._brakes.end(lessor, self._store().unbraked_leases(), now)
        if self._unbraked:
            ids = tuple(self._unbraked)[: limits.EVICTIONS_PER_COMMAND_MAX]
            for id in ids:
                del self._unbraked[id]
            self._spawn("brake", self._unbrake(term, ids))

    async def _unbrake(self, term: int, ids: tuple[int, ...]) -> None:
        try:
            await self._raft.propose(encode(Unbrake(term, ids)), limits.WRITE_TIMEOUT_S, term)
        except RegistryError as error:
            logger.info("%d lease(s) live again, which the log was not told: %s", len(ids), error.detail)
            await asyncio.sleep(RETRY_S)
            self._unbraked.update(dict.fromkeys(ids))

    async def _decide(self, term: int, candidates: Sequence[Due]) -> None:
        lessor = self._lead.lessor
        try:
            confirmed = await self._raft.confirm()
        except NotApplied:
            confirmed = 0
        now = self._lead.now()
        if confirmed != term:
            lessor.release([due.id for due in candidates], now)
            await asyncio.sleep(RETRY_S)
            return
        dead = lessor.still_due(candidates, now)
        lessor.hold(due.id for due in dead)
        for chunk in self._chunks(dead):
            outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._outcomes.update(dict.fromkeys((due.id for due in chunk), outcome))
            self._spawn("eviction", self._evict(term, chunk, now, outcome))

    def _chunks(self, dead: Sequence[Due]) -> Iterator[list[Due]]:
        """Cut into commands: of so many leases, and of so many things that go with them unless one alone has more."""
        most, weight_of = limits.EVICTIONS_PER_COMMAND_MAX, self._store().lease_weight
        chunk: list[Due] = []
        weight = 0
        for due in dead:
            own = max(1, weight_of(due.id))
            if chunk and weight + own > most:
                yield chunk
                chunk, weight = [], 0
            chunk.append(due)
            weight += own
        if chunk:
            yield chunk

    async def _evict(self, term: int, dead: Sequence[Due], now: float, outcome: asyncio.Future[bool]) -> None:
        known = await self._propose(term, dead, now)
        if known is None:
            return  # the leadership ends, and with it all that waits
        if known.deleted:
            logger.info("%d lease(s) expired", known.deleted)
            self.evicted += known.deleted
        if known.braked:
            logger.warning("%d lease(s) expired and are held back by their service's brake", len(known.braked))
            self.unbrake(self._brakes.park(self._lead.lessor, known.braked, self._lead.now()))
        for due in dead:
            if self._outcomes.get(due.id) is outcome:
                del self._outcomes[due.id]
        # Not those that this command parked. One that an earlier one did is to go now, or to be proposed again.
        parked = {id for id, _ in known.braked} & self._lead.lessor.braked
        self._lead.lessor.release([due.id for due in dead if due.id not in parked], self._lead.now())
        self._again.set()
        if not outcome.done():
            outcome.set_result(True)

    async def _propose(self, term: int, dead: Sequence[Due], now: float) -> Written | None:
        """What the command came to, nothing also when it surely was not applied; ``None`` when nobody knows."""
        wall_ms = self._wall_ms()
        pairs = tuple((due.id, due.version, _heard_ms(due.last_heartbeat, now, wall_ms)) for due in dead)
        try:
            result = await self._raft.propose(
                encode(Evict(term, pairs, self._brakes.overdue(dead))), OUTCOME_S_MAX, term
            )
        except NotApplied as error:
            logger.info("an eviction of %d lease(s) was not applied: %s", len(dead), error.detail)
            await asyncio.sleep(RETRY_S)
            return Written(0, False)
        except RegistryError as error:
            logger.warning("what became of an eviction of %d lease(s) is unknown: %s", len(dead), error.detail)
            return None
        if isinstance(result, Failure):
            raise RuntimeError(f"the state machine refused an eviction: {result.detail}")
        assert isinstance(result, Written)
        return result


def _heard_ms(heard: float | None, now: float, wall_ms: int) -> int | None:
    """Unix milliseconds of a lease time."""
    return None if heard is None else wall_ms - round((now - heard) * 1000)
