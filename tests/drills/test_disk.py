"""Disks that are full, slow, broken or damaged, under real processes: what is refused, goes on, comes back."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.testing.cluster import Cluster, Node, eventually

Say = Callable[[str], None]
Need = Callable[..., None]
MEGABYTE = 2**20
VALUE = os.urandom(6 * 1024)  # more than a page, so that it never fits into what a full disk has left


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(place: Path) -> Path:
    """Use up all the room below ``place``; removing the file gives it back."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for step in (64 * 1024, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(step)) == step:
                    pass
    return filler


@pytest.fixture
def disks(tmp_path: Path, require_root: Need) -> Iterator[Path]:
    """Data directories of n1, n2 and n3, each on a disk of its own of 4 MiB."""
    require_root()
    with contextlib.ExitStack() as stack:
        for number in (1, 2, 3):
            stack.enter_context(small_disk(tmp_path / f"n{number}", 4))
        yield tmp_path


@pytest.fixture
def cluster(disks: Path) -> Iterator[Cluster]:
    cluster = Cluster(disks)
    try:
        yield cluster.start()
    finally:
        cluster.close()


def put(node: Node, key: str, timeout_s: float = 12) -> int:
    return node.request("PUT", f"kv/{key}", VALUE, timeout_s=timeout_s).status


def refused_for_want_of_room(node: Node) -> dict[str, object] | None:
    """The problem document, once the node says that its disk is full."""
    answer = node.request("PUT", "kv/refused", VALUE)
    document = answer.json() if answer.status == 503 else {}
    return document if document.get("type") == "/problems/disk-full" else None


def written(node: Node, key: str) -> bool:
    return put(node, key) in (200, 201)


def metric(node: Node, name: str) -> float:
    text = node.request("GET", "/metrics").body.decode()
    return float(re.findall(rf"^{name} (\S+)$", text, re.M)[0])


def keys(node: Node) -> set[str]:
    answer = node.request("GET", "kv/?prefix=true&consistency=strong&limit=1000")
    return {entry["key"] for entry in answer.json()["items"]}


def ready(node: Node, what: str) -> int:
    return node.request("GET", f"/readyz?for={what}").status


def test_a_leader_with_a_full_disk_hands_over_and_the_cluster_goes_on(cluster: Cluster, say: Say) -> None:
    leader = cluster.leader()
    assert leader.register("web", "one", "10.0.0.1").status == 201
    process = leader.node_process()
    other = cluster.followers()[0]
    filler = fill(leader.data)
    began = time.monotonic()
    assert put(leader, "first") in (200, 503), "the outcome of the write that found no room is known"
    assert written(other, "elsewhere")
    gap = time.monotonic() - began
    problem = eventually(lambda: refused_for_want_of_room(leader), what="a refusal that names the full disk")
    assert str(leader.data / "raft") in str(problem["detail"])
    assert "Way out" in str(problem["detail"])
    assert problem["status"] == 503

    assert cluster.leader() is not leader
    unready = leader.request("GET", "/readyz?for=writes")
    assert unready.status == 503
    assert "the disk is full" in unready.body.decode()
    for what in ("dns", "reads"):
        eventually(lambda what=what: ready(leader, what) == 200, 30, f"a node that is ready for {what} all the same")
    assert metric(leader, "discovery_disk_full") == 1
    assert metric(leader, "discovery_disk_full_batches_total") > 0
    assert leader.ask("web.default").addresses == ["10.0.0.1"]
    assert other.register("web", "two", "10.0.0.2").status == 201
    eventually(lambda: sorted(leader.ask("web.default").addresses) == ["10.0.0.1", "10.0.0.2"], what="DNS that follows")
    assert leader.request("GET", "kv/elsewhere?consistency=strong").status == 200
    beat = "namespaces/default/services/web/instances/one/heartbeat"
    assert leader.request("PUT", beat).status == 200, "heartbeats need no room"

    filler.unlink()
    freed = time.monotonic()
    eventually(lambda: written(leader, "again"), what="a write once there is room")
    back = time.monotonic() - freed
    assert ready(leader, "writes") == 200
    assert metric(leader, "discovery_disk_full") == 0
    assert leader.node_process() == process, "it must not take a restart"
    say(
        f"full disk at the leader: a write elsewhere is done after {gap:.2f} s; room again: own ones after {back:.2f} s"
    )

    before = keys(other)
    leader.kill()
    leader.restart()
    assert keys(leader) == before


def test_when_every_disk_is_full_all_refuse_go_on_answering_and_recover(cluster: Cluster, say: Say) -> None:
    first = cluster.nodes[0]
    assert first.register("web", "one", "10.0.0.1").status == 201
    acknowledged = [f"k{number}" for number in range(20) if written(first, f"k{number}")]
    fillers = [fill(node.data) for node in cluster]
    began = time.monotonic()
    for node in cluster:
        eventually(lambda node=node: refused_for_want_of_room(node), 40, "a refusal by every node")
    took = time.monotonic() - began
    for node in cluster:
        assert ready(node, "writes") == 503
        assert node.ask("web.default").addresses == ["10.0.0.1"]
        assert node.request("GET", "kv/k0").status == 200
    for filler in fillers:
        filler.unlink()
    freed = time.monotonic()
    for node in cluster:
        eventually(lambda node=node: written(node, f"after-{node.id}"), what="writes once there is room")
    say(f"all disks full: all refuse after {took:.1f} s; room again: all write after {time.monotonic() - freed:.2f} s")
    assert set(acknowledged) <= keys(first)
    assert not any(node.starts > 1 for node in cluster)


def test_a_node_alone_refuses_at_once_and_starts_on_a_full_disk(disks: Path) -> None:
    node = Node("n1", disks).start().wait_ready()
    try:
        assert written(node, "before")
        filler = fill(node.data)
        began = time.monotonic()
        problem = refused_for_want_of_room(node)
        assert problem is not None, "the very write that found no room must be refused"
        assert time.monotonic() - began < 2
        node.kill()
        node.start()
        eventually(lambda: node.request("GET", "kv/before").status == 200, what="reads after a start on a full disk")
        eventually(lambda: refused_for_want_of_room(node), what="a refusal that names the full disk")
        filler.unlink()
        node.wait_ready()
        eventually(lambda: written(node, "after"), 30, "a write once there is room")
        assert keys(node) == {"before", "after"}
    finally:
        node.close()


def test_a_limit_on_file_sizes_is_a_full_disk_too(tmp_path: Path, require_tool: Need) -> None:
    prlimit = require_tool("prlimit", "util-linux")
    node = Node("n1", tmp_path, prefix=[str(prlimit), f"--fsize={256 * 1024}:"]).start().wait_ready()
    try:
        done = 0
        while written(node, f"k{done}"):
            done += 1
        assert 5 < done < 60
        problem = refused_for_want_of_room(node)
        assert problem is not None
        assert "ulimit -f" in str(problem["detail"])
        subprocess.run([str(prlimit), "--pid", str(node.node_process()), "--fsize=unlimited"], check=True)
        eventually(lambda: written(node, "after"), what="a write once the limit is lifted")
        assert len(keys(node)) == done + 1
    finally:
        node.close()


# -- failing and slow syncs -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def injected(strace: str, pid: int, fault: str) -> Iterator[None]:
    """Every fdatasync of a process fails or is slow."""
    line = [strace, "-f", "-qq", "-p", str(pid), "-o", os.devnull, "-e", "trace=fdatasync"]
    tracer = subprocess.Popen([*line, "-e", f"inject=fdatasync:{fault}"], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), what="strace to attach")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)


def test_a_failed_sync_stops_the_node_at_once_and_what_was_acknowledged_is_there_again(
    tmp_path: Path, require_root: Need, require_tool: Need
) -> None:
    require_root()
    strace = str(require_tool("strace", "strace"))
    node = Node("n1", tmp_path).start().wait_ready()
    try:
        acknowledged = {f"k{number}" for number in range(20) if written(node, f"k{number}")}
        with injected(strace, node.node_process(), "error=EIO"):
            with contextlib.suppress(OSError):
                assert put(node, "never", timeout_s=5) >= 500
            assert node.wait_exit() == 1
        log = node.log()
        assert "the log cannot be written" in log
        assert "fsync failed" in log
        assert re.search(r"raft/wal-[0-9a-f]{16}\.log", log)
        assert log.count("starting it again") == 0, "the supervisor must not loop"
        node.restart()
        assert acknowledged <= keys(node) <= acknowledged | {"never"}
    finally:
        node.close()


def test_slow_syncs_cost_time_and_nothing_else(
    tmp_path: Path, require_root: Need, require_tool: Need, say: Say
) -> None:
    require_root()
    strace = str(require_tool("strace", "strace"))
    cluster = Cluster(tmp_path)
    try:
        leader = cluster.start().leader()
        assert leader.register("web", "one", "10.0.0.1").status == 201
        term = leader.request("GET", "cluster").json()["term"]
        with injected(strace, leader.node_process(), "delay_exit=300000"):
            times = []
            for number in range(8):
                began = time.monotonic()
                assert written(cluster.nodes[number % 3], f"k{number}")
                times.append(time.monotonic() - began)
                assert leader.ask("web.default").addresses == ["10.0.0.1"]
        say(f"a leader whose syncs take 0.3 s: a write takes {max(times):.2f} s at most")
        assert max(times) < 5
        assert leader.request("GET", "cluster").json()["term"] <= term + 1, "leadership must not go to and fro"
    finally:
        cluster.close()


def test_a_disk_that_hangs_is_told_by_readiness_status_and_metrics_and_ends_by_itself(
    tmp_path: Path, require_root: Need, require_tool: Need, say: Say
) -> None:
    require_root()
    strace = str(require_tool("strace", "strace"))
    cluster = Cluster(tmp_path)
    try:
        leader = cluster.start().leader()
        other = cluster.followers()[0]
        assert leader.register("web", "one", "10.0.0.1", ttl=60).status == 201
        process = leader.node_process()
        with injected(strace, process, "delay_enter=600000000"):
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                assert put(leader, "hangs", timeout_s=1) in (503, 504)
            eventually(lambda: written(other, "elsewhere"), 30, "a write elsewhere")
            eventually(lambda: ready(leader, "writes") == 503, what="a node that says it is not ready")
            _assert_told(leader)
            told = eventually(lambda: problems(other).get(leader.id), 20, "another node that names it")
            assert "the disk does not answer" in told
            eventually(lambda: ready(other, "writes") == 200, 30, "another node that takes writes")
            hung = time.monotonic() - began
        freed = time.monotonic()
        eventually(lambda: ready(leader, "writes") == 200, 30, "a node that is ready again")
        eventually(lambda: not problems(other), 20, "nobody who says otherwise")
        say(f"a disk that hung for {hung:.1f} s: ready again after {time.monotonic() - freed:.2f} s")
        assert leader.node_process() == process
        assert "elsewhere" in keys(leader)
    finally:
        cluster.close()


def _assert_told(node: Node) -> None:
    """What a node says, promises and goes on doing while its disk does not answer."""
    said = node.request("GET", "/readyz").body.decode()
    assert "the disk does not answer" in said
    assert str(node.data / "raft") in said
    assert (ready(node, "reads"), ready(node, "dns")) == (503, 200)
    assert metric(node, "discovery_disk_write_waiting_seconds") >= 2
    assert node.request("GET", "cluster").json()["leader"] is None, "it cannot know who leads"
    assert node.ask("web.default").addresses == ["10.0.0.1"]


def problems(node: Node) -> dict[str, str]:
    """Whose disks hinder the cluster, as one node has heard."""
    members = node.request("GET", "cluster").json()["members"]
    return {member["id"]: member["problem"] for member in members if member["problem"]}


def test_two_full_disks_of_three_are_named_by_every_node(cluster: Cluster) -> None:
    full, also = cluster.followers()
    roomy = cluster.leader()
    fillers = [fill(full.data), fill(also.data)]
    with contextlib.suppress(TimeoutError):  # a write by which they notice
        put(roomy, "unknown", timeout_s=0.5)
    refused = eventually(lambda: named(full, also), 60, "a refusal that names the other one too")
    assert {str(node.data / "raft") in refused for node in (full, also)} == {True}
    for node in cluster:
        eventually(lambda node=node: {full.id, also.id} == set(problems(node)), 30, "both in its list of members")
    line = [str(Path(sys.executable).with_name("discovery")), "status", "--server", roomy.url]
    shown = subprocess.run(line, capture_output=True, text=True, check=False)
    assert re.findall(r"^(n\d) cannot write +the disk is full", shown.stdout, re.M) == sorted([full.id, also.id])
    for filler in fillers:
        filler.unlink()
    eventually(lambda: written(roomy, "after"), 30, "writes once there is room")
    for node in cluster:
        eventually(lambda node=node: not problems(node), 20, "nobody who is hindered")


def named(node: Node, other: Node) -> str | None:
    """Why a full node refuses a write, once it names the disk of the other one too."""
    detail = str((refused_for_want_of_room(node) or {}).get("detail"))
    return detail if f"{other.id}: the disk is full" in detail else None


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["log", "snapshot", "identity"])
def test_damage_stops_the_daemon_with_file_offset_and_way_out(tmp_path: Path, kind: str) -> None:
    node = Node("n1", tmp_path).start().wait_ready()
    try:
        for number in range(4):
            assert written(node, f"k{number}")
        node.kill()
        victim = _damage(node.data, kind)
        node.start()
        assert node.wait_exit() == 1
        log = node.log()
        assert f"{victim}: damaged at offset " in log
        assert "Way out" in log
        assert "starting it again" not in log
    finally:
        node.close()


def _damage(data: Path, kind: str) -> str:
    if kind == "identity":
        (data / "identity.json").write_text('{"format": 1, "node": 7}')
        return str(data / "identity.json")
    if kind == "snapshot":
        name = f"snapshot-{2:016x}-{1:016x}"
        (data / "raft" / name).write_bytes(b"DSS1 and so on")
        return name
    log = min((data / "raft").glob("wal-*.log"))
    content = bytearray(log.read_bytes())
    content[40] ^= 1
    log.write_bytes(content)
    return log.name
