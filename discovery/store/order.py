"""Names in order, for reads by prefix that begin anywhere and stop early.

The names stand in blocks of at most ``BLOCK_MAX``; each block knows the last revision at which one of its names
changed. So among a million names a page costs what it returns, the last change below a prefix a look at each block,
and a name that comes or goes two binary searches.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from typing import Final

BLOCK_MAX: Final = 1024

Index = Callable[[str], int]
"""Revision of a name's last change, 0 when nobody remembers it."""


class Order:
    """The names; ``index`` tells the last change of each."""

    __slots__ = ("_blocks", "_changed", "_index", "_lasts")

    def __init__(self, index: Index, names: Iterable[str] = ()) -> None:
        ordered = sorted(names)
        half = BLOCK_MAX // 2
        self._index = index
        self._blocks = [ordered[start : start + half] for start in range(0, len(ordered), half)]
        self._lasts = [block[-1] for block in self._blocks]
        self._changed = [self._last_change(block) for block in self._blocks]

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def _last_change(self, block: list[str]) -> int:
        return max(map(self._index, block))

    def _block_of(self, name: str) -> int:
        """Position of the block where ``name`` stands or belongs; there must be one."""
        return min(bisect_left(self._lasts, name), len(self._lasts) - 1)

    def add(self, name: str, revision: int) -> None:
        """A new name, which changed at ``revision``, the newest."""
        if not self._blocks:
            self._blocks, self._lasts, self._changed = [[name]], [name], [revision]
            return
        position = self._block_of(name)
        block = self._blocks[position]
        insort(block, name)
        self._lasts[position] = block[-1]
        self._changed[position] = revision
        if len(block) > BLOCK_MAX:
            self._split(position)

    def _split(self, position: int) -> None:
        block = self._blocks[position]
        middle = len(block) // 2
        halves = [block[:middle], block[middle:]]
        self._blocks[position : position + 1] = halves
        self._lasts[position : position + 1] = [half[-1] for half in halves]
        self._changed[position : position + 1] = [self._last_change(half) for half in halves]

    def touch(self, name: str, revision: int) -> None:
        """A name that is there changed at ``revision``, the newest."""
        self._changed[self._block_of(name)] = revision

    def discard(self, name: str) -> None:
        """Drop a name that is there. Its block goes on counting its last change; let nobody ask for one so old."""
        position = self._block_of(name)
        block = self._blocks[position]
        del block[bisect_left(block, name)]
        if block:
            self._lasts[position] = block[-1]
        else:
            del self._blocks[position], self._lasts[position], self._changed[position]

    def names(self, prefix: str, after: str | None = None) -> Iterator[str]:
        """The names that begin with ``prefix`` and are greater than ``after``; nothing may come or go meanwhile."""
        beyond = after is not None and after >= prefix
        start = after if after is not None and beyond else prefix
        find = bisect_right if beyond else bisect_left
        for position in range(bisect_left(self._lasts, start), len(self._blocks)):
            block = self._blocks[position]
            for place in range(find(block, start), len(block)):
                if not block[place].startswith(prefix):
                    return
                yield block[place]

    def last_change(self, prefix: str) -> int:
        """The last change of any name that begins with ``prefix``; 0 when there is none."""
        last = 0
        for position in range(bisect_left(self._lasts, prefix), len(self._blocks)):
            block = self._blocks[position]
            if block[0].startswith(prefix) and block[-1].startswith(prefix):
                last = max(last, self._changed[position])
                continue
            found = block[bisect_left(block, prefix) :]
            inside = [name for name in found if name.startswith(prefix)]
            last = max(last, *map(self._index, inside)) if inside else last
            if len(inside) < len(found):
                break
        return last
