"""What the cluster keeps when nodes die under load: acknowledged writes, living instances, DNS answers."""

from __future__ import annotations

import asyncio
import signal
import time
from base64 import b64decode
from collections.abc import Callable

import aiohttp
import pytest

from discovery.drill.load import DnsProbe, Instances, Writers, running, session
from discovery.drill.record import distribution
from discovery.testing.cluster import Cluster, Node, eventually

Say = Callable[[str], None]
# Ten times the goals: CI asserts safety, the figures are printed.
KILL_GAP_S_MAX = 4.0
PAUSE_GAP_S_MAX = 12.0
SILENCE_S_MAX = 2.5
HANDOVER_S_MAX = 1.0
PATIENT = aiohttp.ClientTimeout(total=60)  # for reading back: a busy host is no fault


def probes_of(cluster: Cluster, instances: Instances) -> dict[str, DnsProbe]:
    names = [f"svc{number}.default.svc.cluster.local" for number in range(instances.services)]
    return {node.id: DnsProbe(*node.dns, names) for node in cluster}


async def missing_writes(http: aiohttp.ClientSession, node: Node, writers: Writers) -> list[str]:
    """The acknowledged keys that a node does not hold with their value."""
    held: dict[str, bytes] = {}
    query = {"prefix": "true", "limit": "5000"}
    while True:
        async with http.get(f"{node.url}/api/v1/kv/{writers.prefix}/", params=query, timeout=PATIENT) as response:
            page = await response.json()
        held |= {item["key"]: b64decode(item["value_base64"]) for item in page["items"]}
        if "next" not in page:
            return [key for key, value in writers.acknowledged().items() if held.get(key) != value]
        query["after"] = page["next"]


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true in {timeout_s} s")
        await asyncio.sleep(0.02)


async def applied_everywhere(http: aiohttp.ClientSession, cluster: Cluster) -> None:
    """Wait until every node has a leader and the revision that the most advanced one has."""

    async def revisions() -> set[str]:
        found = set()
        for node in cluster:
            async with http.get(f"{node.url}/api/v1/namespaces?consistency=strong", timeout=PATIENT) as response:
                found.add(response.headers["X-Registry-Revision"] if response.status == 200 else "none")
        return found

    deadline = time.monotonic() + 60
    while len(now := await revisions()) != 1 or "none" in now:
        assert time.monotonic() < deadline, f"nodes stay apart: {now}"
        await asyncio.sleep(0.1)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=pytest.mark.long)])
async def test_killed_leaders_cost_no_write_no_instance_and_no_dns_answer(
    cluster: Cluster, rounds: int, say: Say
) -> None:
    writers = Writers(cluster.urls)
    instances = Instances(cluster.urls, ttl_s=6.0)  # a client on a busy host needs two tries to find the next node
    probes = probes_of(cluster, instances)
    gaps, silences = [], []
    async with session() as http:
        await instances.register(http)
        async with running(writers.run(http), instances.run(http), *(probe.run() for probe in probes.values())):
            began = time.monotonic()
            await until(lambda: len(writers.acknowledged()) > 50, "50 writes")
            for _ in range(rounds):
                leader = await asyncio.to_thread(cluster.leader)
                moment = time.monotonic()
                await asyncio.to_thread(leader.kill)
                killed = time.monotonic()
                await until(lambda killed=killed: writers.acknowledged_since(killed) > 20, "writes after the kill")
                await asyncio.sleep(1.0)  # the survivors' DNS is watched for this long
                ended = time.monotonic()
                gaps.append(writers.gap(moment, ended - 0.2))
                for name, probe in probes.items():
                    if name != leader.id:
                        silences.append(probe.silence(moment, ended - 0.2))
                        assert not probe.refused(moment, ended), f"{name} refused while {leader.id} was dead"
                await asyncio.to_thread(leader.restart)
            ended = time.monotonic()
        await applied_everywhere(http, cluster)
        lost = {node.id: await missing_writes(http, node, writers) for node in cluster}
    say(f"write gap after kill -9 of the leader: {distribution(gaps)}")
    unanswered = sum(len(probe.unanswered(began, ended)) for probe in probes.values())
    say(f"longest DNS silence of a survivor, asked every 20 ms: {distribution(silences)}")
    say(f"questions without an answer, those to nodes that were dead included: {unanswered}")
    say(f"{len(writers.acknowledged())} writes acknowledged of {len(writers.attempts)} sent")
    assert lost == {node.id: [] for node in cluster}
    for name, probe in probes.items():
        for number in range(instances.services):
            service = f"svc{number}"
            wrong = probe.wrong(f"{service}.default.svc.cluster.local", instances.expected(service), began, ended)
            assert not wrong, f"{name} left living instances out: {wrong[:2]}"
    assert not instances.re_registered, "a living instance was evicted"
    assert max(gaps) < KILL_GAP_S_MAX
    assert max(silences) < SILENCE_S_MAX


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [2, pytest.param(15, marks=pytest.mark.long)])
async def test_a_killed_node_process_costs_no_dns_answer_on_its_node(cluster: Cluster, rounds: int, say: Say) -> None:
    # A supervisor holds the HTTP port while there is no node process: clients wait there for a while. Hence the TTL.
    instances = Instances(cluster.urls, ttl_s=12.0)
    probes = probes_of(cluster, instances)
    silences, unanswered = [], 0
    async with session() as http:
        await instances.register(http)
        async with running(instances.run(http), *(probe.run() for probe in probes.values())):
            await until(lambda: all(len(probe.replies) == instances.services for probe in probes.values()), "answers")
            for number in range(rounds):
                node = cluster.nodes[number % 3]
                probe, moment = probes[node.id], time.monotonic()
                await asyncio.to_thread(_kill_node_process, node)
                ended = time.monotonic()
                silences.append(probe.silence(moment, ended))
                unanswered += len(probe.unanswered(moment, ended))
                assert not probe.refused(moment, ended), f"{node.id} refused while its node process was dead"
                for name, expected in instances.names().items():
                    assert not probe.wrong(name, set(expected), moment, ended)
    say(f"node process killed: {unanswered} questions without an answer on its node")
    say(f"longest DNS silence of that node, asked every 20 ms: {distribution(silences)}")
    assert not instances.re_registered, "a living instance was evicted"
    assert max(silences) < SILENCE_S_MAX


def _kill_node_process(node: Node) -> None:
    """Returns when its successor serves."""
    former = node.node_process()
    node.kill_node_process()
    eventually(lambda: node.node_process() != former, 30, "another node process")
    eventually(lambda: node.request("GET", "/readyz").status == 200, 30, "a node that is ready")


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_planned_handovers_hardly_hold_up_a_write(cluster: Cluster, say: Say) -> None:
    writers = Writers(cluster.urls, per_second=200, prefix="planned")
    gaps = []
    async with session() as http, running(writers.run(http)):
        await until(lambda: len(writers.acknowledged()) > 50, "50 writes")
        for number in range(20):
            follower = (await asyncio.to_thread(cluster.followers))[number % 2]
            moment = time.monotonic()
            async with http.post(f"{follower.url}/api/v1/cluster/leader", json={"to": follower.id}) as response:
                assert response.status == 200, await response.text()
            handed = time.monotonic()
            await until(lambda handed=handed: writers.acknowledged_since(handed) > 50, "writes under the new leader")
            gaps.append(writers.gap(moment, time.monotonic()))
    async with session() as http:
        await applied_everywhere(http, cluster)
        for node in cluster:
            assert not await missing_writes(http, node, writers)
    say(f"write gap of a planned hand-over: {distribution(gaps)}")
    assert max(gaps) < HANDOVER_S_MAX


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.long)])
async def test_killing_all_nodes_at_once_loses_no_acknowledged_write(cluster: Cluster, rounds: int, say: Say) -> None:
    counts = []
    async with session() as http:
        for number in range(rounds):
            writers = Writers(cluster.urls, per_second=200, prefix=f"round{number}")
            async with running(writers.run(http)):
                await until(lambda writers=writers: len(writers.acknowledged()) > 200, "200 writes")
                await asyncio.gather(*(asyncio.to_thread(node.kill) for node in cluster))
            for node in cluster:
                node.start()
            await asyncio.gather(*(asyncio.to_thread(node.wait_ready) for node in cluster))
            await applied_everywhere(http, cluster)
            lost = {node.id: await missing_writes(http, node, writers) for node in cluster}
            assert lost == {node.id: [] for node in cluster}
            counts.append(len(writers.acknowledged()))
    say(f"{sum(counts)} acknowledged writes over {rounds} kills of all nodes, none lost")


async def test_leases_restart_with_their_full_ttl_after_all_nodes_died(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    body = {"address": "10.9.9.9", "ttl": 4}
    path = "namespaces/default/services/lonely/instances/one"
    assert node.request("PUT", path, body).status == 201
    await asyncio.sleep(2.5)  # most of the TTL passes without a heartbeat
    await asyncio.gather(*(asyncio.to_thread(node.kill) for node in cluster))
    for other in cluster:
        other.start()
    await asyncio.gather(*(asyncio.to_thread(node.wait_ready) for node in cluster))
    remaining = node.request("GET", path).json()["lease"]["remaining"]
    assert remaining is not None
    assert remaining > 1.5 + 0.1, "the clock went on from before the crash"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.long)])
async def test_a_paused_leader_evicts_nobody_and_acknowledges_nothing(cluster: Cluster, rounds: int, say: Say) -> None:
    gaps = []
    async with session() as http:
        instances = Instances(cluster.urls)
        await instances.register(http)
        writers = Writers(cluster.urls, prefix="paused")
        async with running(instances.run(http), writers.run(http)):
            await until(lambda: len(writers.acknowledged()) > 50, "50 writes")
            for number in range(rounds):
                gaps.append(await _pause(http, cluster, writers, number))
        await applied_everywhere(http, cluster)
        for node in cluster:
            assert not await missing_writes(http, node, writers)
        events = cluster.nodes[0].request("GET", "events?namespace=default").json()["events"]
    say(f"write gap after SIGSTOP of the leader: {distribution(gaps)}")
    assert not [event for event in events if event["kind"] == "expired" and event["service"] != "ghost"]
    assert not instances.re_registered
    assert max(gaps) < PAUSE_GAP_S_MAX


async def _pause(http: aiohttp.ClientSession, cluster: Cluster, writers: Writers, number: int) -> float:
    """Stop the leader for 5 s; a ghost that heartbeats to it alone must not be acknowledged once it is evicted."""
    leader = await asyncio.to_thread(cluster.leader)
    ghost = f"{leader.url}/api/v1/namespaces/default/services/ghost/instances/g{number}"
    async with http.put(ghost, json={"address": "10.9.8.7", "ttl": 2}) as response:
        assert response.status == 201
    moment = time.monotonic()
    leader.stop_processes(signal.SIGSTOP)
    try:
        beats = [asyncio.ensure_future(_beat(http, ghost)) for _ in range(20)]  # wait in the paused leader's socket
        await asyncio.sleep(5.0)
        other = next(node for node in cluster if node is not leader)
        await until(lambda: _expired(other, f"g{number}"), "the eviction of the ghost by the new leader")
    finally:
        leader.stop_processes(signal.SIGCONT)
    resumed = time.monotonic()
    statuses = await asyncio.gather(*beats)
    assert 200 not in statuses, f"a deposed leader acknowledged heartbeats of an evicted instance: {statuses}"
    return writers.gap(moment, resumed)


def _expired(node: Node, ghost: str) -> bool:
    events = node.request("GET", "events?namespace=default&service=ghost").json()["events"]
    return any(event["kind"] == "expired" and event["id"] == ghost for event in events)


async def _beat(http: aiohttp.ClientSession, url: str) -> int:
    try:
        async with http.put(url + "/heartbeat", timeout=aiohttp.ClientTimeout(total=15)) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0
