"""The command line against three real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery.testing.cluster import Cluster, free_port, running_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def discovery(cluster: Cluster, *arguments: str, code: int = 0) -> str:
    """Run ``discovery …`` with all nodes as servers; stdout when it ended with ``code``, else a failure."""
    env = {"DISCOVERY_SERVER": ",".join(cluster.urls), "PATH": "/usr/bin:/bin"}
    line = [sys.executable, "-P", "-m", "discovery", *arguments]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def as_json(cluster: Cluster, *arguments: str) -> Any:
    return json.loads(discovery(cluster, *arguments, "--json"))


def test_an_instance_from_registration_to_deregistration(cluster: Cluster) -> None:
    made = as_json(cluster, "register", "web", "-a", "10.0.0.7", "-p", "http=8080", "--id", "web-0", "--ttl", "60")
    assert made["lease"]["ttl"] == 60
    lease = made["lease"]["id"]
    assert "default/web/web-0" in discovery(cluster, "instances", "web")
    assert "web" in discovery(cluster, "services")
    assert discovery(cluster, "resolve", "web.default.svc.cluster.local").endswith(" IN A 10.0.0.7\n")
    assert "8080 web-0.web" in discovery(cluster, "resolve", "_http._tcp.web.default.svc.cluster.local", "SRV")
    assert discovery(cluster, "heartbeat", "web", "web-0", "--lease", lease) == "renewed for 60 s\n"
    assert "held" in discovery(cluster, "deregister", "web", "web-0", "--lease", "1" * 16, code=1).lower()
    assert discovery(cluster, "deregister", "web", "web-0", "--lease", lease, "--visible", "cluster") == ""
    assert "NXDOMAIN" in discovery(cluster, "resolve", "web.default.svc.cluster.local", code=1)
    kinds = [event["kind"] for event in as_json(cluster, "events", "--service", "web")["events"]]
    assert kinds == ["registered", "deregistered"]
    assert "deregistered" in discovery(cluster, "events", "--service", "web")


def test_a_bad_field_is_named_and_a_missing_instance_says_what_to_do(cluster: Cluster) -> None:
    said = discovery(cluster, "register", "web", "-a", "10.0.0.7", "-p", "http=70000", code=1)
    assert "ports[0].port: must be 1..65535 (got 70000)" in said
    assert "register again" in discovery(cluster, "heartbeat", "web", "nobody", code=1)


def test_keys_from_put_to_delete(cluster: Cluster) -> None:
    discovery(cluster, "kv", "put", "config/a", "1", "--if-revision", "0")
    discovery(cluster, "kv", "put", "config//ü +%", "2")
    assert discovery(cluster, "kv", "get", "config/a", "--strong") == "1"
    assert as_json(cluster, "kv", "get", "config/a")["value_base64"] == "MQ=="
    assert [item["key"] for item in as_json(cluster, "kv", "list", "config/")["items"]] == ["config//ü +%", "config/a"]
    assert "config/a" in discovery(cluster, "kv", "list", "config/a", "--strong")
    assert "412" in discovery(cluster, "kv", "put", "config/a", "3", "--if-revision", "0", code=1)
    assert as_json(cluster, "kv", "delete", "config/", "--prefix")["deleted"] == 2
    assert "404" in discovery(cluster, "kv", "get", "config/a", code=1)


def test_the_cluster_as_its_members_see_it(cluster: Cluster) -> None:
    assert [member["id"] for member in as_json(cluster, "members")["members"]] == ["n1", "n2", "n3"]
    leader = discovery(cluster, "leader").strip()
    assert leader in ("n1", "n2", "n3")
    assert "leader" in discovery(cluster, "members")
    status = as_json(cluster, "status")
    assert (status["ready"], status["missing"], status["leader"]) == (True, [], leader)
    assert "ready     yes" in discovery(cluster, "status")


def test_another_server_is_asked_when_one_is_down(cluster: Cluster) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert discovery(cluster, "leader", "--server", nobody, "--server", cluster.nodes[1].url)
    assert "Connection refused" in discovery(cluster, "leader", "--server", nobody, code=1)


@pytest.mark.parametrize("option", ["--http", "--dns", "--raft"])
def test_a_port_in_use_ends_with_2_and_names_the_option(cluster: Cluster, tmp_path: Path, option: str) -> None:
    node = cluster.nodes[0]
    ports = {"--http": free_port(), "--dns": free_port(), "--raft": free_port()}
    ports[option] = {"--http": node.http_port, "--dns": node.dns_port, "--raft": node.raft_port}[option]
    flags = [word for name, port in ports.items() for word in (name, f"127.0.0.1:{port}")]
    said = discovery(cluster, "serve", "--data-dir", str(tmp_path / "data"), *flags, code=2)
    assert option in said
    assert str(ports[option]) in said
