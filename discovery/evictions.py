"""Removal of what stopped heartbeating: the leader's loop (DESIGN guarantees 4 and 5).

Leases that are due -> a leadership round begun afterwards -> whoever was renewed meanwhile is dropped -> the others are
held and one command, bound to the term, removes them all. While the outcome of that command is open their heartbeats
wait for it (:meth:`Evictions.outcome`); whatever the command skipped lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from discovery import limits
from discovery.command import Evict, Failure, encode
from discovery.consensus import Consensus, Leadership, Tasks
from discovery.errors import NotApplied, RegistryError
from discovery.leases import Due

logger: Final = logging.getLogger(__name__)

WAIT_S_MAX: Final = 1.0
RETRY_S: Final = 0.05
OUTCOME_S_MAX: Final = 86_400.0
"""An eviction stays open until it is applied or the leadership ends: only then its heartbeats can be answered."""


class Evictions:
    """The loop of one node; it runs from :meth:`promote` to :meth:`demote`.

    Args:
        wall_ms: Unix time in milliseconds, for the last heartbeats that events tell.
    """

    def __init__(self, raft: Consensus, lead: Leadership, tasks: Tasks, wall_ms: Callable[[], int]) -> None:
        self._raft = raft
        self._lead = lead
        self._tasks = tasks
        self._wall_ms = wall_ms
        self._running: dict[asyncio.Task[None], None] = {}
        self._outcomes: dict[int, asyncio.Future[bool]] = {}
        self._again = asyncio.Event()
        self.evicted = 0

    def promote(self, term: int) -> None:
        """Begin: the node leads, the clocks run."""
        self.demote()
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

    def outcome(self, id: int) -> asyncio.Future[bool] | None:
        """For a held lease: True once its eviction was applied, skipped, or surely was not; False: nobody knows."""
        return self._outcomes.get(id)

    def _spawn(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.spawn(what, work)
        self._running[task] = None
        task.add_done_callback(lambda done: self._running.pop(done, None))

    async def _run(self, term: int) -> None:
        lessor = self._lead.lessor
        while True:
            now = self._lead.now()
            if candidates := lessor.due(now):
                await self._decide(term, candidates)
                await asyncio.sleep(0)
                continue
            following = lessor.next_due()
            wait_s = WAIT_S_MAX if following is None else min(following - now, WAIT_S_MAX)
            self._again.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait_s)):
                    await self._again.wait()

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
        for start in range(0, len(dead), limits.EVICTIONS_PER_COMMAND_MAX):
            chunk = dead[start : start + limits.EVICTIONS_PER_COMMAND_MAX]
            outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._outcomes.update(dict.fromkeys((due.id for due in chunk), outcome))
            self._spawn("eviction", self._evict(term, chunk, now, outcome))

    async def _evict(self, term: int, dead: Sequence[Due], now: float, outcome: asyncio.Future[bool]) -> None:
        known = await self._propose(term, dead, now)
        if known is None:
            return  # the leadership ends, and with it all that waits
        if known:
            logger.info("%d lease(s) expired", known)
            self.evicted += known
        for due in dead:
            if self._outcomes.get(due.id) is outcome:
                del self._outcomes[due.id]
        self._lead.lessor.release([due.id for due in dead], self._lead.now())
        self._again.set()
        if not outcome.done():
            outcome.set_result(True)

    async def _propose(self, term: int, dead: Sequence[Due], now: float) -> int | None:
        """How many leases the command removed, 0 also when it surely was not applied; ``None`` when nobody knows."""
        wall_ms = self._wall_ms()
        pairs = tuple((due.id, due.version, _heard_ms(due.last_heartbeat, now, wall_ms)) for due in dead)
        try:
            result = await self._raft.propose(encode(Evict(term, pairs)), OUTCOME_S_MAX, term)
        except NotApplied as error:
            logger.info("an eviction of %d lease(s) was not applied: %s", len(dead), error.detail)
            await asyncio.sleep(RETRY_S)
            return 0
        except RegistryError as error:
            logger.warning("what became of an eviction of %d lease(s) is unknown: %s", len(dead), error.detail)
            return None
        if isinstance(result, Failure):
            raise RuntimeError(f"the state machine refused an eviction: {result.detail}")
        deleted: int = result.deleted
        return deleted


def _heard_ms(heard: float | None, now: float, wall_ms: int) -> int | None:
    """Unix milliseconds of a lease time."""
    return None if heard is None else wall_ms - round((now - heard) * 1000)
