"""The set behind one RRset: O(1) to change, dealt out in slices that begin elsewhere each time.

Pure and deterministic: the order of an answer depends only on what was added, removed and asked before.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Ttls:
    """A multiset of TTLs in seconds, asked for its least (RFC 2181 section 5.2: one TTL for an RRset)."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] | None = None  # most instances name no TTL of their own

    def add(self, ttl: int | None) -> None:
        """Count one in; ``None`` is no TTL."""
        if ttl is not None:
            counts = self._counts = self._counts or {}
            counts[ttl] = counts.get(ttl, 0) + 1

    def remove(self, ttl: int | None) -> None:
        """Count one out that was counted in."""
        if ttl is not None and self._counts is not None:
            if self._counts[ttl] == 1:
                del self._counts[ttl]
            else:
                self._counts[ttl] -= 1

    def least(self, cap: int) -> int:
        """The least of all and ``cap``."""
        return min(cap, min(self._counts)) if self._counts else cap


class Rotor(Generic[T]):
    """A multiset whose distinct elements are dealt out in rotation.

    Equal elements (two instances on one address) are one record (RFC 2181 section 5). Removal moves the last
    element into the gap, so that a change costs the same in a set of two and of ten thousand.
    """

    __slots__ = ("_again", "_items", "_turn", "_where", "ttls")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._where: dict[T, int] = {}
        self._again: dict[T, int] | None = None  # how often more than once
        self._turn = 0
        self.ttls = Ttls()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, ttl: int | None) -> None:
        """Count ``item`` in, with the TTL (seconds) that its owner named."""
        if item in self._where:
            again = self._again = self._again or {}
            again[item] = again.get(item, 0) + 1
        else:
            self._where[item] = len(self._items)
            self._items.append(item)
        if ttl is not None:
            self.ttls.add(ttl)

    def remove(self, item: T, ttl: int | None) -> None:
        """Count ``item`` out, which must be in, with the TTL that was given then."""
        if ttl is not None:
            self.ttls.remove(ttl)
        if self._again and item in self._again:
            self._again[item] -= 1
            if not self._again[item]:
                del self._again[item]
            return
        at = self._where.pop(item)
        last = self._items.pop()
        if at < len(self._items):
            self._items[at] = last
            self._where[last] = at

    def replace(self, old: T, new: T, old_ttl: int | None, new_ttl: int | None) -> None:
        """Count ``old``, which must be in, out and ``new`` in; alone of its kind, it keeps the place."""
        if new in self._where or (self._again and old in self._again):
            self.remove(old, old_ttl)
            self.add(new, new_ttl)
            return
        at = self._where[new] = self._where.pop(old)
        self._items[at] = new
        if old_ttl != new_ttl:
            self.ttls.remove(old_ttl)
            self.ttls.add(new_ttl)

    def deal(self, count_max: int) -> list[T]:
        """At most ``count_max`` elements, beginning one further than the time before."""
        items = self._items
        size = len(items)
        if size < 2:
            return items[:]
        self._turn = start = (self._turn + 1) % size
        if size <= count_max:
            return items[start:] + items[:start]
        end = start + count_max
        return items[start:end] + items[: max(0, end - size)]

    def take_back(self) -> None:
        """Undo the last :meth:`deal`, whose elements were not given away."""
        if self._items:
            self._turn = (self._turn - 1) % len(self._items)
