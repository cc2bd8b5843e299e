"""What operators ask of a cluster: members added and removed, leadership handed over. Any node takes the question.

The leader does it (:mod:`.changes`); the node that was asked goes on asking whoever leads until it has an outcome or
its time is over. That is safe: each question says what is to hold, and is answered alike when it holds already.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec

from discovery import limits
from discovery.errors import Conflict, InvalidInput, NotApplied, NotFound, OutcomeUnknown, RegistryError, Unavailable
from discovery.raft.configuration import Add, Change, Remove, decode_change
from discovery.raft.founding import MEMBERS_BYTES_MAX, members_bytes
from discovery.raft.types import RaftStatus

_CHANGE: Final = "raft.change"
_LEAD: Final = "raft.lead"
_RETRY_S: Final = 0.02


class Facade(Protocol):
    """What this room needs of :class:`.raft.Raft`."""

    @property
    def node(self) -> str:
        """Own id."""

    def status(self) -> RaftStatus:
        """Role, leader and members."""

    def request(self, peer: str, kind: str, payload: bytes, timeout_s: float) -> asyncio.Future[bytes]:
        """Ask a member."""

    def on_request(self, kind: str, handler: Callable[[str, bytes], bytes | Awaitable[bytes]]) -> None:
        """Answer such questions."""

    async def change(self, change: Change, timeout_s: float) -> Any:
        """At the leader: make a change; returns once it is applied here."""

    async def hand_over(self, peer: str | None = None) -> str | None:
        """At the leader: make ``peer`` (``None``: who is furthest) the leader; who leads now."""


class Admin:
    """The operators' side of one node's Raft."""

    def __init__(self, raft: Facade) -> None:
        self._raft = raft
        raft.on_request(_CHANGE, self._asked_change)
        raft.on_request(_LEAD, self._asked_lead)

    async def add(self, node: str, raft: str, http: str, timeout_s: float = limits.MEMBERSHIP_TIMEOUT_S) -> None:
        """Add a node as a learner; it becomes a voter by itself. Nothing happens when it was added already.

        Raises:
            Conflict: the id is a member's already, or there are too many members, or too long addresses.
            NotApplied, OutcomeUnknown: no leader did it in time.
        """
        status = self._raft.status()
        places = {member.id: member.raft for member in status.members}
        if members_bytes({**places, node: raft}) > MEMBERS_BYTES_MAX:
            raise Conflict("ids and Raft addresses of all members are too long for a handshake")
        await self._at_leader(_CHANGE, msgspec.msgpack.encode(Add(node, raft, http)), timeout_s)

    async def remove(self, node: str, timeout_s: float = limits.MEMBERSHIP_TIMEOUT_S) -> None:
        """Remove a member. One that leads hands its leadership over first.

        Raises:
            NotFound: there is no such member.
            Conflict: the rest could decide nothing.
            NotApplied, OutcomeUnknown: no leader did it in time.
        """
        with contextlib.suppress(_AlreadyDone):
            await self._at_leader(_CHANGE, msgspec.msgpack.encode(Remove(node)), timeout_s)

    async def lead(self, node: str, timeout_s: float = limits.HANDOVER_TIMEOUT_S) -> None:
        """Make ``node`` the leader.

        Raises:
            NotFound: there is no such member.
            Conflict: it has no vote.
            NotApplied, OutcomeUnknown: it did not take over in time.
        """
        member = next((member for member in self._raft.status().members if member.id == node), None)
        if member is None:
            raise NotFound(f"{node} is no member")
        if member.role == "learner":
            raise Conflict(f"{node} is a learner: it has no vote yet, so it cannot lead")
        await self._at_leader(_LEAD, node.encode(), timeout_s)

    async def _at_leader(self, kind: str, payload: bytes, timeout_s: float) -> None:
        """Ask whoever leads, again after each answer that says nothing for good."""
        deadline = time.monotonic() + timeout_s
        unsure: NotApplied | OutcomeUnknown = Unavailable("no leader is known")
        while (left := deadline - time.monotonic()) > 0:
            leader = self._raft.status().leader
            if leader is not None:
                try:
                    await self._raft.request(leader, kind, payload, left)
                    return
                except NotApplied as error:
                    unsure = unsure if isinstance(unsure, OutcomeUnknown) else error
                except OutcomeUnknown as error:
                    unsure = error
                except NotFound as error:
                    if isinstance(unsure, OutcomeUnknown):
                        raise _AlreadyDone(error.detail) from error
                    raise
            await asyncio.sleep(_RETRY_S)
        raise unsure

    def _asked_change(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        return self._change(decode_change(payload))

    async def _change(self, change: Change) -> bytes:
        if isinstance(change, Remove) and change.node == self._raft.node and self._leads():
            if self._raft.status().standing == "voter" and not await self._raft.hand_over():
                raise Conflict(f"{change.node} leads, and nobody is there to take over: it cannot be removed")
            raise Unavailable(f"{change.node} led and hands over first: the next leader removes it")
        await self._raft.change(change, limits.MEMBERSHIP_TIMEOUT_S)
        return b""

    def _leads(self) -> bool:
        return self._raft.status().leader == self._raft.node

    def _asked_lead(self, peer: str, payload: bytes) -> Awaitable[bytes]:
        try:
            return self._lead(payload.decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(f"not an id: {error}") from error

    async def _lead(self, node: str) -> bytes:
        if not self._leads():
            raise Unavailable("this node does not lead (any more)")
        if node != self._raft.node and await self._raft.hand_over(node) != node:
            raise Unavailable(f"{node} did not take over: it is out of reach, or too far behind")
        return b""


class _AlreadyDone(RegistryError):
    """What was to be removed is not there any more: the attempt whose outcome was unknown did it."""
