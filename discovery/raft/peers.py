"""Everybody at the other end of a connection: who is heard, who hears what of the members, and what is kept of it.

What a peer says of itself is judged here (:mod:`.founding`), what the log says of the members is followed here, after
each pass: whom to dial, what to announce, what to store. Who *counts* is decided by the engine alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from discovery.errors import CorruptData, DiskFull
from discovery.levels import Beyond
from discovery.raft import codec
from discovery.raft.certificate import Keeper
from discovery.raft.configuration import Configuration
from discovery.raft.driver import Driver
from discovery.raft.engine import Engine
from discovery.raft.founding import Announced
from discovery.raft.hello import encode_announced
from discovery.raft.identity import DataDirectory, Identity
from discovery.raft.membership import Membership
from discovery.raft.rpc import Rpc
from discovery.raft.transport import Transport

_log: Final = logging.getLogger(__name__)
_ANNOUNCE: Final = "raft.announce"
_RETRY_S: Final = 1.0


class Peers:
    """The transport's owner.

    Args:
        members: as this node knows them.
        directory: where they are stored.
        secret: of the cluster.
        keeper: of this node's certificate.
        first_write: makes the log durable before this node becomes a member.
        begin: makes engine and driver.
        fatal: what ends the process when the disk fails.
    """

    def __init__(
        self,
        members: Membership,
        directory: DataDirectory,
        secret: bytes | None,
        keeper: Keeper | None,
        first_write: Callable[[], None],
        begin: Callable[[], tuple[Engine, Driver]],
        fatal: Callable[[str, BaseException], object],
    ) -> None:
        self._members, self._directory, self._fatal = members, directory, fatal
        self._first_write, self._make = first_write, begin
        self.transport = Transport(members.node, self, members.announcement, members.addresses(), secret, keeper)
        self.rpc = Rpc(members.node, self._send)
        self.running: tuple[Engine, Driver] | None = None
        self.counted: set[str] = set()
        """Connected nodes of this cluster: their messages reach engine and registry."""
        self._met: set[str] = set()
        self._seen: tuple[Configuration, Configuration] | None = None
        self._stored = members.identity
        self._storing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take part, if this node is a member already or can be now."""
        if self._members.identity.founded:
            self._begin()
        self._consider()

    def _begin(self) -> None:
        engine, driver = self.running = self._make()
        engine.told(self._members.identity.told)
        driver.after_pass = self._look_at_members
        driver.start()

    async def kept(self) -> None:
        """Return when what is known of the members is stored."""
        if self._storing is not None:
            await self._storing

    def _send(self, peer: str, message: codec.AppRequest | codec.AppResponse) -> bool:
        return self.transport.send(peer, [codec.frame(codec.encode(message))])

    # -- the transport's events ---------------------------------------------------------------------------------------

    def peer_connected(self, peer: str, announced: Announced) -> None:
        """A stream begins; whether the peer counts is judged by what it announced."""
        _log.info("peer %s is connected (version %s)", peer, announced.version)
        self._members.hear(peer, announced)
        self._announce(peer)  # the handshake may have begun before this node became a member
        self._consider()

    def peer_disconnected(self, peer: str, hint: bool) -> None:
        """A stream ended."""
        _log.info("peer %s is disconnected", peer)
        self._members.forget(peer)
        self.rpc.disconnected(peer)
        if peer in self.counted | self._met and self.running is not None:
            self.counted.discard(peer)
            self._met.discard(peer)
            self.running[1].disconnected(peer, hint)

    def peer_message(self, peer: str, message: codec.Message) -> None:
        """A message; only what members say reaches engine and registry."""
        if isinstance(message, codec.AppRequest) and message.kind == _ANNOUNCE:
            self._members.hear(peer, message.payload)
            self._consider()
        elif peer not in self.counted or self.running is None:
            return
        elif isinstance(message, codec.AppRequest | codec.AppResponse):
            self.rpc.message(peer, message)
        else:
            self.running[1].receive(peer, message)

    def _consider(self) -> None:
        """Something was announced: become a member if that is right now, and judge everyone anew."""
        try:
            self._members.check_levels()
        except Beyond as error:
            self._fatal("this version is too old for its cluster", error)
            return
        try:
            became = self._members.settle(self._first_write)
        except DiskFull as error:
            _log.error("the founding waits for room: %s", error.detail)
            asyncio.get_running_loop().call_later(_RETRY_S, self._consider)
            return
        except (OSError, CorruptData) as error:
            self._fatal("the founding cannot be written", error)
            return
        if became:
            self._stored = self._members.identity
            self._begin()
            self._tell_all()
        if self.running is None:
            for peer in self._members.announced:
                self._members.counts(peer)  # says what this node waits for
            return
        engine, driver = self.running
        for peer, announced in tuple(self._members.announced.items()):
            engine.knows(peer, announced.level)
            self._drop_if_beyond(peer)
            if peer not in self.counted and self._members.counts(peer):
                self.counted.add(peer)
                self._met.discard(peer)
                driver.connected(peer, announced.incarnation)
            elif not announced.cluster and peer not in self._met:
                self._met.add(peer)
                engine.met(peer, announced.incarnation)
                driver.wake()
        if self._members.identity is not self._stored:
            engine.told(self._members.identity.told)
            driver.wake()
            self._tell_all()

    def _drop_if_beyond(self, peer: str) -> None:
        """Whoever does not know what is in force now does not count any more, also when it counted a moment ago."""
        if peer in self.counted and not self._members.counts(peer) and self.running is not None:
            self.counted.discard(peer)
            self.rpc.disconnected(peer)
            self.running[1].disconnected(peer, False)

    def _tell_all(self) -> None:
        """The members are others, or this node became one: dial whom we must, tell everybody, keep it."""
        self.transport.set_peers(self._members.addresses(), self._members.former())
        for peer in tuple(self._members.announced):
            self._announce(peer)
        if self._members.identity is not self._stored:
            self._stored = self._members.identity
            self._storing = asyncio.get_running_loop().create_task(self._store(self._storing, self._stored))

    async def _store(self, before: asyncio.Task[None] | None, identity: Identity) -> None:
        """Keep the identity. Log and snapshot go before it: what a crash takes of it is told again at the start."""
        if before is not None:
            await before
        try:
            await asyncio.to_thread(self._directory.store, identity)
        except DiskFull as error:
            _log.error("the identity is not stored, for want of room: %s", error.detail)
        except OSError as error:
            self._fatal("the identity cannot be stored", error)

    def _look_at_members(self) -> None:
        """After each pass: log or snapshot may say something else of the members."""
        assert self.running is not None
        members = self.running[0].members()
        if self._seen is not None and members[0] is self._seen[0] and members[1] is self._seen[1]:
            return
        self._seen = members
        self._members.follow(*members)
        self._tell_all()
        self._consider()

    def _announce(self, peer: str) -> None:
        """Before anything else of Raft is said on the stream: the peer takes it from a member only."""
        if self._members.identity.founded:
            told = encode_announced(self._members.announcement())
            self._send(peer, codec.AppRequest(0, _ANNOUNCE, told))
