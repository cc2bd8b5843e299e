"""Every recipe of docs/recovery.md, step by step, on real processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from discovery.testing.cluster import Cluster, Node, eventually, running_cluster

PAGE = Path(__file__).parents[2] / "docs/recovery.md"
STEP = 2**30
KEYS = 40


def discovery(*arguments: str, server: str = "", code: int = 0) -> str:
    """Run ``discovery …`` as the page says; what it printed."""
    line = [sys.executable, "-P", "-m", "discovery", *arguments]
    env = {"DISCOVERY_SERVER": server, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def fill(node: Node) -> None:
    """Some of everything."""
    assert node.register("web", "web-0", "10.0.0.7", ttl=600, ports={"http": 8080}).status == 201
    assert node.register("db", "db-0", "10.0.0.8", ttl=None).status == 201
    for number in range(KEYS):
        assert node.request("PUT", f"kv/k{number}", str(number).encode()).status == 200


def assert_filled(node: Node) -> None:
    """What :func:`fill` wrote is there, over HTTP and DNS."""
    items = node.request("GET", "kv/k?prefix=true&consistency=strong").json()["items"]
    assert len(items) == KEYS
    eventually(lambda: node.ask("web.default").addresses == ["10.0.0.7"], what="web-0 in DNS")
    assert node.ask("db.default").addresses == ["10.0.0.8"]
    assert "8080" in node.ask("_http._tcp.web.default", "SRV").answers[0]


def history(node: Node) -> tuple[str, int]:
    body = node.request("GET", "cluster").json()
    return body["history"], body["revision"]


def wipe(node: Node) -> None:
    shutil.rmtree(node.data)


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Node]:
    node = Node("n1", tmp_path / "single")
    try:
        yield node.start().wait_ready()
    finally:
        node.close()


def test_every_recipe_of_the_page_is_rehearsed_here() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    here = {name for name in globals() if name.startswith("test_")} - {
        "test_every_recipe_of_the_page_is_rehearsed_here"
    }
    assert here <= named  # those of other files exist too: tests/unit/test_tidy.py


def test_a_minority_lost_comes_back_by_itself(cluster: Cluster) -> None:
    lost, living = cluster["n3"], cluster["n1"]
    lost.kill()
    cluster.leader()
    fill(living)
    assert "alive" in discovery("status", server=living.url)
    lost.restart()
    assert_filled(lost)


def test_a_minority_lost_with_its_disk_is_refused_and_does_no_harm(cluster: Cluster) -> None:
    fill(cluster["n1"])
    lost = cluster["n3"]
    lost.kill()
    wipe(lost)
    lost.start()
    eventually(lambda: "which must add this node first" in lost.log(), what="the wiped node's word")
    eventually(lambda: "n3 lost its data directory" in cluster["n1"].log(), what="the others' word")
    assert lost.request("GET", "/readyz").status == 503
    assert lost.request("PUT", "kv/mine", b"1").status == 503
    assert_filled(cluster["n1"])
    assert cluster["n2"].request("PUT", "kv/more", b"1").status == 200


def test_a_minority_lost_with_its_disk_is_removed_and_added_again(cluster: Cluster) -> None:
    fill(cluster["n1"])
    lost = cluster["n3"]
    lost.kill()
    wipe(lost)
    lost.start()
    discovery("members", "remove", "n3", server=cluster["n1"].url)
    assert "votes" in discovery(
        "members", "add", "n3", "--raft", lost.raft, "--http", lost.url, server=cluster["n1"].url
    )
    lost.wait_ready()
    assert_filled(lost)
    cluster["n1"].kill()
    eventually(lambda: lost.request("PUT", "kv/more", b"1").status == 200, what="a write with the new one's vote")


def test_a_majority_lost_leaves_the_survivors_state_for_a_new_cluster(cluster: Cluster, tmp_path: Path) -> None:
    fill(cluster["n1"])
    survivor = cluster["n1"]
    for node in (cluster["n2"], cluster["n3"]):
        eventually(lambda node=node: history(node) == history(survivor), what="all in step")
        node.kill()
        wipe(node)
    assert survivor.request("PUT", "kv/late", b"1").status in (503, 504)
    assert survivor.ask("web.default").addresses == ["10.0.0.7"]
    file = tmp_path / "last.snapshot"
    assert "503" in discovery("snapshot", "save", str(file), server=survivor.url, code=1)
    discovery("snapshot", "save", str(file), "--stale", server=survivor.url)
    old_history, old_revision = history(survivor)
    survivor.kill()
    with running_cluster(tmp_path / "new") as fresh:
        said = discovery("snapshot", "restore", str(file), server=",".join(fresh.urls))
        assert f"restored revision {old_revision} of history {old_history}" in said
        for node in fresh:
            eventually(lambda node=node: history(node)[1] >= old_revision + STEP, what="the new history")
            assert_filled(node)
        assert len({history(node)[0] for node in fresh} | {old_history}) == 2
        # A node takes its place only once it serves: the restore may come before that.
        eventually(lambda: set(fresh["n1"].ask("discovery.system").addresses) == {"127.0.0.1"}, what="the nodes in DNS")
        again = discovery("snapshot", "restore", str(file), server=fresh["n2"].url, code=1)
        assert "not empty" in again


def test_all_lost_comes_back_from_a_backup(single: Node, tmp_path: Path) -> None:
    fill(single)
    lease = single.request("GET", "namespaces/default/services/web/instances/web-0").json()["lease"]["id"]
    file = tmp_path / "daily.snapshot"
    discovery("snapshot", "save", str(file), server=single.url)
    assert single.request("PUT", "kv/after", b"written after the backup").status == 200
    before = history(single)
    serial = soa_serial(single)
    single.kill()
    wipe(single)
    single.start().wait_ready()
    shown = json.loads(discovery("snapshot", "inspect", str(file), "--json"))
    assert shown["counts"]["keys"] == KEYS
    discovery("snapshot", "restore", str(file), server=single.url)
    after = history(single)
    assert after[0] != before[0]
    assert after[1] >= before[1] - 1 + STEP
    assert (soa_serial(single) - serial) % 2**32 < 2**31, "secondaries see a serial that grew (RFC 1982)"
    assert_filled(single)
    assert single.request("GET", "kv/after").status == 404
    beat = f"namespaces/default/services/web/instances/web-0/heartbeat?lease={lease}"
    assert single.request("PUT", beat).json() == {"ttl": 600, "remaining": 600}
    single.kill()
    single.restart()
    assert_filled(single)


def soa_serial(node: Node) -> int:
    return int(node.ask("cluster.local.", "SOA").answers[0].split()[2])


def test_a_wrong_peer_list_is_mended_before_the_founding_and_harmless_after(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    right = {node.id: node.raft for node in cluster}
    cluster["n1"].peers = {**right, "n2": "127.0.0.1:1"}
    cluster["n2"].peers = {**right, "n4": "127.0.0.1:2"}
    try:
        for node in cluster:
            node.start()
        eventually(lambda: "n4" in cluster["n2"].log(), what="n2's word of what it waits for")
        assert all(node.request("GET", "/readyz").status == 503 for node in cluster)
        for node in (cluster["n1"], cluster["n2"]):
            node.kill()
            node.peers = right
            node.start()
        for node in cluster:
            node.wait_ready()
        fill(cluster["n1"])
        cluster["n3"].kill()
        cluster["n3"].peers = {**right, "n2": "127.0.0.1:3"}
        cluster["n3"].restart()
        assert "the data directory holds" in cluster["n3"].log()
        assert_filled(cluster["n3"])
    finally:
        cluster.close()


def test_a_damaged_log_stops_one_node_and_a_copy_of_its_directory_brings_it_back(cluster: Cluster) -> None:
    fill(cluster["n1"])
    damaged = cluster["n3"]
    damaged.kill()
    copy = damaged.folder / "copy"
    shutil.copytree(damaged.data, copy)
    log = damage(damaged)
    damaged.start()
    assert damaged.wait_exit() == 1
    said = damaged.log()
    assert log.name in said
    assert "offset" in said
    assert "Way out" in said
    assert cluster["n2"].request("PUT", "kv/meanwhile", b"1").status == 200
    wipe(damaged)
    copy.rename(damaged.data)
    damaged.restart()
    eventually(lambda: damaged.request("GET", "kv/meanwhile").status == 200, what="the node in step")
    assert_filled(damaged)


def damage(node: Node) -> Path:
    """Change a byte in the middle of the log, where whole batches follow."""
    log = max((path for path in node.data.rglob("wal-*")), key=lambda path: path.stat().st_size)
    data = bytearray(log.read_bytes())
    data[len(data) // 3] ^= 0xFF
    log.write_bytes(data)
    return log


def test_a_damaged_log_of_a_single_node_is_replaced_by_the_last_backup(single: Node, tmp_path: Path) -> None:
    fill(single)
    file = tmp_path / "daily.snapshot"
    discovery("snapshot", "save", str(file), server=single.url)
    single.kill()
    damage(single)
    single.start()
    assert single.wait_exit() == 1
    single.data.rename(tmp_path / "kept for whoever looks into it")
    single.start().wait_ready()
    discovery("snapshot", "restore", str(file), server=single.url)
    assert_filled(single)


@contextmanager
def small_disk(point: Path, megabytes: int) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


def test_a_full_disk_loses_nothing_and_goes_on_once_there_is_room(
    tmp_path: Path, require_root: Callable[[], None]
) -> None:
    require_root()
    with small_disk(tmp_path / "disk", 24) as disk:
        node = Node("n1", tmp_path, options=["--data-dir", str(disk / "n1")])
        try:
            node.start().wait_ready()
            fill(node)
            ballast = disk / "somebody else's file"
            acknowledged = fill_up(node, ballast)
            ballast.unlink()
            eventually(lambda: goes_on(node), 30, "a write after there is room")
            for key, value in acknowledged.items():
                assert node.request("GET", f"kv/{key}").body == value
            assert_filled(node)
        finally:
            node.close()


def goes_on(node: Node) -> bool:
    """Whether it takes writes; one that has stopped is started, as the page says."""
    if node.process is not None and node.process.poll() is not None:
        node.wait_exit()
        node.start()
    return node.request("PUT", "kv/room", b"1").status == 200


def fill_up(node: Node, ballast: Path) -> dict[str, bytes]:
    """Leave no room on the disk, write until that shows; the writes that were acknowledged."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    acknowledged = {}
    for number in range(200):
        key, value = f"full{number}", bytes([number]) * 20_000
        try:
            status = node.request("PUT", f"kv/{key}", value).status
        except (OSError, http.client.HTTPException):
            break
        if status != 200:
            assert status in (503, 504)
            break
        acknowledged[key] = value
    else:
        raise AssertionError("the disk was never full")
    return acknowledged
