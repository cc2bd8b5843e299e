"""Requests to the operating system: platform, death with the parent, the private directory, the service manager."""

from __future__ import annotations

import os
import resource
import select
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from discovery import process
from discovery.errors import ConfigError


@pytest.mark.parametrize(
    ("system", "release", "python", "found"),
    [
        ("darwin", "23.1.0", (3, 11), "not on darwin"),
        ("linux", "5.3.18-generic", (3, 11), "this kernel is 5.3.18-generic"),
        ("linux", "4.19.0", (3, 11), "this kernel is 4.19.0"),
        ("linux", "6.1.0", (3, 10), "this is 3.10"),
    ],
)
def test_elsewhere_it_says_so(system: str, release: str, python: tuple[int, int], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        process.check_platform(system, release, python)


@pytest.mark.parametrize("release", ["5.4", "5.10.0-28-amd64", "6.18.44", "unreadable"])
def test_linux_from_5_4_on_will_do(release: str) -> None:
    process.check_platform("linux", release, (3, 11))


PARENT = """
import os, subprocess, sys
from discovery import process
parent = os.getpid()
child = subprocess.Popen(["sleep", "600"], stdout=2, preexec_fn=lambda: process.die_with_parent(parent))
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_dies_with_a_parent_that_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        watch = os.pidfd_open(child)
        parent.kill()
    assert select.select([watch], [], [], 5.0)[0] == [watch]  # readable once the process has ended
    os.close(watch)


def test_the_private_directory_is_private_and_removed(tmp_path: Path) -> None:
    directory = process.PrivateDirectory(str(tmp_path))
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    (directory.path / "feed").touch()
    directory.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_path_of_a_socket_in_it_is_never_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    directory = process.PrivateDirectory(str(deep))
    assert len(os.fsencode(directory.path / "feed")) <= 107
    directory.remove()


def test_a_leftover_is_removed_and_the_directory_of_a_living_node_is_not(tmp_path: Path) -> None:
    leftover = tmp_path / f"{process.DIRECTORY_PREFIX}leftover"
    leftover.mkdir()
    living = process.PrivateDirectory(str(tmp_path))
    for old in (leftover, living.path):
        os.utime(old, (0, 0))
    other = process.PrivateDirectory(str(tmp_path))
    assert set(tmp_path.iterdir()) == {living.path, other.path}
    living.remove()
    other.remove()


def test_a_directory_made_a_moment_ago_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    fresh = tmp_path / f"{process.DIRECTORY_PREFIX}fresh"
    fresh.mkdir()
    process.PrivateDirectory(str(tmp_path)).remove()
    assert fresh.exists()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"discovery-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        process.notify("READY=1", {"NOTIFY_SOCKET": "@" + name if abstract else name})
        assert manager.recv(100) == b"READY=1"


def test_without_a_service_manager_nobody_is_told(tmp_path: Path) -> None:
    process.notify("READY=1", {})
    process.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "absent")})


def test_the_limit_on_open_files_is_lifted_as_far_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert process.raise_file_limit() == 4096
    assert asked == [(4096, 4096)]
