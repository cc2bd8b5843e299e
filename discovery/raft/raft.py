"""The facade: one member of a cluster with its data directory, its connections and its engine.

Until the cluster is founded (:mod:`.founding`) there is no engine, and everything that needs one raises
:class:`NotApplied` with what is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from discovery import levels, limits
from discovery.errors import ConfigError, CorruptData, NotApplied, OutcomeUnknown, RegistryError, Unavailable
from discovery.raft import telling
from discovery.raft.admin import Admin
from discovery.raft.certificate import Keeper
from discovery.raft.configuration import Change, Configuration
from discovery.raft.driver import Driver, end_process
from discovery.raft.engine import Engine
from discovery.raft.hello import SECRET_BYTES_MIN
from discovery.raft.identity import DataDirectory
from discovery.raft.membership import REMOVED, Membership, listed
from discovery.raft.peers import Peers
from discovery.raft.rpc import Handler
from discovery.raft.snapshots import SnapshotStore
from discovery.raft.types import Machine, RaftStatus, Settings
from discovery.raft.wal import Wal

_log: Final = logging.getLogger(__name__)
GRACE_S: Final = 0.25
"""The engine answers in its time, if passes end; beyond this the facade does: a disk may stand still."""


class RaftConfig(msgspec.Struct, frozen=True):
    """What a member must be told.

    Args:
        directory: the data directory; locked while the member lives.
        peers: Raft ``host:port`` by id, as configured; may name this node too.
        raft, http: advertised addresses of this node.
        secret: of the cluster, or ``None``.
        keeper: of this node's certificate, or ``None``; with neither, peers on loopback only.
        version: of the program, for the others.
        level: the highest feature level that it knows.
        segment_bytes, retained_bytes: of the log, see :meth:`.wal.Wal.open`.
    """

    node: str
    zone: str
    directory: Path
    peers: dict[str, str]
    raft: str
    http: str = ""
    secret: bytes | None = None
    keeper: Keeper | None = None
    version: str = ""
    level: int = levels.LEVEL
    settings: Settings = Settings()
    segment_bytes: int = limits.WAL_SEGMENT_BYTES
    retained_bytes: int = limits.LOG_RETAINED_BYTES


class Raft:
    """A member of a cluster.

    Args:
        machine: the state machine; its ``role`` hears of every change of leadership.
        fatal: what ends the process when memory and disk may differ (a test gives another).

    Raises (from the constructor, which reads the log and the snapshot, blocking):
        ConfigError: the directory is in use, or another node's, zone's or cluster's.
        CorruptData: a file is damaged or missing.
    """

    def __init__(
        self,
        config: RaftConfig,
        machine: Machine,
        *,
        fatal: Callable[[str, BaseException], object] = end_process,
    ) -> None:
        _check(config)
        self._config, self._machine, self._fatal = config, machine, fatal
        self._directory = DataDirectory(config.directory)
        self._disk = self._directory.raft()
        identity = self._directory.identity(config.node, config.zone)
        self._wal = Wal.open(
            self._disk,
            identity.incarnation.encode(),
            segment_bytes=config.segment_bytes,
            retained_bytes=config.retained_bytes,
        )
        if identity.founded and self._wal.blank:
            raise CorruptData(
                f"{self._disk.path}: the log of this member is missing. Way out: put it back, or empty the data "
                f"directory, remove this node from the cluster and add it again."
            )
        self._snapshots = SnapshotStore(self._disk)
        configured = {**config.peers, config.node: config.raft}
        says = {"http": config.http, "version": config.version}
        self._members = Membership(self._directory, identity, configured, **says, level=config.level)
        self._members.check_size()
        self._members.warn_of_difference()
        self._peers = Peers(
            self._members, self._directory, config.secret, config.keeper, self._wal.begin, self._begin, self._fatal
        )
        self._engine: Engine | None = None
        self._driver: Driver | None = None
        self.admin = Admin(self)
        self._calls: set[asyncio.Future[Any]] = set()
        self._before_round: Callable[[], None] | None = None
        self._made_at = time.monotonic()

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept peers on bound sockets, dial the others, take part as soon as the cluster is founded.

        Raises:
            ConfigError: a socket is bound beyond loopback and there is neither certificate nor secret.
        """
        for sock in sockets:
            _check_socket(sock, protected=self._peers.transport.is_protected)
        await self._peers.transport.start(sockets)
        self._peers.begin()

    async def stop(self) -> None:
        """Hand leadership over if there is somebody to take it, then end; pending calls get "outcome unknown"."""
        if self._driver is not None:
            await self.hand_over()
        self._peers.rpc.close()
        await self._peers.transport.stop()
        if self._driver is not None:
            await self._driver.stop()
        await self._peers.kept()
        for future in tuple(self._calls):
            if not future.done():
                future.set_exception(OutcomeUnknown("the node stopped before the answer"))
        self._disk.close()
        self._directory.close()

    # -- what the registry calls --------------------------------------------------------------------------------------

    async def propose(self, command: bytes, timeout_s: float, term: int | None = None) -> Any:
        """Replicate a command; gives what ``machine.apply`` gave, after the write is durable on a majority.

        Args:
            command: at most ``COMMAND_BYTES_MAX`` bytes.
            timeout_s: how long to try.
            term: given: decided by the leader of that term; dropped by any change of role or term, never forwarded.

        Raises:
            NotApplied: surely not applied (no leader in time, leadership changed, queue full).
            OutcomeUnknown: it may or may not have been applied.
        """
        engine, driver = self._running()
        with self._call(timeout_s, OutcomeUnknown, "the log did not take it within the time given") as future:
            engine.propose(future, command, time.monotonic() + timeout_s, term)
            driver.wake()
            return await future

    async def confirm(self) -> int:
        """A leadership round that begins after this call; gives the term.

        Raises:
            NotApplied: this node does not lead, or no longer, or could not know it within HEARTBEAT_TIMEOUT_S.
        """
        engine, driver = self._running()
        late = "leadership was not confirmed in time"
        with self._call(limits.HEARTBEAT_TIMEOUT_S, NotApplied, late) as future:
            engine.confirm(future)
            driver.wake()
            term: int = await future
            return term

    async def read_barrier(self, timeout_s: float) -> None:
        """Return once this node's state holds everything that was acknowledged before the call (on any node).

        Raises:
            Unavailable: not within ``timeout_s``.
        """
        if self._engine is None or self._driver is None:
            raise Unavailable(self.waiting())
        with self._call(timeout_s, Unavailable, "the read was not confirmed in time") as future:
            self._engine.read_index(future, time.monotonic() + timeout_s)
            self._driver.wake()
            await future

    def request(self, peer: str, kind: str, payload: bytes, timeout_s: float) -> asyncio.Future[bytes]:
        """Ask a member now, await the answer; see :meth:`.rpc.Rpc.request`."""
        return self._peers.rpc.request(peer, kind, payload, timeout_s)

    def on_request(self, kind: str, handler: Handler) -> None:
        """Answer members' questions of this kind; see :data:`.rpc.Handler`."""
        self._peers.rpc.on_request(kind, handler)

    def before_round(self, callback: Callable[[], None]) -> None:
        """``callback`` runs before this node answers a leader's round: what it asks stands before the answer."""
        self._before_round = callback
        if self._engine is not None:
            self._engine.before_round = callback

    def transfer(self, peer: str) -> None:
        """Hand leadership to ``peer``, if this node has it."""
        engine, driver = self._running()
        engine.transfer(peer)
        driver.wake()

    async def hand_over(self, peer: str | None = None) -> str | None:
        """Give leadership away and wait until it is taken: the heir may need this node's vote.

        Args:
            peer: the voter to lead; ``None``: who is furthest.

        Returns:
            The other node that leads now; ``None``: nobody took over within ``transfer_s``.
        """
        engine, driver = self._running()
        status = engine.status()
        able = [one for one in status.peers if self._members.role_of(one.id) == "voter" and one.connected]
        heir = max((one for one in able if peer in (None, one.id)), key=lambda one: one.match or 0, default=None)
        if status.role != "leader" or heir is None:
            return None
        engine.transfer(heir.id)
        driver.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.settings.transfer_s):
                while heir.id in self._peers.counted and engine.status().leader in (None, self.node):
                    await driver.next_pass()
        leader = engine.status().leader
        return None if leader == self.node else leader

    async def change(self, change: Change, timeout_s: float) -> Configuration:
        """At the leader: add or remove a member; returns once that is applied here.

        Raises:
            NotApplied: this node does not lead, or another change is under way.
            Conflict, NotFound: see :class:`.configuration.Configuration`.
            OutcomeUnknown: it is in the log, and may be committed or not.
        """
        engine, driver = self._running()
        with self._call(timeout_s, OutcomeUnknown, "the change was not committed within the time given") as future:
            engine.change(future, change)
            driver.wake()
            members: Configuration = await future
            return members

    # -- what is told -------------------------------------------------------------------------------------------------

    @property
    def node(self) -> str:
        """Own id."""
        return self._config.node

    @property
    def cluster(self) -> str:
        """Id of the cluster, empty until founded."""
        return self._members.identity.cluster

    @property
    def driver(self) -> Driver | None:
        """For metrics: passes, syncs and their times."""
        return self._driver

    def waiting(self) -> str:
        """What this node waits for before it can take part, or an empty text."""
        if self._members.removed:
            return f"nothing: it {REMOVED}"
        if self._engine is not None:
            return "" if self._engine.status().leader else f"a leader (connected: {listed(self._peers.counted)})"
        return self._members.waiting()

    def status(self) -> RaftStatus:
        """Role, term, indices and all members as this node sees them."""
        certificate = telling.certificate_status(self._config.keeper)
        if self._engine is None:
            return telling.before_founding(self._members, time.monotonic() - self._made_at, certificate)
        told = self._engine.status()
        disk = telling.disk_status(told.full, self._disk.path, self._wal, self._snapshots, self._driver)
        return telling.status(told, self._members, disk, certificate)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _begin(self) -> tuple[Engine, Driver]:
        seed = int.from_bytes(random.SystemRandom().randbytes(16), "big")
        self._engine = engine = Engine(
            node_id=self.node,
            incarnation=self._members.identity.incarnation,
            members=self._members.seed(),
            wal=self._wal,
            snapshots=self._snapshots,
            machine=self._machine,
            clock=time.monotonic,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            random=random.Random(seed),  # noqa: S311 - spreads election timeouts
            settings=self._config.settings,
            level=self._config.level,
        )
        engine.before_round = self._before_round
        stream = self._peers.transport
        self._driver = Driver(engine, self._wal, self._snapshots, self._machine, stream, fatal=self._fatal)
        return engine, self._driver

    def _running(self) -> tuple[Engine, Driver]:
        if self._engine is None or self._driver is None:
            raise NotApplied(f"the node waits for {self.waiting()}")
        return self._engine, self._driver

    @contextlib.contextmanager
    def _call(self, timeout_s: float, error: type[RegistryError], late: str) -> Iterator[asyncio.Future[Any]]:
        """A future that is answered when its time is over, or the member stops, whatever the engine does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._calls.add(future)
        timer = loop.call_later(timeout_s + GRACE_S, _give_up, future, error, late)
        try:
            yield future
        finally:
            timer.cancel()
            self._calls.discard(future)


def _give_up(future: asyncio.Future[Any], error: type[RegistryError], late: str) -> None:
    if not future.done():
        future.set_exception(error(late))


def _check(config: RaftConfig) -> None:
    if len(config.peers) > limits.PEERS_MAX:
        raise ConfigError(f"--peer: {len(config.peers)} peers, at most {limits.PEERS_MAX}")
    if config.secret is not None and len(config.secret) < SECRET_BYTES_MIN:
        raise ConfigError(f"--raft-secret-file: the secret has fewer than {SECRET_BYTES_MIN} bytes")


def _check_socket(sock: socket.socket, *, protected: bool) -> None:
    host = sock.getsockname()[0]
    if not protected and not ipaddress.ip_address(host).is_loopback:
        raise ConfigError(
            f"--raft {host}: beyond loopback peers need certificates (--tls-cert, --tls-key, --tls-ca) or a cluster "
            f"secret (--raft-secret-file)"
        )
