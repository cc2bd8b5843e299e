"""The public keys, with sorted reads by prefix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from discovery.model import Change, KeyRecord
from discovery.store.order import Order


class Keyspace:
    """Public keys and their records; ``bytes`` is the size of keys (in characters) and values together.

    The order holds every key once that lives or is gone (deleted, its index still known).
    """

    __slots__ = ("_order", "bytes", "changed", "gone", "records")

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.gone: dict[str, int] = {}
        self.bytes = 0
        self.changed = 0
        self._order = Order(self._index)

    def put(self, key: str, record: KeyRecord) -> None:
        """Add or replace a key."""
        revision = record.mod_revision
        known = key in self.records or self.gone.pop(key, None) is not None
        self._keep(key, record)
        self.changed = revision
        if known:
            self._order.touch(key, revision)
        else:
            self._order.add(key, revision)

    def _keep(self, key: str, record: KeyRecord) -> None:
        old = self.records.get(key)
        self.bytes += len(record.value) + (len(key) if old is None else -len(old.value))
        self.records[key] = record

    def load(self, key: str, record: KeyRecord) -> None:
        """Add a key of a snapshot, in any order of keys and revisions; :meth:`arrange` must follow before any read."""
        self._keep(key, record)

    def arrange(self) -> None:
        """Put in order what was loaded and remembered."""
        self._order = Order(self._index, (*self.records, *self.gone))

    def remove(self, key: str, revision: int) -> None:
        """Remove a key that is there."""
        self.bytes -= len(key) + len(self.records.pop(key).value)
        self.gone[key] = revision
        self.changed = revision
        self._order.touch(key, revision)

    def with_prefix(self, prefix: str, after: str | None = None) -> Iterator[str]:
        """The living keys that begin with ``prefix`` and are greater than ``after``, sorted."""
        return (key for key in self._order.names(prefix, after) if key in self.records)

    def index(self, key: str, floor: int) -> int:
        """Last change of a key, deletion included, or the floor."""
        record = self.records.get(key)
        return self.gone.get(key, floor) if record is None else record.mod_revision

    def _index(self, key: str) -> int:
        return self.index(key, 0)

    def prefix_index(self, prefix: str, floor: int) -> int:
        """Last change of any key that begins with ``prefix``, or the floor when that is later.

        A deletion that the change log forgot may have been later than what lives; the floor covers it.
        """
        return max(self._order.last_change(prefix) if prefix else self.changed, floor)

    def forget(self, changes: Iterable[Change], floor: int) -> None:
        """Drop what is gone since ``floor`` or before: ``changes`` have just left the change log."""
        for change in changes:
            if change.resource == "key" and self.gone.get(change.name, floor + 1) <= floor:
                del self.gone[change.name]
                self._order.discard(change.name)

    def remember(self, changes: Iterable[Change], revision: int) -> None:
        """Note deletions of the change log again, after a snapshot was loaded (oldest first); then :meth:`arrange`."""
        for change in changes:
            if change.kind == "delete" and change.resource == "key" and change.name not in self.records:
                self.gone[change.name] = revision
