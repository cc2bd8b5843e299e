"""Clients that a drill lets loose on a cluster: writers, heartbeating instances, DNS probes.

Each keeps an exact record of what it was *told* (acknowledged, refused, unknown) and when, so that afterwards
the promises can be judged from the outside. Times are ``time.monotonic()`` seconds of the client. A client that
loses its node goes on with the next, as real ones do.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from discovery.drill.dnsclient import DnsClient, dns_client
from discovery.drill.record import NO_ANSWER, SERVFAIL, Attempt, Beat, Reply, longest_pause

TIMEOUT = aiohttp.ClientTimeout(total=5.0, connect=1.0)


@dataclass
class Writers:
    """Puts of distinct keys at a steady rate, each an own task, so that a slow one holds none back.

    Each is a transaction, because that is a POST: aiohttp repeats a PUT by itself when a kept connection breaks, and a
    write whose first sending was applied would look like one that was only ever refused.
    """

    urls: Sequence[str]
    per_second: float = 100.0
    prefix: str = "drill"
    attempts: list[Attempt] = field(default_factory=list)

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Write until cancelled; open attempts are finished (at most their timeout) before it returns."""
        began, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as tasks:
            try:
                while True:
                    tasks.create_task(self._write(session, number))
                    number += 1
                    await asyncio.sleep(max(0.0, began + number / self.per_second - time.monotonic()))
            except asyncio.CancelledError:
                return

    async def _write(self, session: aiohttp.ClientSession, number: int) -> None:
        key, value = f"{self.prefix}/{number}", f"value-{number}".encode()
        url = f"{self.urls[number % len(self.urls)]}/api/v1/txn"
        put = {"key": key, "value_base64": b64encode(value).decode()}
        sent = time.monotonic()
        status = 0
        try:
            async with session.post(url, json={"then": [{"put": put}]}) as response:
                status = response.status
                await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            status = 0
        self.attempts.append(Attempt(key, value, sent, time.monotonic(), status))

    def acknowledged(self) -> dict[str, bytes]:
        """The writes that the cluster promised to keep."""
        return {attempt.key: attempt.value for attempt in self.attempts if attempt.acknowledged}

    def acknowledged_since(self, moment: float) -> int:
        """How many writes that were sent after ``moment`` are acknowledged."""
        return sum(attempt.acknowledged and attempt.sent >= moment for attempt in self.attempts)

    def gap(self, begin: float, end: float) -> float:
        """The longest time without an acknowledgement between two moments, seconds."""
        return longest_pause([a.answered for a in self.attempts if a.acknowledged], begin, end)


@dataclass
class Instances:
    """Instances that register, heartbeat at a third of their TTL, and register again after a 404."""

    urls: Sequence[str]
    count: int = 100
    services: int = 10
    ttl_s: float = 3.0
    namespace: str = "default"
    prefix: str = "svc"
    zone: str = "cluster.local"
    beats: dict[str, list[Beat]] = field(default_factory=dict)
    re_registered: list[str] = field(default_factory=list)
    _over: bool = field(default=False, init=False)

    def place(self, number: int) -> tuple[str, str, str]:
        """(service, id, address) of instance ``number``."""
        return f"{self.prefix}{number % self.services}", f"i{number}", f"10.9.{number // 250}.{number % 250 + 1}"

    def expected(self, service: str) -> set[str]:
        """The addresses that every DNS answer for ``service`` must hold."""
        places = (self.place(number) for number in range(self.count))
        return {address for name, _, address in places if name == service}

    def names(self) -> dict[str, frozenset[str]]:
        """DNS name of each service → the addresses that every answer must hold."""
        services = [f"{self.prefix}{number}" for number in range(self.services)]
        return {f"{name}.{self.namespace}.svc.{self.zone}": frozenset(self.expected(name)) for name in services}

    async def register(self, session: aiohttp.ClientSession) -> None:
        """Register all; raises when one is refused."""
        for number in range(self.count):
            status = await self._register(session, number)
            if status not in (200, 201):
                raise RuntimeError(f"registration of instance {number} answered {status}")

    async def _register(self, session: aiohttp.ClientSession, number: int, attempt: int = 0) -> int:
        service, instance, address = self.place(number)
        body = {"address": address, "ports": {"http": 8080}, "ttl": self.ttl_s}
        return await self._send(session, number + attempt, "PUT", self._path(service, instance), body)

    def _path(self, service: str, instance: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/services/{service}/instances/{instance}"

    async def _send(
        self, session: aiohttp.ClientSession, node: int, method: str, path: str, body: object = None
    ) -> int:
        url = self.urls[node % len(self.urls)] + path
        patience = aiohttp.ClientTimeout(total=self.ttl_s / 3)  # a hung node must not cost the instance its lease
        try:
            async with session.request(method, url, json=body, timeout=patience) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0

    async def deregister(self, session: aiohttp.ClientSession) -> None:
        """Remove all, as far as a node can be reached; the rest goes with its leases."""
        for number in range(self.count):
            await self._send(session, number, "DELETE", self._path(*self.place(number)[:2]))

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Heartbeat until cancelled."""
        self._over = False
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.count):
                tasks.create_task(self._live(session, number))
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self._over = True  # for one whose own cancellation is lost in a timeout that comes with it
                raise

    async def _live(self, session: aiohttp.ClientSession, number: int) -> None:
        service, instance, _ = self.place(number)
        beats = self.beats.setdefault(instance, [])
        node = number
        await asyncio.sleep(self.ttl_s / 3 * number / self.count)
        while not self._over:
            sent = time.monotonic()
            status = await self._send(session, node, "PUT", self._path(service, instance) + "/heartbeat")
            beats.append(Beat(sent, time.monotonic(), status))
            if status == 404:
                self.re_registered.append(instance)
                await self._register(session, number, node)
            if status == 200:
                await asyncio.sleep(max(0.0, sent + self.ttl_s / 3 - time.monotonic()))
            else:
                node += 1
                await asyncio.sleep(0.05)


@dataclass
class DnsProbe:
    """Asks one node for each name in turn, ``per_second`` times, and keeps every reply."""

    host: str
    port: int
    names: Sequence[str]
    per_second: float = 50.0
    replies: dict[str, list[Reply]] = field(default_factory=dict)

    async def run(self) -> None:
        """Probe until cancelled."""
        began, number = time.monotonic(), 0
        async with dns_client(self.host, self.port) as client, asyncio.TaskGroup() as tasks:
            try:
                while True:
                    tasks.create_task(self._probe(client, self.names[number % len(self.names)]))
                    number += 1
                    await asyncio.sleep(max(0.0, began + number / self.per_second - time.monotonic()))
            except asyncio.CancelledError:
                return

    async def _probe(self, client: DnsClient, name: str) -> None:
        reply = await client.ask(name)
        self.replies.setdefault(name, []).append(reply)

    def silence(self, begin: float, end: float) -> float:
        """The longest time without an answer between two moments, seconds."""
        answered = [reply.answered for replies in self.replies.values() for reply in replies if reply.rcode >= 0]
        return longest_pause(answered, begin, end)

    def wrong(self, name: str, expected: set[str], begin: float, end: float) -> list[Reply]:
        """Answers in a span that lack one of ``expected``; SERVFAIL is no answer (see :meth:`refused`)."""
        return [
            reply
            for reply in self.replies.get(name, [])
            if reply.rcode not in (NO_ANSWER, SERVFAIL)
            and begin <= reply.asked
            and reply.answered <= end
            and not expected <= reply.addresses
        ]

    def unanswered(self, begin: float, end: float) -> list[Reply]:
        """The questions asked in a span that no answer came to."""
        return [
            reply
            for replies in self.replies.values()
            for reply in replies
            if reply.rcode == NO_ANSWER and begin <= reply.asked <= end
        ]

    def refused(self, begin: float, end: float) -> list[Reply]:
        """The SERVFAIL answers of a span."""
        return [
            reply
            for replies in self.replies.values()
            for reply in replies
            if reply.rcode == SERVFAIL and begin <= reply.asked and reply.answered <= end
        ]


@asynccontextmanager
async def session(token: str = "") -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client with bounded timeouts and without a limit of its own on connections."""
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    async with aiohttp.ClientSession(timeout=TIMEOUT, connector=connector, headers=headers) as opened:
        yield opened


@asynccontextmanager
async def running(*coroutines: object) -> AsyncIterator[None]:
    """Run loads in the background for the length of a block; a load that fails fails the block."""
    tasks = [asyncio.ensure_future(c) for c in coroutines]  # type: ignore[call-overload]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
