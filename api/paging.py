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


def cut(items: Iterable[_Item], limit: int, name: Callable[[_Item], str]) -> tuple[list[_Item], str | None]:
    """The first ``limit`` items, and the name of the last one when there are more."""
    found: list[_Item] = []
    for item in items:
        if len(found) == limit:
            return found, name(found[-1])
        found.append(item)
    return found, None
