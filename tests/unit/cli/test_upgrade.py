"""``discovery upgrade``: what it says when it may not, cannot, or when what it asked for comes to nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from discovery import progress
from discovery.child import Child
from discovery.cli.root import group
from discovery.errors import NotFound, RegistryError, Unavailable
from discovery.progress import Found, Progress, Teller

BEFORE = Progress("0.1", node=10, workers=(11, 12))


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a supervisor tells, look after look; an exception is raised instead. SIGUSR2 is noted by ``signalled``."""
    script: list[Any] = [BEFORE]
    monkeypatch.setattr(progress, "find", lambda place: Found(9, Path("/run/d"), 10))
    monkeypatch.setattr(progress, "read", lambda found: script.pop(0) if len(script) > 1 else script[0])
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    return script


def upgrade(*more: str) -> Any:
    return CliRunner().invoke(group, ["upgrade", "--data-dir", "/d", "--wait", "5", *more])


def test_each_step_is_a_line(supervisor: list[Any]) -> None:
    supervisor += [
        Progress("0.1", "trying", 1, node=10, workers=(11, 12)),
        Progress("0.2", "replacing", 1, node=10, workers=(11, 12)),
        Progress("0.2", "replacing", 1, node=20, workers=(11, 12)),
        Progress("0.2", "replacing", 1, node=20, workers=(21, 12)),
        Progress("0.2", "steady", 1, node=20, workers=(21, 22)),
    ]
    done = upgrade()
    assert done.exit_code == 0
    *lines, last = done.stdout.splitlines()
    assert lines == [
        "the installed version tries itself",
        "the supervisor is of version 0.2; node process and DNS workers follow",
        "node process 20 is started",
        "DNS worker 0, process 21, is started",
        "DNS worker 1, process 22, is started",
    ]
    assert last.endswith("version 0.1, now 0.2")


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (Progress("0.1", refused=1, said="not now", node=10), "not now; nothing has changed"),
        (Progress("0.1", asked=1, failed=1, said="it is broken", node=10), "it is broken; nothing has changed"),
        (Progress("0.1", asked=1, node=10), "told to end meanwhile"),
    ],
)
def test_what_comes_to_nothing_is_exit_code_1_with_the_reason(supervisor: list[Any], told: Progress, why: str) -> None:
    supervisor.append(told)
    done = upgrade()
    assert (done.exit_code, why in done.stderr) == (1, True)


def test_what_takes_too_long_is_said_with_where_it_stands(supervisor: list[Any]) -> None:
    supervisor.append(Progress("0.1", "trying", 1, node=10))
    done = upgrade("--wait", "100ms")
    assert (done.exit_code, "not done in time, it is at: trying" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("error", "why"),
    [(PermissionError(), "belongs to another user: run this as that one, or as root"), (ProcessLookupError(), "ended")],
)
def test_a_signal_that_cannot_be_sent(
    supervisor: list[Any], monkeypatch: pytest.MonkeyPatch, error: OSError, why: str
) -> None:
    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (9, signal.SIGUSR2)
        raise error

    monkeypatch.setattr(os, "kill", kill)
    done = upgrade()
    assert (done.exit_code, why in done.stderr) == (1, True)


def test_a_directory_without_a_node_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discovery.cli.upgrade.FIND_S", 0.0)
    for content in (None, f"pid {os.getpid()}\n", "pid 0\n", ""):
        if content is not None:
            (tmp_path / "lock").write_text(content)
        with pytest.raises(NotFound, match="no node runs on the data directory"):
            progress.find(tmp_path)
    done = CliRunner().invoke(group, ["upgrade", "--data-dir", str(tmp_path)])
    assert (done.exit_code, "no node runs on" in done.stderr) == (1, True)


def test_a_directory_that_may_not_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", "/d/lock")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RegistryError, match="/d/lock: not readable by this user"):
        progress.find(Path("/d"))


def test_a_supervisor_that_tells_nothing_is_of_an_older_version_or_gone(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not say what it does"):
        progress.read(Found(9, tmp_path, 10))


def test_what_a_supervisor_tells_is_read_back_and_a_full_disk_does_not_stop_it(tmp_path: Path) -> None:
    teller = Teller(tmp_path, "0.1", (1, 0, 0))
    node = Child("node", lambda child: None)  # type: ignore[arg-type,return-value]
    node.adopt(7)
    teller.fail("broken")
    teller.tell(None, object(), node, [])
    assert progress.read(Found(9, tmp_path, 7)) == Progress("0.1", "replacing", 1, 0, 1, "broken", 7)
    Teller(tmp_path / "gone", "0.1", (0, 0, 0)).tell(None, None, node, [])
