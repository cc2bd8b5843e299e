"""What the registry's rooms ask of Raft (:class:`discovery.raft.raft.Raft`), and what they share about leadership."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from discovery import levels
from discovery.command import Command, level_of
from discovery.errors import Conflict
from discovery.leases import LeaseClock, Lessor
from discovery.raft.admin import Admin
from discovery.raft.types import RaftStatus

logger: Final = logging.getLogger(__name__)

LOOK_S: Final = 0.05


class Consensus(Protocol):
    """The facade of Raft, as the registry sees it."""

    async def propose(self, command: bytes, timeout_s: float, term: int | None = None) -> Any:
        """Replicate a command; raises NotApplied or OutcomeUnknown."""

    async def confirm(self) -> int:
        """A leadership round that begins after this call; raises NotApplied."""

    async def read_barrier(self, timeout_s: float) -> None:
        """Wait until local state holds all that was acknowledged; raises Unavailable."""

    def request(self, peer: str, kind: str, payload: bytes, timeout_s: float) -> asyncio.Future[bytes]:
        """Ask a member; the question is in its stream when this returns."""

    def on_request(self, kind: str, handler: Callable[[str, bytes], bytes | Awaitable[bytes]]) -> None:
        """Answer such questions; what the handler does before it returns keeps its place in the stream."""

    def before_round(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` before each answer to a leader's round."""

    def status(self) -> RaftStatus:
        """The cluster as this node sees it."""

    @property
    def admin(self) -> Admin:
        """Members added and removed, leadership handed over."""


def understood(command: Command, raft: Consensus) -> Command:
    """The command, if all members understand it; raises Conflict, so that it does not come into the log."""
    if (needed := level_of(command)) > levels.BASE and needed > (level := raft.status().level):
        raise Conflict(f"this needs feature level {needed}, the cluster is at {level} until all members know it")
    return command


class Leadership:
    """Who leads, as Raft told last, and the lease clocks of the time in which it is this node.

    Attributes:
        ready: this node leads and has applied the no-op of its term; only then the lessor has clocks.
        lessor: the clocks.
    """

    def __init__(self, node: str, clock: Callable[[], float]) -> None:
        self.node = node
        self.leader: str | None = None
        self.term = 0
        self.ready = False
        self.lessor = Lessor()
        self._clock = clock
        self._lease_clock = LeaseClock(clock())
        self._stalls = 0
        self._looking: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Lease time in seconds."""
        return self._lease_clock.now(self._clock())

    @property
    def stalls(self) -> int:
        """How often the process was found to have stood still while it led."""
        return self._stalls + self._lease_clock.stalls

    def look(self) -> None:
        """Look at the clock from now on, often enough that only a real stall is a gap; ends with the leadership.

        Lease time begins anew: it means nothing from one leadership to the next.
        """
        if self._looking is None:
            self._stalls = self.stalls
            self._lease_clock = LeaseClock(self._clock())
            self._look()

    def _look(self) -> None:
        self.now()
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self.ready else None

    def stop(self) -> None:
        """Do not look any more."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None


def report(what: str, error: BaseException) -> None:
    """A background task died, where nobody ends the process for that."""
    logger.critical("%s died", what, exc_info=error)


class Tasks:
    """Background tasks that must not die in silence.

    Args:
        fatal: is told what died of which error; it ends the process.
    """

    def __init__(self, fatal: Callable[[str, BaseException], object]) -> None:
        self._fatal = fatal
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, what: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work``; an exception in it is fatal."""
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def cancel(self) -> None:
        """Cancel all."""
        for task in list(self._tasks):
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(task.get_name(), error)
