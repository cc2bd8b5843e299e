"""Connections to all peers: one for each pair, dialed by the lesser id, re-dialed every 50-200 ms, FIFO both ways.

The owner hears, in the order of the stream: connected, messages, disconnected. A new connection from a peer replaces
the one before (its process was restarted, and this side has not heard of the end yet).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from discovery import limits
from discovery.raft import codec
from discovery.raft.certificate import Keeper
from discovery.raft.connection import Connection
from discovery.raft.founding import Announced
from discovery.raft.hello import NONCE_BYTES, Dialer, Listener
from discovery.raft.secure import Stream

_log: Final = logging.getLogger(__name__)
_DIAL_S: Final = 1.0
_REDIAL_S: Final = (0.05, 0.2)
_RARELY_S: Final = (2.0, 4.0)
_COMPLAIN_EVERY_S: Final = 10.0


class Events(Protocol):
    """What the owner of a transport implements; all are called in the loop and must not block."""

    def peer_connected(self, peer: str, announced: Announced) -> None:
        """A stream to and from the peer begins."""

    def peer_disconnected(self, peer: str, hint: bool) -> None:
        """It ended; ``hint``: not by this side."""

    def peer_message(self, peer: str, message: codec.Message) -> None:
        """A message, in the order in which it was sent."""


class Transport:
    """All peer connections of a node.

    Args:
        node: own id.
        secret: of the cluster, or ``None``.
        announce: what to say of this node, asked at each connection.
        addresses: for each peer's id the ``host:port`` strings to dial, tried in turn.
        keeper: of this node's certificate, or ``None``: no TLS. With neither it nor a secret only loopback peers are
            let in.
    """

    def __init__(
        self,
        node: str,
        events: Events,
        announce: Callable[[], Announced],
        addresses: Mapping[str, Sequence[str]],
        secret: bytes | None,
        keeper: Keeper | None = None,
    ) -> None:
        self._node = node
        self._events = events
        self._announce = announce
        self._addresses = {peer: tuple(places) for peer, places in addresses.items() if peer != node}
        self._secret = secret
        self._keeper = keeper
        self._connections: dict[str, Connection] = {}
        self._handshakes: dict[Connection, None] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._rarely: frozenset[str] = frozenset()
        self._servers: list[asyncio.Server] = []
        self._complained: dict[str, float] = {}
        self._started = False
        self._stopping = False

    @property
    def is_protected(self) -> bool:
        """Whether peers must prove who they are, by a certificate or with the cluster's secret."""
        return self._secret is not None or self._keeper is not None

    @property
    def unfit(self) -> str:
        """Why no peer can be spoken to: this node should have a certificate and has none that fits."""
        return self._keeper.unfit if self._keeper is not None and self._keeper.current is None else ""

    def secure(self, *, server: bool) -> Stream | None:
        """TLS for a new connection, with the certificate of the moment; ``None``: this node speaks plainly."""
        if self._keeper is None or (current := self._keeper.current) is None:
            return None
        return Stream(current.server if server else current.client, server=server)

    @property
    def peers(self) -> frozenset[str]:
        """Ids of all peers, connected or not."""
        return frozenset(self._addresses)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept on bound sockets and dial the peers that are ours to dial."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            self._servers.append(await loop.create_server(self._accept, sock=sock))
        self._started = True
        for peer in self._addresses:
            self._dial_for_ever(peer)

    def add_peer(self, peer: str, places: Sequence[str]) -> None:
        """Know another peer, or an old one's other addresses."""
        known = peer in self._addresses
        self._addresses[peer] = tuple(places)
        if self._started and not known:
            self._dial_for_ever(peer)

    def set_peers(self, addresses: Mapping[str, Sequence[str]], rarely: Collection[str] = ()) -> None:
        """Know these peers and no others; those in ``rarely`` are dialed only now and then."""
        for peer in set(self._addresses) - set(addresses):
            del self._addresses[peer]
            dialer = self._dialers.pop(peer, None)
            if dialer is not None:
                dialer.cancel()
            connection = self._connections.pop(peer, None)
            if connection is not None:
                connection.close()
                self._events.peer_disconnected(peer, hint=False)
        self._rarely = frozenset(rarely)
        for peer, places in addresses.items():
            if peer != self._node:
                self.add_peer(peer, places)

    async def stop(self) -> None:
        """Close everything; what was given to the kernel is still delivered."""
        self._stopping = True
        for server in self._servers:
            server.close()
        dialers = tuple(self._dialers.values())
        for task in dialers:
            task.cancel()
        await asyncio.gather(*dialers, return_exceptions=True)
        ends = [connection.closed for connection in (*self._connections.values(), *self._handshakes)]
        for connection in (*self._connections.values(), *self._handshakes):
            connection.close()
        if ends:
            await asyncio.wait(ends, timeout=1.0)

    def is_connected(self, peer: str) -> bool:
        """Whether a stream to the peer exists."""
        return peer in self._connections

    def send(self, peer: str, frames: list[bytes]) -> bool:
        """Hand frames to the stream of ``peer``; False: there is none, nothing was sent."""
        connection = self._connections.get(peer)
        if connection is None or not connection.is_open:
            return False
        connection.send(frames)
        return True

    def worked_off(self) -> None:
        """All messages handed on so far are done: those that paused may read on."""
        for connection in self._connections.values():
            if connection.unread:
                connection.worked_off()

    # -- the connections' calls ---------------------------------------------------------------------------------

    def handshake_began(self, connection: Connection) -> None:
        """Count it; when too many are unfinished the oldest must go (a flood must not lock real peers out)."""
        self._handshakes[connection] = None
        if len(self._handshakes) > limits.PEER_HANDSHAKES_MAX:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.close()

    def opened(self, connection: Connection, announced: Announced) -> None:
        """The handshake is done; the connection takes the place of an older one."""
        self._handshakes.pop(connection, None)
        before = self._connections.pop(connection.peer, None)
        if before is not None:
            before.close()
            self._events.peer_disconnected(connection.peer, hint=False)
        self._connections[connection.peer] = connection
        self._complained.pop(connection.peer, None)
        self._events.peer_connected(connection.peer, announced)

    def received(self, connection: Connection, message: codec.Message) -> None:
        """A message came; from a connection that was replaced it is dropped."""
        if self._connections.get(connection.peer) is connection:
            self._events.peer_message(connection.peer, message)

    def lost(self, connection: Connection) -> None:
        """The connection ended."""
        self._handshakes.pop(connection, None)
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
            self._events.peer_disconnected(connection.peer, hint=not connection.replaced)

    def complain(self, peer: str, text: str) -> None:
        """Warn about a peer, but not more than every few seconds about the same one (strangers are one)."""
        now = time.monotonic()
        known = peer if peer in self._addresses else ""
        if now - self._complained.get(known, -_COMPLAIN_EVERY_S) >= _COMPLAIN_EVERY_S:
            self._complained[known] = now
            _log.warning("peer connection refused: %s", text)

    # -- inside -------------------------------------------------------------------------------------------------

    def _accept(self) -> Connection:
        nonce = os.urandom(NONCE_BYTES)
        return Connection(self, Listener(self._node, self._addresses, self._announce(), self._secret, nonce))

    def _dial_for_ever(self, peer: str) -> None:
        """Of two nodes the lesser id dials, so that there is one connection a pair."""
        if self._node < peer:
            task = asyncio.get_running_loop().create_task(self._keep_dialing(peer), name=f"dial {peer}")
            self._dialers[peer] = task

    async def _keep_dialing(self, peer: str) -> None:
        """Dial for ever; names are resolved again at each attempt, by the loop's threads."""
        attempt = 0
        while not self._stopping:
            places = self._addresses[peer]
            connection = await self._dial(peer, places[attempt % len(places)])
            if connection is not None:
                await asyncio.shield(connection.closed)
            attempt += 1
            wait = _RARELY_S if peer in self._rarely else _REDIAL_S
            await asyncio.sleep(random.uniform(*wait))  # noqa: S311 - spreads attempts, protects nothing

    async def _dial(self, peer: str, place: str) -> Connection | None:
        host, _, port = place.rpartition(":")
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            nonce = os.urandom(NONCE_BYTES)
            return Connection(self, Dialer(self._node, peer, self._announce(), self._secret, nonce))

        with contextlib.suppress(OSError, TimeoutError, UnicodeError):
            async with asyncio.timeout(_DIAL_S):
                _, made = await loop.create_connection(connection, host.strip("[]"), int(port))
                return made
        return None
