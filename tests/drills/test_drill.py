"""``discovery drill`` on a cluster as ``make run`` starts it: it rehearses, reports, cleans up, refuses, gives way."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.drill.local import Processes
from discovery.testing.cluster import Cluster, eventually
from discovery.testing.promises import left_behind

Say = Callable[[str], None]
DISCOVERY = str(Path(sys.executable).with_name("discovery"))
SCENARIOS = ["leader-kill", "leader-pause", "node-kill", "heartbeat-stop", "mass-expiry", "rolling-restart"]
NEVER = {"wrong_answers", "false_evictions", "lost_writes", "risen_writes"}


class Run:
    """The Procfile's runner with three nodes; they are its children, not ours."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder / "data")
        procfile, output = folder / "Procfile", folder / "output"
        procfile.write_text("".join(f"{node.id}: {shlex.join(node.command())}\n" for node in self.cluster))
        with output.open("wb") as out:
            line = [sys.executable, "-P", "-m", "discovery.testing.procfile", str(procfile)]
            self.process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def drill(self, *arguments: str) -> subprocess.Popen[str]:
        line = [DISCOVERY, "drill", *arguments, *(word for url in self.cluster.urls for word in ("--server", url))]
        return subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def supervisors(self) -> set[int]:
        return {Processes().supervisor(node.id, node.url).pid for node in self.cluster}

    def healthy(self) -> bool:
        """Each node is ready, hears from all, and names the same leader."""
        views = [node.request("GET", "cluster", timeout_s=2).json() for node in self.cluster]
        ready = all(node.request("GET", "/readyz", timeout_s=2).status == 200 for node in self.cluster)
        alive = all(member["alive"] for view in views for member in view["members"])
        return ready and alive and len({view["leader"] for view in views}) == 1

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    run = Run(tmp_path_factory.mktemp("run"))
    try:
        eventually(run.healthy, 30, "a healthy cluster")
        yield run
    finally:
        run.close()


@pytest.mark.timeout(180)
def test_all_that_is_possible_is_rehearsed_reported_and_removed(run: Run, tmp_path: Path, say: Say) -> None:
    before = run.supervisors()
    drill = run.drill("all", "--short", "--yes", "--json", f"{tmp_path}/r.json", "--html", f"{tmp_path}/r.html")
    out, err = drill.communicate(timeout=150)
    say(out.strip().replace("\n", "\n    "))
    assert drill.returncode == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    results = {result["name"]: result for result in report["results"]}
    assert [name for name, result in results.items() if result["verdict"] == "passed"] == SCENARIOS
    assert results["partition"]["skipped"] == "there is no command to heal or partition n1"
    for name in SCENARIOS:
        measures = {measure["key"]: measure["value"] for measure in results[name]["measures"]}
        assert {measures[key] for key in NEVER} == {0}
        assert measures["write_gap"] > 0
        assert {f"dns_gap.{node.id}" for node in run.cluster} <= measures.keys()
    assert report["writes"] > 500
    assert report["answers"] > 1000
    assert re.search(r"kill the leader n\d", err), "it says what it does while it does it"
    page = (tmp_path / "r.html").read_text()
    assert re.findall(r'<section id="([a-z-]+)"', page) == [*SCENARIOS, "partition"]
    assert page.count('role="img"') == len(SCENARIOS)
    assert run.healthy()
    assert left_behind(run.cluster.nodes[0]) == ([], [])
    assert not before & run.supervisors(), "each node was started anew by the runner"


@pytest.mark.timeout(60)
def test_ctrl_c_brings_back_what_was_frozen_and_reports_what_was_measured(run: Run, tmp_path: Path) -> None:
    drill = run.drill("leader-pause", "--yes", "--json", f"{tmp_path}/r.json")
    assert drill.stderr is not None
    for line in drill.stderr:
        if "freeze the leader" in line:
            break
    drill.send_signal(signal.SIGINT)
    out, err = drill.communicate(timeout=30)
    assert drill.returncode == 1
    assert re.search(r"resume n\d", err)
    assert "called off" in err
    assert "CALLED OFF: 0 of 1 scenarios passed" in out
    (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert result["failure"] == "called off before its end"
    assert {measure["key"]: measure["value"] for measure in result["measures"]}["lost_writes"] == 0
    eventually(run.healthy, 10, "a healthy cluster")
    eventually(lambda: left_behind(run.cluster.nodes[0]) == ([], []), 10, "a clean cluster")


def test_it_asks_before_it_kills(run: Run) -> None:
    before = run.supervisors()
    drill = run.drill("node-kill")
    _, err = drill.communicate(timeout=30)
    assert drill.returncode == 2
    assert "say --yes" in err
    assert run.supervisors() == before


def test_two_drills_do_not_run_on_one_cluster(run: Run) -> None:
    node = run.cluster.nodes[0]
    lease = node.request("POST", "leases", {"ttl": 60}).json()["id"]
    assert node.request("PUT", f"kv/drill/lock?lease={lease}", b"another").status == 200
    drill = run.drill("heartbeat-stop", "--short")
    _, err = drill.communicate(timeout=30)
    assert (drill.returncode, "another drill runs" in err) == (1, True)
    assert node.request("DELETE", f"leases/{lease}").status == 204


def test_a_cluster_that_is_not_healthy_is_left_alone(run: Run) -> None:
    victim = run.cluster.nodes[2]
    os.kill(Processes().supervisor(victim.id, victim.url).pid, signal.SIGKILL)
    drill = run.drill("all", "--short", "--yes")
    out, err = drill.communicate(timeout=30)
    assert (drill.returncode, out) == (1, "")
    assert "no drill on this cluster: it is not healthy" in err
    assert f"{victim.id} at {victim.url}" in err
