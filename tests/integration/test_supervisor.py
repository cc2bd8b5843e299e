"""The supervisor with stand-ins for its children: what it starts again, what ends it, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.child import RESTART_S_MAX, STEADY_S, Backoff
from discovery.supervisor import HASTEN_AFTER_S
from discovery.testing.cluster import alive, children, eventually

STAND_INS = Path(__file__).with_name("stand_ins")


class Supervised:
    """A running supervisor, its stdout and stderr in files, and what its children noted."""

    def __init__(self, folder: Path, mode: str, http: str) -> None:
        self.folder = folder
        environment = os.environ | {
            "MODE": mode,
            "NOTES": str(folder / "notes"),
            "PYTHONPATH": str(STAND_INS),
            "RUNTIME_DIRECTORY": str(folder),
        }
        (folder / "notes").touch()
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(STAND_INS / "supervise.py"), http], env=environment, stdout=out, stderr=err
            )

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def notes(self, start: str) -> list[str]:
        return [line for line in self.text("notes").splitlines() if line.startswith(start)]

    def pids(self, start: str) -> list[int]:
        return [int(line.split()[-1]) for line in self.notes(start)]

    def until(self, condition: Callable[[], object]) -> None:
        eventually(condition, 15, f"the condition; {self.text('notes')} {self.text('err')}")

    def until_noted(self, start: str, times: int = 1) -> None:
        self.until(lambda: len(self.notes(start)) >= times)

    def until_ready(self) -> None:
        self.until(lambda: "ready " in self.text("out"))
        self.until_noted("worker ", 2)

    def exit_code(self) -> int:
        return self.process.wait(20)


Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Supervised] = []

    def make(mode: str = "ready", http: str = "127.0.0.1:0") -> Supervised:
        started.append(Supervised(tmp_path, mode, http))
        return started[-1]

    yield make
    for supervised in started:
        if supervised.process.poll() is None:
            supervised.process.kill()
            supervised.process.wait()


def test_the_ready_line_is_printed_once_however_often_the_node_starts(start: Start) -> None:
    supervised = start()
    supervised.until_ready()
    os.kill(supervised.pids("node starts")[0], signal.SIGKILL)
    supervised.until_noted("node workers 0 1", 2)
    (line,) = supervised.text("out").splitlines()
    assert line.startswith("ready id=n1 http=http://127.0.0.1:")
    assert " dns=127.0.0.1:" in line
    assert " raft=127.0.0.1:" in line


def test_until_ready_the_log_says_what_it_waits_for(start: Start) -> None:
    supervised = start("waits")
    supervised.until(lambda: "not ready yet: waiting for a leader" in supervised.text("err"))
    assert supervised.text("out") == ""


def test_one_worker_joins_at_once_and_the_others_and_replacements_when_they_are_synced(start: Start) -> None:
    supervised = start()
    supervised.until_ready()
    supervised.until_noted("worker 1 synced")
    assert not supervised.notes("worker 1 now")
    os.kill(supervised.pids("worker 0 now")[0], signal.SIGKILL)
    supervised.until_noted("worker 0 synced")
    supervised.until(lambda: supervised.notes("node workers")[-1] == "node workers 0 1")
    assert "node workers 1" in supervised.notes("node workers")
    assert len(supervised.notes("node starts")) == 1


def test_a_node_that_keeps_crashing_is_started_again_ever_more_slowly(start: Start) -> None:
    supervised = start("crashes")
    supervised.until(lambda: "starting it again in 0.4 s" in supervised.text("err"))
    waits = [line.rpartition(" in ")[2] for line in supervised.text("err").splitlines() if "node ended" in line]
    assert waits[:4] == ["0.0 s", "0.1 s", "0.2 s", "0.4 s"]


def test_back_off_has_a_limit_and_a_steady_life_ends_it() -> None:
    backoff = Backoff()
    assert [backoff.delay_s(0.0) for _ in range(10)][-1] == RESTART_S_MAX
    assert backoff.delay_s(STEADY_S) == 0.0
    assert backoff.delay_s(0.0) > 0.0


def test_killing_the_supervisor_takes_every_child_along(start: Start) -> None:
    supervised = start()
    supervised.until_ready()
    family = children(supervised.process.pid)
    assert len(family) == 3
    supervised.process.kill()
    supervised.until(lambda: not any(map(alive, family)))


def test_the_next_start_removes_what_a_killed_supervisor_left(start: Start, tmp_path: Path) -> None:
    killed = start()
    killed.until_ready()
    (left,) = tmp_path.glob("discovery-feed-*")
    killed.process.kill()
    killed.process.wait()
    os.utime(left, (0, 0))
    start().until(lambda: not left.exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_answer_until_the_node_has_drained(start: Start, number: signal.Signals, tmp_path: Path) -> None:
    supervised = start("slow drain")
    supervised.until_ready()
    supervised.process.send_signal(number)
    supervised.until_noted("node drains")
    assert all(map(alive, supervised.pids("worker")))
    (tmp_path / "go").touch()
    assert supervised.exit_code() == 0
    assert supervised.notes("node drained")
    assert not any(map(alive, supervised.pids("worker")))
    assert list(tmp_path.glob("discovery-feed-*")) == []


def test_while_the_node_drains_new_connections_are_refused_not_kept_waiting(start: Start) -> None:
    supervised = start("slow drain")
    supervised.until_ready()
    address = supervised.text("out").split("http=http://")[1].split()[0].split(":")
    supervised.process.terminate()
    supervised.until_noted("node drains")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address[0], int(address[1])), timeout=5)


def test_a_second_signal_hastens_the_end(start: Start) -> None:
    supervised = start("deaf")
    supervised.until_ready()
    first = time.monotonic()
    supervised.process.terminate()
    supervised.process.send_signal(signal.SIGINT)  # the echo of the first through another way counts for nothing
    supervised.until(lambda: "draining" in supervised.text("err"))
    supervised.until(lambda: time.monotonic() > first + 2 * HASTEN_AFTER_S)
    assert "again" not in supervised.text("err")
    supervised.process.terminate()
    assert supervised.exit_code() == 0


def test_a_child_that_dies_while_draining_is_not_started_again(start: Start) -> None:
    supervised = start("slow drain")
    supervised.until_ready()
    supervised.process.terminate()
    supervised.until_noted("node drains")
    os.kill(supervised.pids("worker 0")[0], signal.SIGKILL)
    os.kill(supervised.pids("node starts")[0], signal.SIGKILL)
    assert supervised.exit_code() == 0
    assert (len(supervised.notes("node starts")), len(supervised.notes("worker"))) == (1, 2)


@pytest.mark.parametrize(
    ("mode", "code", "text"),
    [
        ("refused", 2, "--id n1: the data directory belongs to n2"),
        ("corrupt", 1, "the log is damaged"),
        ("usage", 2, "refused its configuration"),
    ],
)
def test_what_a_restart_cannot_mend_ends_it_with_the_reason(start: Start, mode: str, code: int, text: str) -> None:
    supervised = start(mode)
    assert supervised.exit_code() == code
    assert text in supervised.text("err")
    assert len(supervised.notes("node starts")) == 1
    assert supervised.text("out") == ""


def test_orphans_are_reaped_as_pid_1_must(start: Start) -> None:
    supervised = start("orphans")
    supervised.until_ready()
    (orphan,) = supervised.pids("node orphan")
    supervised.until(lambda: not Path(f"/proc/{orphan}").exists())


def test_babble_on_the_control_channel_does_not_stop_it(start: Start) -> None:
    supervised = start("babbles")
    supervised.until_ready()
    supervised.process.terminate()
    assert supervised.exit_code() == 0


def test_a_hangup_is_survived(start: Start) -> None:
    supervised = start()
    supervised.until_ready()
    supervised.process.send_signal(signal.SIGHUP)
    supervised.until(lambda: "SIGHUP" in supervised.text("err"))
    assert supervised.process.poll() is None


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_closed_standard_streams_are_no_trouble(closed: str, tmp_path: Path) -> None:
    environment = os.environ | {"MODE": "ready", "NOTES": str(tmp_path / "notes"), "PYTHONPATH": str(STAND_INS)}
    line = f"exec {sys.executable} -P {STAND_INS / 'supervise.py'} 127.0.0.1:0 {closed}"
    with subprocess.Popen(["sh", "-c", line], env=environment | {"RUNTIME_DIRECTORY": str(tmp_path)}) as supervised:
        try:
            eventually(lambda: "node workers 0 1" in (tmp_path / "notes").read_text(), 15)
        finally:
            supervised.terminate()
    assert supervised.returncode == 0
    assert (tmp_path / "notes").read_text().count("node starts") == 1


def test_a_port_in_use_is_exit_2_and_names_the_option(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        supervised = start(http=f"127.0.0.1:{port}")
        assert supervised.exit_code() == 2
    assert f"--http (key http.listen): 127.0.0.1:{port}: TCP port {port} is in use" in supervised.text("err")


def test_the_supervisor_loads_none_of_the_heavy_rooms() -> None:
    code = "import sys, discovery.supervisor; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"aiohttp", "pysyncobj", "asyncio", "uvloop", "discovery.raft", "discovery.store", "discovery.node"}
    assert not heavy & set(done.stdout.split())
