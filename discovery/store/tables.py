"""The whole replicated state, as data: every field of it is in the snapshot or follows from what is."""

from __future__ import annotations

from discovery.store.catalog import Catalog
from discovery.store.dedup import Dedup
from discovery.store.history import ChangeLog, EventLog
from discovery.store.keyspace import Keyspace
from discovery.store.leases import Leases
from discovery.store.shared import Shared


class Tables:
    """The tables of one state machine. Only :class:`discovery.store.work.Work` changes them."""

    __slots__ = (
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
        "time_ms",
    )

    def __init__(self) -> None:
        self.history = ""
        self.revision = 0
        self.serial = 0
        self.time_ms = 0
        self.catalog = Catalog()
        self.keys = Keyspace()
        self.leases = Leases()
        self.log = ChangeLog()
        self.events = EventLog()
        self.dedup = Dedup()
        self.shared = Shared()
