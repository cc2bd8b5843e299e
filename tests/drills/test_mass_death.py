"""Thousands that die at once leave the answers of all nodes together: soon, and never early."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from datetime import datetime

import dnslib
import pytest

from discovery.drill.doomed import Fleet
from discovery.drill.load import session
from discovery.drill.record import distribution
from discovery.testing.cluster import Cluster, Node
from discovery.testing.usage import Usage

Say = Callable[[str], None]
GOALS_S = {300: 0.25, 5_000: 0.3, 20_000: 1.0}
TTLS_S = {300: 3.0, 5_000: 8.0, 20_000: 15.0}  # long enough to renew all of them on a busy host
BATCH = 64  # questions under way at a node; the kernel holds them all
FEW = 4  # until the first one goes; they show whether it goes early
PAUSE_S = 0.004


class Asker:
    """Asks one node for all services of a fleet until none is left, by a plain socket: thousands in a moment."""

    def __init__(self, node: Node, fleet: Fleet) -> None:
        self.left = dict(enumerate(fleet.names().values()))
        self.shrunk: dict[int, float] = {}
        self.gone: dict[int, float] = {}
        self._questions = [dnslib.DNSRecord.question(name).pack()[2:] for name in fleet.names()]
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.settimeout(0.2)
        self._sock.connect(node.dns)

    def sweep(self, most: int) -> None:
        """Ask for the first ``most`` of those that are left."""
        asked = list(self.left)[:most]
        for begin in range(0, len(asked), BATCH):
            batch = asked[begin : begin + BATCH]
            for number in batch:
                self._sock.send(number.to_bytes(2, "big") + self._questions[number])
            with contextlib.suppress(TimeoutError):  # a lost question is asked again in the next sweep
                for _ in batch:
                    self._note(self._sock.recv(4096))

    def _note(self, data: bytes) -> None:
        number, records = int.from_bytes(data[:2], "big"), int.from_bytes(data[6:8], "big")
        assert data[3] & 15 in (0, 3), "an answer that says nothing about who lives"
        if number in self.left and records < self.left[number]:
            self.shrunk.setdefault(number, time.monotonic())
            if not records:
                self.gone[number] = time.monotonic()
                del self.left[number]

    def close(self) -> None:
        self._sock.close()


def watch(cluster: Cluster, fleet: Fleet, timeout_s: float = 60.0) -> list[Asker]:
    """Ask all nodes until every service is gone everywhere; a few names only until the first one goes."""
    askers = [Asker(node, fleet) for node in cluster]
    while any(asker.left for asker in askers):
        assert time.monotonic() < fleet.due + timeout_s, "some never left"
        quiet = not any(asker.shrunk for asker in askers)
        for asker in askers:
            asker.sweep(FEW if quiet else len(asker.left))
        time.sleep(PAUSE_S)
    for asker in askers:
        asker.close()
    return askers


def last_heard(node: Node) -> float:
    """When the leader took the last heartbeat of all, monotonic seconds of this host."""
    events = node.request("GET", "events?namespace=default").json()["events"]
    heard = max(event["last_heartbeat"] for event in events if event["kind"] == "expired")
    return datetime.fromisoformat(heard).timestamp() - time.time() + time.monotonic()


def cpu_shares(cluster: Cluster, usage: Usage, count: int) -> str:
    """CPU of node process + DNS worker of each node, an eviction."""
    shares = ((node.id, usage.node_s(node.id), usage.workers_s(node.id)) for node in cluster)
    return ", ".join(f"{id} {1e6 * node / count:.0f} + {1e6 * workers / count:.0f}" for id, node, workers in shares)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [300, *(pytest.param(many, marks=pytest.mark.long) for many in (5_000, 20_000))])
async def test_those_that_die_at_once_leave_the_dns_of_all_nodes_together(
    cluster: Cluster, count: int, say: Say
) -> None:
    fleet = Fleet(cluster.urls, count, TTLS_S[count], "default", "mass", "cluster.local")
    leader = await asyncio.to_thread(cluster.leader)
    async with session() as http:
        await fleet.register(http)
        await fleet.beat(http)
    usage = Usage(cluster)
    askers = await asyncio.to_thread(watch, cluster, fleet)
    due = await asyncio.to_thread(last_heard, leader) + fleet.ttl_s
    late = [at - due for asker in askers for at in asker.gone.values()]
    say(f"{count} died at once; their services left three nodes' DNS after last heartbeat + TTL: {distribution(late)}")
    say(f"CPU of node process + DNS worker, the watching included: {cpu_shares(cluster, usage, count)} us an eviction")
    assert min(at for asker in askers for at in asker.shrunk.values()) >= fleet.due, f"evicted early; {leader.id} led"
    assert max(late) <= 10 * GOALS_S[count]
