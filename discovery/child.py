"""A process that should be running, and how soon it is started again when it dies; part of the supervisor."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger("discovery.supervisor")

RESTART_S_MIN: Final = 0.1
RESTART_S_MAX: Final = 5.0
STEADY_S: Final = 3.0  # a child that lived this long is restarted at once again


class Backoff:
    """When to start a child again: at once, then after 0.1, 0.2, 0.4 … 5 s, at once again after a steady life."""

    def __init__(self) -> None:
        self.failures = 0

    def delay_s(self, lived_s: float) -> float:
        """Seconds to wait after a child has died that lived for ``lived_s`` seconds."""
        if lived_s >= STEADY_S:
            self.failures = 0
        self.failures += 1
        if self.failures == 1:
            return 0.0
        return min(RESTART_S_MIN * 2.0 ** (self.failures - 2), RESTART_S_MAX)


class Adopted:
    """A child from before the supervisor re-executed itself; as much of :class:`subprocess.Popen` as is used."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> None:
        """Reap it."""
        os.waitpid(self.pid, 0)


class Child:
    """One process that should be running: the node, or a DNS worker."""

    def __init__(self, name: str, start: Callable[[Child], subprocess.Popen[bytes]]) -> None:
        self.name = name
        self._start = start
        self._backoff = Backoff()
        self.popen: subprocess.Popen[bytes] | Adopted | None = None
        self.started = 0.0
        self.starts = 0
        self.due: float | None = 0.0  # monotonic time of the next start; None while it runs or must not run

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self.popen.pid if self.popen else None

    def told(self, now: float) -> tuple[str, int, float]:
        """Its name, how often it was started, and for how many seconds its next start is held back (0: it is not)."""
        return self.name, self.starts, 0.0 if self.due is None else round(max(0.0, self.due - now), 3)

    def adopt(self, pid: int) -> None:
        """It runs already, as process ``pid``; 0: it does not, and is due."""
        if pid:
            self.popen, self.starts, self.due = Adopted(pid), 1, None

    def start(self, now: float) -> None:
        """Start it; the kernel's refusal (memory, processes) counts as a death."""
        self.started, self.due = now, None
        try:
            self.popen = self._start(self)
        except OSError as problem:
            logger.error("cannot start %s: %s", self.name, problem)
            self.due = now + max(RESTART_S_MIN, self._backoff.delay_s(0.0))
        self.starts += 1

    def died(self, status: int, now: float, again: bool) -> float | None:
        """Record its death; returns the seconds until it is started again, ``None`` when it is not."""
        assert self.popen is not None
        self.popen.returncode = status  # so that Popen does not look for it
        self.popen = None
        if not again:
            return None
        delay = self._backoff.delay_s(now - self.started)
        self.due = now + delay
        return delay

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs. It is not reaped elsewhere, so the pid is its own."""
        if self.popen is not None:
            os.kill(self.popen.pid, number)
