"""The HTTP API of a real node, asked by curl and by bare sockets, as programs and attackers ask."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery import limits
from discovery.testing.cluster import HOST, Answer, Node, eventually

PROBLEM = "application/problem+json"
WEB = "namespaces/default/services/web/instances/web-0"
GOOD = {"address": "10.0.0.7", "ports": {"http": 8080}, "ttl": 30}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that the tests of this module share."""
    node = Node("n1", tmp_path_factory.mktemp("http"))
    try:
        yield node.start().wait_ready()
    finally:
        node.close()


def curl(*arguments: str) -> tuple[int, str]:
    """curl's (status, body)."""
    done = subprocess.run(
        ["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", *arguments], capture_output=True, text=True, check=True
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def revision(node: Node) -> int:
    return int(node.request("GET", "namespaces").headers["x-registry-revision"])


def memory_kib(node: Node) -> int:
    status = Path(f"/proc/{node.node_process()}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@needs_curl
def test_curl_registers_without_any_option_about_types(node: Node) -> None:
    url = f"{node.url}/api/v1/{WEB}"
    status, body = curl("-X", "PUT", url, "-d", json.dumps(GOOD))
    assert (status, json.loads(body)["addresses"]) == (201, ["10.0.0.7"])
    assert curl("-X", "PUT", f"{url}/heartbeat") == (200, '{"ttl":30,"remaining":30}')
    assert curl("-X", "DELETE", url) == (204, "")
    assert curl("-X", "PUT", f"{url}/heartbeat")[0] == 404


@needs_curl
def test_curl_uploads_values_and_huge_ones_are_refused_early(node: Node, tmp_path: Path) -> None:
    small, huge = tmp_path / "small", tmp_path / "huge"
    small.write_bytes(bytes(range(256)) * 2048)
    with huge.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    key = f"{node.url}/api/v1/kv/upload"
    assert curl("-T", str(small), key)[0] == 200
    assert node.request("GET", "kv/upload").body == small.read_bytes()
    before, used = revision(node), memory_kib(node)
    for path in (key, f"{node.url}/api/v1/{WEB}", f"{node.url}/api/v1/txn"):
        for more in ((), ("-H", "Expect:"), ("-H", "Transfer-Encoding: chunked")):
            method = "POST" if path.endswith("txn") else "PUT"
            upload = ["curl", "-sS", "-m", "20", "-w", "%{http_code}", "-o", "/dev/null", "-X", method]
            # curl may complain that the server closed while it was sending
            done = subprocess.run([*upload, "-T", str(huge), *more, path], capture_output=True, text=True, check=False)
            assert done.stdout == "413", done.stderr
    assert revision(node) == before
    assert memory_kib(node) - used < 64 * 1024


def bad(node: Node) -> list[tuple[str, Answer, int, str]]:
    """Every line of bad input: (what, answer, status, field)."""

    def put(body: Any, path: str = WEB, **headers: str) -> Answer:
        return node.request("PUT", path, body, headers={name.replace("_", "-"): text for name, text in headers.items()})

    return [
        ("malformed JSON", put(b'{"address": '), 400, "body"),
        ("wrong type", put({**GOOD, "tags": "v2"}), 400, "tags"),
        ("a name that is no label", put(GOOD, "namespaces/de_fault/services/web/instances/0"), 400, "namespace"),
        ("a port out of range", put({**GOOD, "ports": {"http": 70000}}), 400, "ports.http"),
        ("a TTL of 0", put({**GOOD, "ttl": 0}), 400, "ttl"),
        ("a TTL of a year", put({**GOOD, "ttl": 365 * 86_400}), 400, "ttl"),
        ("an unknown field", put({**GOOD, "adress": "10.0.0.8"}), 400, "adress"),
        ("a duplicate key", put(b'{"address": "10.0.0.7", "address": "10.0.0.8"}'), 400, "address"),
        ("NaN", put(b'{"address": "10.0.0.7", "weight": NaN}'), 400, "body"),
        ("Content-Encoding", put(GOOD, Content_Encoding="gzip"), 415, ""),
        ("multipart", put(GOOD, Content_Type="multipart/form-data; boundary=x"), 415, ""),
        ("a foreign origin", put(GOOD, Origin="http://evil.example"), 403, ""),
        ("a body of 100 MB", put(b" " * limits.COMMAND_BYTES_MAX + b" "), 413, ""),
        ("the brake", put({"min_healthy": 1.5}, "namespaces/default/services/web"), 400, "min_healthy"),
    ]


def test_bad_input_is_a_named_problem_and_moves_nothing(node: Node) -> None:
    before = revision(node)
    for what, answer, status, field in bad(node):
        problem = answer.json()
        assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM), what
        assert problem["status"] == status
        if field:
            assert problem["errors"][0]["field"] == field, what
            assert problem["errors"][0]["rule"], what
    assert revision(node) == before


def test_a_repeated_request_is_answered_as_the_first_even_after_the_node_died(tmp_path: Path) -> None:
    node = Node("n1", tmp_path)
    try:
        node.start().wait_ready()
        key = {"Idempotency-Key": "deploy-7"}
        first = node.request("PUT", "kv/counter?if_revision=0", b"1", headers=key)
        node.kill()
        node.restart()
        again = node.request("PUT", "kv/counter?if_revision=0", b"1", headers=key)
        assert (first.status, again.status, again.body) == (200, 200, first.body)
        other = node.request("PUT", "kv/counter?if_revision=0", b"2", headers=key)
        assert other.status == 422
        assert node.request("GET", "kv/counter").body == b"1"
    finally:
        node.close()


def test_reads_may_be_strong(node: Node) -> None:
    answer = node.request("GET", "instances?consistency=strong")
    assert (answer.status, answer.headers["x-registry-staleness-ms"]) == (200, "0")


def test_health_readiness_and_metrics_answer(node: Node) -> None:
    assert node.request("GET", "/healthz").status == 200
    for part in ("", "?for=dns", "?for=reads", "?for=writes"):
        assert node.request("GET", f"/readyz{part}").status == 200
    text = node.request("GET", "/metrics").body.decode()
    assert 'discovery_build_info{version="' in text
    assert "discovery_raft_leader 1.0" in text


def test_readiness_turns_red_while_a_dns_worker_stands_still(tmp_path: Path) -> None:
    node = Node("n1", tmp_path)
    try:
        node.start().wait_ready()
        [worker] = node.worker_processes()
        eventually(lambda: node.request("GET", "/readyz").status == 200, what="a ready node")
        with contextlib.suppress(ProcessLookupError):
            subprocess.run(["kill", f"-{signal.SIGSTOP}", str(worker)], check=True)
            answer = node.register("web", "web-0", "10.0.0.7")
        assert answer.headers["x-registry-visible"] in ("true", "false")
        eventually(lambda: node.worker_processes() != [worker], what="another worker")
        eventually(lambda: node.request("GET", "/readyz").status == 200, what="a ready node again")
    finally:
        node.close()


@pytest.fixture
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("_many_files")
def test_two_thousand_slow_clients_do_not_hold_up_a_good_one(node: Node) -> None:
    sent = (
        b"GET /hea",
        b"PUT /api/v1/kv/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\n" + b"x" * 10_000,
        b"",
    )
    used = memory_kib(node)
    with contextlib.ExitStack() as opened:
        for number in range(2000):
            slow = opened.enter_context(socket.create_connection((HOST, node.http_port)))
            with contextlib.suppress(ConnectionError):
                slow.sendall(sent[number % 3])
        for _ in range(20):
            begun = time.monotonic()
            assert node.request("GET", "/healthz").status == 200
            assert time.monotonic() - begun < 1
        assert memory_kib(node) - used < 128 * 1024

    def connections() -> str:
        text = node.request("GET", "/metrics").body.decode()
        return next(line for line in text.splitlines() if line.startswith("discovery_http_connections "))

    eventually(lambda: connections() == "discovery_http_connections 1.0", what="the end of the slow ones")
