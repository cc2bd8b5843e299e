"""One real node, end to end: register, resolve, heartbeat, evict; and what survives the death of its parts."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from discovery.testing.cluster import HOST, Node, eventually

SLACK_S = 0.25  # DESIGN guarantee 4


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node("n1", tmp_path_factory.mktemp("single"), workers=2)
    try:
        yield node.start().wait_ready()
    finally:
        node.close()


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[Node]:
    """A node for a test that breaks it."""
    node = Node("n1", tmp_path)
    try:
        yield node.start().wait_ready()
    finally:
        node.close()


def heartbeat(node: Node, service: str, id: str) -> int:
    path = f"namespaces/default/services/{service}/instances/{id}/heartbeat"
    return node.request("PUT", path).status


def test_the_ready_line_says_where_everything_is(node: Node) -> None:
    assert node.output() == f"ready id=n1 http={node.url} dns={HOST}:{node.dns_port} raft={node.raft}\n"


def test_when_a_registration_returns_dns_answers_it(node: Node) -> None:
    answer = node.register("web", "web-0", "10.0.0.7", ports={"http": 8080})
    assert (answer.status, answer.headers["x-registry-visible"]) == (201, "true")
    assert node.ask("web.default").addresses == ["10.0.0.7"]
    assert node.ask("web-0.web.default").addresses == ["10.0.0.7"]
    assert node.ask("_http._tcp.web.default", "SRV").answers == ("0 1 8080 web-0.web.default.svc.cluster.local.",)
    assert node.ask("web.default", tcp=True).addresses == ["10.0.0.7"]


def test_every_one_of_a_hundred_registrations_and_deregistrations_shows_at_once(node: Node) -> None:
    for number in range(100):
        assert node.register("many", f"m{number}", f"10.1.0.{number}", ttl=None).status == 201
        assert f"10.1.0.{number}" in node.ask(f"m{number}.many.default").addresses
    for number in range(100):
        path = f"namespaces/default/services/many/instances/m{number}"
        assert node.request("DELETE", path).status == 204
        assert node.ask(f"m{number}.many.default").rcode == "NXDOMAIN"


def test_what_stops_heartbeating_leaves_dns_after_its_ttl_and_not_before(node: Node) -> None:
    node.register("mortal", "a", "10.0.0.8", ttl=1)
    eventually(lambda: heartbeat(node, "mortal", "a") == 200)
    last = time.monotonic()
    eventually(lambda: node.ask("mortal.default").rcode == "NXDOMAIN", 5, "the eviction")
    lived = time.monotonic() - last
    assert 0.98 <= lived <= 1.0 + SLACK_S + 0.25  # the probe's own period, and a busy machine
    events = node.request("GET", "events?namespace=default&service=mortal").json()["events"]
    assert [event["kind"] for event in events] == ["registered", "expired"]
    assert events[-1]["last_heartbeat"] is not None


def test_heartbeats_keep_an_instance_beyond_its_ttl(node: Node) -> None:
    node.register("lively", "a", "10.0.0.9", ttl=1)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert heartbeat(node, "lively", "a") == 200
        assert node.ask("lively.default").addresses == ["10.0.0.9"]
        time.sleep(0.1)


def test_the_nodes_themselves_are_a_service(node: Node) -> None:
    name = "n1.discovery.system"
    assert eventually(lambda: node.ask(name).addresses, 5, "the node's own name") == [HOST]
    assert eventually(lambda: node.ask("_http._tcp.discovery.system", "SRV").answers)[0].split()[2] == str(
        node.http_port
    )


def test_health_readiness_and_metrics_answer(node: Node) -> None:
    assert node.request("GET", "/healthz").status == 200
    assert eventually(lambda: node.request("GET", "/readyz").status == 200, 5, "readiness")
    assert b"discovery_" in node.request("GET", "/metrics").body


def test_resolving_over_http_agrees_with_dns(node: Node) -> None:
    node.register("both", "a", "10.0.0.10")
    resolved = node.request("GET", "resolve?name=both.default.svc.cluster.local&type=A").json()
    assert resolved["rcode"] == "NOERROR"
    assert "10.0.0.10" in str(resolved["answers"])


def test_garbage_at_the_raft_port_is_hung_up_on(node: Node) -> None:
    for garbage in (b"\x80\x04\x95" + b"\xff" * 200, b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection((HOST, node.raft_port), timeout=5) as sock:
            sock.sendall(garbage)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass
    assert node.request("GET", "/healthz").status == 200


def test_when_the_node_process_is_killed_dns_answers_on_and_the_api_returns(own_node: Node) -> None:
    own_node.register("web", "a", "10.0.0.7", ttl=None)
    workers = own_node.worker_processes()
    killed = own_node.node_process()
    os.kill(killed, signal.SIGKILL)
    answers = 0

    def back() -> bool:
        nonlocal answers
        assert own_node.ask("web.default").addresses == ["10.0.0.7"]
        answers += 1
        return own_node.request("GET", "/readyz", timeout_s=0.1).status == 200

    eventually(back, 15, "the API's return")
    assert answers > 1
    assert own_node.node_process() != killed
    assert own_node.worker_processes() == workers
    assert own_node.register("web", "b", "10.0.0.8").headers["x-registry-visible"] == "true"
    assert own_node.ask("web.default").addresses == ["10.0.0.7", "10.0.0.8"]


def test_a_killed_worker_is_replaced_and_follows(own_node: Node) -> None:
    own_node.register("web", "a", "10.0.0.7", ttl=None)
    (killed,) = own_node.worker_processes()
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: own_node.worker_processes() not in ([], [killed]), 10, "another worker")
    assert eventually(lambda: own_node.ask("web.default", timeout_s=0.5).addresses, 10, "an answer") == ["10.0.0.7"]
    eventually(lambda: own_node.request("GET", "/readyz").status == 200, 10, "readiness")
    assert own_node.register("web", "b", "10.0.0.8").headers["x-registry-visible"] == "true"
    assert own_node.ask("web.default").addresses == ["10.0.0.7", "10.0.0.8"]


def test_a_worker_that_does_not_follow_is_replaced_and_the_answer_does_not_lie(own_node: Node) -> None:
    (stopped,) = own_node.worker_processes()
    os.kill(stopped, signal.SIGSTOP)
    answer = own_node.register("web", "a", "10.0.0.7", ttl=None)
    assert (answer.status, answer.headers["x-registry-visible"]) == (201, "false")
    eventually(lambda: own_node.worker_processes() not in ([], [stopped]), 10, "another worker")
    assert eventually(lambda: own_node.ask("web.default", timeout_s=0.5).addresses, 10, "an answer") == ["10.0.0.7"]


def test_after_kill_9_of_everything_what_was_acknowledged_is_there(own_node: Node) -> None:
    own_node.register("web", "a", "10.0.0.7", ttl=None)
    revision = own_node.request("PUT", "kv/config/a", b"1").json()["revision"]
    own_node.kill()
    own_node.restart()
    assert own_node.ask("web.default").addresses == ["10.0.0.7"]
    assert eventually(lambda: own_node.ask("n1.discovery.system").addresses) == [HOST]
    assert int(own_node.request("GET", "/healthz").headers["x-registry-revision"]) == revision  # it kept its own place
    kept = own_node.request("GET", "kv/config/a")
    assert (kept.body, int(kept.headers["x-key-revision"])) == (b"1", revision)


def test_sigterm_ends_it_with_exit_0_and_a_restart_has_everything(own_node: Node) -> None:
    own_node.register("web", "a", "10.0.0.7", ttl=None)
    assert own_node.terminate() == 0
    assert "Traceback" not in own_node.log()
    own_node.restart()
    assert own_node.ask("web.default").addresses == ["10.0.0.7"]


def test_a_request_under_way_is_finished_before_the_end(own_node: Node) -> None:
    head = b"PUT /api/v1/kv/late HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n"
    with socket.create_connection((HOST, own_node.http_port), timeout=10) as sock:
        sock.sendall(head + b"abc")
        assert own_node.process is not None
        own_node.process.terminate()
        eventually(lambda: "node: draining" in own_node.log())
        sock.sendall(b"def")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    assert own_node.wait_exit() == 0
    own_node.restart()
    assert own_node.request("GET", "kv/late").body == b"abcdef"


def test_a_second_process_on_the_same_data_directory_is_refused(own_node: Node, tmp_path: Path) -> None:
    second = Node("n1", tmp_path / "second", options=("--data-dir", str(own_node.data))).start()
    assert second.wait_exit() == 2
    assert f"{own_node.data}: in use by another process" in second.log()
    assert own_node.request("GET", "/readyz").status == 200


@pytest.mark.parametrize(
    ("option", "value", "belongs"), [("--id", "n2", "--id n1"), ("--zone", "other.test", "--zone cluster.local")]
)
def test_another_id_or_zone_than_the_directorys_is_exit_2(
    own_node: Node, option: str, value: str, belongs: str
) -> None:
    assert own_node.terminate() == 0
    own_node.options = (option, value)
    own_node.start()
    assert own_node.wait_exit() == 2
    assert f"belongs to {belongs}" in own_node.log()
    assert own_node.output() == ""


def test_a_damaged_data_directory_is_exit_1_and_no_loop(own_node: Node) -> None:
    assert own_node.terminate() == 0
    (own_node.data / "identity.json").write_text("{")
    own_node.start()
    assert own_node.wait_exit() == 1
    assert "identity.json" in own_node.log()
    assert own_node.log().count(" ERROR ") == 1


@pytest.mark.parametrize(("option", "key"), [("--http", "http_port"), ("--dns", "dns_port"), ("--raft", "raft_port")])
def test_a_port_in_use_is_exit_2_and_names_it(own_node: Node, tmp_path: Path, option: str, key: str) -> None:
    second = Node("n2", tmp_path / "second")
    setattr(second, key, getattr(own_node, key))
    second.start()
    assert second.wait_exit() == 2
    assert f"{option} (key {option[2:]}.listen)" in second.log()
    assert f"port {getattr(own_node, key)} is in use by another process" in second.log()


def test_a_restart_shows_nobody_the_past_again(own_node: Node) -> None:
    """Without a snapshot the whole log is applied anew; what it says first is long past."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: own_node.register(f"s{number % 50}", f"i{number}", "10.1.0.1"), range(2_000)))
    own_node.register("last", "one", "10.1.0.2", ttl=None)
    own_node.kill()
    own_node.start()
    seen: list[object] = []

    def both() -> bool:
        with contextlib.suppress(OSError):
            seen.append(own_node.ask("last.default", timeout_s=0.2).rcode)
        with contextlib.suppress(OSError, http.client.HTTPException):
            seen.append(own_node.request("GET", "namespaces/default/services/last/instances/one", timeout_s=1).status)
        return {"NOERROR", 200} <= set(seen)

    eventually(both, what="an answer of each kind")
    assert set(seen) <= {"SERVFAIL", "NOERROR", 200}


def test_a_process_that_ends_again_and_again_is_seen(own_node: Node) -> None:
    for count in (2, 3):
        os.kill(own_node.worker_processes()[0], signal.SIGKILL)

        def started(count: int = count) -> bool:
            processes = own_node.request("GET", "cluster").json()["processes"]
            worker = next(one for one in processes if one["name"] == "dns-0")
            return worker == {"name": "dns-0", "starts": count, "held": 0.0} and bool(own_node.worker_processes())

        eventually(started, 30, f"start number {count}")
    assert 'discovery_process_starts_total{process="dns-0"} 3.0' in own_node.request("GET", "/metrics").body.decode()
