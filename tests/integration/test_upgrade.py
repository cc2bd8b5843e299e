"""SIGUSR2: the daemon becomes the version that is installed now, and nobody who asks it notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from discovery.testing.cluster import Cluster, Node, eventually, running_cluster

NAME = "web.default"
DONE = "node and workers are of the installed version"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path, workers=2) as cluster:
        yield cluster


class Asking(threading.Thread):
    """Asks a node's DNS and API without a pause, and keeps what went wrong."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self.node, self.ended = node, threading.Event()
        self.asked, self.wrong = 0, []

    def run(self) -> None:
        while not self.ended.is_set():
            self.asked += 1
            try:
                answer = self.node.ask(NAME)
                if "10.1.2.3" not in str(answer):
                    self.wrong.append(f"DNS: {answer}")
            except (OSError, ValueError) as error:
                self.wrong.append(f"DNS: {error!r}")


def upgrade(node: Node) -> None:
    before = node.log().count(DONE)
    os.kill(node.supervisor, signal.SIGUSR2)
    try:
        eventually(lambda: node.log().count(DONE) > before, 30, f"the upgrade of {node.id}")
    except TimeoutError as error:
        raise RuntimeError(f"{error}:\n{node.log()}") from error


def test_an_upgrade_costs_no_answer_and_replaces_every_process(cluster: Cluster) -> None:
    node = cluster.leader()
    assert node.register("web", "a", address="10.1.2.3", ttl=None).status == 201
    supervisor, process, workers = node.supervisor, node.node_process(), node.worker_processes()
    asking = Asking(node)
    asking.start()
    upgrade(node)
    asking.ended.set()
    asking.join()
    assert node.process is not None
    assert node.process.poll() is None
    assert node.supervisor == supervisor
    assert node.node_process() != process
    assert len(node.worker_processes()) == 2
    assert not set(node.worker_processes()) & set(workers)
    assert asking.asked > 100
    assert asking.wrong == []
    assert node.request("PUT", "kv/after", b"1").status == 200
    assert node.output().count("ready id=") == 1


def test_a_cluster_upgraded_node_by_node_keeps_accepting_writes(cluster: Cluster) -> None:
    for number, node in enumerate(cluster):
        upgrade(node)
        for other in cluster:
            assert eventually(lambda other=other, n=number: other.request("PUT", f"kv/{n}", b"1").status == 200)
    assert cluster.leader().request("GET", "cluster").json()["leader"]


def test_an_upgraded_node_still_ends_in_order_and_its_children_with_it(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    upgrade(node)
    upgrade(node)  # and again: what was handed over once can be handed over twice
    assert node.terminate() == 0


def test_a_version_that_does_not_work_is_not_changed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(broken))
    with running_cluster(tmp_path / "data", size=1) as cluster:
        node = cluster.nodes[0]
        process = node.node_process()
        (broken / "uvloop.py").write_text("raise ImportError('this version is broken')\n")
        os.kill(node.supervisor, signal.SIGUSR2)
        eventually(lambda: "does not work" in node.log(), 30, "the refusal")
        assert "this version is broken" in node.log()
        assert node.node_process() == process
        (broken / "uvloop.py").unlink()
        upgrade(node)
        assert node.node_process() != process


def test_a_supervisor_that_dies_after_an_upgrade_takes_its_children_with_it(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    upgrade(node)
    family = [node.node_process(), *node.worker_processes()]
    os.kill(node.supervisor, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert node.process is not None
    node.process.wait()
    node.process = None


def command(node: Node, *more: str) -> subprocess.CompletedProcess[str]:
    """``discovery upgrade``, as an operator types it on the node's host."""
    line = [str(Path(sys.executable).with_name("discovery")), "upgrade", "--data-dir", str(node.data), *more]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_watches_until_all_processes_are_new(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    process, workers = node.node_process(), node.worker_processes()
    done = command(node)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"node process {node.node_process()} is started" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("done in")
    assert node.node_process() != process
    assert not set(node.worker_processes()) & set(workers)
    again = json.loads(command(node, "--json").stdout)
    assert again["node"][1] == node.node_process()
    assert sorted(again["workers"][1]) == sorted(node.worker_processes())


def test_the_command_says_that_a_version_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{broken}:{before}")
    with running_cluster(tmp_path / "data", size=1) as cluster:
        node = cluster.nodes[0]
        process = node.node_process()
        (broken / "uvloop.py").write_text("raise ImportError('this version is broken')\n")
        refused = command(node)
        assert refused.returncode == 1
        assert "the installed version does not work" in refused.stderr
        assert "nothing has changed" in refused.stderr
        assert node.node_process() == process
        node.terminate()
        nobody = command(node)
        assert (nobody.returncode, "no node runs on the data directory" in nobody.stderr) == (1, True)
