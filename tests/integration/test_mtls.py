"""Three real nodes over mutual TLS, with files of `discovery certs`: as an operator sets them up, and breaks them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery.authority import Pair
from discovery.credentials import Files
from discovery.testing.certificates import Authority, options
from discovery.testing.cluster import Cluster, Node, eventually, free_port

WITHIN_S = 60.0


def certs(folder: Path, *words: str) -> str:
    line = [str(Path(sys.executable).with_name("discovery")), "certs", *words, "--dir", str(folder)]
    return subprocess.run(line, check=True, capture_output=True, text=True, timeout=60).stdout


def files_of(folder: Path, node: str) -> Files:
    return Files(str(folder / f"{node}.pem"), str(folder / f"{node}-key.pem"), str(folder / "ca.pem"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    certs(folder, "init")
    for node in ("n1", "n2", "n3"):
        certs(folder, "issue", node, "--address", "127.0.0.1")
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    for node in cluster:
        node.options = options(files_of(folder, node.id))
    try:
        yield cluster.start()
    finally:
        cluster.close()


def whole(cluster: Cluster) -> bool:
    """Whether every node hears every other."""
    return all(
        member["alive"] for node in cluster for member in node.request("GET", "cluster", timeout_s=2).json()["members"]
    )


def write(node: Node, key: str) -> None:
    eventually(lambda: node.request("PUT", f"kv/{key}", b"1").status == 200, WITHIN_S, f"a write at {node.id}")


def losses(cluster: Cluster) -> int:
    """How many connections between nodes ended so far."""
    return sum(node.log().count("is disconnected") for node in cluster)


@pytest.fixture
def another(cluster: Cluster) -> Iterator[Node]:
    """A follower that is ended for the test to start it otherwise, and is put back as it was."""
    node = cluster.followers()[0]
    before = node.options
    assert node.terminate() == 0
    try:
        yield node
    finally:
        if node.process is not None:
            node.kill()
        node.options = before
        node.restart()
        eventually(lambda: whole(cluster), WITHIN_S, "all nodes together again")


def stays_outside(cluster: Cluster, node: Node, options: tuple[str, ...], word: str) -> None:
    """Start ``node`` with other options: somebody says why (one word a peer in 10 s), and all go on without it."""
    before = {one.id: len(one.log()) for one in cluster.running}
    node.options = options
    node.start()

    def others() -> str:
        return "".join(one.log()[before[one.id] :] for one in cluster.running if one is not node)

    eventually(lambda: word in others() + node.log(), WITHIN_S, word)
    for one in cluster.running:
        if one is not node:
            write(one, f"without-{node.id}")
            members = one.request("GET", "cluster").json()["members"]
            assert [member["alive"] for member in members if member["id"] == node.id] == [False]


def test_a_cluster_is_founded_and_serves(cluster: Cluster) -> None:
    assert whole(cluster)
    for node in cluster:
        assert node.register(f"of-{node.id}", "a", "10.0.0.1", ttl=None).status == 201
        for other in cluster:
            eventually(lambda n=node, o=other: o.ask(f"of-{n.id}.default").addresses == ["10.0.0.1"], WITHIN_S)
    metrics = cluster["n1"].request("GET", "/metrics").body.decode()
    [ends] = re.findall(r"^discovery_tls_certificate_expiry_timestamp_seconds (\S+)$", metrics, re.M)
    assert 364 < (float(ends) - time.time()) / 86400 <= 365
    assert "discovery_tls_certificate_unfit 0.0" in metrics


def test_nothing_that_is_said_between_nodes_is_readable(cluster: Cluster) -> None:
    """Who connects without a certificate gets no byte that is not TLS."""
    with socket.create_connection((cluster["n3"].host, cluster["n3"].raft_port), timeout=30) as sock:
        sock.sendall(b"\x00\x00\x00\x2a" + bytes(42))
        answer = b""
        try:
            while data := sock.recv(4096):
                answer += data
        except ConnectionResetError:
            pass
    assert answer == b"" or answer.startswith(b"\x15\x03")  # a TLS alert


def test_who_has_no_certificate_stays_outside(cluster: Cluster, another: Node) -> None:
    stays_outside(cluster, another, (), "it needs --tls-cert, --tls-key and --tls-ca")


def test_who_has_one_of_another_authority_stays_outside(cluster: Cluster, another: Node, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    word = "shows a certificate of an authority that is not trusted here: compare --tls-ca of both"
    stays_outside(cluster, another, other.options(another.id), word)


def test_who_has_an_expired_one_starts_serves_what_it_knows_and_is_back_with_a_new_one(
    cluster: Cluster, another: Node, folder: Path, tmp_path: Path
) -> None:
    assert cluster.leader().register("kept", "a", "10.0.0.9", ttl=None).status == 201
    authority = Authority(tmp_path / "own")
    authority.pair = Pair((folder / "ca.pem").read_bytes(), (folder / "ca-key.pem").read_bytes())
    authority.ca.write_bytes(authority.pair.cert)
    files = authority.files(another.id, days=1, age_days=2)
    stays_outside(cluster, another, options(files), "shows a certificate that has expired")
    assert re.search(r"ERROR.*certificate: .* has expired on", another.log())
    eventually(lambda: another.ask("of-n1.default").addresses == ["10.0.0.1"], WITHIN_S, "DNS from what it knows")
    authority.put(files, authority.make(another.id))
    eventually(lambda: whole(cluster), WITHIN_S, "the node back, by itself")
    eventually(lambda: another.ask("kept.default").addresses == ["10.0.0.9"], WITHIN_S)


def test_a_renewed_certificate_is_taken_up_at_sighup_and_one_that_does_not_fit_is_not(
    cluster: Cluster, folder: Path
) -> None:
    node = cluster.followers()[0]
    own = node.process
    assert own is not None
    before = losses(cluster)
    certs(folder, "renew", node.id, "--days", "20")
    own.send_signal(signal.SIGHUP)
    eventually(lambda: "is in use for new connections" in node.log(), WITHIN_S, "the new certificate in use")
    eventually(lambda: "in 19 days: put a new one in its place" in node.log(), WITHIN_S, "a word of its end")
    metrics = node.request("GET", "/metrics").body.decode()
    [ends] = re.findall(r"^discovery_tls_certificate_expiry_timestamp_seconds (\S+)$", metrics, re.M)
    assert (float(ends) - time.time()) / 86400 < 20

    key = Path(files_of(folder, node.id).key)
    good = key.read_bytes()
    key.write_bytes((folder / "ca-key.pem").read_bytes())
    own.send_signal(signal.SIGHUP)
    eventually(lambda: "they were not issued together; the one before stays in use" in node.log(), WITHIN_S)
    eventually(lambda: "discovery_tls_certificate_unfit 1.0" in node.request("GET", "/metrics").body.decode(), WITHIN_S)
    write(node, "still")
    assert losses(cluster) == before

    node.kill_node_process()  # while the files do not fit: it is started again, and waits for them
    eventually(lambda: "no peer can be spoken to until it is mended" in node.log(), WITHIN_S)
    assert node.ask("of-n1.default").addresses == ["10.0.0.1"]
    key.write_bytes(good)
    eventually(lambda: whole(cluster), WITHIN_S, "the node back, by itself")


def test_files_that_make_no_identity_are_exit_code_2_and_name_the_option(folder: Path, tmp_path: Path) -> None:
    node = Node("n2", tmp_path, options=options(files_of(folder, "n1")))
    node.start()
    assert node.wait_exit() == 2
    assert "--tls-cert: " in node.log()
    assert "is not for node n2, whose id must be a DNS name in it (it has n1)" in node.log()


def test_beyond_loopback_a_certificate_is_enough(folder: Path, tmp_path: Path) -> None:
    node = Node("n1", tmp_path, options=("--raft", f"0.0.0.0:{free_port()}", *options(files_of(folder, "n1"))))
    try:
        node.start().wait_ready()
    finally:
        node.close()


def test_stalled_handshakes_move_no_write(cluster: Cluster) -> None:
    stalled = []
    before = losses(cluster)
    try:
        for node in cluster:
            for _ in range(60):
                sock = socket.create_connection((node.host, node.raft_port), timeout=30)
                sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(32))
                stalled.append(sock)
        for number in range(50):
            write(cluster.nodes[number % 3], f"stalled-{number}")
        assert losses(cluster) == before
        assert whole(cluster)
    finally:
        for sock in stalled:
            sock.close()


def test_what_the_page_on_security_shows_is_what_is_said(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    [block] = re.findall(r"^```console\n(\$ discovery certs init.*?)^```$", page, re.M | re.S)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, expected in re.findall(r"^\$ (.*)\n([^$]*)", block, re.M):
        shown = subprocess.run(
            command.split(), cwd=tmp_path, env=env, check=True, capture_output=True, text=True, timeout=60
        ).stdout
        assert re.fullmatch(re.escape(expected).replace("…", ".*"), shown), shown


def test_the_certificate_is_shown_as_json_for_programs(folder: Path) -> None:
    line = [str(Path(sys.executable).with_name("discovery")), "certs", "show", "--json", str(folder / "n2.pem")]
    told = json.loads(subprocess.run(line, check=True, capture_output=True, text=True, timeout=60).stdout)
    assert told[0]["names"] == ["n2"]


def test_expired_certificates_stop_writes_not_dns_and_new_ones_are_taken_up_by_running_nodes(
    cluster: Cluster, folder: Path, tmp_path: Path
) -> None:
    """The recipe of docs/recovery.md: every certificate has expired, and then every node was restarted."""
    cluster.leader().register("survives", "a", "10.0.0.8", ttl=None)
    eventually(lambda: all(node.ask("survives.default").addresses == ["10.0.0.8"] for node in cluster), WITHIN_S)
    for number in range(5):  # what comes later says on the disk that this was committed
        write(cluster.nodes[number % 3], f"later-{number}")
    authority = Authority(tmp_path / "own")
    authority.pair = Pair((folder / "ca.pem").read_bytes(), (folder / "ca-key.pem").read_bytes())
    authority.ca.write_bytes(authority.pair.cert)
    files = {node.id: authority.files(node.id, days=1, age_days=2) for node in cluster}
    before = {node.id: node.options for node in cluster}
    for node in cluster:
        node.kill()
    for node in cluster:
        node.options = options(files[node.id])
        node.start()
    for node in cluster:
        eventually(lambda n=node: "has expired on" in n.log(), WITHIN_S, f"a word of it at {node.id}")
        eventually(lambda n=node: n.ask("survives.default").addresses == ["10.0.0.8"], WITHIN_S, f"DNS of {node.id}")
        assert node.request("GET", "cluster").json()["leader"] is None
    for node in cluster:
        authority.put(files[node.id], authority.make(node.id))
    eventually(lambda: whole(cluster), WITHIN_S, "a cluster again, without a restart")
    write(cluster["n1"], "again")
    for node in cluster:
        node.options = before[node.id]
