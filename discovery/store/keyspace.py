"""The public keys, with sorted reads by prefix.

A sorted list of keys follows the dictionary lazily: a deleted key stays in it until many are dead, new keys wait
aside until somebody reads. So ten thousand keys that come or go at once cost what one read costs, not ten
thousand shifts of a long list.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from discovery.model import Change, KeyRecord

_INSERTED_ONE_BY_ONE_MAX = 16
_DEAD_MIN = 1024


class Keyspace:
    """Public keys and their records; ``bytes`` is the size of keys (in characters) and values together.

    Together ``_order`` and ``_new`` hold every key once that lives, is gone (deleted, its index still known) or is dead
    (deleted, and forgotten by the change log).
    """

    __slots__ = ("_dead", "_new", "_order", "bytes", "changed", "gone", "records")

    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}
        self.gone: dict[str, int] = {}
        self.bytes = 0
        self.changed = 0
        self._order: list[str] = []
        self._new: list[str] = []
        self._dead: set[str] = set()

    def put(self, key: str, record: KeyRecord) -> None:
        """Add or replace a key."""
        old = self.records.get(key)
        if old is None:
            self.bytes += len(key)
            self._list(key)
        else:
            self.bytes -= len(old.value)
        self.bytes += len(record.value)
        self.records[key] = record
        self.changed = record.mod_revision

    def _list(self, key: str) -> None:
        if self.gone.pop(key, None) is not None:
            return
        if key in self._dead:
            self._dead.remove(key)
        else:
            self._new.append(key)

    def remove(self, key: str, revision: int) -> None:
        """Remove a key that is there."""
        self.bytes -= len(key) + len(self.records.pop(key).value)
        self.gone[key] = revision
        self.changed = revision

    def with_prefix(self, prefix: str) -> list[str]:
        """The living keys that begin with ``prefix``, sorted."""
        return [key for key in self._range(prefix) if key in self.records]

    def index(self, key: str, floor: int) -> int:
        """Last change of a key, deletion included, or the floor."""
        record = self.records.get(key)
        return self.gone.get(key, floor) if record is None else record.mod_revision

    def prefix_index(self, prefix: str, floor: int) -> int:
        """Last change of any key that begins with ``prefix``, or the floor when that is later.

        A deletion that the change log forgot may have been later than what lives; the floor covers it.
        """
        last = self.changed if not prefix else max((self.index(key, 0) for key in self._range(prefix)), default=0)
        return max(last, floor)

    def _range(self, prefix: str) -> Iterator[str]:
        """Keys with ``prefix``, living and gone."""
        order = self._sorted()
        for position in range(bisect_left(order, prefix), len(order)):
            key = order[position]
            if not key.startswith(prefix):
                return
            yield key

    def _sorted(self) -> list[str]:
        if self._new:
            if len(self._new) <= _INSERTED_ONE_BY_ONE_MAX:
                for key in self._new:
                    insort(self._order, key)
            else:
                self._order.extend(self._new)
                self._order.sort()
            self._new = []
        return self._order

    def forget(self, changes: Iterable[Change], floor: int) -> None:
        """Drop what is gone since ``floor`` or before: ``changes`` have just left the change log."""
        for change in changes:
            if change.resource == "key" and self.gone.get(change.name, floor + 1) <= floor:
                del self.gone[change.name]
                self._dead.add(change.name)
        if len(self._dead) > _DEAD_MIN and 2 * len(self._dead) > len(self._order):
            self._order = [key for key in self._sorted() if key not in self._dead]
            self._dead = set()

    def remember(self, changes: Iterable[Change], revision: int) -> None:
        """Note deletions of the change log again, after a snapshot was loaded (oldest first)."""
        for change in changes:
            if change.kind == "delete" and change.resource == "key" and change.name not in self.records:
                if change.name not in self.gone:
                    self._new.append(change.name)
                self.gone[change.name] = revision
