"""``discovery run`` as a process: its command, its signals, its exit code."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from discovery.testing.cluster import alive, eventually

LEASE = {"lease": {"id": "00aa", "ttl": 1.0, "remaining": 1.0}, "ttl": 1.0}
SHOW_SIGNALS = """
import signal, sys, time
def show(number, _):
    print("got", signal.Signals(number).name, flush=True)
    if number in (signal.SIGTERM, signal.SIGINT):
        sys.exit(5)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, show)
print("up", flush=True)
while True:
    signal.pause()
"""


class Wrapped:
    """A running ``discovery run``; what it and its command write goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self._output = output

    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.output(), what=f"{text!r} in the output")

    def ended(self) -> int:
        return self.process.wait(10)


@pytest.fixture
def run(server, tmp_path: Path) -> Iterator[Callable[..., Wrapped]]:
    """Starts ``discovery run web … -- COMMAND`` against the server."""
    server.will_answer((200, LEASE))
    started: list[Wrapped] = []

    def start(*command: str, options: tuple[str, ...] = (), url: str = "") -> Wrapped:
        output = tmp_path / f"output-{len(started)}"
        line = [
            sys.executable,
            "-m",
            "discovery",
            "run",
            "web",
            "--address",
            "127.0.0.1",
            "--id",
            "web-0",
            "--ttl",
            "1",
        ]
        with output.open("wb") as out:
            process = subprocess.Popen(
                [*line, *options, "--server", url or server.url, "--", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        started.append(Wrapped(process, output))
        return started[-1]

    yield start
    for wrapped in started:
        with suppress(ProcessLookupError):
            os.killpg(wrapped.process.pid, signal.SIGKILL)
        wrapped.process.wait()


def requests(server: Any) -> list[str]:
    """What was asked, without repetitions of the heartbeat."""
    found: list[str] = []
    for asked in list(server.asked):
        line = f"{asked.method} {asked.path.rpartition('/web-0')[2]}"
        if line not in found[-1:]:
            found.append(line)
    return found


def show_signals(run: Callable[..., Wrapped], *options: str) -> Wrapped:
    wrapped: Wrapped = run(sys.executable, "-c", SHOW_SIGNALS, options=options)
    wrapped.wait_for("up\n")
    wrapped.wait_for("registered as web-0")
    return wrapped


def test_it_is_registered_while_the_command_runs(run, server) -> None:
    wrapped = run("sh", "-c", "read line < /dev/null; sleep 0.5; exit 3")
    assert wrapped.ended() == 3
    assert requests(server) == ["PUT ", "PUT /heartbeat?lease=00aa", "PUT /status?lease=00aa", "DELETE ?lease=00aa"]


def test_the_command_that_a_signal_killed_gives_128_and_the_number(run) -> None:
    assert run("sh", "-c", "kill -KILL $$").ended() == 128 + signal.SIGKILL


@pytest.mark.parametrize(("command", "code"), [("/nonexistent/program", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_start_is_never_registered(run, server, command: str, code: int) -> None:
    wrapped = run(command)
    assert wrapped.ended() == code
    assert command in wrapped.output()
    assert server.asked == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_ends_the_command_drains_and_deregisters_first(run, server, number: signal.Signals) -> None:
    wrapped = show_signals(run)
    wrapped.process.send_signal(number)
    assert wrapped.ended() == 5
    assert f"got {number.name}" in wrapped.output()
    assert requests(server)[-2:] == ["PUT /status?lease=00aa", "DELETE ?lease=00aa"]


def test_other_signals_are_passed_on_and_change_nothing(run, server) -> None:
    wrapped = show_signals(run)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        wrapped.process.send_signal(number)
        wrapped.wait_for(f"got {number.name}")
    assert "DELETE ?lease=00aa" not in requests(server)


def test_while_it_drains_it_stays_registered_and_the_command_is_not_told(run, server) -> None:
    wrapped = show_signals(run, "--drain", "60")
    wrapped.process.send_signal(signal.SIGTERM)
    eventually(lambda: requests(server)[-2:] == ["PUT /status?lease=00aa", "PUT /heartbeat?lease=00aa"])
    assert "got SIGTERM" not in wrapped.output()
    wrapped.process.send_signal(signal.SIGTERM)  # the second one hastens
    assert wrapped.ended() == 5
    assert requests(server)[-1] == "DELETE ?lease=00aa"


def test_the_command_starts_without_any_server_and_ends_in_time(run) -> None:
    wrapped = run(sys.executable, "-c", SHOW_SIGNALS, url="http://127.0.0.1:1")
    wrapped.wait_for("up\n")
    wrapped.wait_for("no server answered")
    wrapped.process.send_signal(signal.SIGTERM)
    assert wrapped.ended() == 5


def test_it_registers_as_soon_as_a_server_answers(run, server) -> None:
    server.will_answer((503, {"detail": "no leader"}), (503, {"detail": "no leader"}), (200, LEASE))
    wrapped = run("sleep", "60")
    wrapped.wait_for("no leader")
    wrapped.wait_for("registered as web-0")


def test_after_a_404_it_registers_again_by_itself(run, server) -> None:
    server.will_answer((200, LEASE), (404, {"detail": "no such instance"}), (200, LEASE))
    run("sleep", "60")
    eventually(
        lambda: requests(server)[:4] == ["PUT ", "PUT /heartbeat?lease=00aa", "PUT ", "PUT /heartbeat?lease=00aa"]
    )


def test_the_command_does_not_outlive_a_killed_wrapper(run) -> None:
    wrapped = run("sh", "-c", "echo pid $$; exec sleep 60")
    wrapped.wait_for("pid ")
    command = int(wrapped.output().split("pid ")[1].split()[0])
    wrapped.process.kill()
    eventually(lambda: not alive(command), what="the end of the command")


def test_signals_that_the_wrapper_holds_back_are_not_blocked_in_the_command(run) -> None:
    wrapped = run("sh", "-c", "grep SigBlk /proc/self/status")
    assert wrapped.ended() == 0
    assert "SigBlk:\t0000000000000000" in wrapped.output()


def test_ctrl_c_reaches_the_command_once(server, tmp_path: Path) -> None:
    """The terminal sends it to the whole foreground group, so it must not be passed on a second time."""
    server.will_answer((200, LEASE))
    terminal, theirs = os.openpty()
    output = tmp_path / "output"
    patient = SHOW_SIGNALS.replace("if number in (signal.SIGTERM, signal.SIGINT)", "if number == signal.SIGTERM")
    line = [sys.executable, "-m", "discovery", "run", "web", "-a", "127.0.0.1", "--id", "web-0", "--server", server.url]
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*line, "--", sys.executable, "-c", patient], stdin=theirs, stdout=out, stderr=out,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
    os.close(theirs)
    try:
        wrapped = Wrapped(process, output)
        wrapped.wait_for("up\n")
        wrapped.wait_for("registered as")
        os.write(terminal, b"\x03")
        eventually(lambda: requests(server)[-1:] == ["DELETE ?lease=00aa"])
        process.send_signal(signal.SIGTERM)
        assert wrapped.ended() == 5
        assert wrapped.output().count("got SIGINT") == 1
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
