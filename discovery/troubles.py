"""What hinders the nodes' disks, told by each to the others: who finds no majority can say which ones to look after.

A node tells nothing while nothing hinders it. What it told counts until it says that it is over, or says nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from discovery import limits
from discovery.consensus import Consensus
from discovery.errors import NotApplied, OutcomeUnknown, Overloaded
from discovery.raft.types import RaftStatus

_KIND: Final = "trouble"
_TOLD_S_MAX: Final = 1.0


class Troubles:
    """Of one node and, as far as they told, of its peers.

    Args:
        raft: to tell the others and to hear from them.
        clock: monotonic seconds.
    """

    def __init__(self, raft: Consensus, clock: Callable[[], float]) -> None:
        self._raft = raft
        self._clock = clock
        self._telling = False
        self._heard: dict[str, tuple[float, str]] = {}
        raft.on_request(_KIND, self._on_told)

    def tell(self) -> None:
        """Tell all others what hinders this node, or once that nothing does any more. Call it each second."""
        status = self._raft.status()
        mine = status.disk.trouble
        if not mine and not self._telling:
            return
        self._telling = bool(mine)
        payload = mine[: limits.TROUBLE_CHARS_MAX].encode()
        for member in status.members:
            if member.id != status.node:
                self._raft.request(member.id, _KIND, payload, _TOLD_S_MAX).add_done_callback(_retrieve)

    def _on_told(self, peer: str, payload: bytes) -> bytes:
        text = payload.decode("utf-8", "replace")[: limits.TROUBLE_CHARS_MAX]
        self._heard.pop(peer, None)
        if text and any(member.id == peer for member in self._raft.status().members):
            self._heard[peer] = self._clock(), text
        return b""

    def shown(self, status: RaftStatus) -> RaftStatus:
        """The status with what hinders each member, as far as it is known here."""
        known = self._known(status)
        if not known:
            return status
        members = [msgspec.structs.replace(one, problem=known.get(one.id, "")) for one in status.members]
        return msgspec.structs.replace(status, members=tuple(members))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let a failure for want of a majority say whose disks hinder it."""
        try:
            yield
        except (NotApplied, OutcomeUnknown) as error:
            known = {} if isinstance(error, Overloaded) else self._known(self._raft.status())
            if others := [f"{node}: {text}" for node, text in sorted(known.items()) if text not in error.detail]:
                error.detail += " (the disks of these nodes hinder it: " + "; ".join(others) + ")"
                error.args = (error.detail,)
            raise

    def _known(self, status: RaftStatus) -> dict[str, str]:
        now = self._clock()
        self._heard = {node: told for node, told in self._heard.items() if now - told[0] < limits.TROUBLE_S_MAX}
        known = {node: text for node, (_, text) in self._heard.items()}
        if status.disk.trouble:
            known[status.node] = status.disk.trouble
        return known


def _retrieve(done: asyncio.Future[bytes]) -> None:
    """A node that cannot be told now is told again; one of an earlier version does not understand."""
    if not done.cancelled():
        done.exception()
