"""Three real nodes: founding, registering anywhere, resolving everywhere, and failover under kill -9."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery.testing.cluster import Cluster, Node, eventually, running_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster for a test that breaks it."""
    with running_cluster(tmp_path) as cluster:
        yield cluster


def everywhere(cluster: Cluster, name: str, addresses: list[str], timeout_s: float = 2.0) -> None:
    for node in cluster.running:
        eventually(lambda node=node: node.ask(name).addresses == addresses, timeout_s, f"{name} at {node.id}")


def test_all_nodes_know_the_same_cluster(cluster: Cluster) -> None:
    seen = [node.request("GET", "cluster").json() for node in cluster]
    assert {one["node"] for one in seen} == {"n1", "n2", "n3"}
    assert len({one["history"] for one in seen}) == 1
    assert all([member["id"] for member in one["members"]] == ["n1", "n2", "n3"] for one in seen)
    assert cluster.leader() in cluster.nodes


@pytest.mark.parametrize("id", ["n1", "n2", "n3"])
def test_any_node_takes_a_registration_and_all_resolve_it(cluster: Cluster, id: str) -> None:
    answer = cluster[id].register(f"from-{id}", "a", "10.0.0.1", ttl=None)
    assert answer.status == 201
    assert cluster[id].ask(f"from-{id}.default").addresses == ["10.0.0.1"]
    everywhere(cluster, f"from-{id}.default", ["10.0.0.1"])


@pytest.mark.parametrize("id", ["n1", "n2", "n3"])
def test_visible_cluster_waits_for_the_dns_of_every_node(cluster: Cluster, id: str) -> None:
    path = f"namespaces/default/services/seen-{id}/instances/a?visible=cluster"
    answer = cluster[id].request("PUT", path, {"address": "10.0.0.2", "ttl": None})
    assert (answer.status, answer.headers["x-registry-visible"]) == (201, "true")
    assert [node.ask(f"seen-{id}.default").addresses for node in cluster] == [["10.0.0.2"]] * 3


def test_a_heartbeat_at_any_node_keeps_an_instance(cluster: Cluster) -> None:
    cluster["n1"].register("roaming", "a", "10.0.0.3", ttl=1)
    for round in range(20):
        node = cluster.nodes[round % 3]
        path = "namespaces/default/services/roaming/instances/a/heartbeat"
        assert node.request("PUT", path).status == 200
        time.sleep(0.1)
    everywhere(cluster, "roaming.default", ["10.0.0.3"])
    eventually(lambda: all(n.ask("roaming.default").rcode == "NXDOMAIN" for n in cluster), 3, "the eviction")


def test_strong_reads_see_what_another_node_acknowledged(cluster: Cluster) -> None:
    for number in range(10):
        writer, reader = cluster.nodes[number % 3], cluster.nodes[(number + 1) % 3]
        assert writer.request("PUT", "kv/strong", str(number).encode()).status == 200
        assert reader.request("GET", "kv/strong?consistency=strong").body == str(number).encode()


def test_every_node_is_in_the_system_service(cluster: Cluster) -> None:
    for id in ("n1", "n2", "n3"):
        everywhere(cluster, f"{id}.discovery.system", ["127.0.0.1"], 5.0)


def writes_again(nodes: list[Node], key: str, timeout_s: float = 10.0) -> float:
    """Seconds until some of ``nodes`` acknowledges a write."""
    began = time.monotonic()
    eventually(lambda: any(node.request("PUT", f"kv/{key}", b"1").status == 200 for node in nodes), timeout_s)
    return time.monotonic() - began


def test_when_the_leader_is_killed_the_others_go_on_and_nothing_is_lost(own_cluster: Cluster) -> None:
    leader = own_cluster.leader()
    assert leader.register("web", "a", "10.0.0.1", ttl=None).status == 201
    assert leader.request("PUT", "kv/acknowledged", b"yes").status == 200
    leader.kill()
    rest = own_cluster.running
    gap = writes_again(rest, "after")
    assert gap < 3.0  # the distribution is measured by the drill, on a quiet machine
    assert own_cluster.leader() is not leader
    for node in rest:
        assert node.ask("web.default").addresses == ["10.0.0.1"]
        assert node.request("GET", "kv/acknowledged?consistency=strong").body == b"yes"
        for written in ("kv/named", "namespaces/default/services/named"):
            answer = node.request("PUT", f"{written}?visible=cluster", {})
            assert (answer.headers["x-registry-visible"], answer.headers["x-registry-missing"]) == ("true", leader.id)
    leader.restart()
    assert leader.ask("web.default").addresses == ["10.0.0.1"]
    assert leader.request("GET", "kv/after?consistency=strong").body == b"1"


def test_a_living_instance_is_not_evicted_by_a_failover(own_cluster: Cluster) -> None:
    leader = own_cluster.leader()
    follower = own_cluster.followers()[0]
    follower.register("lively", "a", "10.0.0.1", ttl=3)
    leader.kill()
    beat = "namespaces/default/services/lively/instances/a/heartbeat"
    for _ in range(30):
        assert follower.ask("lively.default").addresses == ["10.0.0.1"]
        follower.request("PUT", beat, timeout_s=5)
        time.sleep(0.1)
    events = follower.request("GET", "events?namespace=default&service=lively").json()["events"]
    assert [event["kind"] for event in events] == ["registered"]


def test_after_kill_9_of_all_nodes_every_acknowledged_write_is_there(own_cluster: Cluster) -> None:
    for number, node in enumerate(own_cluster):
        assert node.request("PUT", f"kv/all/{number}", b"1").status == 200
    for node in own_cluster:
        node.kill()
    own_cluster.start()
    for number, node in enumerate(own_cluster):
        assert node.request("GET", f"kv/all/{number}?consistency=strong").body == b"1"


def test_without_a_majority_writes_are_refused_and_dns_answers_on(own_cluster: Cluster) -> None:
    leader = own_cluster.leader()
    leader.register("web", "a", "10.0.0.1", ttl=1)
    left = own_cluster.followers()[0]
    for node in list(own_cluster.running):
        if node is not left:
            node.kill()
    answer = left.request("PUT", "kv/refused", b"1", timeout_s=30)
    assert answer.status in (503, 504)
    assert left.ask("web.default").addresses == ["10.0.0.1"]
    assert left.request("GET", "/readyz?for=writes").status == 503


def test_sigterm_of_the_leader_hands_over_and_writes_go_on(own_cluster: Cluster) -> None:
    leader = own_cluster.leader()
    rest = own_cluster.followers()
    assert leader.terminate() == 0
    assert writes_again(rest, "after") < 2.0


def test_a_wiped_node_is_refused_and_the_others_go_on(own_cluster: Cluster) -> None:
    wiped = own_cluster.followers()[0]
    wiped.kill()
    shutil.rmtree(wiped.data)
    wiped.start()
    eventually(lambda: "not ready yet: waiting for" in wiped.log(), 10, "the wiped node's complaint")
    assert own_cluster.leader().request("PUT", "kv/on", b"1").status == 200
    refused = wiped.request("PUT", "kv/off", b"1")
    assert (refused.status, refused.headers["content-type"]) == (503, "application/problem+json")
    assert wiped.output() == ""
    assert wiped.terminate() == 0


def test_once_founded_the_list_in_the_data_directory_holds(own_cluster: Cluster) -> None:
    node = own_cluster.followers()[0]
    assert node.terminate() == 0
    node.peers = {}
    node.restart()
    assert len(node.request("GET", "cluster").json()["members"]) == 3
    assert node.terminate() == 0
    node.peers = {"n8": "127.0.0.1:1", "n9": "127.0.0.1:2"}
    node.restart()
    assert "the data directory holds" in node.log()
    assert len(node.request("GET", "cluster").json()["members"]) == 3


def test_nodes_with_a_secret_found_a_cluster_and_one_with_another_stays_outside(tmp_path: Path) -> None:
    secrets = {name: tmp_path / name for name in ("secret", "other")}
    for name, file in secrets.items():
        file.write_text(f"the {name} of this cluster\n")
    with running_cluster(tmp_path, options=("--raft-secret-file", str(secrets["secret"]))) as cluster:
        node = cluster.followers()[0]
        assert node.terminate() == 0
        node.options = ("--raft-secret-file", str(secrets["other"]))
        node.start()
        eventually(lambda: "secret" in node.log(), 10, "a word about the secret")
        assert node.output() == ""
        assert cluster.leader().request("PUT", "kv/on", b"1").status == 200
