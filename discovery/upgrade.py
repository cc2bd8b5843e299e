"""Replacing a running daemon by the version that is installed now, without losing an answer (guarantee 6).

On SIGUSR2 the supervisor first has the new version try itself (:func:`preflight`: the same command line, its modules
and configuration, no socket touched). If that ends well it re-executes itself: the process id, the listening sockets
and the children stay, what must be known about them travels in one environment variable (:class:`Handover`). Then the
new supervisor replaces the node process, and when that serves, the DNS workers one by one (:class:`Roll`): the
successor joins the port before its predecessor leaves it.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from discovery.child import Child

logger: Final = logging.getLogger("discovery.supervisor")

HANDOVER: Final = "DISCOVERY_HANDOVER"
CHECK: Final = "DISCOVERY_UPGRADE_CHECK"
CHECK_S_MAX: Final = 30.0  # for the installed version to try itself
NODE_S_MAX: Final = 25.0  # for the node process to hand over leadership and end
WORKER_S_MAX: Final = 5.0
MODULES: Final = ("discovery.node", "discovery.dns.worker")


class Handover(msgspec.Struct, frozen=True):
    """What a supervisor leaves to itself over ``execve``.

    Args:
        http, dns, raft: descriptors of the listening sockets, in the order of the options.
        directory: descriptor and path of the private directory with the feed socket.
        control: descriptor of the channel to the node process, and what was read of an unfinished line.
        node: process id, 0 when it was just being restarted.
        workers: process ids by index, 0 likewise.
        counts: upgrades begun, refused and failed so far, this one included.
    """

    http: tuple[int, ...]
    dns: tuple[int, ...]
    raft: tuple[int, ...]
    directory: tuple[int, str]
    control: tuple[int, bytes]
    node: int
    workers: tuple[int, ...]
    counts: tuple[int, int, int] = (1, 0, 0)

    def listeners(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Descriptors of the listening sockets: HTTP, DNS, Raft."""
        return self.http, self.dns, self.raft

    def descriptors(self) -> tuple[int, ...]:
        """All that must stay open."""
        return (*self.http, *self.dns, *self.raft, self.directory[0], self.control[0])


def take(env: dict[str, str] | os._Environ[str] = os.environ) -> Handover | None:
    """What this process left to itself, if it was re-executed; taken once, so that no child inherits it."""
    text = env.pop(HANDOVER, "")
    return msgspec.json.decode(text, type=Handover) if text else None


def execute(handover: Handover) -> None:
    """Become the new version; returns only by an OSError.

    The signals of the supervisor are blocked until the new one can take them: one that came in between would kill it.
    """
    for fd in handover.descriptors():
        os.set_inheritable(fd, True)
    environment = os.environ | {HANDOVER: msgspec.json.encode(handover).decode()}
    try:
        os.execve(sys.executable, command(), environment)  # noqa: S606 -- our own command line
    finally:
        for fd in handover.descriptors():
            os.set_inheritable(fd, False)


def command() -> list[str]:
    """The command line that started this process, with the same interpreter."""
    return [sys.executable, *sys.orig_argv[1:]]


def preflight() -> subprocess.Popen[bytes]:
    """Start the new version's trial of itself; exit code 0: it can be changed to."""
    return subprocess.Popen(  # noqa: S603 -- our own command line
        command(), stdin=subprocess.DEVNULL, stdout=2, env=os.environ | {CHECK: "1"}, start_new_session=True
    )


def trial(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is such a trial. Raises ImportError (and kin) when the version cannot work."""
    if env.get(CHECK) != "1":
        return False
    for module in MODULES:
        importlib.import_module(module)
    return True


class Trial(Child):
    """The installed version trying itself, with whatever it starts; killed when it has not ended in its time."""

    def __init__(self) -> None:
        super().__init__("the trial", lambda child: preflight())
        self._overdue = False

    def deadline(self) -> float | None:
        """Monotonic time at which it is killed; ``None`` when it does not run, or is killed already."""
        return None if self.popen is None or self._overdue else self.started + CHECK_S_MAX

    def enforce(self) -> None:
        """Kill it if its time is over."""
        deadline = self.deadline()
        if deadline is not None and time.monotonic() >= deadline:
            self._overdue = True
            logger.error("the installed version did not end its trial within %g s and is killed", CHECK_S_MAX)
            self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """To its whole session. It is not reaped elsewhere, so the number is its own."""
        if self.popen is not None:
            os.killpg(self.popen.pid, number)


def formers(pids: Sequence[int], start: Callable[[Child], subprocess.Popen[bytes]]) -> list[tuple[int, Child]]:
    """The workers of the former version, each with its index.

    Args:
        pids: by index; 0: it was just being restarted, so that there is nobody to replace.
        start: as of every child; a former one is never started.
    """
    found = []
    for index, pid in enumerate(pids):
        if pid:
            former = Child(f"dns-{index} (former)", start)
            former.adopt(pid)
            found.append((index, former))
    return found


class Roll:
    """The order in which children are replaced: the node, then each worker, one after the other.

    It decides; the supervisor acts: ``successor`` puts a new worker beside an old one.

    Args:
        node: the child of the former version.
        workers: those of the former version that get a successor, each with its index.
        successor: starts a worker of the new version for an index and returns its child.
    """

    def __init__(self, node: Child, workers: Iterable[tuple[int, Child]], successor: Callable[[int], Child]) -> None:
        self._node = node
        self._old_node = node.pid
        self._queue = list(workers)
        self._successor = successor
        self._pair: tuple[Child, Child] | None = None
        self._told = False
        self._kill_at: float | None = None

    @property
    def done(self) -> bool:
        """Whether everything is of the new version."""
        return self._old_node is None and not self._queue and self._pair is None

    def deadline(self) -> float | None:
        """Monotonic time at which a child that was told to end is killed."""
        return self._kill_at

    def step(self, ready: bool, serving: Sequence[int]) -> None:
        """Go on as far as possible.

        Args:
            ready: the node process that runs now serves.
            serving: workers that are on the port, by process id.
        """
        if self._old_node is not None and self._node.pid != self._old_node:
            self._kill_at = None  # it has ended; the one that follows has all the time that it needs
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._end(signal.SIGKILL, None)
        if self._old_node is not None:
            self._replace_node(ready)
        if self._old_node is None and ready:
            self._replace_workers(serving)

    def _replace_node(self, ready: bool) -> None:
        if self._node.pid == self._old_node:
            if not self._told:
                self._end(signal.SIGTERM, NODE_S_MAX)
        elif ready:
            self._old_node, self._told = None, False

    def _replace_workers(self, serving: Sequence[int]) -> None:
        if self._pair is not None:
            old, new = self._pair
            if old.popen is None:
                self._pair, self._kill_at, self._told = None, None, False
            elif new.pid in serving and not self._told:
                self._end(signal.SIGTERM, WORKER_S_MAX)
        if self._pair is None and self._queue:
            index, old = self._queue.pop(0)
            self._pair = (old, self._successor(index))

    def _end(self, number: signal.Signals, patience_s: float | None) -> None:
        child = self._node if self._pair is None else self._pair[0]
        child.signal(number)
        self._told = True
        self._kill_at = None if patience_s is None else time.monotonic() + patience_s
