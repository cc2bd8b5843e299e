"""Remaining TTLs of long leases in the log, so that frequent elections cannot keep the dead alive.

Only leases of 60 s or more that were silent for a while are logged, in batches, at most one batch a second. A
checkpoint errs late only: before a heartbeat for a checkpointed lease is acknowledged, the log says again that the
lease has its full TTL (:meth:`Checkpoints.clear`; etcd's ``Lessor.Renew`` does the same).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final

from discovery import limits
from discovery.command import Checkpoint, Failure, encode
from discovery.consensus import Consensus, Leadership, Tasks
from discovery.errors import NotApplied, RegistryError

logger: Final = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
BATCH: Final = 2_000
SLICE: Final = 1_000
"""Leases looked at between two turns of the loop, about a millisecond."""


class Checkpoints:
    """The loop of one node; it runs from :meth:`promote` to :meth:`demote`."""

    def __init__(self, raft: Consensus, lead: Leadership, tasks: Tasks) -> None:
        self._raft = raft
        self._lead = lead
        self._tasks = tasks
        self._loop: asyncio.Task[None] | None = None
        self._pending: dict[int, None] = {}
        self._next: asyncio.Task[None] | None = None

    def promote(self, term: int) -> None:
        """Begin: the node leads, the clocks run."""
        self.demote()
        self._loop = self._tasks.spawn("checkpoints", self._run(term))

    def demote(self) -> None:
        """End: the node leads no longer."""
        if self._loop is not None:
            self._loop.cancel()
            self._loop = None

    async def clear(self, ids: Iterable[int]) -> None:
        """Return once the log says that these leases have their full TTL. Raises NotApplied: it may not say so."""
        self._pending.update(dict.fromkeys(ids))
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._clear())
            self._next.add_done_callback(_retrieve)
        await asyncio.shield(self._next)

    async def _clear(self) -> None:
        pending, self._pending, self._next = self._pending, {}, None
        lessor = self._lead.lessor
        full = []
        for id in pending:
            version, ttl_ms = lessor.version(id), lessor.ttl_ms(id)
            if version is not None and ttl_ms is not None:
                full.append((id, version, ttl_ms))
        for start in range(0, len(full), limits.EVICTIONS_PER_COMMAND_MAX):
            batch = full[start : start + limits.EVICTIONS_PER_COMMAND_MAX]
            await self._propose(self._lead.term, batch)
            for id, version, _ in batch:
                lessor.cleared(id, version)

    async def _run(self, term: int) -> None:
        while True:
            await asyncio.sleep(PERIOD_S)
            await self._look(term)

    async def _look(self, term: int) -> None:
        """Look at all that is due, in slices, until a batch of the log is full.

        What a slice finds is proposed before anything else runs: a clearance must not come before its checkpoint.
        """
        lessor, room = self._lead.lessor, BATCH
        while room > 0:
            silent = lessor.checkpoints(self._lead.now(), room, SLICE)
            room -= len(silent)
            if silent:
                try:
                    await self._propose(term, silent)
                except NotApplied as error:
                    logger.info("a checkpoint of %d lease(s) was not applied: %s", len(silent), error.detail)
            if not lessor.checks_due(self._lead.now()):
                return
            await asyncio.sleep(0)

    async def _propose(self, term: int, leases: Sequence[tuple[int, int, int]]) -> None:
        try:
            result = await self._raft.propose(encode(Checkpoint(term, tuple(leases))), limits.WRITE_TIMEOUT_S, term)
        except NotApplied:
            raise
        except RegistryError as error:
            raise NotApplied(error.detail) from error
        if isinstance(result, Failure):
            raise RuntimeError(f"the state machine refused a checkpoint: {result.detail}")


def _retrieve(task: asyncio.Task[None]) -> None:
    """Those who waited may have gone; their error is nobody's then."""
    if not task.cancelled():
        task.exception()
