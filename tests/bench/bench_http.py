"""Registrations per second over HTTP, CPU per registration, and what an idle cluster costs.

Run by ``make bench``. Three nodes as real processes on loopback with fsync on and one DNS worker each; the client is a
single asyncio process on the same machine, so read the rates as ratios and the CPU time per registration as the
steadier figure. CPU is user + system time of every process of the three nodes, read from /proc.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp

from discovery.drill.load import session
from discovery.testing.cluster import Cluster, running_cluster
from discovery.testing.usage import whole_node_s

DURATION_S = 5.0
IDLE_S = 10.0


def cpu_s(cluster: Cluster) -> float:
    """CPU seconds used so far by all processes of all nodes."""
    return sum(map(whole_node_s, cluster))


async def client(http: aiohttp.ClientSession, url: str, name: str, until: float, times: list[float]) -> None:
    number = 0
    while time.monotonic() < until:
        began = time.monotonic()
        body = {"address": "10.1.2.3", "ports": {"http": 8080}, "ttl": 600}
        path = f"/api/v1/namespaces/bench/services/{name}/instances/i{number}"
        async with http.put(url + path, json=body) as response:
            await response.read()
            if response.status != 201:
                raise RuntimeError(f"registration answered {response.status}")
        times.append(time.monotonic() - began)
        number += 1


async def registrations(cluster: Cluster, clients: int, spread: bool) -> str:
    """One row of the table; ``spread``: over all nodes, else all at the leader."""
    urls = cluster.urls if spread else [cluster.leader().url]
    times: list[float] = []
    before, began = cpu_s(cluster), time.monotonic()
    async with session() as http, asyncio.TaskGroup() as tasks:
        for number in range(clients):
            name = f"s{clients}-{int(spread)}-{number}"
            tasks.create_task(client(http, urls[number % len(urls)], name, began + DURATION_S, times))
    took, used = time.monotonic() - began, cpu_s(cluster) - before
    quantiles = statistics.quantiles(times, n=100)
    return (
        f"{'all nodes' if spread else 'leader':9} {clients:3} clients: {len(times) / took:7.0f}/s  "
        f"p50 {1000 * quantiles[49]:6.2f} ms  p99 {1000 * quantiles[98]:6.2f} ms  "
        f"CPU {1e6 * used / len(times):6.0f} us a registration (3 nodes)"
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder)) as cluster:
        await asyncio.sleep(2.0)
        before, began = cpu_s(cluster), time.monotonic()
        await asyncio.sleep(IDLE_S)
        share = (cpu_s(cluster) - before) / (time.monotonic() - began)
        print(f"idle cluster of three: {100 * share:.2f} % of a core together", flush=True)
        for spread in (False, True):
            for clients in (1, 16, 64):
                print(await registrations(cluster, clients, spread), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
