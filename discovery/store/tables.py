"""The whole replicated state, as data: every field of it is in the snapshot or follows from what is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from discovery.store.brakes import Brakes
from discovery.store.catalog import Catalog
from discovery.store.dedup import Dedup
from discovery.store.history import ChangeLog, EventLog
from discovery.store.keyspace import Keyspace
from discovery.store.leases import Leases
from discovery.store.shared import Shared

if TYPE_CHECKING:
    from discovery.store.staging import Checked


class Staged:
    """A backup on its way into an empty cluster.

    Args:
        time_ms: log time of its last part.
        parts: as they came; that is what a snapshot holds.
        size: bytes of all parts.
        loaded: the state that they make so far; follows from ``parts``, ``None`` when it must be made again.
    """

    __slots__ = ("id", "loaded", "parts", "size", "time_ms")

    def __init__(self, id: int, time_ms: int) -> None:
        self.id = id
        self.time_ms = time_ms
        self.parts: list[bytes] = []
        self.size = 0
        self.loaded: Checked | None = None

    def add(self, part: bytes, time_ms: int) -> None:
        """Keep the next part."""
        self.parts.append(part)
        self.size += len(part)
        self.time_ms = time_ms


class Tables:
    """The tables of one state machine. Only :class:`discovery.store.work.Work` changes them.

    ``base`` is the revision at which a backup was restored: everything that can be asked for has changed then.
    """

    __slots__ = (
        "base",
        "brakes",
        "catalog",
        "dedup",
        "events",
        "history",
        "keys",
        "leases",
        "log",
        "revision",
        "serial",
        "shared",
        "staged",
        "time_ms",
    )

    def __init__(self) -> None:
        self.history = ""
        self.revision = 0
        self.serial = 0
        self.base = 0
        self.time_ms = 0
        self.catalog = Catalog()
        self.keys = Keyspace()
        self.leases = Leases()
        self.brakes = Brakes()
        self.log = ChangeLog()
        self.events = EventLog()
        self.dedup = Dedup()
        self.shared = Shared()
        self.staged: Staged | None = None
