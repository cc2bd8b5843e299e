"""Numbered slots in which ids wait for their time: the structure under the lease clocks. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class Wheel:
    """Ids in numbered slots; the caller remembers the slot of an id. O(1), or O(log slots) amortised."""

    __slots__ = ("_order", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, set[int]] = {}
        self._order: list[int] = []

    def add(self, slot: int, ids: Iterable[int]) -> None:
        """Put ids in a slot; each must be in none."""
        present = self._slots.get(slot)
        if present is not None:
            present.update(ids)
            return
        self._slots[slot] = set(ids)
        heapq.heappush(self._order, slot)
        # Slots that became empty leave their number behind in the heap: not more of them than of full ones.
        if len(self._order) > 2 * len(self._slots) + 1024:
            self._order = sorted(self._slots)

    def remove(self, slot: int, id: int) -> None:
        """Take an id out of its slot; no error when it is not there."""
        present = self._slots.get(slot)
        if present is not None:
            present.discard(id)
            if not present:
                del self._slots[slot]

    def first(self) -> int | None:
        """The lowest slot that holds anything."""
        while self._order and self._order[0] not in self._slots:
            heapq.heappop(self._order)
        return self._order[0] if self._order else None

    def take(self, slot: int, count: int) -> list[int]:
        """At most ``count`` ids of one slot, the lowest one up to ``slot``; they are out of the wheel then."""
        first = self.first()
        if first is None or first > slot:
            return []
        present = self._slots[first]
        if len(present) <= count:
            del self._slots[first]
            heapq.heappop(self._order)
            return list(present)
        return [present.pop() for _ in range(count)]
