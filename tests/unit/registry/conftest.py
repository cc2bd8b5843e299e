"""Whole registries on real Raft members (real sockets, real disks), one or three in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from discovery import feed
from discovery.command import Register
from discovery.hub import Hub
from discovery.model import Instance, Port
from discovery.raft import Raft, RaftConfig
from discovery.raft.types import Settings
from discovery.registry import Registry

# Tests share two cores with much else: elections must not be lost to a late timer.
SETTINGS = Settings(election_min_s=1.0, election_max_s=2.0, fallback_s=2.0)


class Skewed:
    """The machine's clock, which a test can put forward, or stop for a while as a paused process sees it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


class Node:
    """One member with its registry."""

    def __init__(self, name: str, raft: Raft, registry: Registry, hub: Hub, clock: Skewed, died: list[str]) -> None:
        self.name, self.raft, self.registry, self.hub, self.clock = name, raft, registry, hub, clock
        self.died = died
        self.feed = ""
        self.killed: list[int] = []


class Worker:
    """A DNS worker in miniature: it keeps the ids it was told of, and can be told to fall silent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.revision = 0
        self.history = ""
        self.ids: set[str] = set()
        self.frames: list[feed.FromNode] = []
        self.silent = False
        self.closed = False
        self.bound = False
        self._fresh: set[str] = set()
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self, path: str) -> None:
        self.closed = False
        reader, self._writer = await asyncio.open_unix_connection(path)
        self.say(feed.Hello(0, self.pid, self.history, self.revision, self.bound))
        self._task = asyncio.get_running_loop().create_task(self._follow(reader))

    def say(self, frame: feed.FromWorker) -> None:
        assert self._writer is not None
        self._writer.write(feed.encode(frame))

    def write(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        splitter = feed.Splitter()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for body in splitter.push(data):
                    self._take(feed.decode_from_node(body))
        self.closed = True

    def _take(self, frame: feed.FromNode) -> None:
        self.frames.append(frame)
        if isinstance(frame, feed.Begin):
            self._fresh = set()
            self.history = frame.history
        elif isinstance(frame, feed.Items):
            self._fresh |= {record.spec.id for record in frame.instances}
        elif isinstance(frame, feed.End):
            self.ids = self._fresh
            self._done(frame.revision)
        elif isinstance(frame, feed.Resume):
            self._done(frame.revision)
        elif isinstance(frame, feed.Changes):
            for change in frame.changes:
                if isinstance(change, feed.PutInstance):
                    self.ids.add(change.record.spec.id)
                elif isinstance(change, feed.DropInstance):
                    self.ids.discard(change.id)
            self._done(frame.revision)
        elif isinstance(frame, feed.State):
            self.revision = max(self.revision, frame.revision)

    def _done(self, revision: int) -> None:
        assert revision >= self.revision, "a view that travels back"
        self.revision = revision
        if not self.silent:
            self.say(feed.Ack(revision))

    def in_step(self) -> bool:
        """Whether it has got, and acknowledged, its first view."""
        return "End" in self.kinds()

    def kinds(self) -> list[str]:
        """What came, without the states."""
        return [type(frame).__name__ for frame in self.frames if not isinstance(frame, feed.State)]


def register(id: str, ttl_ms: int | None = 10_000, *, holder: int = 0, lease: int = 0, join: int = 0) -> Register:
    """A registration of ``default/web/ID``."""
    instance = Instance("default", "web", id, ("10.0.0.7",), (Port("http", 8080),))
    new = lease or int.from_bytes(os.urandom(7), "big") + 1
    return Register(instance, True, None if join else ttl_ms, not join, join, holder, new)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Return once ``condition`` holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)


def leader_of(nodes: list[Node]) -> Node:
    return next(node for node in nodes if node.registry.lead.ready)


def followers_of(nodes: list[Node]) -> list[Node]:
    return [node for node in nodes if not node.registry.lead.ready]


@asynccontextmanager
async def _node(name: str, sock: socket.socket, peers: dict[str, str], path: Path) -> AsyncIterator[Node]:
    died: list[str] = []
    clock, killed = Skewed(), []
    hub = Hub(killed.append, clock, lambda sock: 0)
    registry = Registry(
        name, hub, history=lambda: f"h-{name}", clock=clock, fatal=lambda what, error: died.append(f"{what}: {error!r}")
    )
    config = RaftConfig(name, "cluster.local", path / name, peers, peers[name], settings=SETTINGS)
    raft = Raft(config, registry, fatal=lambda what, error: died.append(f"{what}: {error!r}"))
    registry.attach(raft)
    node = Node(name, raft, registry, hub, clock, died)
    node.killed = killed
    node.feed = str(path / f"{name}.feed")
    await hub.start(node.feed)
    await raft.start([sock])
    await registry.start()
    try:
        yield node
    finally:
        await registry.stop()
        await hub.stop()
        await raft.stop()
        assert died == []


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Callable[[int], Awaitable[list[Node]]]]:
    """Starts N nodes and waits until one leads and all know the history."""
    async with AsyncExitStack() as stack:

        async def start(count: int) -> list[Node]:
            names = [f"n{number}" for number in range(1, count + 1)]
            sockets = {name: _listener() for name in names}
            peers = {name: f"127.0.0.1:{sockets[name].getsockname()[1]}" for name in names}
            nodes = [await stack.enter_async_context(_node(name, sockets[name], peers, tmp_path)) for name in names]
            await until(lambda: any(node.registry.lead.ready for node in nodes))
            await until(lambda: all(node.registry.store.history and node.registry.lead.leader for node in nodes))
            return nodes

        yield start


@pytest.fixture
async def node(cluster: Callable[[int], Awaitable[list[Node]]]) -> Node:
    """A cluster of one."""
    (only,) = await cluster(1)
    return only


@pytest.fixture
async def worker() -> AsyncIterator[Callable[..., Awaitable[Worker]]]:
    """Connects workers to a node's feed."""
    made: list[Worker] = []
    pids = _pids()

    async def connect(node: Node | str, pid: int | None = None) -> Worker:
        one = Worker(next(pids) if pid is None else pid)
        made.append(one)
        await one.connect(node if isinstance(node, str) else node.feed)
        return one

    yield connect
    for one in made:
        await one.close()


def _pids() -> Iterator[int]:
    yield from range(10_000_001, 10_001_000)


def _listener() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


@pytest.fixture(name="register")
def _register() -> Callable[..., Register]:
    return register


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture(name="leader")
def _leader() -> Callable[[list[Node]], Node]:
    return leader_of


@pytest.fixture(name="followers")
def _followers() -> Callable[[list[Node]], list[Node]]:
    return followers_of
