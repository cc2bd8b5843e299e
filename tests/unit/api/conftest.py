"""The API over the real state machine, without Raft: a stand-in registry applies commands directly."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
import uvloop

from discovery import errors, limits
from discovery.api import Settings, make_app, serve
from discovery.api.server import Server
from discovery.command import Command, Failure, Found, Idempotency, Meta, TxnDone, Written, encode
from discovery.errors import FieldError
from discovery.feed import Sample
from discovery.model import Lease
from discovery.raft.types import CertificateStatus, DiskStatus
from discovery.store import Store

START_MS = 1_700_000_000_000


class Beats(msgspec.Struct):
    renewed: int
    missing: list[tuple[str, str, str]]
    conflict: list[tuple[str, str, str]]
    ttls: list[int | None]


class Member(msgspec.Struct):
    id: str
    raft: str
    http: str
    role: str
    alive: bool
    last_contact_ms: int | None
    applied: int | None
    problem: str = ""
    level: int | None = 2
    version: str = "0.1"


class Status(msgspec.Struct):
    leader: str | None
    term: int
    commit: int
    applied: int
    members: list[Member]
    disk: DiskStatus = DiskStatus()
    certificate: CertificateStatus | None = None
    level: int = 2


class Missing(msgspec.Struct):
    name: str
    detail: str
    areas: tuple[str, ...]


class StandIn:
    """A registry of one node that is always its own leader, until a test says otherwise."""

    def __init__(self) -> None:
        self.store = Store()
        self.node_id = "n1"
        self.evictions = SimpleNamespace(evicted=0)
        self.lead = SimpleNamespace(stalls=0)
        samples = {0: (Sample("dns_queries_total", (), 5),)}
        self.hub = SimpleNamespace(killed=0, children=[("node", 1, 0.0)], stats=lambda: samples)
        self.index = 0
        self.now_ms = START_MS
        self.failure: errors.RegistryError | None = None
        self.shown = (True, list[str]())
        self.unready: list[Missing] = []
        self.stale_ms = 0
        self.remaining_known = True
        self.barriers = 0
        self.clusters: list[bool] = []
        self.actors: list[str] = []
        self._apply(encode(Found("h1")))

    def _apply(self, data: bytes) -> Any:
        self.index += 1
        return self.store.apply(data, Meta(self.index, 1, self.now_ms)).result

    async def write(
        self,
        command: Command,
        *,
        idempotency: Idempotency | None = None,
        actor: str = "",
        timeout_s: float = limits.WRITE_TIMEOUT_S,
    ) -> Written | TxnDone:
        if self.failure is not None:
            raise self.failure
        self.actors.append(actor)
        data = encode(command, idempotency, actor)
        if len(data) > limits.COMMAND_BYTES_MAX:
            raise errors.TooLarge("the command is too large")
        result = self._apply(data)
        if isinstance(result, Failure):
            faults = (FieldError(result.field, result.rule),) if result.field else ()
            raise errors.from_code(result.code, result.detail, faults)
        return result

    async def visible(self, result: Written | TxnDone, *, cluster: bool = False) -> tuple[bool, list[str]]:
        self.clusters.append(cluster)
        return self.shown

    async def heartbeat(self, items: Sequence[tuple[str, str, str, int]]) -> Beats:
        if self.failure is not None:
            raise self.failure
        beats = Beats(0, [], [], [])
        for namespace, service, id, holder in items:
            record = self.store.instance(namespace, service, id)
            if record is None:
                beats.missing.append((namespace, service, id))
            elif holder and holder != record.lease:
                beats.conflict.append((namespace, service, id))
            else:
                beats.renewed += 1
            lease = self.store.lease(record.lease) if record is not None and record.lease else None
            beats.ttls.append(None if lease is None else lease.ttl_ms)
        return beats

    async def renew_lease(self, id: int) -> Lease:
        lease = self.store.lease(id)
        if lease is None:
            raise errors.NotFound("no such lease")
        return lease

    async def remaining(self, lease_ids: Sequence[int]) -> dict[int, int | None]:
        leases = {id: self.store.lease(id) for id in lease_ids}
        return {id: lease.ttl_ms - 20 if lease and self.remaining_known else None for id, lease in leases.items()}

    async def barrier(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.barriers += 1

    def staleness_ms(self) -> int:
        return self.stale_ms

    def status(self) -> Status:
        return Status("n1", 1, 7, 7, [Member("n1", "127.0.0.1:8300", "http://127.0.0.1:8500", "leader", True, 0, 7)])

    def readiness(self) -> list[Missing]:
        return self.unready


class Answers:
    """A resolver that repeats the question."""

    def query(self, name: str, type: str) -> Mapping[str, Any]:
        return {"rcode": "NOERROR", "answers": [{"name": name, "type": type}], "stale": False}


class Answer(msgspec.Struct):
    """An HTTP answer, read whole."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def revision(self) -> int:
        return int(self.headers["X-Registry-Revision"])

    @property
    def faults(self) -> list[tuple[str, str]]:
        """(field, rule) of each error of a problem."""
        return [(fault["field"], fault["rule"]) for fault in self.json.get("errors", [])]


class Client:
    """Speaks to a node as a program would."""

    def __init__(self, session: aiohttp.ClientSession, port: int, server: Server) -> None:
        self.session = session
        self.port = port
        self.server = server

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request; ``body`` is bytes, or anything else as JSON. The path goes out as it stands."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = aiohttp.client.URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        sent = io.BytesIO(data) if data is not None and len(data) > 2**20 else data
        async with self.session.request(method, url, data=sent, headers=headers, allow_redirects=False) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; everything that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    async def raw_until_answer(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; the first that comes back, whether the server closes or not."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(65_536), 20)
        finally:
            writer.close()


def bound_socket() -> socket.socket:
    """A listening socket on a free port of loopback."""
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    return bound


@pytest.fixture
def registry() -> StandIn:
    """The registry behind the API."""
    return StandIn()


@contextlib.asynccontextmanager
async def serving(registry: StandIn) -> AsyncIterator[Client]:
    """A node that serves ``registry``, and a client of it."""
    bound = bound_socket()
    server = make_app(registry, resolver=Answers(), settings=Settings(hosts=frozenset({"n1.example.org"})))
    runner = await serve(server, [bound], shutdown_timeout_s=0.2)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Client(session, bound.getsockname()[1], server)
    await runner.cleanup()


@pytest.fixture
async def client(registry: StandIn) -> AsyncIterator[Client]:
    """A client of a node that serves ``registry``."""
    async with serving(registry) as made:
        yield made


@pytest.fixture
def node() -> Callable[[StandIn], AbstractAsyncContextManager[Client]]:
    """Serves a registry within an asynchronous context."""
    return serving


@pytest.fixture
def missing() -> type[Missing]:
    """What a node may lack to be ready."""
    return Missing


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """The loop that the node process runs on."""
    return {"uvloop": uvloop.new_event_loop}
