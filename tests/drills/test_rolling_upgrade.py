"""Three nodes go from one feature level to the next, one by one, while clients write and ask."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.levels import BASE, LEVEL
from discovery.testing.cluster import Cluster, Node, eventually

OLDER = ("env", f"DISCOVERY_TESTING_LEVEL={BASE}")
N4 = {"id": "n4", "raft": "127.0.0.1:1", "http": "http://127.0.0.1:1"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """All of the older version."""
    cluster = Cluster(tmp_path)
    for node in cluster:
        node.prefix = OLDER
    try:
        yield cluster.start()
    finally:
        cluster.close()


class Client(threading.Thread):
    """Does one thing at the nodes in turn, without a pause; a node that is being replaced is left out."""

    def __init__(self, cluster: Cluster, once: Callable[[Node, int], None]) -> None:
        super().__init__(daemon=True)
        self.cluster, self.once = cluster, once
        self.ended = threading.Event()
        self.away: Node | None = None
        self.wrong: list[str] = []
        self.done = 0

    def run(self) -> None:
        for number in itertools.count():
            if self.ended.is_set():
                return
            node = self.cluster.nodes[number % len(self.cluster.nodes)]
            if node is self.away:
                continue
            try:
                self.once(node, number)
                self.done += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                if node is not self.away:  # taken away meanwhile
                    self.wrong.append(f"{node.id}: {error!r}")


class Writes:
    """What was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()

    def __call__(self, node: Node, number: int) -> None:
        headers = {"Idempotency-Key": f"w{number}"}
        answer = node.request("PUT", f"kv/written/{number}", b"x", headers=headers, timeout_s=30)
        if answer.status == 200:
            self.acknowledged.add(f"written/{number}")
        elif answer.status not in (503, 504):
            raise ValueError(f"{answer.status} {answer.body!r}")


def asks(node: Node, _: int) -> None:
    answer = node.ask("web.default", timeout_s=10)
    if answer.addresses != ["10.1.2.3"]:
        raise ValueError(str(answer))


def level(node: Node) -> int:
    found: int = node.request("GET", "cluster").json()["level"]
    return found


def replace(node: Node, clients: list[Client]) -> None:
    """End the older version, start this one on its directory."""
    for client in clients:
        client.away = node
    assert node.terminate() == 0
    node.prefix = ()
    node.start().wait_ready(60)
    for client in clients:
        client.away = None


def keys(node: Node) -> set[str]:
    found: set[str] = set()
    after = ""
    while True:
        page = node.request("GET", f"kv/written/?prefix=true&consistency=strong&limit=5000{after}").json()
        found |= {item["key"] for item in page["items"]}
        if "next" not in page:
            return found
        after = f"&after={page['next']}"


def refused(node: Node, older: list[Node]) -> bool:
    """Whether a change of members is refused, naming all that hold the level; a new leader hears of them soon."""
    answer = node.request("POST", "cluster/members", N4, timeout_s=30)
    assert answer.status in (409, 503, 504), answer.body
    told = str(answer.json()["detail"])
    named = all(f"{node.id}, which runs a version that knows {BASE}" in told for node in older)
    return named and f"needs feature level {LEVEL}, the cluster is at {BASE}" in told


def test_nothing_is_lost_and_the_level_rises_with_the_last_node(cluster: Cluster) -> None:
    assert cluster.leader().register("web", "a", address="10.1.2.3", ttl=None).status == 201
    for node in cluster:
        eventually(lambda node=node: node.ask("web.default").addresses, 30, "the registration everywhere")
    writes = Writes()
    clients = [Client(cluster, writes), Client(cluster, asks)]
    for client in clients:
        client.start()
    older = [*cluster.followers(), cluster.leader()]
    while older:
        assert {level(node) for node in cluster} == {BASE}
        eventually(lambda: refused(cluster.nodes[0], older), 30, "the refusal of a change of members")
        replace(older.pop(0), clients)
    for node in cluster:
        eventually(lambda node=node: level(node) == LEVEL, 30, f"the new level at {node.id}")
    for client in clients:
        client.ended.set()
        client.join(60)
        assert client.wrong == []
        assert client.done > 0
    print(f"\n  {len(writes.acknowledged)} writes and {clients[1].done} questions over three replacements")
    for node in cluster:
        assert writes.acknowledged <= keys(node)
    assert cluster.nodes[1].request("POST", "cluster/members", N4).status == 200
    assert cluster.nodes[2].request("DELETE", "cluster/members/n4").status == 204
