"""What a registry of keys may answer when one thing happens after the other: the sequential half of linearizability.

Pure. :meth:`Registry.step` says into which states an operation may lead from a state, given what the caller was told;
none means that the answer is impossible there. Revisions are part of the specification: one counter that every change
raises, so a write's revision is above all that was seen before it, and a reading names the revision it was made at.
Where an answer is unknown the revision is open until somebody reads it, and a comparison with it may turn out either
way: the model then errs on the side of the registry.
"""

from __future__ import annotations

from math import inf
from typing import Final

import msgspec


class Get(msgspec.Struct, frozen=True, tag=True):
    """A strong reading of one key."""

    key: str


class Put(msgspec.Struct, frozen=True, tag=True):
    """A write; ``if_revision`` makes it a compare-and-swap, 0: the key must not exist."""

    key: str
    value: str
    if_revision: int | None = None


class Delete(msgspec.Struct, frozen=True, tag=True):
    """A removal; of what is absent it changes nothing."""

    key: str
    if_revision: int | None = None


class Txn(msgspec.Struct, frozen=True, tag=True):
    """If every key of ``compare`` has that revision (0: is absent) then ``then``, else ``orelse``; in one revision."""

    compare: tuple[tuple[str, int], ...]
    then: tuple[Get | Put | Delete, ...]
    orelse: tuple[Get | Put | Delete, ...] = ()


class Found(msgspec.Struct, frozen=True, tag=True):
    """What a reading saw: the value (``None``: absent), its revision, and the registry's revision at that moment."""

    value: str | None
    revision: int = 0
    as_of: int | None = None


class Wrote(msgspec.Struct, frozen=True, tag=True):
    """A write took place. ``created``: whether the key was absent before, where the answer says so."""

    revision: int | None = None
    created: bool | None = None


class Deleted(msgspec.Struct, frozen=True, tag=True):
    """A removal took place. ``count`` and ``revision`` where the answer says so."""

    count: int | None = None
    revision: int | None = None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The condition did not hold; nothing changed."""


class Decided(msgspec.Struct, frozen=True, tag=True):
    """A transaction was done: which branch, its revision, and what each operation of the branch answered."""

    succeeded: bool
    revision: int
    results: tuple[Found | Wrote | Deleted, ...]


Input = Get | Put | Delete | Txn
Output = Found | Wrote | Deleted | Refused | Decided


class Operation(msgspec.Struct, frozen=True):
    """One operation of one client as it was seen from outside, with monotonic times in seconds.

    ``returned`` and ``output`` are ``None`` when its outcome is unknown; ``note`` says which node answered.
    """

    client: int
    call: Input
    invoked: float
    returned: float | None = None
    output: Output | None = None
    note: str = ""

    def __str__(self) -> str:
        end = "…" if self.returned is None else f"{self.returned:.4f}"
        told = "unknown" if self.output is None else str(self.output)
        return (
            f"[{self.invoked:.4f} - {end}] client {self.client}{self.note and f' at {self.note}'}: {self.call} → {told}"
        )


class Cell(msgspec.Struct, frozen=True):
    """A present key. ``revision`` is ``None`` while nobody has told it; it is above ``above`` then."""

    value: str
    revision: int | None
    above: int = 0


class State(msgspec.Struct, frozen=True):
    """Present keys, and the highest revision that anybody has seen (``floor``)."""

    floor: int = 0
    cells: tuple[tuple[str, Cell], ...] = ()

    def cell(self, key: str) -> Cell | None:
        """The key's cell, ``None`` when it is absent."""
        return next((cell for name, cell in self.cells if name == key), None)

    def with_cell(self, key: str, cell: Cell | None) -> State:
        """The same with this key changed; ``None`` removes it."""
        others = [item for item in self.cells if item[0] != key]
        return State(self.floor, tuple(sorted([*others, (key, cell)] if cell else others, key=_name)))

    def seen(self, revision: int | None) -> State:
        """The same after somebody was told a revision."""
        return self if revision is None or revision <= self.floor else State(revision, self.cells)


def _name(item: tuple[str, Cell]) -> str:
    return item[0]


YES: Final = (True,)
NO: Final = (False,)
EITHER: Final = (True, False)


def _matches(state: State, key: str, revision: int | None) -> tuple[bool, ...]:
    """How a comparison with a key's revision may turn out."""
    cell = state.cell(key)
    if revision is None:
        return YES
    if cell is None:
        return YES if revision == 0 else NO
    if cell.revision is not None:
        return YES if revision == cell.revision else NO
    return EITHER if revision > cell.above else NO


def keys_of(operation: Input) -> tuple[str, ...]:
    """The keys that an operation touches."""
    if not isinstance(operation, Txn):
        return (operation.key,)
    inner = [op.key for op in (*operation.then, *operation.orelse)]
    return tuple(dict.fromkeys([*(key for key, _ in operation.compare), *inner]))


class Registry:
    """The sequential registry: keys, compare-and-swap, removal, transactions; instances are keys with one rule more."""

    initial: Final = State()

    def clock(self, state: State) -> float:
        """A number that no step lowers."""
        return state.floor

    def deadline(self, output: Output | None) -> float:
        """The highest clock at which this may still be answered."""
        match output:
            case Found(as_of=int(as_of)):
                return as_of
            case Wrote(revision=int(revision)):
                return revision - 1
            case Deleted(revision=int(revision)) | Decided(revision=revision):
                return revision
        return inf

    def step(self, state: State, call: Input, output: Output | None) -> list[State]:
        """The states that ``call`` may lead to when its caller is told ``output``.

        Args:
            output: ``None`` when the caller was told nothing: then only states that a change leads to are given, as
                an operation without an answer need not have happened.
        """
        if isinstance(call, Get):
            return _get(state, call, output)
        if isinstance(call, Txn):
            return _txn(state, call, output)
        may = _matches(state, call.key, call.if_revision)
        if isinstance(output, Refused):
            return [state] if False in may else []
        if True not in may:
            return []
        state = state.seen(call.if_revision)
        return _put(state, call, output) if isinstance(call, Put) else _delete(state, call, output)


def _get(state: State, call: Get, output: Output | None) -> list[State]:
    if output is None or not isinstance(output, Found) or (output.as_of is not None and output.as_of < state.floor):
        return []
    cell = state.cell(call.key)
    if cell is None or output.value is None:
        return [state.seen(output.as_of)] if cell is None and output.value is None else []
    if cell.value != output.value:
        return []
    if cell.revision is None:
        if output.revision <= cell.above or (output.as_of is not None and output.revision > output.as_of):
            return []
        state = state.with_cell(call.key, Cell(cell.value, output.revision))
    elif cell.revision != output.revision:
        return []
    return [state.seen(output.revision).seen(output.as_of)]


def _put(state: State, call: Put, output: Output | None) -> list[State]:
    if output is None:
        return [state.with_cell(call.key, Cell(call.value, None, state.floor))]
    if not isinstance(output, Wrote) or (output.revision is not None and output.revision <= state.floor):
        return []
    if output.created is not None and output.created != (state.cell(call.key) is None):
        return []
    above = 0 if output.revision is not None else state.floor
    return [state.with_cell(call.key, Cell(call.value, output.revision, above)).seen(output.revision)]


def _delete(state: State, call: Delete, output: Output | None) -> list[State]:
    there = state.cell(call.key) is not None
    if output is None:
        return [state.with_cell(call.key, None)] if there else []
    if not isinstance(output, Deleted) or (output.count is not None and output.count != there):
        return []
    if output.revision is not None and output.revision < state.floor + (1 if there else 0):
        return []
    return [state.with_cell(call.key, None).seen(output.revision)]


def _txn(state: State, call: Txn, output: Output | None) -> list[State]:
    if output is not None and not isinstance(output, Decided):
        return []
    ways = [_matches(state, key, revision) for key, revision in call.compare]
    branches = [True] if all(True in way for way in ways) else []
    branches += [False] if any(False in way for way in ways) else []
    found = []
    for succeeded in branches:
        if output is None or output.succeeded == succeeded:
            found += _branch(_known(state, call) if succeeded else state, call, succeeded, output)
    return found


def _known(state: State, call: Txn) -> State:
    """A comparison that held tells the revision of its key."""
    for key, revision in call.compare:
        cell = state.cell(key)
        if cell is not None and cell.revision is None:
            state = state.with_cell(key, Cell(cell.value, revision))
        state = state.seen(revision)
    return state


_ANSWERS: Final = {Get: Found, Put: Wrote, Delete: Deleted}


def _branch(state: State, call: Txn, succeeded: bool, output: Decided | None) -> list[State]:
    ops = call.then if succeeded else call.orelse
    before, changed = state, False
    revision = output.revision if output is not None else None
    if output is not None and [type(result) for result in output.results] != [_ANSWERS[type(op)] for op in ops]:
        return []
    for position, op in enumerate(ops):
        there = state.cell(op.key)
        result = output.results[position] if output is not None else None
        if isinstance(op, Get):
            states = [state] if result is None else _get(state, op, result)
            if not states:
                return []
            [state] = states
        elif isinstance(op, Put):
            changed = True
            state = state.with_cell(op.key, Cell(op.value, revision, state.floor if revision is None else 0))
        else:
            if isinstance(result, Deleted) and result.count is not None and result.count != (there is not None):
                return []
            changed = changed or there is not None
            state = state.with_cell(op.key, None)
    if output is None:
        return [state] if state.cells != before.cells else []
    if output.revision < state.floor + (1 if changed else 0):
        return []
    return [state.seen(output.revision)]
