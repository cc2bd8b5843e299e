"""A restore that is cut off half-way: the cluster is as empty as before, on every node, and takes the next one."""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

from discovery.testing.cluster import HOST, Cluster, Node, eventually, running_cluster

VALUE = bytes(range(256)) * 400
KEYS = 40


def backup_of_a_full_cluster(folder: Path) -> bytes:
    with running_cluster(folder, 1) as full:
        for number in range(KEYS):
            assert full["n1"].request("PUT", f"kv/k{number}", VALUE).status == 200
        return full["n1"].request("GET", "snapshot?consistency=strong").body


def begin(node: Node, data: bytes) -> socket.socket:
    """Send all but the end."""
    connection = socket.create_connection((HOST, node.http_port))
    head = f"PUT /api/v1/snapshot HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data[:-100_000])
    return connection


def log_bytes(node: Node) -> int:
    return sum(path.stat().st_size for path in node.data.rglob("wal-*"))


def keys(node: Node) -> int:
    return len(node.request("GET", "kv/?prefix=true&consistency=strong").json()["items"])


def test_the_death_of_the_node_that_takes_it_in_leaves_an_empty_cluster(cluster: Cluster, tmp_path: Path) -> None:
    data = backup_of_a_full_cluster(tmp_path / "full")
    leader = cluster.leader()
    others = cluster.followers()
    before = others[0].request("GET", "cluster").json()["history"]
    with begin(leader, data):
        eventually(lambda: log_bytes(others[0]) > len(data) // 2, what="half of the backup in the others' logs")
        leader.kill()
    for node in others:
        assert eventually(lambda node=node: keys(node) == 0, what="a read of what is left")
        assert node.request("GET", "cluster").json()["history"] == before
    leader.restart()
    answer = others[1].request("PUT", "snapshot", data)
    assert answer.status == 200
    for node in cluster:
        assert eventually(lambda node=node: keys(node) == KEYS, what="everything on every node")
    for node in cluster:
        node.kill()
    cluster.start()
    assert [keys(node) for node in cluster] == [KEYS] * 3


def test_a_large_file_into_a_cluster_that_holds_something_is_told_why(cluster: Cluster, tmp_path: Path) -> None:
    data = backup_of_a_full_cluster(tmp_path / "full")
    node = cluster["n1"]
    assert node.request("PUT", "kv/mine", b"1").status == 200
    connection = http.client.HTTPConnection(HOST, node.http_port, timeout=10)
    with contextlib.suppress(ConnectionError):  # it answers without reading on
        connection.request("PUT", "/api/v1/snapshot", data)
    response = connection.getresponse()
    assert response.status == 409
    assert b"it holds 1 key(s)" in response.read()
    connection.close()
