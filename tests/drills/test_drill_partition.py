"""``discovery drill partition`` where the network is truly cut: hosts of their own, the operator's commands."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from discovery.testing.cluster import Cluster, eventually
from discovery.testing.hosts import RAFT_PORT, Hosts, cluster_on, hosts
from discovery.testing.needs import require_root, require_tool
from discovery.testing.promises import left_behind

Say = Callable[[str], None]
CUT = f"""table inet drill {{
    chain hears {{ type filter hook input priority 0; tcp dport {RAFT_PORT} drop; tcp sport {RAFT_PORT} drop; }}
    chain speaks {{ type filter hook output priority 0; tcp dport {RAFT_PORT} drop; tcp sport {RAFT_PORT} drop; }}
}}
"""


class Scene:
    """Three nodes on three hosts, and the file that says how to cut each off: as docs/drill.md shows it."""

    def __init__(self, network: Hosts, cluster: Cluster, folder: Path) -> None:
        self.network, self.cluster, self.plan = network, cluster, folder / "drill.toml"
        rules = folder / "cut-raft.nft"
        rules.write_text(CUT)
        lines = []
        for number, node in enumerate(cluster):
            at = " ".join(network.prefix(number))
            lines.append(f"[nodes.{node.id}]\npartition = '{at} nft -f {rules}'\n")
            lines.append(f"heal = '{at} nft delete table inet drill'\n")
        self.plan.write_text("".join(lines))

    def drill(self, *arguments: str) -> subprocess.Popen[str]:
        line = [str(Path(sys.executable).with_name("discovery")), "drill", "partition", "--short", "--yes", *arguments]
        line += ["--config", str(self.plan), "--server", self.cluster.nodes[0].url]
        return subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def cut_off(self) -> list[str]:
        """The nodes that are cut off now."""
        found = []
        for number, node in enumerate(self.cluster):
            line = [*self.network.prefix(number), "nft", "list", "tables"]
            tables = subprocess.run(line, capture_output=True, text=True, check=True).stdout
            found += [node.id] if "inet drill" in tables else []
        return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    require_root()
    require_tool("ip", "iproute2")
    require_tool("nft", "nftables")
    folder = tmp_path_factory.mktemp("partition")
    with hosts(3) as network, network.inside():
        cluster = cluster_on(network, folder)
        try:
            yield Scene(network, cluster.start(), folder)
        finally:
            cluster.close()


def read(file: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The report, and the values of its one result by their keys."""
    report = json.loads(file.read_text())
    (result,) = report["results"]
    return report, {measure["key"]: measure["value"] for measure in result["measures"]}


@pytest.mark.timeout(180)
def test_a_leader_that_is_truly_cut_off_is_replaced_and_comes_back(scene: Scene, tmp_path: Path, say: Say) -> None:
    drill = scene.drill("--json", f"{tmp_path}/r.json", "--html", f"{tmp_path}/r.html")
    out, err = drill.communicate(timeout=150)
    say(out.strip())
    assert drill.returncode == 0, err
    report, measures = read(tmp_path / "r.json")
    assert {measures[key] for key in ("lost_writes", "risen_writes", "wrong_answers", "false_evictions")} == {0}
    assert measures["write_gap"] > 0.1, "a cut that nobody feels is none"
    marks = [mark["text"] for mark in report["results"][0]["timeline"]["marks"]]
    (victim,) = re.findall(r"cut the leader (n\d) off", "\n".join(marks))
    leaders = [reign["leader"] for reign in report["results"][0]["timeline"]["reigns"]]
    assert leaders[0] == victim
    assert {None, victim} < set(leaders) or len(set(leaders)) > 1, "another one led meanwhile"
    assert f"heal {victim}" in marks
    assert report["results"][0]["timeline"]["down"] == {}, "a node that is cut off is not excused from answering"
    assert measures[f"dns_gap.{victim}"] < 2.5
    assert 'role="img"' in (tmp_path / "r.html").read_text()
    assert scene.cut_off() == []
    assert left_behind(scene.cluster.nodes[0]) == ([], [])


@pytest.mark.timeout(120)
def test_sigterm_heals_what_is_cut_removes_what_was_made_and_reports_what_was_measured(
    scene: Scene, tmp_path: Path
) -> None:
    drill = scene.drill("--json", f"{tmp_path}/r.json", "--html", f"{tmp_path}/r.html")
    assert drill.stderr is not None
    for line in drill.stderr:
        if "cut the leader" in line:
            break
    eventually(scene.cut_off, 20, "a node that is cut off")
    drill.send_signal(signal.SIGTERM)
    out, err = drill.communicate(timeout=60)
    assert drill.returncode == 1
    assert scene.cut_off() == []
    assert "called off: bringing the nodes back" in err
    assert "CALLED OFF: 0 of 1 scenarios passed; 0 of" in out
    report, measures = read(tmp_path / "r.json")
    assert report["called_off"]
    assert report["results"][0]["failure"] == "called off before its end"
    assert measures["lost_writes"] == 0, "what was acknowledged until then was looked for"
    assert "write_gap" in measures
    assert "Called off" in (tmp_path / "r.html").read_text()
    assert left_behind(scene.cluster.nodes[0]) == ([], [])
    eventually(lambda: all(node.request("GET", "/readyz").status == 200 for node in scene.cluster), 20, "all ready")
