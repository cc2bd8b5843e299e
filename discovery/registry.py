"""The registry of one node: the state machine behind Raft, the feed in front of it, and what the API calls.

:class:`Registry` is Raft's ``Machine`` (what is committed is applied here, and handed on to the workers' feed and to
the lease clocks) and the façade for callers. It keeps no state of its own that a restart would have to bring back.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import msgspec

from discovery import limits
from discovery.checkpoints import Checkpoints
from discovery.command import Command, Failure, Found, Idempotency, LeaseEffect, Meta, TxnDone, Written, encode
from discovery.consensus import Consensus, Leadership, Tasks, report, understood
from discovery.errors import FieldError, InvalidInput, NotApplied, NotFound, RegistryError, TooLarge, from_code
from discovery.evictions import Evictions
from discovery.heartbeats import MISSING, Beat, Heartbeats, HeartbeatService, summary
from discovery.hub import Hub
from discovery.model import Lease, lease_text
from discovery.raft.types import RaftStatus, Role
from discovery.readiness import Freshness, Problem, problems
from discovery.store import Outcome, Store
from discovery.troubles import Troubles

logger: Final = logging.getLogger(__name__)

TELL_S: Final = 1.0
FOUND_RETRY_S: Final = 0.1
_VISIBLE: Final = "visible"
_REMAINING: Final = "remaining"
_YES, _NO = b"\x01", b"\x00"
_encoder: Final = msgspec.msgpack.Encoder()
_revisions: Final[msgspec.msgpack.Decoder[tuple[int, int]]] = msgspec.msgpack.Decoder(tuple[int, int])
_ids: Final[msgspec.msgpack.Decoder[list[int]]] = msgspec.msgpack.Decoder(list[int])
_millis: Final[msgspec.msgpack.Decoder[list[int | None]]] = msgspec.msgpack.Decoder(list[int | None])


class Registry:
    """State, clocks and feed of one node.

    Made first, as Raft needs its machine; then :meth:`attach` gives it Raft, then :meth:`start`.

    Args:
        node_id: of this node.
        hub: of its DNS workers.
        history: makes the random id of a new history.
        clock: monotonic seconds.
        wall_ms: Unix time in milliseconds.
        fatal: is told which background task died of what; it ends the process.

    Attributes:
        current: set once the state is no longer one of the past, see :meth:`_consider`.
    """

    def __init__(
        self,
        node_id: str,
        hub: Hub,
        *,
        history: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        fatal: Callable[[str, BaseException], object] = report,
    ) -> None:
        self.node_id = node_id
        self.hub = hub
        self.store = Store()
        self.lead = Leadership(node_id, clock)
        self._history = history
        self._clock = clock
        self._wall_ms = wall_ms
        self._tasks = Tasks(fatal)
        self._raft: Consensus | None = None
        self._made_at = clock()
        self.current = asyncio.Event()
        self._feeding = False
        self._considered: asyncio.Handle | None = None
        self._awaited: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def attach(self, raft: Consensus) -> None:
        """Give it Raft, before that is started."""
        self._raft = raft
        self.evictions = Evictions(raft, self.lead, self._tasks, self._wall_ms, lambda: self.store)
        self.checkpoints = Checkpoints(raft, self.lead, self._tasks)
        self._beats = HeartbeatService(raft, self.lead, lambda: self.store, self.evictions, self.checkpoints)
        self._freshness = Freshness(raft.status, self._clock)
        self._troubles = Troubles(raft, self._clock)
        raft.on_request(_VISIBLE, self._asked_visible)
        raft.on_request(_REMAINING, self._asked_remaining)

    async def start(self) -> None:
        """Keep the workers informed from now on."""
        self._tasks.spawn("state of the feed", self._tell())

    async def stop(self) -> None:
        """End what runs in the background."""
        self._beats.close()
        if self._considered is not None:
            self._considered.cancel()
        self._retire()
        self._tasks.cancel()
        await asyncio.sleep(0)

    # Raft's machine

    @property
    def time_ms(self) -> int:
        """Log time of the last command applied."""
        return self.store.time_ms

    def apply(self, command: bytes, meta: Meta) -> object:
        """Apply a committed command; feed and clocks hear of it at once."""
        history = self.store.history
        outcome: Outcome = self.store.apply(command, meta)
        if self.lead.ready and outcome.leases:
            self._lease_effects(outcome.leases)
        if history != self.store.history:
            self._history_began()
        elif not self._feeding:
            self._consider_soon()
        elif outcome.group is not None:
            self.hub.publish(outcome.group)
        if self._awaited:
            self._arrived()
        return outcome.result

    def _history_began(self) -> None:
        """The cluster was founded, or a backup restored: everything is read anew, every lease has its full TTL."""
        self._use()
        if self.lead.ready:
            self.lead.lessor.promote(self.lead.now(), self.store.lease_terms())

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """A cheap copy of the state; its chunks may be made in another thread."""
        return self.store.snapshot().chunks

    def load(self, chunks: Iterator[bytes]) -> Store:
        """Build a state from a snapshot; raises CorruptData."""
        return Store.load(chunks)

    def install(self, state: Store) -> None:
        """Go on from that state; workers resume or read it whole."""
        self.store = state
        self._use()
        self._arrived()

    # When workers are told of the state

    def _use(self) -> None:
        if self._feeding:
            self.hub.use(self.store)
        else:
            self._consider_soon()

    def _consider_soon(self) -> None:
        """Raft knows after the pass how far it has come; one look serves all that was applied in it."""
        if self._considered is None and not self._feeding:
            self._considered = asyncio.get_running_loop().call_soon(self._consider)

    def _consider(self) -> None:
        """Feed the workers, and let the API open, once all is applied that a leader says is committed.

        After a start the log brings back, from its beginning, what clients saw long ago: they must not see it again.
        Without a leader for a while the newest state known here is better than none.
        """
        self._considered = None
        if self._feeding or self._raft is None:
            return
        status = self._raft.status()
        known = status.leader is not None and (status.ready or status.leader != status.node)
        patient = self._clock() - self._made_at < limits.STALE_AFTER_S
        if status.applied >= status.commit and (known or not patient):
            self.current.set()
            if self.store.history:
                self._feeding = True
                self.hub.use(self.store)

    def role(self, role: Role, term: int, leader: str | None, ready: bool) -> None:
        """Leadership changed: clocks run only while this node leads and has applied the no-op of its term."""
        lead = self.lead
        again = ready and (not lead.ready or lead.term != term)
        lead.leader, lead.term, lead.ready = leader, term, ready
        if not ready:
            self._retire()
        elif again:
            self._promote(term)
        self._freshness.forget()
        self._consider_soon()
        self.hub.tell(leader is not None, self._freshness.leaderless_ms())

    def _promote(self, term: int) -> None:
        lead = self.lead
        lead.look()
        lead.lessor.promote(lead.now(), self.store.lease_terms())
        logger.info("leading term %d; %d lease clock(s) start with their full TTL", term, len(lead.lessor))
        self.evictions.promote(term)
        self.checkpoints.promote(term)
        if not self.store.history:
            self._tasks.spawn("founding", self._found(term))

    def _retire(self) -> None:
        self.lead.stop()
        self.lead.lessor.demote()
        self.evictions.demote()
        self.checkpoints.demote()

    def _lease_effects(self, effects: Sequence[LeaseEffect]) -> None:
        lessor, now = self.lead.lessor, self.lead.now()
        for effect in effects:
            if effect.kind == "started":
                lessor.start(effect.id, effect.version, effect.ttl_ms, now)
            elif effect.kind == "gone":
                lessor.forget(effect.id)

    async def _found(self, term: int) -> None:
        """Begin the first history of a new cluster."""
        command = encode(Found(self._history()))
        while self.lead.ready and self.lead.term == term and not self.store.history:
            try:
                await self.consensus().propose(command, limits.WRITE_TIMEOUT_S, term)
            except RegistryError as error:
                logger.info("the history is not founded yet: %s", error.detail)
                await asyncio.sleep(FOUND_RETRY_S)

    async def _tell(self) -> None:
        while True:
            self._consider_soon()
            self._troubles.tell()
            lost_ms = self._freshness.leaderless_ms()  # a disk that does not answer hides who leads, too
            self.hub.tell(self.lead.leader is not None and not lost_ms, lost_ms)
            await asyncio.sleep(TELL_S)

    # Writing

    async def write(
        self,
        command: Command,
        *,
        idempotency: Idempotency | None = None,
        actor: str = "",
        timeout_s: float = limits.WRITE_TIMEOUT_S,
    ) -> Written | TxnDone:
        """Apply a command on all nodes; returns when it is durable on a majority and applied here.

        Raises:
            TooLarge: before Raft.
            ClientError: the state machine refused it, or not all members know this kind; nothing changed.
            NotApplied: surely not applied.
            OutcomeUnknown: repeat it with the same idempotency key.
        """
        data = encode(understood(command, self.consensus()), idempotency, actor)
        if len(data) > limits.COMMAND_BYTES_MAX:
            raise TooLarge(f"the command has {len(data)} bytes, at most {limits.COMMAND_BYTES_MAX} are allowed")
        raft = self.consensus()
        with self._troubles.named():
            result = await raft.propose(data, timeout_s)
        if isinstance(result, Failure):
            fields = (FieldError(result.field, result.rule),) if result.field else ()
            raise from_code(result.code, result.detail, fields)
        assert isinstance(result, Written | TxnDone)
        return result

    async def visible(self, result: Written | TxnDone, *, cluster: bool = False) -> tuple[bool, list[str]]:
        """Wait until DNS shows a write: that of this node, and with ``cluster`` that of all others too.

        A write that touches no name waits for no worker; with ``cluster`` the other nodes must have applied it.

        Returns:
            Whether every DNS worker of *this* node serves it within ``limits.VISIBLE_TIMEOUT_S``; and, with
            ``cluster``, the ids of the other nodes that did not say so in that time, dead ones included.
        """
        dns = result.dns if isinstance(result, Written) else 0
        if not cluster:
            return await self._served(dns), []
        others = [member.id for member in self.consensus().status().members if member.id != self.node_id]
        local, *remote = await asyncio.gather(
            self._served(dns), *(self._visible_at(node, result.revision, dns) for node in others)
        )
        return local, [node for node, seen in zip(others, remote, strict=True) if not seen]

    async def _served(self, dns: int) -> bool:
        return not dns or await self.hub.visible(dns)

    async def _visible_at(self, node: str, revision: int, dns: int) -> bool:
        payload = _encoder.encode([revision, dns])
        try:
            return await self.consensus().request(node, _VISIBLE, payload, limits.VISIBLE_TIMEOUT_S) == _YES
        except RegistryError:
            return False

    def _asked_visible(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        try:
            revision, dns = _revisions.decode(payload)
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"not two revisions: {error}") from error
        return self._visible_here(revision, dns)

    async def _visible_here(self, revision: int, dns: int) -> bytes:
        try:
            async with asyncio.timeout(limits.VISIBLE_TIMEOUT_S):
                await self._reached(revision)
                return _YES if await self._served(dns) else _NO
        except TimeoutError:
            return _NO

    async def _reached(self, revision: int) -> None:
        """Return once this node has applied ``revision``."""
        if self.store.revision >= revision:
            return
        arrival: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._awaited, (revision, next(self._numbers), arrival))
        await arrival

    def _arrived(self) -> None:
        awaited, revision = self._awaited, self.store.revision
        while awaited and (awaited[0][0] <= revision or awaited[0][2].done()):
            _, _, arrival = heapq.heappop(awaited)
            if not arrival.done():
                arrival.set_result(None)

    # Leases

    async def heartbeat(self, items: Sequence[Beat]) -> Heartbeats:
        """Renew the leases of instances, on any node.

        Args:
            items: (namespace, service, instance id, lease that the caller holds or 0).

        Raises:
            NotApplied: no leader, or none that could confirm that it leads.
        """
        return summary(items, await self._beats.beat(items))

    async def renew_lease(self, id: int) -> Lease:
        """Renew a lease by its id; the lease, with its full TTL before it. Raises NotFound, NotApplied."""
        (ttl_ms,) = await self._beats.beat([("", "", "", id)])
        if ttl_ms == MISSING:
            raise NotFound(f"lease {lease_text(id)} does not exist (any more): grant a new one")
        return self.store.brief_lease(id) or Lease(id, ttl_ms)

    async def remaining(self, lease_ids: Sequence[int]) -> dict[int, int | None]:
        """Remaining milliseconds by the leader's clocks, ``None`` when unknown; takes 1 s at most."""
        if self.lead.ready:
            return self._remaining_here(lease_ids)
        leader = self.lead.leader
        if leader is None or leader == self.node_id or not lease_ids:
            return dict.fromkeys(lease_ids)
        payload = _encoder.encode(list(lease_ids))
        try:
            answer = await self.consensus().request(leader, _REMAINING, payload, limits.REMAINING_TIMEOUT_S)
            return dict(zip(lease_ids, _millis.decode(answer), strict=True))
        except (RegistryError, msgspec.MsgspecError, ValueError):
            return dict.fromkeys(lease_ids)

    def _remaining_here(self, lease_ids: Sequence[int]) -> dict[int, int | None]:
        lessor, now = self.lead.lessor, self.lead.now()
        return {id: lessor.remaining_ms(id, now) for id in lease_ids}

    def _asked_remaining(self, peer: str, payload: bytes) -> bytes:
        if not self.lead.ready:
            raise NotApplied(f"{self.node_id} does not lead")
        try:
            ids = _ids.decode(payload)
        except msgspec.MsgspecError as error:
            raise InvalidInput(f"not a list of lease ids: {error}") from error
        left = self._remaining_here(ids)
        return _encoder.encode([left[id] for id in ids])

    # Reading and telling

    async def barrier(self) -> None:
        """Wait until local reads show all that was acknowledged before this call. Raises Unavailable."""
        await self.consensus().read_barrier(limits.BARRIER_TIMEOUT_S)

    def staleness_ms(self) -> int:
        """How old the local state may be: time since this node heard from the leader, or since it last knew one."""
        return self._freshness.staleness_ms()

    def status(self) -> RaftStatus:
        """The cluster as this node sees it."""
        return self._troubles.shown(self.consensus().status())

    def readiness(self) -> list[Problem]:
        """What keeps this node from being ready, each with what it keeps it from; empty: ready."""
        return problems(self.status(), bool(self.store.history), self.hub.behind())

    def consensus(self) -> Consensus:
        """Raft, for who changes its members; raises NotApplied before it is there."""
        if self._raft is None:
            raise NotApplied("the node is starting")
        return self._raft
