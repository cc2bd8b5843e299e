"""Pages of lists: ``?limit=`` and ``?after=``, over names that are sorted. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from discovery import limits
from discovery.api.call import Call
from discovery.api.codec import decimal

_Item = TypeVar("_Item")
PAGE_QUERY: Final = frozenset({"limit", "after"})


class Page(msgspec.Struct, frozen=True):
    """What part of a list is wanted: at most ``limit`` items, those whose name is greater than ``after``."""

    limit: int
    after: str | None


def page_of(call: Call) -> Page:
    """The page that a request asks for."""
    limit = call.option("limit")
    wanted = limits.LIST_LIMIT_DEFAULT if limit is None else decimal("limit", limit, 1, limits.LIST_LIMIT_MAX)
    return Page(wanted, call.option("after"))


def names_after(names: Sequence[str], after: str | None) -> Iterator[str]:
    """The names greater than ``after`` in a sorted sequence."""
    start = 0 if after is None else bisect_right(names, after)
    return (names[position] for position in range(start, len(names)))


def len_of_nothing(_: object) -> int:
    """The size of items that are short by their nature."""
    return 0


def cut(
    items: Iterable[_Item], limit: int, name: Callable[[_Item], str], size: Callable[[_Item], int] = len_of_nothing
) -> tuple[list[_Item], str | None]:
    """The first ``limit`` items, and the name of the last one when there are more.

    A page ends early when its items would pass ``limits.LIST_BYTES_MAX`` by ``size``, but never empty.
    """
    found: list[_Item] = []
    total = 0
    for item in items:
        total += size(item)
        if found and (len(found) == limit or total > limits.LIST_BYTES_MAX):
            return found, name(found[-1])
        found.append(item)
    return found, None
