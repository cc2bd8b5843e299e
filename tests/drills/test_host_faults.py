"""Hosts that are slow, frozen, short of memory or of disk operations: what a cgroup takes from a node, it survives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from discovery.testing.cluster import Cluster, Node, alive, children, eventually
from discovery.testing.promises import Promises, until

Say = Callable[[str], None]
Need = Callable[..., object]
GROUPS = Path("/sys/fs/cgroup")
pytestmark = pytest.mark.long


@contextmanager
def group(controller: str, processes: list[int]) -> Iterator[Path]:
    """A control group (version 1) with these processes in it; afterwards they are where they were."""
    root = GROUPS / controller
    if not (root / "cgroup.procs").exists() or not os.access(root, os.W_OK):
        pytest.skip(f"there is no control group of version 1 for {controller} here")
    place = root / f"discovery-{os.getpid()}"
    place.mkdir()
    try:
        move(processes, place)
        yield place
    finally:
        with contextlib.suppress(OSError):
            (place / "freezer.state").write_text("THAWED")
        move([int(pid) for pid in (place / "cgroup.procs").read_text().split()], root)
        eventually(lambda: remove(place), what="an empty control group")


def move(processes: list[int], place: Path) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            (place / "cgroup.procs").write_text(str(pid))


def remove(place: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        place.rmdir()
    return True


def family(node: Node) -> list[int]:
    return [node.supervisor, *children(node.supervisor)]


@pytest.fixture
def root(require_root: Need) -> None:
    require_root()


@pytest.mark.timeout(120)
async def test_a_leader_with_a_fiftieth_of_a_core_keeps_its_promises_or_is_replaced(
    root: None, cluster: Cluster, say: Say
) -> None:
    leader = await asyncio.to_thread(cluster.leader)
    async with Promises(cluster).made() as promises:
        with group("cpu", family(leader)) as place:
            (place / "cpu.cfs_quota_us").write_text("2000")
            slow = await promises.more(30)
            stat = place / "cpu.stat"
            await until(lambda: "nr_throttled 0\n" not in stat.read_text(), "a process that has to wait for the core")
            await promises.more(30)
            now = await asyncio.to_thread(cluster.leader, 30)
        fast = await promises.more(30)
    say(f"a fiftieth of a core: a write after {slow:.2f} s, led by {now.id} (before: {leader.id}); freed: {fast:.2f} s")


@pytest.mark.timeout(120)
async def test_a_leader_frozen_by_the_kernel_is_replaced_and_comes_back(root: None, cluster: Cluster, say: Say) -> None:
    leader = await asyncio.to_thread(cluster.leader)
    promises = Promises(cluster, 2.0)
    async with promises.made():
        with group("freezer", family(leader)) as place:
            (place / "freezer.state").write_text("FROZEN")
            await until(lambda: (place / "freezer.state").read_text() == "FROZEN\n", "the frost")
            gap = await promises.more(30)
            await asyncio.sleep(promises.living.ttl_s)  # longer than a TTL: nobody's time ran out meanwhile
        await until(lambda: leader.request("GET", "/readyz").status == 200, "a thawed node that is ready")
    say(f"frozen by the kernel: a write elsewhere after {gap:.2f} s")


@pytest.mark.timeout(120)
async def test_a_node_process_that_is_killed_for_want_of_memory_is_started_again(
    root: None, cluster: Cluster, say: Say
) -> None:
    leader = await asyncio.to_thread(cluster.leader)
    other = next(node for node in cluster if node is not leader)
    process = leader.node_process()
    async with Promises(cluster).made() as promises:
        with group("memory", [process]) as place:
            (place / "memory.limit_in_bytes").write_text(str(8 * 2**20))
            for number in range(100):
                await asyncio.to_thread(other.request, "PUT", f"kv/large{number}", os.urandom(300_000), timeout_s=15)
                if not alive(process):
                    break
            await until(lambda: not alive(process), "a process killed for want of memory")
        gap = await promises.more(30)
        await until(lambda: leader.request("GET", "/readyz").status == 200, "the node that is ready again")
    assert leader.node_process() != process
    say(f"the leader's node process killed for want of memory at write {number}: writes after {gap:.2f} s")


@pytest.mark.timeout(120)
async def test_a_leader_whose_disk_does_twenty_operations_a_second_keeps_its_promises(
    root: None, tmp_path: Path, require_tool: Need, say: Say
) -> None:
    require_tool("mkfs.ext4", "e2fsprogs")
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(256 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    cluster = Cluster(disk)
    try:
        await asyncio.to_thread(cluster.start)
        leader = await asyncio.to_thread(cluster.leader)
        device = disk.stat().st_dev
        async with Promises(cluster).made() as promises:
            with group("blkio", family(leader)) as place:
                limit = f"{os.major(device)}:{os.minor(device)} 20"
                (place / "blkio.throttle.write_iops_device").write_text(limit)
                slow = await promises.more(60)
            fast = await promises.more(30)
        say(f"twenty operations a second: a write after {slow:.2f} s; freed: {fast:.2f} s")
    finally:
        cluster.close()
        subprocess.run(["umount", "--lazy", disk], check=True)
