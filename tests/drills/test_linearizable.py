"""Real clusters under kill, pause and partition: what concurrent clients were told has an order that explains it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from discovery.testing.calls import INSTANCES
from discovery.testing.cluster import Cluster, Node, eventually, running_cluster
from discovery.testing.contenders import Contenders
from discovery.testing.history import save
from discovery.testing.hosts import Hosts, cluster_on, hosts
from discovery.testing.linearize import check
from discovery.testing.models import Decided, Found, Get, Operation, Put, Refused, Txn, Wrote

Say = Callable[[str], None]
SECONDS_MAX = 90.0  # for one history; a cluster that serves nobody makes none


@dataclass
class Scene:
    """A cluster, the network between its nodes where the test made one, and chance."""

    cluster: Cluster
    network: Hosts | None
    chance: random.Random

    async def leader(self) -> Node:
        return await asyncio.to_thread(self.cluster.leader, 20)

    async def anyone(self, turn: int) -> Node:
        """The leader, at first and mostly; now and then one that follows."""
        leader = await self.leader()
        return leader if turn == 0 or self.chance.random() < 0.6 else self.chance.choice(self.cluster.nodes)

    async def a_while(self, least_s: float, most_s: float) -> None:
        """Let the clients contend meanwhile."""
        await asyncio.sleep(self.chance.uniform(least_s, most_s))


Fault = Callable[[Scene, int], Awaitable[None]]


async def kill(scene: Scene, turn: int) -> None:
    """Kill -9 of a node, of its node process alone, or of all nodes."""
    way = "host" if turn == 0 else scene.chance.choice(("host", "host", "process", "all"))
    victim = await scene.anyone(turn)
    if way == "process":
        await asyncio.to_thread(victim.kill_node_process)
        return await scene.a_while(0.5, 1.5)
    victims = scene.cluster.nodes if way == "all" else [victim]
    await asyncio.gather(*(asyncio.to_thread(node.kill) for node in victims))
    await scene.a_while(0.2, 1.5)
    for node in victims:
        node.start()
    await asyncio.gather(*(asyncio.to_thread(node.wait_ready) for node in victims))


async def pause(scene: Scene, turn: int) -> None:
    """SIGSTOP of a node long enough for another leader; then it goes on, with what waited in its sockets."""
    victim = await scene.anyone(turn)
    victim.stop_processes(signal.SIGSTOP)
    try:
        await scene.a_while(1.2, 3.0)
    finally:
        victim.stop_processes(signal.SIGCONT)
    await scene.a_while(0.5, 1.0)


async def partition(scene: Scene, turn: int) -> None:
    """Cut a node off, in both directions or one; or each from each. Clients reach all of them meanwhile."""
    assert scene.network is not None
    number = scene.cluster.nodes.index(await scene.anyone(turn))
    way = 0 if turn == 0 else scene.chance.randrange(5)
    if way == 4:
        scene.network.cut([(one, other) for one in range(3) for other in range(3) if one != other])
    else:
        scene.network.isolate(number, hears=way == 1, speaks=way == 2)
    await scene.a_while(1.5, 3.0)
    scene.network.heal()
    await scene.a_while(0.5, 1.5)


@pytest.fixture
def network(require_root: Callable[[], None], require_tool: Callable[[str, str], str]) -> Iterator[Hosts]:
    require_root()
    require_tool("ip", "iproute2")
    require_tool("nft", "nftables")
    with hosts(3) as network, network.inside():
        yield network


@pytest.fixture
def apart(network: Hosts, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose nodes are hosts of that network."""
    cluster = cluster_on(network, tmp_path)
    try:
        yield cluster.start()
    finally:
        cluster.close()


@contextlib.asynccontextmanager
async def contending(contenders: Contenders) -> AsyncIterator[None]:
    """Clients at work meanwhile; what they find amiss ends the test."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(contenders.run())
        yield
        task.cancel()


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout_s} s"
        await asyncio.sleep(0.02)


async def contend(scene: Scene, fault: Fault, contenders: Contenders, operations: int) -> int:
    """Let the clients contend and faults strike until the history is long enough; the number of faults."""
    history, turn = contenders.history, 0
    deadline = time.monotonic() + SECONDS_MAX
    async with contending(contenders):
        await until(lambda: len(history) > 100, "the first hundred operations")
        while turn == 0 or len(history) < operations:
            assert time.monotonic() < deadline, f"only {len(history)} operations ended: {history.outcomes}"
            await fault(scene, turn)
            turn += 1
        before = history.outcomes["ok"]
        await until(lambda: history.outcomes["ok"] > before + 100, "a hundred answers after the last fault")
    return turn


def assert_telling(operations: list[Operation]) -> None:
    """A history of which every kind of answer is a part: one without could not tell a broken registry."""
    kinds: Counter[str] = Counter()
    for one in operations:
        match one.call, one.output:
            case Put(if_revision=int()), Wrote():
                kinds["swapped"] += 1
            case Put(if_revision=int()), Refused():
                kinds["refused"] += 1
            case Get(), Found(value=str()):
                kinds["read"] += 1
            case Txn(), Decided(succeeded=succeeded):
                kinds[f"transaction {succeeded}"] += 1
            case Put(key=key), Wrote() if key.startswith(INSTANCES):
                kinds["registered"] += 1
    wanted = ("swapped", "refused", "read", "transaction True", "transaction False", "registered")
    assert not [kind for kind in wanted if kinds[kind] < 3], f"this history tells little: {kinds}"


async def judge(scene: Scene, fault: Fault, folder: Path, say: Say, histories: int, operations: int, seed: int) -> None:
    for number in range(histories):
        name = f"{fault.__name__}{number}"
        contenders = Contenders(scene.cluster.urls, name, seed + number)
        faults = await contend(scene, fault, contenders, operations)
        recorded = contenders.history.operations()
        began = time.monotonic()
        verdict = check(recorded)
        seconds = time.monotonic() - began
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(contenders.history.outcomes.items()))
        say(f"{name}: {faults} faults; {outcomes}; {verdict.outcome} in {verdict.steps} steps, {seconds:.1f} s")
        if not verdict:
            save(folder / f"{name}.history", recorded)
            save(folder / f"{name}.refused", contenders.history.refused)
            pytest.fail(f"{folder / name}.history: {verdict}")
        assert_telling(recorded)


FORMS = [(1, 600), pytest.param((7, 2_000), marks=pytest.mark.long)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", FORMS, ids=["short", "long"])
@pytest.mark.parametrize("fault", [kill, pause])
async def test_a_history_is_linearizable_under(fault: Fault, form: tuple[int, int], tmp_path: Path, say: Say) -> None:
    seed = random.randrange(1_000_000)
    with running_cluster(tmp_path) as cluster:
        await judge(Scene(cluster, None, random.Random(seed)), fault, tmp_path, say, *form, seed)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", FORMS, ids=["short", "long"])
async def test_a_history_is_linearizable_under_partition(
    network: Hosts, apart: Cluster, form: tuple[int, int], tmp_path: Path, say: Say
) -> None:
    seed = random.randrange(1_000_000)
    await judge(Scene(apart, network, random.Random(seed)), partition, tmp_path, say, *form, seed)


# A leader cut off


async def status(http: aiohttp.ClientSession, method: str, url: str, body: object = None) -> int:
    """The status of an answer, 0 when there is none within the test's patience."""
    try:
        async with http.request(method, url, json=body) as response:
            return response.status
    except (TimeoutError, aiohttp.ClientError):
        return 0


async def attempts(leader: Node, patience_s: float) -> dict[str, list[int]]:
    """What a leader answers to everything that it may only answer with a majority behind it."""
    api = f"{leader.url}/api/v1"
    of = f"{api}/namespaces/default/services"
    asked = {
        "write": ("PUT", f"{api}/kv/isolated/{{}}", {"written": True}),
        "swap": ("PUT", f"{api}/kv/before?if_revision={{}}", {"written": True}),
        "removal": ("DELETE", f"{api}/kv/before", None),
        "registration": ("PUT", f"{of}/isolated/instances/i{{}}", {"address": "10.1.1.1"}),
        "deregistration": ("DELETE", f"{of}/living/instances/one", None),
        "transaction": ("POST", f"{api}/txn", {"then": [{"put": {"key": "isolated/txn", "value_base64": "MQ=="}}]}),
        "heartbeat": ("PUT", f"{of}/living/instances/one/heartbeat", None),
        "heartbeat of one that is gone": ("PUT", f"{of}/living/instances/none/heartbeat", None),
        "heartbeats": ("POST", f"{api}/heartbeats", {"instances": [["default", "living", "one"]]}),
        "strong reading": ("GET", f"{api}/kv/before?consistency=strong", None),
        "strong reading of an instance": ("GET", f"{of}/living/instances/one?consistency=strong", None),
    }
    timeout = aiohttp.ClientTimeout(total=patience_s)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        sent = [
            (kind, asyncio.create_task(status(http, method, url.format(number), body)))
            for kind, (method, url, body) in asked.items()
            for number in range(3)
        ]
        answers: dict[str, list[int]] = {}
        for kind, task in sent:
            answers.setdefault(kind, []).append(await task)
    return answers


@pytest.mark.parametrize("way", ["cut off", "deaf", "mute"])
async def test_an_isolated_leader_acknowledges_nothing_and_comes_back_by_itself(
    network: Hosts, apart: Cluster, way: str, say: Say
) -> None:
    leader = apart.leader()
    others = [node for node in apart if node is not leader]
    assert leader.request("PUT", "kv/before", b"before").status == 200
    assert leader.register("living", "one", "10.2.2.2", ttl=60).status == 201
    network.isolate(apart.nodes.index(leader), hears=way == "mute", speaks=way == "deaf")
    cut = time.monotonic()
    at_once = asyncio.create_task(attempts(leader, 2.5))
    elected = asyncio.create_task(asyncio.to_thread(_write_elsewhere, others[0]))
    answers = await at_once
    after = await attempts(leader, 0.5)
    gap = await elected - cut
    assert leader.request("GET", "kv/before").body == b"before"
    assert leader.ask("living.default").addresses == ["10.2.2.2"]
    network.heal()
    healed = time.monotonic()
    eventually(lambda: leader.request("GET", "kv/elsewhere?consistency=strong").body == b"elsewhere", 20, "the healing")
    say(f"{way}: the others wrote after {gap:.2f} s, it was back {time.monotonic() - healed:.2f} s after the healing")
    for told in (answers, after):
        acknowledged = {kind: statuses for kind, statuses in told.items() if set(statuses) - {0, 503, 504}}
        assert not acknowledged, "a leader that nobody follows acknowledged"
    assert leader.request("PUT", "kv/again", b"again").status == 200
    assert {_state(node) for node in apart} == {_state(leader)}


def _write_elsewhere(node: Node) -> float:
    """The moment when a node of the majority takes a write again."""
    put = ("PUT", "kv/elsewhere", b"elsewhere")
    eventually(lambda: node.request(*put, timeout_s=12).status == 200, 20, "a write at the majority")
    return time.monotonic()


def _state(node: Node) -> bytes:
    return node.request("GET", "kv/?prefix=true&consistency=strong").body
