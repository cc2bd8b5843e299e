"""Power is lost on all hosts at once: only what was fsynced is there afterwards.

The data directories lie on an ext4 file system inside a file on tmpfs. The nodes are frozen, the file is copied
while mounted (what the kernel had not written back is missing from the copy) and the cluster goes on from the copy.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from discovery.drill.load import Writers, running, session
from discovery.testing.cluster import Cluster

Say = Callable[[str], None]


@contextmanager
def mounted(image: Path, point: Path) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-o", "loop,commit=600", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


@contextmanager
def ram(point: Path, megabytes: int) -> Iterator[Path]:
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.long)])
async def test_acknowledged_writes_survive_a_loss_of_power(
    tmp_path: Path, rounds: int, say: Say, require_root: Callable[[], None], require_tool: Callable[[str, str], str]
) -> None:
    require_root()
    require_tool("mkfs.ext4", "e2fsprogs")
    counts = []
    with ram(tmp_path / "ram", 512) as memory:
        for number in range(rounds):
            counts.append(await _lose_power(memory, tmp_path / f"round{number}"))
    say(f"{sum(counts)} acknowledged writes over {rounds} losses of power, none lost")


async def _lose_power(memory: Path, folder: Path) -> int:
    folder.mkdir()
    before, after = memory / "before.img", memory / "after.img"
    with before.open("wb") as file:
        file.truncate(160 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", before], check=True)
    with mounted(before, folder / "before") as disk:
        cluster = Cluster(disk)
        try:
            await asyncio.to_thread(cluster.start)
            writers = Writers(cluster.urls, per_second=300)
            async with session() as http, running(writers.run(http)):
                deadline = asyncio.get_running_loop().time() + 60
                while len(writers.acknowledged()) < 400:
                    assert asyncio.get_running_loop().time() < deadline, "the cluster acknowledges too little"
                    await asyncio.sleep(0.05)
                for node in cluster:
                    node.stop_processes(signal.SIGSTOP)
                await asyncio.to_thread(shutil.copyfile, before, after)
                for node in cluster:
                    node.kill()
        finally:
            cluster.close()
    with mounted(after, folder / "after") as disk:
        for node in cluster:
            node.folder = disk
        try:
            await asyncio.to_thread(cluster.start)
            lost = await _missing(cluster, writers)
        finally:
            cluster.close()
    before.unlink()
    after.unlink()
    assert lost == []
    return len(writers.acknowledged())


async def _missing(cluster: Cluster, writers: Writers) -> list[str]:
    lost = []
    async with session() as http:
        for node in cluster:
            for key, value in writers.acknowledged().items():
                async with http.get(f"{node.url}/api/v1/kv/{key}?consistency=strong") as response:
                    if response.status != 200 or await response.read() != value:
                        lost.append(f"{node.id}: {key}")
    return lost
