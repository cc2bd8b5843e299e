"""The nodes of a Procfile cluster on this host (``make run``): found in ``/proc``, killed and frozen by signals.

Only processes that are proven to be a node are touched. A node's supervisor is the process that listens at the node's
HTTP address, belongs to our user, was started as ``discovery serve --id NODE`` and is a child of the Procfile's runner.
Its family are its children. Signals go through pidfds (pidfd_open(2)), and the proof is made again after the pidfd
was opened: so a number that was given to another process meanwhile is never hit. What ended is started again by the
runner, on SIGUSR1, and only by a runner that catches that signal: it would kill any other program.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from discovery.drill.actor import CannotAct

RUNNERS: Final = ("discovery.testing.playground", "discovery.testing.procfile")
ACTS: Final = frozenset({"kill", "start", "stop", "pause", "resume"})
LISTENING: Final = "0A"  # include/net/tcp_states.h
GONE_S_MAX: Final = 5.0
STOP_S_MAX: Final = 30.0  # a node drains for up to 20 s
START_S_MAX: Final = 15.0
ASK_AGAIN_S: Final = 1.0
POLL_S: Final = 0.01
LOOK_S: Final = 0.05  # at every process of the host


@dataclass(frozen=True)
class Process:
    """One process of ours. ``start``: in clock ticks since boot, which tells a number's owners apart (proc(5))."""

    pid: int
    parent: int
    start: int
    arguments: tuple[str, ...]


class Processes:
    """What ``/proc`` says; ``root`` is another folder in tests."""

    def __init__(self, root: Path = Path("/proc"), user: int | None = None) -> None:
        self._root = root
        self._user = os.getuid() if user is None else user

    def find(self, pid: int) -> Process | None:
        """A living process of our user."""
        folder = self._root / str(pid)
        try:
            if folder.stat().st_uid != self._user:
                return None
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:
            return None
        return None if fields[0] in "ZX" else Process(pid, int(fields[1]), int(fields[19]), tuple(arguments))

    def all(self) -> Iterator[Process]:
        """Every living process of our user."""
        for entry in self._root.iterdir():
            if entry.name.isdecimal() and (process := self.find(int(entry.name))):
                yield process

    def family(self, parent: Process) -> list[Process]:
        """A process and its children."""
        return [parent, *(process for process in self.all() if process.parent == parent.pid)]

    def listens(self, process: Process, address: str, port: int) -> bool:
        """Whether a process holds the listening TCP socket of an address."""
        sockets = {f"socket:[{inode}]" for inode in self._listening(address, port)}
        with contextlib.suppress(OSError):
            for entry in (self._root / str(process.pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(entry.readlink()) in sockets:
                        return True
        return False

    def _listening(self, address: str, port: int) -> Iterator[str]:
        """Inodes of the sockets that listen there; addresses in ``/proc/net/tcp`` are words in this host's order."""
        packed = ipaddress.ip_address(address).packed
        words = b"".join(packed[at : at + 4][::-1] for at in range(0, len(packed), 4)).hex().upper()
        table = self._root / "net" / ("tcp" if len(packed) == 4 else "tcp6")
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1] == f"{words}:{port:04X}" and fields[3] == LISTENING:
                yield fields[9]

    def catches(self, process: Process, number: signal.Signals) -> bool:
        """Whether a process has a handler for a signal."""
        with contextlib.suppress(OSError):
            for line in (self._root / str(process.pid) / "status").read_text().splitlines():
                if line.startswith("SigCgt:"):
                    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
        return False

    def supervisor(self, node: str, url: str) -> Process:
        """The proven supervisor of a node.

        Raises:
            CannotAct: there is none; the text says what is missing.
        """
        parts = urlsplit(url)
        try:
            address, port = str(parts.hostname), int(parts.port or 80)
            if not ipaddress.ip_address(address).is_loopback:
                raise ValueError
        except ValueError:
            raise CannotAct(f"{node} is at {url}, which is not on loopback") from None
        for process in self.all():
            if is_node(process.arguments, node) and self.listens(process, address, port):
                self.runner(process)
                return process
        raise CannotAct(f"no `discovery serve --id {node}` of this user listens at {url}")

    def runner(self, supervisor: Process) -> Process:
        """The proven runner that a supervisor is a child of. Raises :class:`CannotAct`."""
        parent = self.find(supervisor.parent)
        if parent is None or not is_runner(parent.arguments):
            raise CannotAct(f"process {supervisor.pid} was not started by `make run`")
        if not self.catches(parent, signal.SIGUSR1):
            raise CannotAct(f"the runner {parent.pid} cannot start its processes again")
        return parent


def is_node(arguments: Sequence[str], node: str) -> bool:
    """Whether that is the command line of ``discovery serve --id NODE``, run by an interpreter or directly."""
    before = [Path(word).name for word in arguments[: arguments.index("serve")]] if "serve" in arguments else []
    named = any(pair == ("--id", node) for pair in pairwise(arguments))
    return before[-1:] == ["discovery"] and named


def is_runner(arguments: Sequence[str]) -> bool:
    """Whether that is the command line of a Procfile runner of ours."""
    return any(pair in {("-m", name) for name in RUNNERS} for pair in pairwise(arguments))


class LocalActor:
    """Acts on the nodes of the Procfile's runner.

    Args:
        urls: node → HTTP URL.

    Raises:
        CannotAct: one of the nodes cannot be proven to be one.
    """

    about = "signals to the processes of the Procfile's runner on this host"

    def __init__(self, urls: Mapping[str, str], processes: Processes | None = None) -> None:
        self._urls = urls
        self._processes = processes or Processes()
        runners = {node: self._processes.runner(self._processes.supervisor(node, url)) for node, url in urls.items()}
        if len(set(runners.values())) != 1:
            raise CannotAct("the nodes belong to several runners")
        self._runner = next(iter(runners.values()))
        self.processes = {node: self._processes.supervisor(node, url).pid for node, url in urls.items()}

    def acts(self, node: str) -> frozenset[str]:
        """All but a partition."""
        return ACTS if node in self._urls else frozenset()

    async def do(self, act: str, node: str) -> None:
        """Do it, and wait until it is done. Raises :class:`CannotAct`."""
        match act:
            case "kill":
                await self._end(node, signal.SIGKILL, GONE_S_MAX, whole_family=True)
            case "stop":
                await self._end(node, signal.SIGTERM, STOP_S_MAX, whole_family=False)
            case "start":
                await self._start(node)
            case "pause" | "resume":
                number = signal.SIGSTOP if act == "pause" else signal.SIGCONT
                for process in await self._family(node):
                    self._signal(process, number)
            case _:
                raise CannotAct(f"cannot {act} {node} on this host")

    async def _end(self, node: str, number: signal.Signals, timeout_s: float, *, whole_family: bool) -> None:
        """The supervisor first: it must not start again what dies."""
        family = await self._family(node)
        for process in family if whole_family else family[:1]:
            self._signal(process, number)
        deadline = time.monotonic() + timeout_s
        while any(map(self._lives, family)):
            if time.monotonic() > deadline:
                raise CannotAct(f"{node} did not end within {timeout_s:g} s")
            await asyncio.sleep(POLL_S)

    async def _start(self, node: str) -> None:
        """Ask the runner, again and again: it may not have noticed yet that the process is dead."""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            self._signal(self._runner, signal.SIGUSR1)
            for _ in range(round(ASK_AGAIN_S / LOOK_S)):
                if await asyncio.to_thread(self._runs, node):
                    return
                await asyncio.sleep(LOOK_S)
        raise CannotAct(f"the runner {self._runner.pid} did not start {node} again")

    async def _family(self, node: str) -> list[Process]:
        """The proven supervisor and its children; in a thread, because the drill's clients must not stall meanwhile."""

        def find() -> list[Process]:
            return self._processes.family(self._processes.supervisor(node, self._urls[node]))

        return await asyncio.to_thread(find)

    def _runs(self, node: str) -> bool:
        processes = (process for process in self._processes.all() if process.parent == self._runner.pid)
        return any(is_node(process.arguments, node) for process in processes)

    def _lives(self, process: Process) -> bool:
        found = self._processes.find(process.pid)
        return found is not None and found.start == process.start

    def _signal(self, process: Process, number: signal.Signals) -> None:
        """Signal that very process, or none."""
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        try:
            if self._lives(process):
                signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            return
        except PermissionError as problem:
            raise CannotAct(f"{number.name} to process {process.pid}: {problem.strerror}") from problem
        finally:
            os.close(pidfd)
