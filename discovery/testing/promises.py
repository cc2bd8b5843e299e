"""Clients at work on a real cluster while a fault strikes, and whether what they were promised was kept.

Writers put keys at all nodes in turn, instances heartbeat, and every node is asked for their names. Afterwards no
acknowledged write may be missing anywhere, no living instance may have been evicted, and every node names them all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from discovery.drill.load import DnsProbe, Instances, Writers, running, session
from discovery.testing.cluster import Cluster, Node

PATIENCE_S: Final = 45.0
TTL_S: Final = 3.0
POLL_S: Final = 0.02


async def until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait for a condition. Raises :class:`AssertionError` with ``what`` when it stays false."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout_s:g} s"
        await asyncio.sleep(POLL_S)


def left_behind(node: Node) -> tuple[list[str], list[str]]:
    """Services that have instances, and keys, which a drill should have removed."""
    services = node.request("GET", "namespaces/drill/services").json()["services"]
    keys = node.request("GET", "kv/drill?prefix=true").json()["items"]
    return [one["name"] for one in services if one["instances"]], [one["key"] for one in keys]


class Promises:
    """What the clients of one cluster were told. ``ttl_s`` is that of the living instances."""

    def __init__(self, cluster: Cluster, ttl_s: float = TTL_S) -> None:
        self.cluster = cluster
        self.writers = Writers(cluster.urls, 60.0, "promised")
        self.living = Instances(cluster.urls, 12, 3, ttl_s)
        self.probes = {node.id: DnsProbe(*node.dns, list(self.living.names()), 30.0) for node in cluster}
        self.began = 0.0

    @asynccontextmanager
    async def made(self) -> AsyncIterator[Promises]:
        """Let the clients loose for the length of a block, and hold the cluster to its word at the end."""
        async with session() as http:
            await self.living.register(http)
            self.began = time.monotonic()
            clients = [self.writers.run(http), self.living.run(http), *(one.run() for one in self.probes.values())]
            async with running(*clients):
                await self.more(20)
                yield self
                await self.more(20)
            self._assert_named(time.monotonic())
            assert not self.living.re_registered, "a living instance was evicted"
            for node in self.cluster:
                await self._assert_held(http, node)

    async def more(self, count: int) -> float:
        """Wait for so many more acknowledged writes; seconds until the first of them."""
        since = time.monotonic()
        await until(lambda: self.writers.acknowledged_since(since) >= count, f"{count} more acknowledged writes")
        answered = (one.answered for one in self.writers.attempts if one.acknowledged and one.sent >= since)
        return min(answered) - since

    def _assert_named(self, ended: float) -> None:
        for node, probe in self.probes.items():
            for name, addresses in self.living.names().items():
                wrong = probe.wrong(name, set(addresses), self.began, ended)
                assert not wrong, f"{node} left living instances out: {wrong[:2]}"

    async def _assert_held(self, http: aiohttp.ClientSession, node: Node) -> None:
        """Every acknowledged write is at the node, read linearizably."""
        path = f"{node.url}/api/v1/kv/promised?prefix=true&consistency=strong&limit=10000"
        deadline = time.monotonic() + PATIENCE_S
        while True:
            async with http.get(path) as response:
                status, body = response.status, await response.json()
            if status == 200:
                break
            assert time.monotonic() < deadline, f"{node.id} does not serve: {body}"
            await asyncio.sleep(POLL_S)
        held = {item["key"] for item in body["items"]}
        lost = sorted(set(self.writers.acknowledged()) - held)
        assert not lost, f"{node.id} lost acknowledged writes: {lost[:5]}"


class Doomed:
    """An instance that is registered at a node and never heard of again."""

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self._sent = 0.0

    async def register(self, node: Node) -> None:
        """Its first and last sign of life."""
        self._sent = time.monotonic()
        answer = await asyncio.to_thread(node.register, "doomed", "one", "10.66.6.6", ttl=self.ttl_s)
        assert answer.status in (200, 201), answer.body

    async def gone(self, node: Node) -> float:
        """Wait until DNS of a node does not name it any more; seconds after its TTL, by the clock of this process."""
        deadline = time.monotonic() + PATIENCE_S
        while (await asyncio.to_thread(node.ask, "doomed.default")).addresses:
            assert time.monotonic() < deadline, "what is dead stays in the answers"
            await asyncio.sleep(POLL_S)
        return time.monotonic() - self._sent - self.ttl_s
