"""Connections: aiohttp's HTTP/1.1 protocol with our limits, deadlines and error pages.

aiohttp's low-level ``web.Server`` is used without its ``Application``: our own route table is needed anyway (raw
paths), and a heartbeat costs a fifth less. What aiohttp would answer by itself (a bad request line, a defect) becomes
problem+json here. Slow clients: a head must be complete ``HTTP_HEADER_S_MAX`` after its first byte (or after the
connection was made), a body by ``HTTP_BODY_S_MAX``. When a client is at its connection limit, the unfinished or idle
one it has left waiting longest makes room, so that a flood of slow requests does not lock out the good ones behind the
same address. Who does not take an answer gets no further one and is cut off after ``HTTP_SEND_S_MAX``; all such answers
together are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from discovery import limits
from discovery.api.problem import BadRequest, HeadersTooLarge, RequestTimeout, unexpected
from discovery.errors import Overloaded, RegistryError

log: Final = logging.getLogger(__name__)

SWEEP_S: Final = 0.5


class Pages(Protocol):
    """How the application shows an error: as a response, or as the raw bytes of one (then the connection ends)."""

    def problem(self, error: RegistryError) -> web.Response:
        """The error as a response."""

    def raw_problem(self, error: RegistryError) -> bytes:
        """The error as the bytes of a whole answer with ``Connection: close``."""


def client_of(address: str) -> str:
    """Whom an address counts as: itself, an IPv6 address the /64 that its owner disposes of."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.partition("%")[0])
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


class Connection(RequestHandler):
    """One client connection."""

    __slots__ = ("head_bytes", "peer", "server")

    def __init__(self, server: Server, **settings: Any) -> None:
        super().__init__(server, **settings)
        self.server: Final = server
        self.peer = ""
        self.head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take up work, then be counted (aiohttp's task must exist before a refusal may end it)."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = client_of(name[0]) if isinstance(name, tuple) else ""
        self.server.admit(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and watch how long and how large a head grows."""
        super().data_received(data)
        waiter = self._waiter
        if self._messages or (waiter is not None and waiter.done()):
            if self.head_bytes or self in self.server.opening:
                self.head_bytes = 0
                self.server.opening.pop(self, None)
        elif waiter is not None:
            self.head_bytes += len(data)
            self.server.opening.setdefault(self, self.server.now())
            if self.head_bytes > limits.HTTP_HEADER_BYTES_MAX:
                self.refuse(HeadersTooLarge(f"a request head must be at most {limits.HTTP_HEADER_BYTES_MAX} bytes"))

    def pause_writing(self) -> None:
        """The client does not take his answer as fast as it was made."""
        super().pause_writing()
        self.server.holding(self)

    def resume_writing(self) -> None:
        """The client has taken it."""
        super().resume_writing()
        self.server.took(self)

    def waits(self) -> bool:
        """Whether no request is being answered."""
        return self._current_request is None and not self._messages

    def refuse(self, error: RegistryError) -> None:
        """Say why, and close."""
        if self.transport is not None:
            self.transport.write(self.server.pages.raw_problem(error))
        self.drop()

    def drop(self) -> None:
        """Close, and be forgotten at once (the loop reports a lost connection only later)."""
        if self in self.server.sending and self.transport is not None:
            self.transport.abort()  # a mere close would keep what the client does not take
        self.server.forget(self)
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Show errors of aiohttp itself as problem+json; the connection closes, as what follows cannot be trusted."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already, it can only be cut off")
        response = self.server.pages.problem(_error_of(status, exc, message))
        response.force_close()
        return response


def _error_of(status: int, exc: BaseException | None, message: str | None) -> RegistryError:
    if isinstance(exc, LineTooLong):
        return HeadersTooLarge("the request line or a header is too long")
    if message is not None and message.startswith("Too many headers"):  # aiohttp has no class of its own for it
        return HeadersTooLarge(f"a request must have at most {limits.HTTP_HEADERS_MAX} headers")
    if 400 <= status < 500:
        first = (message or "the request is malformed").strip().splitlines()[0]
        return BadRequest(f"not an HTTP request that is accepted here: {first[:200]}")
    log.error("defect outside a handler", exc_info=exc)
    return unexpected(exc if isinstance(exc, Exception) else RuntimeError())


class Server(web.Server):
    """The listening side: counts connections and ends the slow ones.

    Args:
        handler: answers one request.
        pages: shows errors.
        now: monotonic seconds.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        pages: Pages,
        now: Callable[[], float],
    ) -> None:
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=limits.HTTP_IDLE_S_MAX,
            lingering_time=limits.HTTP_LINGER_S_MAX,
            max_headers=limits.HTTP_HEADERS_MAX,
            auto_decompress=False,  # Content-Encoding is refused, so never decompressed
        )
        self.pages: Final = pages
        self.now: Final = now
        self.opening: Final[dict[Connection, float]] = {}  # connections without a whole head, oldest first
        self.receiving: Final[dict[Connection, None]] = {}  # connections whose body is under way, oldest first
        self.sending: Final[dict[Connection, tuple[float, int]]] = {}  # since when, bytes that wait; oldest first
        self.sending_bytes = 0
        self.peers: Final[dict[str, dict[Connection, None]]] = {}
        self.connection_count = 0
        self.refused = 0
        self._sweeper: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def admit(self, connection: Connection) -> None:
        """Count a new connection; at a limit make room for it, or refuse it."""
        if not self._room(connection.peer):
            self.refused += 1
            connection.refuse(Overloaded("too many connections, and every one of them is busy"))
            return
        self.connection_count += 1
        self.peers.setdefault(connection.peer, {})[connection] = None
        self.opening[connection] = self.now()
        self._watch()

    def _watch(self) -> None:
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def holding(self, connection: Connection) -> None:
        """An answer waits for its client; when all that wait are too much, those that wait longest are cut off."""
        assert connection.transport is not None
        size = connection.transport.get_write_buffer_size()
        self.sending[connection] = (self.now(), size)
        self.sending_bytes += size
        while self.sending_bytes > limits.HTTP_SENDING_BYTES_MAX:
            self.refused += 1
            next(iter(self.sending)).drop()
        self._watch()

    def took(self, connection: Connection) -> None:
        """An answer waits no longer."""
        _, size = self.sending.pop(connection, (0.0, 0))
        self.sending_bytes -= size

    def _room(self, peer: str) -> bool:
        """Whether one more connection of ``peer`` fits, after at most one waiting connection was closed for it."""
        mine = self.peers.get(peer, {})
        if peer and len(mine) >= limits.HTTP_CONNECTIONS_PER_CLIENT_MAX:
            return self._close_waiting(mine)
        if self.connection_count >= limits.HTTP_CONNECTIONS_MAX:
            return self._close_waiting(max(self.peers.values(), key=len))
        return True

    def _close_waiting(self, candidates: dict[Connection, None]) -> bool:
        """Close the oldest whose head is not whole, else one whose body is not, else an idle one."""
        for unfinished in (self.opening, self.receiving):
            victim = next((one for one in candidates if one in unfinished), None)
            if victim is not None:
                break
        else:
            victim = next((one for one in candidates if one.waits()), None)
        if victim is None:
            return False
        self.refused += 1
        victim.drop()
        return True

    def busy(self) -> bool:
        """Whether a request is being answered on any connection."""
        return any(not connection.waits() for mine in self.peers.values() for connection in mine)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Count it off."""
        super().connection_lost(handler, exc)
        assert isinstance(handler, Connection)
        self.forget(handler)

    def forget(self, connection: Connection) -> None:
        """Count a connection off; once is enough."""
        self.opening.pop(connection, None)
        self.receiving.pop(connection, None)
        self.took(connection)
        mine = self.peers.get(connection.peer)
        if mine is None or connection not in mine:
            return
        del mine[connection]
        self.connection_count -= 1
        if not mine:
            del self.peers[connection.peer]

    def _sweep(self) -> None:
        """End the connections whose head, or whose taking of an answer, is overdue; runs while there are such."""
        self._sweeper = None
        now = self.now()
        late = RequestTimeout(f"a request head must arrive within {limits.HTTP_HEADER_S_MAX:.0f} s")
        for connection in _before(self.opening.items(), now - limits.HTTP_HEADER_S_MAX):
            self.refused += 1
            connection.refuse(late)
        waiting = ((connection, since) for connection, (since, _) in self.sending.items())
        for connection in _before(waiting, now - limits.HTTP_SEND_S_MAX):
            self.refused += 1
            connection.drop()
        if self.opening or self.sending:
            self._watch()


def _before(connections: Iterable[tuple[Connection, float]], moment: float) -> list[Connection]:
    """Those that wait since before ``moment``; the oldest come first."""
    return [connection for connection, _ in itertools.takewhile(lambda one: one[1] <= moment, connections)]
