"""The supervisor's decisions on which child is started, how, and when: with children that only seem to run."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from discovery import launch, upgrade
from discovery.child import Child
from discovery.supervisor import Supervisor


class Spawned:
    """What was started, as (kind, index, join), and the signals that children got, as (name, number)."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, str]] = []
        self.signals: list[tuple[str, int]] = []
        self._pids = itertools.count(1_000_001)

    def spawn(self, *line: Any) -> SimpleNamespace:
        self.started.append(cast("tuple[str, int, str]", line))
        return SimpleNamespace(pid=next(self._pids), returncode=None, wait=lambda: 0)

    def signal(self, child: Child, number: signal.Signals) -> None:
        if child.popen is not None:
            self.signals.append((child.name, number))


class Stage:
    """A supervisor on a table, with two workers."""

    def __init__(self, path: Path, spawned: Spawned) -> None:
        self.spawned, self._path = spawned, path
        self._sockets = [*socket.socketpair(), *socket.socketpair()]

    def supervisor(self, handed_over: tuple[int, ...] | None = None) -> Supervisor:
        lines = SimpleNamespace(
            config=SimpleNamespace(dns=SimpleNamespace(workers=2)),
            directory=self._path,
            node=lambda fd: ("node", 0, ""),
            worker=lambda index, join: ("worker", index, join),
            ready_line=lambda: "ready",
        )
        control = (os.dup(self._sockets[2].fileno()), b"")
        handover = upgrade.Handover((), (), (), (0, ""), control, 999_999, handed_over) if handed_over else None
        if handover is None:
            os.close(control[0])
        return Supervisor(cast(launch.Launch, lines), self._sockets[0], 0, handover)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Spawned:
    found = Spawned()
    monkeypatch.setattr(launch, "spawn", found.spawn)
    monkeypatch.setattr(Child, "signal", lambda child, number: found.signal(child, number))
    return found


@pytest.fixture
def stage(tmp_path: Path, spawned: Spawned) -> Iterator[Stage]:
    found = Stage(tmp_path, spawned)
    yield found
    found.close()


def close(supervisor: Supervisor) -> None:
    supervisor._close_control()
    supervisor._selector.close()


def end(supervisor: Supervisor, child: Child, status: int = 0) -> None:
    supervisor._on_death(child, status)


def turn(supervisor: Supervisor) -> None:
    supervisor._upgrade()
    supervisor._start_due()


def test_an_upgrade_while_a_worker_is_being_restarted_replaces_the_others_and_starts_that_one_once(
    stage: Stage, spawned: Spawned
) -> None:
    supervisor = stage.supervisor(handed_over=(0, 123))
    former = next(iter(supervisor._leaving))
    assert (former.pid, supervisor._leaving[former]) == (123, 1)
    turn(supervisor)
    assert spawned.started == [("worker", 0, "synced")]
    end(supervisor, supervisor._node)
    turn(supervisor)
    supervisor._on_message({"ready": True})
    turn(supervisor)
    assert spawned.started == [("worker", 0, "synced"), ("node", 0, ""), ("worker", 1, "synced")]
    supervisor._on_message({"serving": [worker.pid for worker in supervisor._workers]})
    turn(supervisor)
    assert spawned.signals[-1] == ("dns-1 (former)", signal.SIGTERM)
    end(supervisor, former)
    turn(supervisor)
    assert supervisor._roll is None
    assert len(spawned.started) == 3
    close(supervisor)


def restarted(supervisor: Supervisor, spawned: Spawned) -> tuple[str, int, str]:
    """How worker 0 is started after a crash."""
    worker = supervisor._workers[0]
    end(supervisor, worker, -11)
    worker.due = 0.0
    turn(supervisor)
    return spawned.started[-1]


def test_while_nobody_is_on_the_port_the_first_worker_joins_it_at_once_also_after_a_crash(
    stage: Stage, spawned: Spawned
) -> None:
    supervisor = stage.supervisor()
    turn(supervisor)
    assert spawned.started == [("worker", 0, "now"), ("worker", 1, "synced"), ("node", 0, "")]
    supervisor._on_message({"serving": [supervisor._workers[0].pid]})
    assert restarted(supervisor, spawned) == ("worker", 0, "now")
    supervisor._on_message({"serving": [supervisor._workers[1].pid]})
    assert restarted(supervisor, spawned) == ("worker", 0, "synced")
    supervisor._on_message({"serving": []})
    assert restarted(supervisor, spawned) == ("worker", 0, "now")
    supervisor._on_message({"ready": True})
    assert restarted(supervisor, spawned) == ("worker", 0, "synced")
    close(supervisor)


def test_a_new_node_process_that_takes_long_is_not_killed_in_the_place_of_the_old_one(
    stage: Stage, spawned: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade, "NODE_S_MAX", 0.0)
    supervisor = stage.supervisor(handed_over=(123, 124))
    turn(supervisor)
    assert supervisor._roll is not None
    assert supervisor._roll.deadline() is not None
    end(supervisor, supervisor._node)
    supervisor._start_due()
    assert spawned.started == [("node", 0, "")]
    turn(supervisor)
    assert spawned.signals == [("node", signal.SIGTERM)]
    assert supervisor._roll.deadline() is None
    close(supervisor)


def test_an_old_node_process_that_does_not_end_is_killed(
    stage: Stage, spawned: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade, "NODE_S_MAX", 0.0)
    supervisor = stage.supervisor(handed_over=(123, 124))
    turn(supervisor)
    turn(supervisor)
    assert spawned.signals == [("node", signal.SIGTERM), ("node", signal.SIGKILL)]
    close(supervisor)


HANGS = ["sleep", "600"]


def test_a_trial_that_hangs_is_killed_when_its_time_is_over(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "command", lambda: HANGS)
    supervisor = stage.supervisor()
    supervisor._ready = True
    supervisor._on_upgrade()
    trial = supervisor._trial
    assert trial is not None
    assert isinstance(trial.popen, subprocess.Popen)
    supervisor._upgrade()
    assert trial.popen.poll() is None
    assert trial.deadline() == trial.started + upgrade.CHECK_S_MAX
    monkeypatch.setattr(upgrade, "CHECK_S_MAX", 0.0)
    supervisor._upgrade()
    assert trial.popen.wait(60) == -signal.SIGKILL
    assert trial.deadline() is None
    supervisor._on_trial(-signal.SIGKILL)
    assert supervisor._progress.counts == (1, 0, 1)
    close(supervisor)


def test_a_trial_ends_with_the_supervisor(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "command", lambda: HANGS)
    supervisor = stage.supervisor()
    supervisor._ready = True
    supervisor._on_upgrade()
    trial = supervisor._trial
    assert trial is not None
    assert isinstance(trial.popen, subprocess.Popen)
    supervisor._kill_all()
    assert trial.popen.wait(60) == -signal.SIGKILL
    close(supervisor)
