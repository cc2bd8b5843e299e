"""Registered means resolvable; dead means gone, in time and never early."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime

import dnslib
import pytest

from discovery.drill.dnsclient import dns_client
from discovery.drill.record import distribution
from discovery.testing.cluster import HOST, Cluster, Node, free_port

Say = Callable[[str], None]
LATE_S_MAX = 2.5  # ten times the goal


def addresses(node: Node, name: str) -> set[str]:
    question = dnslib.DNSRecord.question(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect(node.dns)
        sock.send(question.pack())
        return {str(rr.rdata) for rr in dnslib.DNSRecord.parse(sock.recv(4096)).rr}


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.long)])
def test_every_registration_is_resolvable_at_once_and_every_removal_too(cluster: Cluster, count: int, say: Say) -> None:
    misses, ghosts = 0, 0
    for number in range(count):
        node = cluster.nodes[number % 3]
        name, path = f"r{number}.default.svc.cluster.local", f"namespaces/default/services/r{number}/instances/a"
        assert not addresses(node, name)  # a negative answer before must not linger
        answer = node.request("PUT", path, {"address": "10.1.2.3"})
        assert answer.status == 201
        assert answer.headers["x-registry-visible"] == "true"
        misses += addresses(node, name) != {"10.1.2.3"}
        assert node.request("DELETE", path).status == 204
        ghosts += addresses(node, name) != set()
    say(f"{count} registrations: {misses} not resolvable at once; {count} removals: {ghosts} ghosts")
    assert (misses, ghosts) == (0, 0)


def test_visible_cluster_waits_for_every_node(cluster: Cluster) -> None:
    for number in range(30):
        path = f"namespaces/default/services/c{number}/instances/a?visible=cluster"
        answer = cluster.nodes[number % 3].request("PUT", path, {"address": "10.1.2.3"})
        assert answer.headers["x-registry-visible"] == "true"
        for node in cluster:
            assert addresses(node, f"c{number}.default.svc.cluster.local") == {"10.1.2.3"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.long)])
async def test_a_killed_service_leaves_dns_after_its_ttl_and_soon(cluster: Cluster, count: int, say: Say) -> None:
    lateness: list[float] = []
    for number in range(0, count, 5):
        lateness += await asyncio.gather(*(_die(cluster, f"d{number + i}") for i in range(min(5, count - number))))
    say(f"gone from all three nodes' DNS after last heartbeat + TTL: {distribution(lateness)}")
    assert min(lateness) >= 0.0, "evicted early"
    assert max(lateness) <= LATE_S_MAX


async def _die(cluster: Cluster, service: str, ttl: float = 2.0) -> float:
    """Run a service, kill it and its wrapper; returns seconds past last heartbeat + TTL until all nodes forgot it."""
    port = free_port()
    line = [sys.executable, "-P", "-m", "discovery.cli", "run", service, "--address", HOST, "--port", f"http={port}"]
    line += ["--ttl", str(ttl), "--id", "one", "--", sys.executable, "-P", "-m", "http.server", str(port)]
    environment = {**os.environ, "DISCOVERY_SERVER": ",".join(cluster.urls)}
    wrapper = subprocess.Popen(
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    name = f"{service}.default.svc.cluster.local"
    try:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(dns_client(*node.dns)) for node in cluster]
            for client in clients:
                while not (await client.ask(name)).addresses:
                    await asyncio.sleep(0.02)
                assert (await client.ask(f"_http._tcp.{name}", "SRV")).rcode == 0
            await asyncio.sleep(1.0)  # some heartbeats
            os.killpg(wrapper.pid, signal.SIGKILL)
            gone = await asyncio.gather(*(_gone(client, name) for client in clients))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(wrapper.pid, signal.SIGKILL)
        wrapper.wait()
    events = cluster.nodes[0].request("GET", f"events?namespace=default&service={service}").json()["events"]
    expired = [event for event in events if event["kind"] == "expired"]
    assert len(expired) == 1, events
    return max(gone) - datetime.fromisoformat(expired[0]["last_heartbeat"]).timestamp() - ttl


async def _gone(client: object, name: str) -> float:
    """Unix seconds at which a node no longer answers the name."""
    while True:
        reply = await client.ask(name)  # type: ignore[attr-defined]
        if reply.rcode >= 0 and not reply.addresses:
            return time.time()
        await asyncio.sleep(0.004)
