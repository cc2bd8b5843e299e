"""Disks over quota, without inodes, read-only, and syncs that fail for want of room, under real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.testing.cluster import Node, eventually

Need = Callable[..., object]
VALUE = os.urandom(400_000)


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextlib.contextmanager
def node_on(folder: Path) -> Iterator[Node]:
    node = Node("n1", folder)
    try:
        yield node.start().wait_ready()
    finally:
        node.close()


@contextlib.contextmanager
def injected(strace: str, pid: int, call: str, fault: str, *files: Path) -> Iterator[None]:
    """A system call of a process, on these files or any, fails."""
    line = [strace, "-f", "-qq", "-p", str(pid), "-o", os.devnull, "-e", f"trace={call}"]
    line += [word for file in files for word in ("-P", str(file))]
    tracer = subprocess.Popen([*line, "-e", f"inject={call}:{fault}"], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), what="strace to attach")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)


@pytest.fixture
def strace(require_root: Need, require_tool: Need) -> str:
    require_root()
    return str(require_tool("strace", "strace"))


def put(node: Node, key: str, value: bytes = VALUE) -> int:
    return node.request("PUT", f"kv/{key}", value).status


def refusal(node: Node) -> str:
    """Why a write is refused for want of room; empty when it is not."""
    answer = node.request("PUT", "kv/refused", VALUE)
    document = answer.json() if answer.status == 503 else {}
    return str(document["detail"]) if document.get("type") == "/problems/disk-full" else ""


def test_a_quota_that_is_used_up_is_a_full_disk_and_says_so(tmp_path: Path, strace: str) -> None:
    with node_on(tmp_path) as node:
        assert put(node, "before") == 200
        logs = list((node.data / "raft").glob("wal-*.log"))
        with injected(strace, node.node_process(), "write", "error=EDQUOT", *logs):
            said = eventually(lambda: refusal(node), 30, "a refusal for want of room")
            assert "quota" in said
            assert node.request("GET", "kv/before").body == VALUE
        eventually(lambda: put(node, "after") == 200, 30, "a write once there is room")
        assert node.starts == 1


@pytest.mark.parametrize("error", ["ENOSPC", pytest.param("EDQUOT", marks=pytest.mark.long)])
def test_a_sync_that_fails_for_want_of_room_stops_the_node_too(tmp_path: Path, strace: str, error: str) -> None:
    """Delayed allocation reports a full disk there, when the write has long succeeded."""
    with node_on(tmp_path) as node:
        assert put(node, "before") == 200
        with injected(strace, node.node_process(), "fdatasync", f"error={error}:when=2+"):
            with contextlib.suppress(OSError):
                for number in range(10):
                    put(node, f"k{number}")
            assert node.wait_exit(30) == 1
        assert "fsync failed" in node.log()
        node.restart()
        assert node.request("GET", "kv/before").body == VALUE


@pytest.mark.long
def test_without_inodes_the_next_file_of_the_log_waits_and_nothing_is_lost(tmp_path: Path, require_root: Need) -> None:
    require_root()
    with mounted(tmp_path / "n1", "size=96m,nr_inodes=40") as disk, node_on(tmp_path) as node:
        for number in range(40):
            try:
                (disk / f"filler{number}").touch()
            except OSError:
                break
        written = []
        while not (said := refusal(node)):
            key = f"k{len(written)}"
            if put(node, key) == 200:
                written.append(key)
            assert len(written) < 100, "it never wanted another file"
        assert "df -i" in said
        assert node.request("GET", f"kv/{written[0]}").body == VALUE
        for filler in disk.glob("filler*"):
            filler.unlink()
        eventually(lambda: put(node, "after") == 200, 30, "a write once there are inodes")
        node.kill()
        node.restart()
        assert {node.request("GET", f"kv/{key}").status for key in [*written, "after"]} == {200}


@pytest.mark.long
def test_a_read_only_disk_stops_the_start_with_its_reason_and_does_no_harm(tmp_path: Path, require_root: Need) -> None:
    require_root()
    with mounted(tmp_path / "n1", "size=64m") as disk, node_on(tmp_path) as node:
        assert put(node, "before") == 200
        assert node.terminate() == 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        node.start()
        assert node.wait_exit(30) != 0
        assert "Read-only file system" in node.log()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        node.restart()
        assert node.request("GET", "kv/before").body == VALUE
