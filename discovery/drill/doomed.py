"""Instances that live for a while and then stop heartbeating all at once, and how they leave the answers of the nodes.

Their heartbeats travel together in one request, so that one moment, noted before it was sent, is the last of all.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from discovery.drill.dnsclient import Count, DnsClient, dns_client
from discovery.drill.judge import Leaving

PER_SERVICE: Final = 20  # as many addresses as fit in 512 bytes
REGISTERING_MAX: Final = 64
HEARTBEATS_MAX: Final = 10_000  # of one request
ASKING_MAX: Final = 32
SWEEP_S: Final = 0.005
WATCH_S: Final = 0.25  # before they are due a look now and then is enough: it shows whether one leaves early
RETRY_S: Final = 0.05


@dataclass
class Fleet:
    """Instances that will die together.

    Args:
        last: when the last heartbeat that was acknowledged for all of them was sent, monotonic seconds.
    """

    urls: Sequence[str]
    count: int
    ttl_s: float
    namespace: str
    prefix: str
    zone: str
    last: float = field(default=0.0, init=False)

    @property
    def due(self) -> float:
        """When the first of them may be evicted."""
        return self.last + self.ttl_s

    def place(self, number: int) -> tuple[str, str, str]:
        """(service, id, address) of instance ``number``."""
        return f"{self.prefix}{number // PER_SERVICE}", f"d{number}", _address(number)

    def names(self) -> dict[str, int]:
        """DNS name of each service → how many instances it has, each with an address of its own."""
        services = [self.place(number)[0] for number in range(self.count)]
        return {f"{name}.{self.namespace}.svc.{self.zone}": count for name, count in Counter(services).items()}

    async def register(self, session: aiohttp.ClientSession) -> None:
        """Register all and keep those alive that are. Raises :class:`RuntimeError` when one is refused."""
        waiting = iter(range(self.count))
        done: list[int] = []

        async def some() -> None:
            for number in waiting:
                await self._register(session, number)
                done.append(number)

        async def alive() -> None:
            while True:
                await asyncio.sleep(self.ttl_s / 3)
                await self._beat(session, list(done))

        keeping = asyncio.create_task(alive())
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(REGISTERING_MAX, self.count)):
                    tasks.create_task(some())
        finally:
            keeping.cancel()

    async def _register(self, session: aiohttp.ClientSession, number: int) -> None:
        service, instance, address = self.place(number)
        url = self.urls[number % len(self.urls)]
        path = f"{url}/api/v1/namespaces/{self.namespace}/services/{service}/instances/{instance}"
        async with session.put(path, json={"address": address, "ttl": self.ttl_s}) as response:
            if response.status not in (200, 201):
                raise RuntimeError(f"registration of {service}/{instance} answered {response.status}")

    async def beat(self, session: aiohttp.ClientSession) -> None:
        """One last heartbeat for all. Raises :class:`RuntimeError` when it is not acknowledged within a TTL."""
        deadline = time.monotonic() + self.ttl_s
        while time.monotonic() < deadline:
            sent = time.monotonic()
            if await self._beat(session, range(self.count)):
                self.last = sent
                return
            await asyncio.sleep(RETRY_S)
        raise RuntimeError(f"no heartbeat was acknowledged for all {self.count} instances")

    async def _beat(self, session: aiohttp.ClientSession, numbers: Sequence[int]) -> bool:
        return all(
            [
                await self._send(session, numbers[begin : begin + HEARTBEATS_MAX])
                for begin in range(0, len(numbers), HEARTBEATS_MAX)
            ]
        )

    async def _send(self, session: aiohttp.ClientSession, numbers: Sequence[int]) -> bool:
        body: dict[str, Any] = {"instances": [[self.namespace, *self.place(number)[:2]] for number in numbers]}
        for url in self.urls:
            try:
                async with session.post(f"{url}/api/v1/heartbeats", json=body) as response:
                    if response.status == 200:
                        return bool((await response.json())["renewed"] == len(numbers))
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
        return False


def _address(number: int) -> str:
    """Of the first 60,000 in 10.66.0.0/16, of the others above."""
    return f"10.{66 + number // 60_000}.{number % 60_000 // 250}.{number % 250 + 1}"


class Watch:
    """Watches at one node how the services of a fleet leave its answers."""

    def __init__(self, node: str, client: DnsClient, fleet: Fleet) -> None:
        self._node = node
        self._client = client
        self._fleet = fleet
        self._left = fleet.names()  # name → how many of its instances there were
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}

    async def run(self, until: float) -> list[Leaving]:
        """Watch until all have left, or ``until`` (monotonic seconds)."""
        while self._left and time.monotonic() < until:
            early = time.monotonic() < self._fleet.due - 2 * WATCH_S
            await self._sweep(list(self._left)[: ASKING_MAX if early else None])
            await asyncio.sleep(WATCH_S if early else SWEEP_S)
        return [
            Leaving(self._node, name.partition(".")[0], self._first.get(name), self._last.get(name))
            for name in self._fleet.names()
        ]

    async def _sweep(self, names: Sequence[str]) -> None:
        for begin in range(0, len(names), ASKING_MAX):
            asked = names[begin : begin + ASKING_MAX]
            for name, count in zip(asked, await asyncio.gather(*map(self._client.count, asked)), strict=True):
                self._note(name, count)

    def _note(self, name: str, count: Count) -> None:
        """Only an answer counts: silence and SERVFAIL say nothing about who lives."""
        if count.rcode not in (0, 3):
            return
        after = count.answered - self._fleet.due
        if count.records < self._left[name]:
            self._first.setdefault(name, after)
        if not count.records:
            self._last[name] = after
            del self._left[name]


async def watch(fleet: Fleet, nodes: Mapping[str, tuple[str, int]], until: float) -> list[Leaving]:
    """Watch at all of the nodes (id → DNS address) until the fleet has left, or ``until`` (monotonic seconds)."""
    async with AsyncExitStack() as stack:
        clients = {node: await stack.enter_async_context(dns_client(*address)) for node, address in nodes.items()}
        found = await asyncio.gather(*(Watch(node, client, fleet).run(until) for node, client in clients.items()))
    return [leaving for of_one in found for leaving in of_one]
