"""A real worker behind the node's real side of the feed: registered means resolvable, through a restart of the node."""

from __future__ import annotations

import asyncio
from pathlib import Path

import dnslib

from discovery.command import Deregister, Found, Meta, Register, encode
from discovery.dns import codes
from discovery.hub import Hub
from discovery.store import Store
from discovery.testing.dns_case import instance, question
from discovery.testing.dns_worker import DnsWorker

WEB = "web.default.svc.cluster.local"


class Node:
    """Store and hub without Raft: a command is applied as soon as it is given."""

    def __init__(self) -> None:
        self.store = Store()
        self.hub = Hub()
        self.index = 0

    def apply(self, command: Register | Deregister | Found) -> int:
        """Apply and publish; the revision afterwards."""
        self.index += 1
        outcome = self.store.apply(encode(command), Meta(self.index, 1, 1_700_000_000_000 + self.index))
        if outcome.group is not None:
            self.hub.publish(outcome.group)
        return self.store.revision

    def register(self, number: int) -> int:
        spec = instance("web", f"web-{number}", f"10.1.{number >> 8}.{number & 255}", ports={"http": 80})
        return self.apply(Register(spec, True, None, True, 0, 0, 1000 + number))

    def deregister(self, number: int) -> int:
        return self.apply(Deregister("default", "web", f"web-{number}"))


async def rcode(worker: DnsWorker, name: str) -> int:
    reply = await asyncio.to_thread(worker.ask, question(name))
    return int(dnslib.DNSRecord.parse(reply).header.rcode)


async def test_every_write_is_resolvable_when_it_is_visible(tmp_path: Path) -> None:
    node = Node()
    await node.hub.start(str(tmp_path / "feed"))
    with DnsWorker(tmp_path / "feed") as worker:
        node.hub.set_workers([(0, worker.process.pid)])
        node.apply(Found("h1"))
        node.hub.use(node.store)
        node.hub.tell(True, 0)
        for number in range(100):
            assert await node.hub.visible(node.register(number), 5)
            assert await rcode(worker, f"web-{number}.{WEB}") == codes.NOERROR
        for number in range(100):
            assert await node.hub.visible(node.deregister(number), 5)
            assert await rcode(worker, f"web-{number}.{WEB}") == codes.NXDOMAIN
        assert node.hub.behind() == []
        await node.hub.stop()


async def test_a_worker_follows_the_node_that_comes_after_the_first(tmp_path: Path) -> None:
    first = Node()
    await first.hub.start(str(tmp_path / "feed"))
    with DnsWorker(tmp_path / "feed") as worker:
        first.hub.set_workers([(0, worker.process.pid)])
        first.apply(Found("h1"))
        first.hub.use(first.store)
        first.hub.tell(True, 0)
        for number in range(5):
            first.register(number)
        assert await first.hub.visible(first.store.revision, 5)
        await first.hub.stop()

        second = Node()  # it replays its log, and is behind the worker at first
        await second.hub.start(str(tmp_path / "feed"))
        second.hub.set_workers([(0, worker.process.pid)])
        second.apply(Found("h1"))
        for number in range(3):
            second.register(number)
        second.hub.use(second.store)
        second.hub.tell(True, 0)
        await asyncio.sleep(0.2)
        assert await rcode(worker, f"web-4.{WEB}") == codes.NOERROR, "never below its own revision"
        for number in range(3, 7):
            second.register(number)
        assert await second.hub.visible(second.store.revision, 5)
        assert await rcode(worker, f"web-6.{WEB}") == codes.NOERROR
        await second.hub.stop()
