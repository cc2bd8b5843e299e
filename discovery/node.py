"""The node process: ``python -m discovery.node``, started and watched by the supervisor.

Joins the rooms: data directory, Raft, registry, feed, HTTP API, own place in the catalogue. It ends with exit code 0
after SIGTERM; with 2 or 1 for a configuration or data directory that a restart cannot mend, having told the supervisor
why; and at once, with 1, when a background task dies: a part that is silently missing is worse than a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import secrets
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import msgspec
import uvloop
from aiohttp import web

import discovery
from discovery import limits, log, presence
from discovery.api import app
from discovery.api.server import Server
from discovery.config_rules import read_secret
from discovery.config_schema import Config
from discovery.consensus import Tasks
from discovery.control import Control, WorkerList
from discovery.credentials import Files
from discovery.dns.resolver import Resolver
from discovery.dns.settings import Settings as DnsSettings
from discovery.errors import ConfigError, CorruptData, DiskFull
from discovery.hub import Hub
from discovery.launch import NodeSettings
from discovery.levels import Beyond, supported
from discovery.raft.certificate import Keeper
from discovery.raft.driver import end_process
from discovery.raft.identity import InUse
from discovery.raft.raft import Raft, RaftConfig
from discovery.registry import Registry
from discovery.store import Store

logger: Final = logging.getLogger("discovery.node")  # not __main__

READY_POLL_S: Final = 0.02
LOCK_S: Final = 1.0
LOCK_POLL_S: Final = 0.02
HTTP_DRAIN_S: Final = 5.0
HTTP_CUT_S: Final = 1.0  # for those that are not done then
DRAIN_POLL_S: Final = 0.02
_COLLECT_AFTER: Final = 50_000  # allocations; records are not tracked by the collector, so that it finds next to none


class Node:
    """The parts of a running node.

    Raises (from the constructor, which reads the data directory, blocking):
        ConfigError: the directory is in use, or another node's, zone's or cluster's.
        CorruptData: a file in it is damaged.
        DiskFull: not even what is there could be made durable.
    """

    def __init__(self, settings: NodeSettings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._stop = asyncio.Event()
        self._tasks = Tasks(end_process)
        self._hub = Hub()
        self._registry = Registry(
            settings.config.id, self._hub, history=lambda: secrets.token_hex(8), fatal=end_process
        )
        self._keeper = _keeper(settings.config)
        self._raft = self._member(_raft_config(settings, self._keeper))
        self._registry.attach(self._raft)
        self._presence = _presence(settings, self._registry)
        self._server: Server | None = None
        self._runner: web.ServerRunner | None = None

    def _member(self, config: RaftConfig) -> Raft:
        """The member of the cluster; a predecessor that was killed gets a moment to let go of the data directory."""
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                return Raft(config, self._registry, fatal=self._end)
            except InUse:
                if time.monotonic() >= deadline:
                    raise
            except OSError as error:  # not for want of room: that is DiskFull
                raise CorruptData(
                    f"the disk failed while the data directory was read: {error}. Way out: look after the disk, then "
                    f"start the node again; on a new disk begin with an empty directory as a new member"
                ) from error
            time.sleep(LOCK_POLL_S)

    def _end(self, what: str, error: BaseException) -> NoReturn:
        """Raft cannot go on: end at once, and when the disk failed, for good.

        After a failed fsync the kernel may show data as written that is not on the disk; a node started again that
        believed it would break its promises.
        """
        if isinstance(error, OSError | CorruptData | Beyond):
            code = 2 if isinstance(error, Beyond) else 1
            self._control.fatal(code, f"{what} ({self._settings.config.data_dir}): {error}")
        end_process(what, error)

    async def run(self) -> None:
        """Serve until SIGTERM, then drain."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        await self._start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, 50, 100)
        self._spawn("readiness", self._until_ready())
        if self._presence is not None:
            self._spawn("presence", self._presence.run())
        await self._stop.wait()
        await self._drain()

    def _spawn(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.spawn(what, work)

    async def _start(self) -> None:
        settings = self._settings
        await self._hub.start(settings.feed)
        self._hub.on_serving(self._control.serving)
        if self._keeper is not None:
            self._spawn("certificate", self._keeper.run())
        self._control.listen(self._set_workers, self._keeper.ask if self._keeper else None)
        await self._registry.start()
        await self._raft.start([socket.socket(fileno=settings.raft_fd)])
        if self._raft.cluster:  # what a new node waits for is told by the API
            await self._registry.current.wait()
        listeners = [socket.socket(fileno=fd) for fd in settings.http_fds]
        self._server = self._http()
        self._runner = await app.serve(self._server, listeners, shutdown_timeout_s=HTTP_CUT_S)

    def _set_workers(self, workers: WorkerList) -> None:
        self._hub.children = self._control.children
        self._hub.set_workers(workers)

    def _http(self) -> Server:
        config = self._settings.config
        host = urlsplit(self._settings.http_url).hostname
        return app.make_app(
            self._registry,
            resolver=_resolver(self._settings, self._registry),
            settings=app.Settings(zone=config.zone, hosts=frozenset([host] if host else [])),
        )

    async def _until_ready(self) -> None:
        """Tell the supervisor what is missing, until nothing is; without a leader everything else only follows."""
        while missing := self._registry.readiness():
            self._control.waiting(self._raft.waiting() or "; ".join(problem.detail for problem in missing))
            await asyncio.sleep(READY_POLL_S)
        self._control.ready()

    async def _drain(self) -> None:
        """Take no new connections, leave the catalogue, finish requests, hand over leadership, end."""
        logger.info("draining")
        runner, server = self._runner, self._server
        assert runner is not None
        assert server is not None
        for site in list(runner.sites):
            await site.stop()
        self._tasks.cancel()
        if self._presence is not None:
            await self._presence.leave()
        await self._finish_requests(server)
        await runner.cleanup()
        await self._raft.stop()
        await self._registry.stop()
        await self._hub.stop()
        self._control.close()

    async def _finish_requests(self, server: Server) -> None:
        """Let requests under way end: aiohttp's own shutdown would drop what is still to come of their bodies."""
        for _ in range(round(HTTP_DRAIN_S / DRAIN_POLL_S)):
            if not server.busy():
                break
            await asyncio.sleep(DRAIN_POLL_S)


def _keeper(config: Config) -> Keeper | None:
    """Of the certificate. One that does not fit any more is no reason not to start: this node still serves DNS."""
    tls = config.tls
    return Keeper(Files(tls.cert, tls.key, tls.ca), config.id) if tls.cert else None


def _raft_config(settings: NodeSettings, keeper: Keeper | None) -> RaftConfig:
    config = settings.config
    return RaftConfig(
        node=config.id,
        zone=config.zone,
        directory=Path(config.data_dir),
        peers=config.peers,
        raft=settings.raft_address,
        http=settings.http_url,
        secret=read_secret(config),
        keeper=keeper,
        version=discovery.__version__,
        level=supported(),
    )


def _presence(settings: NodeSettings, registry: Registry) -> presence.Presence | None:
    instance = presence.own_instance(
        settings.config.id,
        settings.http_url,
        settings.dns_address,
        settings.raft_address,
        settings.config.dns.advertise,
    )
    if instance is None:
        logger.warning("no advertised address is an IP address: this node is not in discovery.system.svc")
        return None
    return presence.Presence(registry, instance)


def _resolver(settings: NodeSettings, registry: Registry) -> Resolver:
    def source() -> Store | None:
        return registry.store if registry.store.history else None

    def stale() -> bool:
        return registry.staleness_ms() >= limits.STALE_AFTER_S * 1000

    return Resolver(settings.config.zone, msgspec.convert(settings.dns, DnsSettings), source, stale)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node process. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="discovery.node", description="The node process of a discovery node.")
    parser.add_argument("--settings", required=True, help="JSON, see discovery/launch.py")
    settings = msgspec.json.decode(parser.parse_args(arguments).settings, type=NodeSettings)
    log.setup(settings.config.log.format, settings.config.log.level, process="node")
    control = Control(socket.socket(fileno=settings.control_fd))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(settings, control))
    except DiskFull as error:
        logger.error("the node cannot start: %s", error.detail)
        return 1  # the supervisor tries again
    except (ConfigError, CorruptData) as error:
        code = 2 if isinstance(error, ConfigError) else 1
        control.fatal(code, error.detail)
        return code
    return 0


async def _run(settings: NodeSettings, control: Control) -> None:
    await Node(settings, control).run()


if __name__ == "__main__":
    sys.exit(main())
