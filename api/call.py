"""One request on its way: what a handler is given, and the answers it makes.

The registry and the DNS answer code are reached through two protocols only, :class:`Registry` and :class:`Resolver`:
the API never imports Raft's engine or DNS.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError
from multidict import istr

from discovery import limits
from discovery.api import codec
from discovery.api.problem import BadRequest, ExpectationFailed, RequestTimeout
from discovery.api.server import Connection
from discovery.command import Command, Idempotency, TxnDone, Written
from discovery.consensus import Consensus
from discovery.errors import Overloaded, RegistryError, TooLarge
from discovery.heartbeats import Heartbeats
from discovery.metrics import Node
from discovery.model import Lease
from discovery.readiness import Problem
from discovery.store import Store

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
REVISION: Final = istr("X-Registry-Revision")
STALENESS: Final = istr("X-Registry-Staleness-Ms")
INDEX: Final = istr("X-Registry-Index")
VISIBLE: Final = istr("X-Registry-Visible")
MISSING: Final = istr("X-Registry-Missing")
IDEMPOTENCY_KEY: Final = "Idempotency-Key"

_KEY: Final = re.compile(rf"[!-~]{{1,{limits.IDEMPOTENCY_KEY_CHARS_MAX}}}")


class Resolver(Protocol):
    """The DNS answer code over this node's own view (``GET /api/v1/resolve``)."""

    def query(self, name: str, type: str) -> Mapping[str, Any]:
        """``{"rcode", "answers", "stale"}``; raises InvalidInput for a name or type that no query can carry."""


class Registry(Node, Protocol):
    """What the API asks of ``discovery.registry.Registry``: what ``/metrics`` shows, and this."""

    async def write(
        self,
        command: Command,
        *,
        idempotency: Idempotency | None = None,
        actor: str = "",
        timeout_s: float = limits.WRITE_TIMEOUT_S,
    ) -> Written | TxnDone:
        """Apply a command through Raft; raises :mod:`discovery.errors`."""

    async def visible(self, result: Written | TxnDone, *, cluster: bool = False) -> tuple[bool, list[str]]:
        """Whether DNS shows the write, and which nodes were not reached."""

    async def heartbeat(self, items: Sequence[tuple[str, str, str, int]]) -> Heartbeats:
        """Renew the leases of instances (namespace, service, id, holder or 0)."""

    async def renew_lease(self, id: int) -> Lease:
        """Renew one lease; raises NotFound."""

    async def remaining(self, lease_ids: Sequence[int]) -> dict[int, int | None]:
        """Remaining milliseconds by the leader's clocks, ``None`` when unknown."""

    async def barrier(self) -> None:
        """Wait until local reads are linearizable; raises Unavailable."""

    def readiness(self) -> Sequence[Problem]:
        """What keeps this node from being ready."""

    def consensus(self) -> Consensus:
        """Raft, for who changes its members; raises NotApplied before it is there."""


class Sender(Protocol):
    """What a call needs of the application."""

    bodies_bytes: int
    backups: int
    restoring: bool

    @property
    def registry(self) -> Registry:
        """Where reads and writes go."""

    @property
    def resolver(self) -> Resolver:
        """Who answers as DNS does."""

    @property
    def zone(self) -> str:
        """The DNS suffix served."""

    def respond(
        self, status: int, body: bytes | None, content_type: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """A response with the headers that every answer carries."""

    def stream(self, content_type: str, headers: Mapping[str, str]) -> web.StreamResponse:
        """A 200 whose body comes piece by piece."""

    def problem(self, error: RegistryError) -> web.Response:
        """An error as problem+json."""

    def metrics(self) -> bytes:
        """The exposition of ``/metrics``."""


class Call:
    """One request: decoded path parameters and query, body, and the ways to answer it."""

    __slots__ = ("app", "body", "parameters", "query", "raw_query", "registry", "request", "strong")

    def __init__(self, app: Sender, request: web.BaseRequest, parameters: dict[str, str], raw_query: str) -> None:
        self.app = app
        self.registry = app.registry
        self.request = request
        self.parameters = parameters
        self.raw_query = raw_query
        self.query: Mapping[str, str | list[str]] = {}
        self.body = b""
        self.strong = False

    @property
    def store(self) -> Store:
        """The state machine as it is now (a snapshot from the leader may have put another in its place)."""
        return self.registry.store

    # Query

    def option(self, name: str) -> str | None:
        """A parameter of the query, or ``None``."""
        value = self.query.get(name)
        assert not isinstance(value, list)
        return value

    def number(self, name: str) -> int | None:
        """A decimal parameter of the query, or ``None``."""
        value = self.option(name)
        return None if value is None else codec.decimal(name, value)

    def holder(self) -> int:
        """``?lease=`` as a number, 0 when absent."""
        value = self.option("lease")
        return 0 if value is None else codec.lease_id("lease", value)

    # Reading

    def read(self, value: object, index: int, revision: int) -> web.Response:
        """200 with ``value`` as JSON, as it stood at ``revision``."""
        return self.read_bytes(codec.encode(value), index, revision, JSON, {})

    def read_bytes(
        self, body: bytes, index: int, revision: int, content_type: str, extra: Mapping[str, str]
    ) -> web.Response:
        """200 with ``body``. The revision is that of the reading: the registry may have moved on since."""
        headers = {**self.as_of(index), REVISION: str(revision), **extra}
        return self.app.respond(200, body, content_type, headers)

    def absent(self, error: RegistryError, index: int) -> web.Response:
        """A 404 that carries what a reading carries: absence has an index too."""
        response = self.app.problem(error)
        response.headers.update(self.as_of(index))
        return response

    def as_of(self, index: int) -> dict[str, str]:
        """How fresh a reading is, and its index. A strong reading is as fresh as can be."""
        return {STALENESS: "0" if self.strong else str(self.registry.staleness_ms()), INDEX: str(index)}

    # Writing

    async def write(self, command: Command) -> Written:
        """Apply a command that answers :class:`Written`."""
        result = await self._write(command)
        assert isinstance(result, Written)
        return result

    async def transact(self, command: Command) -> TxnDone:
        """Apply a transaction."""
        result = await self._write(command)
        assert isinstance(result, TxnDone)
        return result

    async def _write(self, command: Command) -> Written | TxnDone:
        return await self.registry.write(
            command,
            idempotency=self._idempotency(),
            actor=self.request.remote or "",
            timeout_s=limits.WRITE_TIMEOUT_S,
        )

    @property
    def keyed(self) -> bool:
        """Whether the request carries an ``Idempotency-Key``, so that its answer may be that of an earlier one."""
        return IDEMPOTENCY_KEY in self.request.headers

    def _idempotency(self) -> Idempotency | None:
        """The request's ``Idempotency-Key`` with a digest of all that makes the request: method, target, body."""
        key = self.idempotency_key()
        if key is None:
            return None
        target = self.request.raw_path.encode("utf-8", "surrogateescape")
        material = b"\0".join((self.request.method.encode(), target, self.body))
        return Idempotency(key, hashlib.blake2b(material, digest_size=16).digest())

    def idempotency_key(self) -> str | None:
        """The request's ``Idempotency-Key``, if any."""
        key = self.request.headers.get(IDEMPOTENCY_KEY)
        if key is not None and not _KEY.fullmatch(key):
            rule = f"must be 1..{limits.IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters"
            codec.refuse(IDEMPOTENCY_KEY, rule, key)
        return key

    async def written(self, result: Written | TxnDone, status: int, value: object = None) -> web.Response:
        """The answer to a write, once DNS shows it (or the wait was given up): 204 when there is no ``value``."""
        cluster = self.option("visible") is not None
        seen, missing = await self.registry.visible(result, cluster=cluster)
        headers: dict[str, str] = {VISIBLE: "true" if seen else "false"}
        if missing:
            headers[MISSING] = ", ".join(missing)
        body = None if value is None else codec.encode(value)
        return self.app.respond(status, body, JSON, headers)

    def renewed(self, value: object) -> web.Response:
        """The answer to a heartbeat: it touches no name, so nothing has to become visible."""
        return self.app.respond(200, codec.encode(value), JSON, {VISIBLE: "true"})


def new_lease_id() -> int:
    """A random 63-bit lease id, never 0."""
    return int.from_bytes(os.urandom(8), "big") >> 1 or 1


async def read_body(app: Sender, request: web.BaseRequest, most: int) -> bytes:
    """The whole body, at most ``most`` bytes.

    Raises:
        TooLarge: by ``Content-Length`` before a byte is read, else while it streams in.
        RequestTimeout, BadRequest, ExpectationFailed, Overloaded: as they say.
    """
    declared = request.headers.get(hdrs.CONTENT_LENGTH)
    if declared is not None and int(declared) > most:
        raise _too_large(most)
    content = request.content
    if not content.is_eof():
        return await _stream(app, request, most)
    body = content.read_nowait()
    if len(body) > most:
        raise _too_large(most)
    return body


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body must be at most {most} bytes here")


async def _stream(app: Sender, request: web.BaseRequest, most: int) -> bytes:
    """The body of a slow or large request, against a deadline; all such bodies together have one budget."""
    chunks: list[bytes] = []
    size = 0
    connection = request.protocol
    assert isinstance(connection, Connection)
    connection.server.receiving[connection] = None
    try:
        await ask_for_body(request)
        async with asyncio.timeout(limits.HTTP_BODY_S_MAX):
            while chunk := await request.content.readany():
                size += len(chunk)
                app.bodies_bytes += len(chunk)
                if size > most:
                    raise _too_large(most)
                if app.bodies_bytes > limits.HTTP_BODIES_BYTES_MAX:
                    raise Overloaded("too many large requests are under way")
                chunks.append(chunk)
    except TimeoutError:
        raise RequestTimeout(f"a body must arrive within {limits.HTTP_BODY_S_MAX:.0f} s") from None
    except ConnectionError:
        raise BadRequest("the client went away before its body was whole") from None
    except (RequestPayloadError, HttpProcessingError) as error:
        raise BadRequest(f"the body is not what its headers promise: {error}") from None
    finally:
        app.bodies_bytes -= size
        connection.server.receiving.pop(connection, None)
    return b"".join(chunks)


async def ask_for_body(request: web.BaseRequest) -> None:
    """Ask for the body when the client waits to be asked (RFC 9110 section 10.1.1); large uploads by curl do."""
    expect = request.headers.get(hdrs.EXPECT)
    if expect is None or request.version < HttpVersion11:
        return
    if expect.lower() != "100-continue":
        raise ExpectationFailed("only Expect: 100-continue is understood")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0
