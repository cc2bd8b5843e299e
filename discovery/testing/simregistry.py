"""The registry's rules in virtual time: real store, real lease clocks, heartbeats and evictions as in DESIGN 3.4, 3.5.

It is small on purpose: HTTP, feed and asyncio are left out, what may lose a living lease is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from discovery.command import Envelope, Evict, Meta, decode, encode
from discovery.leases import Due, LeaseClock, Lessor
from discovery.model import Group
from discovery.raft.codec import AppRequest, AppResponse
from discovery.raft.types import Role
from discovery.store import Outcome, Store

if TYPE_CHECKING:
    from discovery.testing.simnode import SimNode

_TICK_S = 0.05
_BATCH_S = 0.004

Beat = tuple[int, float]
"""(lease, when its holder sent the heartbeat)."""

Answer = Callable[[bool], None]


class SimRegistry:
    """One process's machine (fulfils ``discovery.raft.types.Machine``)."""

    def __init__(self, node: SimNode) -> None:
        self.node = node
        self.store = Store()
        self.lessor = Lessor()
        self.clock = LeaseClock(node.world.now)
        self.leader: str | None = None
        self.term = 0
        self.ready = False
        self._batch: list[tuple[int, Answer]] = []
        self._asked: dict[int, tuple[str, list[tuple[int, Answer]]]] = {}
        self._requests = 0
        self._position = (0, 0)
        self._waiting: dict[int, list[Answer]] = {}

    # -- Machine --------------------------------------------------------------------------------------------------

    @property
    def time_ms(self) -> int:
        """Log time of the state."""
        return self.store.time_ms

    def apply(self, command: bytes, meta: Meta) -> object:
        """Apply, tell the watch, and follow the leases.

        The engine takes whatever is raised here for the command's own result (hazard 13), so the watch remembers it.
        """
        try:
            return self._apply_watched(command, meta)
        except Exception as error:
            self.node.watch.broken = self.node.watch.broken or error
            raise

    def _apply_watched(self, command: bytes, meta: Meta) -> object:
        index, position = self._position
        watch, name = self.node.watch, self.node.name
        if index == meta.index:
            position += 1
        else:
            position = 0
            watch.same.state(name, meta.index, self.store)
        self._position = (meta.index, position)
        watch.same.command(name, command, meta, position)
        outcome = self._apply(command, meta)
        envelope = decode(command)
        assert isinstance(envelope, Envelope)
        watch.applied(name, envelope, outcome, meta, position)
        self._publish(outcome.group)
        self._follow_leases(outcome)
        return outcome.result

    def _apply(self, command: bytes, meta: Meta) -> Outcome:
        return self.store.apply(command, meta)

    def _publish(self, group: Group | None) -> None:
        if group is not None:
            self.node.follower.published(group, self.node.watch.groups)

    def _follow_leases(self, outcome: Outcome) -> None:
        now = self.now()
        for effect in outcome.leases:
            if effect.kind == "started":
                self.lessor.start(effect.id, effect.version, effect.ttl_ms, now)
                self._note(effect.id)
            elif effect.kind == "gone":
                self.lessor.forget(effect.id)
                self._release(effect.id, False)
            else:
                self.lessor.release([effect.id], now)
                self._release(effect.id, True)

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """A copy of the state."""
        return self.store.snapshot().chunks

    def load(self, chunks: Iterator[bytes]) -> Store:
        """A state from chunks."""
        return Store.load(chunks)

    def install(self, state: Store) -> None:
        """Swap."""
        self.store = state
        self.node.watch.installed(self.node.follower, state)

    def role(self, role: Role, term: int, leader: str | None, ready: bool) -> None:
        """Leadership changed."""
        self.node.watch.role(self.node.name, role, term)
        was_ready, self.ready = self.ready, ready
        self.leader, self.term = leader, term
        if ready and not was_ready:
            self.lessor.promote(self.now(), self.store.lease_terms())
            self.node.watch.lateness.promoted(self.node, self.store)
            self.node.timer(_TICK_S, self._tick)
        elif was_ready and not ready:
            self.lessor.demote()
            for answers in self._waiting.values():
                for answer in answers:
                    answer(False)
            self._waiting.clear()

    def now(self) -> float:
        """Lease time."""
        return self.clock.now(self.node.world.now)

    def has(self, key: str) -> bool:
        """Whether a client's write is in the state."""
        return self.store.key(key) is not None

    # -- evictions ------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        if not self.ready:
            return
        self.node.timer(_TICK_S, self._tick)
        due = self.lessor.due(self.now())
        if due:
            self.confirm(lambda result: self._confirmed(due, result))

    def _confirmed(self, due: list[Due], result: Any) -> None:
        if isinstance(result, Exception) or result != self.term or not self.ready:
            return
        still = self.lessor.still_due(due, self.now())
        for item in still:
            self.node.watch.lateness.evicting(item.id, self.node)
        self._evict(still, result)

    def _evict(self, due: list[Due], term: int) -> None:
        if not due:
            return
        self.lessor.hold(item.id for item in due)
        command = encode(Evict(term, tuple((item.id, item.version, None) for item in due)))
        ids = [item.id for item in due]
        self.propose(command, lambda result: self._evicted(ids, result), term)

    def _evicted(self, ids: list[int], result: Any) -> None:
        """An eviction that failed: its leases go back on the wheel, whoever waited is not acknowledged."""
        if isinstance(result, Exception) and self.ready:
            self.lessor.release(ids, self.now())
            for lease in ids:
                self._release(lease, False)

    def _note(self, lease: int) -> None:
        if self.ready:
            self.node.watch.lateness.heard(lease, self.node)

    def _release(self, lease: int, renewed: bool) -> None:
        for answer in self._waiting.pop(lease, []):
            answer(renewed)

    # -- heartbeats -----------------------------------------------------------------------------------------------

    def heartbeat(self, lease: int, answer: Answer) -> None:
        """A holder's heartbeat arrives at this node."""
        self._batch.append((lease, answer))
        if len(self._batch) == 1:
            self.node.timer(_BATCH_S, self.flush_heartbeats)

    def flush_heartbeats(self) -> None:
        """Hand the batch to the leader; always done before a round is answered."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        if self.ready:
            self._record([lease for lease, _ in batch], lambda renewed: _tell(batch, renewed))
        elif self.leader is None or self.leader == self.node.name:
            _tell(batch, None)
        else:
            self._requests += 1
            self._asked[self._requests] = (self.leader, batch)
            payload = msgspec.msgpack.encode([lease for lease, _ in batch])
            request = AppRequest(self._requests, "heartbeat", payload)
            self.node.network.send(self.node.name, self.leader, request)

    def _record(self, leases: list[int], answer: Callable[[list[int] | None], None]) -> None:
        """Note heartbeats, then confirm by a round that begins after that, then answer."""
        now = self.now()
        known = [lease for lease in leases if self.lessor.heartbeat(lease, now)]
        for lease in known:
            self._note(lease)

        def confirmed(result: Any) -> None:
            if isinstance(result, Exception) or not self.ready:
                answer(None)
                return
            # An eviction that was under way may have been applied meanwhile: then the heartbeat came too late.
            still = [lease for lease in known if self.lessor.version(lease) is not None]
            held = [lease for lease in still if lease in self.lessor.held]
            for lease in held:
                self._waiting.setdefault(lease, []).append(partial(_kept, lease, answer))
            answer([lease for lease in still if lease not in held])

        self.confirm(confirmed)

    def on_request(self, peer: str, message: AppRequest) -> None:
        """A follower's batch."""
        leases: list[int] = msgspec.msgpack.decode(message.payload)

        def answer(renewed: list[int] | None) -> None:
            reply = AppResponse(
                message.id, "" if renewed is not None else "not_applied", msgspec.msgpack.encode(renewed)
            )
            self.node.network.send(self.node.name, peer, reply)

        if self.ready:
            self._record(leases, answer)
        else:
            answer(None)

    def on_response(self, peer: str, message: AppResponse) -> None:
        """The leader's answer to a batch."""
        asked = self._asked.pop(message.id, None)
        if asked is not None:
            _tell(asked[1], msgspec.msgpack.decode(message.payload))

    def lost(self, peer: str) -> None:
        """The stream to a peer ended: what it was asked stays unanswered."""
        self._asked = {id: asked for id, asked in self._asked.items() if asked[0] != peer}

    # -- the engine -----------------------------------------------------------------------------------------------

    def propose(
        self, command: bytes, answer: Callable[[Any], None], term: int | None = None, within: float = 3.0
    ) -> None:
        """Replicate a command."""
        self.node.engine.propose(answer, command, self.node.world.now + within, term)
        self.node.wake()

    def confirm(self, answer: Callable[[Any], None]) -> None:
        """A round that begins now."""
        begun = self.node.world.now

        def checked(result: Any) -> None:
            if not isinstance(result, Exception):
                self.node.watch.confirmed(self.node.name, result, begun)
            answer(result)

        self.node.engine.confirm(checked)
        self.node.wake()

    def read(self, answer: Callable[[Any], None], within: float = 3.0) -> None:
        """A strong read that begins now."""
        self.node.engine.read_index(answer, self.node.world.now + within)
        self.node.wake()


def _kept(lease: int, answer: Callable[[list[int] | None], None], renewed: bool) -> None:
    """The eviction that this heartbeat waited for was skipped."""
    if renewed:
        answer([lease])


def _tell(batch: list[tuple[int, Answer]], renewed: list[int] | None) -> None:
    known = set(renewed or ())
    for lease, answer in batch:
        answer(lease in known)
