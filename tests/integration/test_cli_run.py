"""``discovery run`` against three real nodes: what DNS says while a command lives, drains, dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from discovery.testing.cluster import Cluster, Node, eventually, running_cluster

Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Starts ``discovery run SERVICE … -- COMMAND`` with the servers in that order."""
    started: list[subprocess.Popen[bytes]] = []

    def start(servers: list[str], service: str, *command: str, ttl: float = 2) -> subprocess.Popen[bytes]:
        line = [
            sys.executable,
            "-P",
            "-m",
            "discovery",
            "run",
            service,
            "--address",
            "127.0.0.1",
            "--port",
            "http=8080",
        ]
        line += ["--id", "a", "--ttl", str(ttl)]
        line += [word for server in servers for word in ("--server", server)]
        with (tmp_path / "err").open("ab") as err:
            started.append(
                subprocess.Popen(
                    [*line, "--", *command], stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True
                )
            )
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def known(node: Node, service: str) -> bool:
    return node.ask(f"{service}.default").rcode == "NOERROR"


def everywhere(cluster: Cluster, service: str, there: bool) -> None:
    eventually(lambda: all(known(node, service) == there for node in cluster.running), what=f"{service}: {there}")


def events(node: Node, service: str) -> list[str]:
    found = node.request("GET", f"events?service={service}").json()["events"]
    return [event["kind"] for event in found]


def lease(node: Node, service: str) -> str:
    instance = node.request("GET", f"namespaces/default/services/{service}/instances/a").json()
    return str(instance["lease"]["id"])


def test_all_nodes_answer_address_and_service_records_while_it_runs(cluster: Cluster, run: Run) -> None:
    process = run(cluster.urls, "running", "sleep", "60")
    everywhere(cluster, "running", True)
    for node in cluster:
        assert node.ask("running.default").addresses == ["127.0.0.1"]
        assert node.ask("_http._tcp.running.default", "SRV").answers[0].startswith("0 1 8080 ")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    everywhere(cluster, "running", False)


def test_heartbeats_keep_it_beyond_its_ttl(cluster: Cluster, run: Run) -> None:
    run(cluster.urls, "kept", "sleep", "60", ttl=1)
    everywhere(cluster, "kept", True)
    watched_until = time.monotonic() + 2.5
    while time.monotonic() < watched_until:
        assert all(known(node, "kept") for node in cluster)
    assert events(cluster.nodes[0], "kept") == ["registered"]


def test_a_command_that_ends_leaves_dns_at_once(cluster: Cluster, run: Run) -> None:
    process = run(cluster.urls, "ending", "sh", "-c", "read line < /dev/null; sleep 1; exit 7", ttl=60)
    everywhere(cluster, "ending", True)
    assert process.wait(10) == 7
    everywhere(cluster, "ending", False)
    assert events(cluster.nodes[0], "ending")[-1] in ("deregistered", "drained")


def test_kill_9_of_wrapper_and_command_leaves_dns_with_the_ttl(cluster: Cluster, run: Run) -> None:
    process = run(cluster.urls, "killed", "sleep", "60", ttl=1)
    everywhere(cluster, "killed", True)
    os.killpg(process.pid, signal.SIGKILL)
    everywhere(cluster, "killed", False)
    assert events(cluster.nodes[0], "killed") == ["registered", "expired"]


def test_sigterm_takes_it_out_of_dns_before_the_command_hears_of_it(cluster: Cluster, run: Run) -> None:
    command = (
        "import signal, subprocess, sys\n"
        "def ask(*_):\n"
        f"    line = [sys.executable, '-P', '-m', 'discovery', 'resolve', 'draining.default.svc.cluster.local',"
        f" '--server', '{cluster.urls[0]}']\n"
        "    sys.exit(40 + subprocess.run(line).returncode)\n"
        "signal.signal(signal.SIGTERM, ask)\n"
        "while True: signal.pause()\n"
    )
    process = run(cluster.urls[:1], "draining", sys.executable, "-c", command, ttl=60)
    everywhere(cluster, "draining", True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 41  # the node's DNS had no answer any more


def test_after_its_lease_was_lost_it_registers_again_by_itself(cluster: Cluster, run: Run) -> None:
    run(cluster.urls, "lost", "sleep", "60", ttl=1)
    everywhere(cluster, "lost", True)
    first = lease(cluster.nodes[0], "lost")
    assert cluster.nodes[0].request("DELETE", f"leases/{first}").status == 204
    eventually(lambda: known(cluster.nodes[0], "lost"), what="a second registration")
    assert lease(cluster.nodes[0], "lost") != first
    assert events(cluster.nodes[0], "lost") == ["registered", "revoked", "registered"]


def test_a_successor_with_the_same_id_is_left_alone(cluster: Cluster, run: Run) -> None:
    first = run(cluster.urls, "same", "sleep", "60", ttl=1)
    everywhere(cluster, "same", True)
    before = lease(cluster.nodes[0], "same")
    run(cluster.urls, "same", "sleep", "60", ttl=1)
    eventually(lambda: lease(cluster.nodes[0], "same") != before, what="the successor")
    successor = lease(cluster.nodes[0], "same")
    first.send_signal(signal.SIGTERM)
    first.wait(10)
    assert lease(cluster.nodes[0], "same") == successor
    assert known(cluster.nodes[0], "same")


def test_it_starts_before_any_node_and_survives_the_death_of_the_one_it_talks_to(tmp_path: Path, run: Run) -> None:
    cluster = Cluster(tmp_path)
    process = run(cluster.urls, "early", "sleep", "60", ttl=3)
    try:
        cluster.start()
        everywhere(cluster, "early", True)
        cluster.leader().kill()
        survivor = cluster.running[0]
        watched_until = time.monotonic() + 4
        while time.monotonic() < watched_until:
            assert known(survivor, "early")
        assert events(survivor, "early") == ["registered"]
        assert process.poll() is None
    finally:
        for node in cluster:
            node.close()
