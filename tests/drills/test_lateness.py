"""Dead means gone, over elections: from every connected node TTL + 250 ms after the later of heartbeat and election."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime

import aiohttp
import pytest

from discovery.drill.dnsclient import DnsClient, dns_client
from discovery.drill.load import session
from discovery.drill.record import distribution
from discovery.testing.cluster import Cluster, Node, eventually

Say = Callable[[str], None]
GOAL_S = 0.25
TTL_S = 3.0
GROUPS, GROUP = 20, 5  # a round: so many last heartbeats, one every STEP_S, each of so many instances
STEP_S = 0.05
LOOK_S = 0.01
AHEAD_S = 0.2  # looking begins this long before an instance may go
LOGGED_S = 0.1  # by so much, on a busy host, a leader says later in its log that its clocks began


@dataclass
class Doomed:
    """An instance that stops; ``sent``: when its last acknowledged heartbeat was sent, monotonic seconds."""

    service: str
    sent: float = float("inf")
    gone: dict[str, float] = field(default_factory=dict)


@dataclass
class Round:
    """What happened in one round: who was killed, and when the next leader's clocks began."""

    dead: str = ""
    elected: float = float("-inf")

    def due(self, one: Doomed) -> float:
        """When the instance may go."""
        return max(one.sent, self.elected) + TTL_S


def late(one: Doomed, gone: float, elections: list[float]) -> tuple[bool, float]:
    """Whether an election put it off, and by how much it was late. A busy host may have elections of its own."""
    last = max((moment for moment in elections if moment <= gone - TTL_S + LOGGED_S), default=float("-inf"))
    return last > one.sent, gone - TTL_S - max(last, one.sent)


async def register(http: aiohttp.ClientSession, node: Node, one: Doomed) -> None:
    path = f"{node.url}/api/v1/namespaces/default/services/{one.service}/instances/a"
    async with http.put(path, json={"address": "10.7.7.7", "ttl": TTL_S}) as response:
        assert response.status == 201


async def heartbeat(http: aiohttp.ClientSession, node: Node, living: list[Doomed]) -> None:
    names = [["default", one.service, "a"] for one in living]
    sent = time.monotonic()
    async with http.post(f"{node.url}/api/v1/heartbeats", json={"instances": names}) as response:
        assert (await response.json())["missing"] == []
    for one in living:
        one.sent = sent


async def watch(node: Node, client: DnsClient, one: Doomed, now: Round) -> None:
    """Note when the instance is gone from a node, unless that is the one that was killed."""
    name = f"{one.service}.default.svc.cluster.local"
    while now.dead != node.id:
        ahead_s = now.due(one) - AHEAD_S - time.monotonic()
        if ahead_s > 0:
            await asyncio.sleep(min(ahead_s, STEP_S))
            continue
        found = await client.count(name, 0.3)
        if found.rcode in (0, 3) and not found.records:
            one.gone[node.id] = found.answered
            return
        await asyncio.sleep(LOOK_S)


def elections(log: str) -> list[float]:
    """When clocks began, monotonic seconds of this host: nodes say so in their log."""
    began = re.findall(r"(?m)^(\S+Z) .*leading term \d+", log)
    return [datetime.fromisoformat(moment).timestamp() - time.time() + time.monotonic() for moment in began]


async def kill_leader(cluster: Cluster, now: Round) -> Node:
    leader = await asyncio.to_thread(cluster.leader)
    now.dead = leader.id
    await asyncio.to_thread(leader.kill)
    killed = time.monotonic()

    def elected() -> float:
        since = elections(cluster.leader().log())[-1:]
        return since[0] if since and since[0] > killed else 0.0

    now.elected = await asyncio.to_thread(eventually, elected, 30, "an election")
    return leader


async def one_round(cluster: Cluster, http: aiohttp.ClientSession, number: int) -> tuple[Round, list[Doomed]]:
    """Half of the instances die before their leader does, the others under its successor."""
    now = Round()
    doomed = [Doomed(f"late{number}-{place}") for place in range(GROUPS * GROUP)]
    nodes = cluster.nodes
    await asyncio.gather(*(register(http, nodes[place % 3], one) for place, one in enumerate(doomed)))
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = {node.id: await stack.enter_async_context(dns_client(*node.dns)) for node in nodes}
        began = time.monotonic()
        for group in range(GROUPS):
            await heartbeat(http, nodes[group % 3], doomed[group * GROUP :])
            for one in doomed[group * GROUP : (group + 1) * GROUP]:  # it was their last one
                for node in nodes:
                    tasks.create_task(watch(node, clients[node.id], one, now))
            await asyncio.sleep(max(0.0, began + (group + 1) * STEP_S - time.monotonic()))
        await asyncio.sleep(max(0.0, began + TTL_S + GROUPS // 2 * STEP_S + STEP_S / 2 - time.monotonic()))
        leader = await kill_leader(cluster, now)
    await asyncio.to_thread(leader.restart)
    return now, doomed


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.long)])
async def test_the_dead_are_gone_in_time_over_elections_and_never_early(
    cluster: Cluster, rounds: int, say: Say
) -> None:
    between, after, early = [], [], []
    async with session() as http:
        for number in range(rounds):
            now, doomed = await one_round(cluster, http, number)
            elected = elections("".join(file.read_text() for file in cluster.nodes[0].folder.glob("*.err")))
            for one in doomed:
                assert len(set(one.gone) | {now.dead}) == len(cluster.nodes)
                put_off, seconds = late(one, max(one.gone.values()), elected)
                (after if put_off else between).append(seconds)
                early += [one.service for gone in one.gone.values() if gone < one.sent + TTL_S]
    say(f"gone from all nodes after last heartbeat + TTL, between elections: {distribution(between)}")
    say(f"gone from all nodes after the election + TTL, {rounds} election(s): {distribution(after)}")
    assert early == []
    assert max(between + after) <= 10 * GOAL_S
