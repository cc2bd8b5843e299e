"""Heartbeats on any node: the leader notes them, a follower forwards them in batches; none enters the log.

A heartbeat is answered, its "no such instance" too, only after a leadership round that began after it was noted
(DESIGN guarantee 5): whoever is elected later starts its clocks later. One round serves all that came before it.
Answers are numbers, one a heartbeat: the TTL in milliseconds, 0 for a permanent instance, or a constant below.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from discovery import limits
from discovery.checkpoints import Checkpoints
from discovery.consensus import Consensus, Leadership
from discovery.errors import InvalidInput, NotApplied, Overloaded, RegistryError
from discovery.evictions import Evictions
from discovery.store import Store

logger: Final = logging.getLogger(__name__)

PERMANENT: Final = 0
MISSING: Final = -1
CONFLICT: Final = -2

BATCH_S: Final = 0.003
KIND: Final = "heartbeat"

Beat = tuple[str, str, str, int]
"""Namespace, service, instance id, lease that the caller holds (0: any). Empty names: the lease itself."""

_encoder: Final = msgspec.msgpack.Encoder()
_beats: Final[msgspec.msgpack.Decoder[list[Beat]]] = msgspec.msgpack.Decoder(list[Beat])
_answers: Final[msgspec.msgpack.Decoder[list[int]]] = msgspec.msgpack.Decoder(list[int])


class Heartbeats(msgspec.Struct, frozen=True):
    """What became of a request's heartbeats.

    Args:
        renewed: how many were, permanent instances included.
        missing: namespace, service and id of those that are not registered (any more): register again.
        conflict: those that another lease holds now.
        ttls: one an item in their order, milliseconds; ``None`` for a permanent one and those not renewed.
    """

    renewed: int
    missing: list[tuple[str, str, str]]
    conflict: list[tuple[str, str, str]]
    ttls: list[int | None]


def summary(items: Sequence[Beat], answers: Sequence[int]) -> Heartbeats:
    """Answers for the one who asked."""
    missing = [item[:3] for item, answer in zip(items, answers, strict=True) if answer == MISSING]
    conflict = [item[:3] for item, answer in zip(items, answers, strict=True) if answer == CONFLICT]
    ttls = [answer if answer > 0 else None for answer in answers]
    return Heartbeats(len(answers) - len(missing) - len(conflict), missing, conflict, ttls)


class _Noted(msgspec.Struct):
    """Heartbeats that the leader noted: answers, and those that must wait, the held ones with place and lease."""

    answers: list[int]
    held: list[tuple[int, int, Beat]] = []
    checkpointed: list[int] = []


class _Batch(msgspec.Struct):
    """Heartbeats that a follower gathers for one message: (where, how many, whose)."""

    items: list[Beat] = []
    owners: list[tuple[int, int, asyncio.Future[list[int]]]] = []


class HeartbeatService:
    """Takes heartbeats of this node's callers and, while it leads, of the other nodes."""

    def __init__(
        self,
        raft: Consensus,
        lead: Leadership,
        store: Callable[[], Store],
        evictions: Evictions,
        checkpoints: Checkpoints,
    ) -> None:
        self._raft = raft
        self._lead = lead
        self._store = store
        self._evictions = evictions
        self._checkpoints = checkpoints
        self._round: asyncio.Task[int] | None = None
        self._batch = _Batch()
        self._timer: asyncio.TimerHandle | None = None
        self._flushed_at = float("-inf")
        self._waiting = 0
        self._sending: dict[asyncio.Task[None], None] = {}
        raft.on_request(KIND, self._asked)
        raft.before_round(self.flush)

    async def beat(self, items: Sequence[Beat]) -> list[int]:
        """Renew; one answer an item.

        Raises:
            NotApplied: no leader, or it could not confirm that it leads: nothing is acknowledged.
            Overloaded: too many wait already.
        """
        if not items:
            return []
        if self._lead.ready:
            return await self._settle(self._note(items))
        return await self._forward(items)

    def close(self) -> None:
        """Drop what waits."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._sending):
            task.cancel()

    # At the leader

    def _note(self, items: Sequence[Beat]) -> _Noted:
        """Renew in the clocks, now; what is told to the callers comes later."""
        lessor, now, instance = self._lead.lessor, self._lead.now(), self._store().instance
        answers: list[int] = []
        noted = _Noted(answers)
        for item in items:
            namespace, service, id, holder = item
            lease = holder
            if namespace:
                record = instance(namespace, service, id)
                if record is None:
                    answers.append(MISSING)
                    continue
                lease = record.lease
                if holder and holder != lease:
                    answers.append(CONFLICT)
                    continue
                if not lease:
                    answers.append(PERMANENT)
                    continue
            ttl_ms = lessor.renew(lease, now)
            if lease in lessor.held:
                noted.held.append((len(answers), lease, item))
            if lease in lessor.checkpointed:
                noted.checkpointed.append(lease)
            if lease in lessor.braked:
                self._evictions.unbrake([lease])
            answers.append(MISSING if ttl_ms is None else ttl_ms)
        return noted

    async def _settle(self, noted: _Noted) -> list[int]:
        """The answers, once they are true: after a round, and after what is open about their leases."""
        await self._confirmed()
        if noted.held:
            await self._evicted_or_not(noted)
        if noted.checkpointed:
            await self._checkpoints.clear(noted.checkpointed)
        return noted.answers

    async def _evicted_or_not(self, noted: _Noted) -> None:
        """Wait for what is decided about the held ones. Those whose lease is gone then are judged anew."""
        for outcome in {self._evictions.outcome(lease) for _, lease, _ in noted.held}:
            if outcome is not None and not await asyncio.shield(outcome):
                raise NotApplied("the leadership ended while the lease's eviction was open")
        if not self._lead.ready:
            raise NotApplied("the leadership ended while the lease's eviction was open")
        gone = [(place, item) for place, lease, item in noted.held if self._lead.lessor.version(lease) is None]
        answers = await self._settle(self._note([item for _, item in gone])) if gone else []
        for (place, _), answer in zip(gone, answers, strict=True):
            noted.answers[place] = answer

    async def _confirmed(self) -> None:
        """A leadership round that begins after this call; all calls until it begins share it."""
        if self._round is None:
            self._round = asyncio.get_running_loop().create_task(self._confirm())
            self._round.add_done_callback(_retrieve)
        await asyncio.shield(self._round)

    async def _confirm(self) -> int:
        self._round = None
        return await self._raft.confirm()

    def _asked(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        """A follower's batch: noted here and now, at its place in the stream."""
        if not self._lead.ready:
            raise NotApplied(f"{self._lead.node} does not lead")
        try:
            items = _beats.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidInput(f"not a batch of heartbeats: {error}") from error
        return self._answer(self._note(items))

    async def _answer(self, noted: _Noted) -> bytes:
        return _encoder.encode(await self._settle(noted))

    # At a follower

    async def _forward(self, items: Sequence[Beat]) -> list[int]:
        if self._waiting + len(items) > limits.HEARTBEATS_WAITING_MAX:
            raise Overloaded("too many heartbeats wait for the leader")
        if len(self._batch.items) + len(items) > limits.HEARTBEATS_PER_REQUEST_MAX:
            self.flush()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[int]] = loop.create_future()
        self._batch.owners.append((len(self._batch.items), len(items), answer))
        self._batch.items.extend(items)
        if self._timer is None:
            # The first after a pause goes at once, with all that came in the same turn of the loop.
            wait_s = max(0.0, self._flushed_at + BATCH_S - loop.time())
            self._timer = loop.call_later(wait_s, self.flush)
        self._waiting += len(items)
        try:
            return await answer
        finally:
            self._waiting -= len(items)

    def flush(self) -> None:
        """Send what was gathered, now; also called before this node answers a leader's round."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._batch.items:
            return
        batch, self._batch = self._batch, _Batch()
        self._flushed_at = asyncio.get_running_loop().time()
        leader = self._lead.leader
        if leader is None or leader == self._lead.node:
            _fail(batch, NotApplied("no leader is known"))
            return
        answer = self._raft.request(leader, KIND, _encoder.encode(batch.items), limits.HEARTBEAT_TIMEOUT_S)
        self._spawn(self._distribute(batch, answer))

    async def _distribute(self, batch: _Batch, answer: asyncio.Future[bytes]) -> None:
        try:
            answers = _answers.decode(await answer)
            if len(answers) != len(batch.items):
                raise NotApplied("the leader's answer does not fit the batch")
        except RegistryError as error:
            _fail(batch, NotApplied(f"the leader did not take the heartbeats: {error.detail}"))
            return
        except msgspec.MsgspecError as error:
            _fail(batch, NotApplied(f"the leader's answer is damaged: {error}"))
            return
        for start, count, owner in batch.owners:
            if not owner.done():
                owner.set_result(answers[start : start + count])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._sending[task] = None
        task.add_done_callback(lambda done: self._sending.pop(done, None))


def _fail(batch: _Batch, error: NotApplied) -> None:
    for _, _, owner in batch.owners:
        if not owner.done():
            owner.set_exception(NotApplied(error.detail))


def _retrieve(task: asyncio.Task[int]) -> None:
    """Those who waited may have gone; their error is nobody's then."""
    if not task.cancelled():
        task.exception()
