"""Networks that lose, reset, unplug, narrow, delay, double and reorder, under real processes on hosts of their own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from discovery.testing.cluster import Cluster, Node, eventually
from discovery.testing.hosts import RAFT_PORT, Hosts, cluster_on, hosts
from discovery.testing.needs import require_root, require_tool
from discovery.testing.promises import Promises
from discovery.testing.switch import SwitchedHosts

Say = Callable[[str], None]
Fault = Callable[[Hosts, int], AbstractContextManager[None]]


@contextmanager
def loss(network: Hosts, leader: int) -> Iterator[None]:
    """A tenth of all packets between hosts."""
    network.lose(10)
    try:
        yield
    finally:
        network.heal()


@contextmanager
def no_cable(network: Hosts, leader: int) -> Iterator[None]:
    """The leader's host is reached by nobody, its clients included."""
    network.unplug(leader)
    try:
        yield
    finally:
        network.plug(leader)


@contextmanager
def resets(network: Hosts, leader: int) -> Iterator[None]:
    """A firewall answers for the leader."""
    network.reset(leader, RAFT_PORT)
    try:
        yield
    finally:
        network.calm(leader)


@contextmanager
def narrow_link(network: Hosts, leader: int) -> Iterator[None]:
    """A follower at the end of a thin line."""
    follower = (leader + 1) % network.count
    network.narrow(follower, "512kbit")
    try:
        yield
    finally:
        network.narrow(follower, "")


@contextmanager
def small_packets(network: Hosts, leader: int) -> Iterator[None]:
    """Large packets to a follower vanish, on connections that began when they did not."""
    follower = (leader + 1) % network.count
    network.shrink(follower, 600)
    try:
        yield
    finally:
        network.shrink(follower, 1500)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hosts, Cluster]]:
    require_root()
    require_tool("ip", "iproute2")
    require_tool("nft", "nftables")
    with hosts(3) as network, network.inside():
        cluster = cluster_on(network, tmp_path_factory.mktemp("network"))
        try:
            yield network, cluster.start()
        finally:
            cluster.close()


def long(fault: Fault) -> Any:
    return pytest.param(fault, marks=pytest.mark.long)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", [loss, no_cable, long(resets), long(narrow_link), long(small_packets)])
async def test_promises_are_kept_over(fault: Fault, scene: tuple[Hosts, Cluster], say: Say) -> None:
    network, cluster = scene
    leader = await asyncio.to_thread(cluster.leader, 30)
    promises = Promises(cluster)
    large = random.randbytes(40_000)
    async with promises.made():
        with fault(network, cluster.nodes.index(leader)):
            meanwhile = await promises.more(20)
            put = await asyncio.to_thread(_put_elsewhere, cluster, leader.id, large)
            await promises.more(20)
            follows = [] if fault in (no_cable, resets) else cluster.nodes
            for node in follows:
                await asyncio.to_thread(_wait_for, node, large)
        afterwards = await promises.more(20)
    for node in cluster:
        await asyncio.to_thread(_wait_for, node, large)
    say(f"{fault.__name__}: a write after {meanwhile:.2f} s, a large one {put}, after its end {afterwards:.2f} s")


def _wait_for(node: Node, value: bytes) -> None:
    eventually(lambda: node.request("GET", "kv/large").body == value, 60, f"the large value at {node.id}")


def _put_elsewhere(cluster: Cluster, leader: str, value: bytes) -> int:
    node = next(node for node in cluster if node.id != leader)
    for _ in range(10):
        status = node.request("PUT", "kv/large", value, timeout_s=15).status
        if status in (200, 201):
            return status
    pytest.fail("no large write in ten attempts")


@pytest.fixture
def far_apart(tmp_path: Path) -> Iterator[Cluster]:
    """Nodes whose frames to each other take 2 to 18 ms, overtake each other, come twice or not at all."""
    require_root()
    require_tool("ip", "iproute2")
    network = SwitchedHosts(3, ["--delay", "0.01", "--jitter", "0.008", "--loss", "0.02", "--doubled", "0.05"])
    try:
        try:
            network.make()
        except OSError as problem:
            pytest.skip(f"this kernel cannot do it: {problem}")
        with network.inside():
            cluster = cluster_on(network, tmp_path)
            try:
                yield cluster.start()
            finally:
                cluster.close()
    finally:
        network.remove()


@pytest.mark.timeout(180)
async def test_promises_are_kept_where_frames_are_late_lost_doubled_and_overtake(far_apart: Cluster, say: Say) -> None:
    promises = Promises(far_apart)
    async with promises.made():
        first = await promises.more(40)
        victim = await asyncio.to_thread(far_apart.leader, 30)
        await asyncio.to_thread(victim.kill_node_process)
        gap = await promises.more(40)
    say(f"2 to 18 ms, 2 % lost, 5 % doubled: a write after {first:.2f} s, with the leader killed after {gap:.2f} s")
