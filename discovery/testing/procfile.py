"""Runs the processes of a Procfile in the foreground: ``python -m discovery.testing.procfile Procfile``.

Unlike honcho or foreman it leaves the others running when one process ends: that is what a failover looks like. The
end is reported and nothing is started again, until SIGUSR1 tells it to (``discovery drill`` does). Ctrl-C or SIGTERM
ends all: SIGTERM first, SIGKILL after a while.

Lines are ``name: command``, ``#`` begins a comment. Commands run without a shell, ``$VARIABLES`` are expanded.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Final, TextIO

from discovery.process import die_with_parent

LINE: Final = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*)")
END_S_MAX: Final = 25.0  # a node drains for up to 20 s
POLL_S: Final = 0.05


def parse(text: str) -> dict[str, list[str]]:
    """Name → command line of every process.

    Raises:
        ValueError: a line is neither ``name: command`` nor a comment, or names a process twice.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} must be `name: command`")
        if match[1] in found:
            raise ValueError(f"line {number} names {match[1]} again")
        found[match[1]] = shlex.split(os.path.expandvars(match[2]))
    return found


class Runner:
    """The processes of one Procfile; every line they write is written to ``out`` with their name before it."""

    def __init__(self, commands: Mapping[str, list[str]], out: TextIO) -> None:
        self._commands = commands
        self._out = out
        self._lock = threading.Lock()
        self._width = max(map(len, commands), default=0)
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def say(self, name: str, text: str) -> None:
        """Write one line of one process; lines of several never mix."""
        with self._lock:
            print(f"{name.ljust(self._width)} | {text}", file=self._out, flush=True)

    def start(self) -> None:
        """Start every process that does not run; one that cannot be started is reported like one that ended."""
        for name, command in self._commands.items():
            if name in self.processes and self.processes[name].poll() is None:
                continue
            try:
                self.processes[name] = process = self._spawn(command)
            except OSError as problem:
                self.say(name, f"cannot start {command[0]}: {problem.strerror}")
                continue
            self._watch(name, process)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A session of its own keeps Ctrl-C from the process: the order of the end is decided here."""
        parent = os.getpid()
        return subprocess.Popen(  # noqa: S603 -- what the Procfile says
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(parent),
        )

    def _watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for target, arguments in ((self._copy, (name, process.stdout)), (self._await, (name, process))):
            thread = threading.Thread(target=target, args=arguments, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _copy(self, name: str, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self.say(name, line.decode(errors="replace").rstrip())

    def _await(self, name: str, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
        self.say(name, f"ended ({how})" if self._stopping else f"ended ({how}); the others run on")

    def running(self) -> list[str]:
        """Names of the processes that live."""
        return [name for name, process in self.processes.items() if process.poll() is None]

    def stop(self, timeout_s: float = END_S_MAX) -> None:
        """End all: SIGTERM, after ``timeout_s`` seconds SIGKILL. Returns when all have ended and said it."""
        self._stopping = True
        self._signal(self.running(), signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.running() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._signal(self.running(), signal.SIGKILL)
        for process in self.processes.values():
            process.wait()
        for thread in self._threads:
            thread.join(1.0)

    def _signal(self, names: Iterable[str], number: signal.Signals) -> None:
        for name in names:
            self.processes[name].send_signal(number)


def run(commands: Mapping[str, list[str]], out: TextIO, meanwhile: Callable[[Runner], None] | None = None) -> int:
    """Run ``commands`` until SIGINT or SIGTERM, or until all have ended by themselves. SIGUSR1 starts again what ended.

    Args:
        meanwhile: called once in a thread of its own when all were started.

    Returns:
        0 when it was told to end, 1 when every process had ended by itself.
    """
    told, again = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    signal.signal(signal.SIGUSR1, lambda *_: again.set())
    runner = Runner(commands, out)
    runner.start()
    if meanwhile is not None:
        threading.Thread(target=meanwhile, args=(runner,), daemon=True).start()
    while (runner.running() or again.is_set()) and not told.wait(POLL_S):
        if again.is_set():
            again.clear()
            runner.start()
    runner.stop()
    return 0 if told.is_set() else 1


def main(arguments: list[str]) -> int:
    """The program. Returns its exit code: 2 for a Procfile that is none."""
    path = Path(arguments[0] if arguments else "Procfile")
    try:
        commands = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        print(f"{path}: {problem}", file=sys.stderr)
        return 2
    return run(commands, sys.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
