"""What readings tell about writes of unknown outcome, so that the search for an order need not guess it. Pure.

A value that one operation alone writes, and that was read under one revision, was written by that operation, at that
revision, before the first such reading ended. Values that nobody read are all the same to everybody. Neither changes
which histories are linearizable; both keep the search small when many outcomes are unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from discovery.testing.models import Decided, Delete, Found, Get, Input, Operation, Output, Put, Txn, Wrote

UNSEEN: Final = "(a value that nobody read)"

_Value = tuple[str, str]
_Ends = Mapping[int, float]
"""Revisions that a value was read under, with the earliest end of such a reading."""


def settle(operations: Sequence[Operation]) -> list[Operation]:
    """The same operations in the same order, what is known of them by their readers put in."""
    writers = Counter((op.key, op.value) for one in operations for op in _puts(one.call))
    readings: dict[_Value, dict[int, float]] = {}
    for one in operations:
        for key, found in _readings(one):
            if found.value is not None and one.returned is not None:
                ends = readings.setdefault((key, found.value), {})
                ends[found.revision] = min(one.returned, ends.get(found.revision, one.returned))
    return [one if one.output is not None else _settled(one, writers, readings) for one in operations]


def _puts(call: Input) -> list[Put]:
    ops: tuple[Get | Put | Delete, ...] = (*call.then, *call.orelse) if isinstance(call, Txn) else (call,)
    return [op for op in ops if isinstance(op, Put)]


def _readings(one: Operation) -> Iterator[tuple[str, Found]]:
    if isinstance(one.call, Get) and isinstance(one.output, Found):
        yield one.call.key, one.output
    elif isinstance(one.call, Txn) and isinstance(one.output, Decided):
        branch = one.call.then if one.output.succeeded else one.call.orelse
        for op, result in zip(branch, one.output.results, strict=False):
            if isinstance(result, Found):
                yield op.key, result


def _settled(one: Operation, writers: Mapping[_Value, int], readings: Mapping[_Value, _Ends]) -> Operation:
    """An operation of unknown outcome; as it was where its readers contradict each other, for the search to reject."""
    ends: dict[int, float] = {}
    for op in _puts(one.call):
        for revision, end in readings.get((op.key, op.value), {}).items():
            if writers[op.key, op.value] != 1:
                return one
            ends[revision] = min(end, ends.get(revision, end))
    if not ends:
        return msgspec.structs.replace(one, call=_unseen(one.call))
    [(revision, end), *others] = ends.items()
    output = _output(one.call, revision)
    if others or output is None or end < one.invoked:
        return one
    return msgspec.structs.replace(one, returned=end, output=output)


def _output(call: Input, revision: int) -> Output | None:
    if isinstance(call, Put):
        return Wrote(revision)
    if isinstance(call, Txn) and not any(isinstance(op, Put) for op in call.orelse):
        results = tuple(Wrote(revision) for op in call.then if isinstance(op, Put))
        return Decided(True, revision, results) if len(results) == len(call.then) else None
    return None


def _unseen(call: Input) -> Input:
    if isinstance(call, Put):
        return msgspec.structs.replace(call, value=UNSEEN)
    if isinstance(call, Txn):
        then, orelse = (tuple(map(_unseen, branch)) for branch in (call.then, call.orelse))
        return msgspec.structs.replace(call, then=then, orelse=orelse)
    return call
