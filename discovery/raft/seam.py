"""The places where PySyncObj is opened: its source is pinned by hash, its clock, randomness and pickle are replaced.

The base class looks its module globals ``monotonicTime``, ``random`` and ``pickle`` up at each call, so they can be
replaced from outside. Time is frozen for one pass of one engine: all its decisions see one instant, and a simulation
decides which.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any, Final

import pysyncobj.syncobj as base
from pysyncobj.poller import Poller
from pysyncobj.transport import Transport

from discovery.errors import ConfigError
from discovery.raft.codec import RaftMessage, RequestVote, ResponseVote

SOURCE_SHA256: Final = "0a11793855918a76530c62ed40f4046e1c81d40867f64c906fec3d171bb0d7e8"
"""pysyncobj 0.3.14, syncobj.py. The core uses its private names: another source is another program."""


def verify_source(expected: str = SOURCE_SHA256) -> None:
    """Refuse to run on any other source than the one that was read and tested.

    Raises:
        ConfigError: the hash of the installed ``syncobj.py`` differs.
    """
    found = hashlib.sha256(Path(base.__file__).read_bytes()).hexdigest()
    if found != expected:
        raise ConfigError(
            f"pysyncobj: {base.__file__} has SHA-256 {found}, this release was built on {expected}: "
            "install exactly pysyncobj==0.3.14 from an untouched package"
        )


class Instant:
    """The instant and the randomness that PySyncObj sees. One engine at a time enters it; engines share a thread."""

    def __init__(self) -> None:
        self.now = 0.0
        self.source = random.Random(0)  # noqa: S311 - replaced at each pass by the engine's own

    def monotonic(self) -> float:
        """Seconds, on the clock of the engine that entered last."""
        return self.now

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return self.source.random()


instant: Final = Instant()


class _NoPickle:
    """Stands where PySyncObj's pickle module was: nothing from network or disk is ever executed."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"pickle.{name} is banned here: a message took a path that it must not take")


base.monotonicTime = instant.monotonic
base.random = instant
base.pickle = _NoPickle()


class NoPoller(Poller):  # type: ignore[misc]
    """The driver waits; PySyncObj never does."""

    def poll(self, timeout: float) -> None:
        """Return at once."""


class Outbox(Transport):  # type: ignore[misc]
    """PySyncObj's transport: collects what a pass sends. ``early`` may leave before the sync, ``late`` only after."""

    def __init__(self) -> None:
        super().__init__(None, None, [])
        self.early: list[tuple[str, RaftMessage]] = []
        self.late: list[tuple[str, RaftMessage]] = []

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        """What the base class sends by itself speaks of a vote, which must be durable first: it goes late."""
        if message["type"] == "request_vote":
            term, index, last = message["term"], message["last_log_index"], message["last_log_term"]
            self.late.append((node.id, RequestVote(term, index, last)))
        else:
            self.late.append((node.id, ResponseVote(message["term"], granted=True)))
        return True

    def take(self) -> tuple[list[tuple[str, RaftMessage]], list[tuple[str, RaftMessage]]]:
        """(early, late), and begin anew."""
        early, late = self.early, self.late
        self.early, self.late = [], []
        return early, late
