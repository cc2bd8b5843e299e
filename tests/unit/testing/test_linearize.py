"""The judge is judged: it accepts what an atomic registry may answer, and rejects what none can."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from discovery.testing import history
from discovery.testing.linearize import Verdict, check, partition
from discovery.testing.models import (
    Cell,
    Decided,
    Delete,
    Deleted,
    Found,
    Get,
    Input,
    Operation,
    Output,
    Put,
    Refused,
    Registry,
    State,
    Txn,
    Wrote,
)
from discovery.testing.settle import settle

ABSENT = Found(None)


def op(invoked: float, returned: float | None, call: Input, output: Output | None = None) -> Operation:
    return Operation(0, call, invoked, returned, output)


def put(begin: float, end: float | None, value: str, revision: int | None = None, **more: int) -> Operation:
    return op(begin, end, Put("a", value, **more), None if end is None else Wrote(revision))


def get(begin: float, end: float, value: str | None, revision: int = 0, as_of: int | None = None) -> Operation:
    return op(begin, end, Get("a"), Found(value, revision, as_of))


def swap(begin: float, end: float | None, value: str, expected: int, revision: int = 0) -> Operation:
    told = Wrote(revision) if revision else Refused()
    return op(begin, end, Put("a", value, expected), None if end is None else told)


def delete(begin: float, end: float | None, count: int, revision: int) -> Operation:
    return op(begin, end, Delete("a"), None if end is None else Deleted(count, revision))


def move(begin: float, end: float | None, *compare: tuple[str, int], told: Decided | None = None) -> Operation:
    then = (Put("a", "moved"), Put("b", "moved"))
    return op(begin, end, Txn(compare, then, (Get("a"), Get("b"))), told)


GOOD = {
    "nothing at all": [],
    "one after the other": [put(0, 1, "x", 5), get(2, 3, "x", 5), put(4, 5, "y", 6), get(6, 7, "y", 6)],
    "a read beside a write sees the old value": [put(0, 1, "x", 5), put(2, 9, "y", 6), get(3, 4, "x", 5)],
    "a read beside a write sees the new value": [put(0, 1, "x", 5), put(2, 9, "y", 6), get(3, 4, "y", 6)],
    "at the very same moment they overlap": [put(0, 1, "x", 5), get(1, 2, None)],
    "two writes side by side end either way": [put(0, 9, "x", 6), put(0, 9, "y", 5), get(10, 11, "x", 6)],
    "an unknown write never took place": [put(0, None, "x"), get(5, 6, None), get(7, 8, None)],
    "an unknown write took place late": [put(0, None, "x"), get(5, 6, None), get(7, 8, "x", 9), get(9, 10, "x", 9)],
    "an unknown write beside a known one": [
        *(put(0, None, "x"), put(1, 2, "y", 5), get(3, 4, "y", 5), get(5, 6, "x", 7), get(7, 8, "x", 7))
    ],
    "one of two swaps wins": [put(0, 1, "x", 5), swap(2, 9, "y", 5, 6), swap(2, 9, "z", 5), get(10, 11, "y", 6)],
    "a swap fails because of an unknown write": [put(0, 1, "x", 5), put(2, None, "y"), swap(3, 4, "z", 5)],
    "a swap onto what an unknown write left": [put(0, None, "x"), swap(1, 2, "y", 7, 8), get(3, 4, "y", 8)],
    "an unknown swap took place": [put(0, 1, "x", 5), swap(2, None, "y", 5), get(3, 4, "y", 6)],
    "created once more after a removal": [put(0, 1, "x", 5), delete(2, 3, 1, 6), swap(4, 5, "y", 0, 7)],
    "removal of what is absent": [delete(0, 1, 0, 4), put(2, 3, "x", 5), delete(4, 5, 1, 6), delete(6, 7, 0, 6)],
    "an unknown removal explains absence": [put(0, 1, "x", 5), op(2, None, Delete("a")), get(3, 4, None)],
    "a reading names the revision of its moment": [put(0, 1, "x", 5), get(2, 3, "x", 5, 8), put(4, 5, "y", 9)],
    "a transaction moved both": [
        move(0, 1, ("a", 0), ("b", 0), told=Decided(True, 5, (Wrote(5), Wrote(5)))),
        get(2, 3, "moved", 5),
        op(2, 3, Get("b"), Found("moved", 5)),
    ],
    "a transaction looked at both": [
        put(0, 1, "x", 5),
        move(2, 3, ("a", 0), told=Decided(False, 5, (Found("x", 5), Found(None)))),
    ],
    "an unknown transaction took place": [move(0, None, ("a", 0)), op(2, 3, Get("b"), Found("moved", 5))],
    "an instance is made, replaced, made again": [
        op(0, 1, Put("a", "10.0.0.1"), Wrote(5, created=True)),
        op(2, 3, Put("a", "10.0.0.2"), Wrote(6, created=False)),
        op(4, 5, Delete("a"), Deleted()),
        op(6, 7, Put("a", "10.0.0.3"), Wrote(9, created=True)),
    ],
}

BAD = {
    "a stale read": [put(0, 1, "x", 5), put(2, 3, "y", 6), get(4, 5, "x", 5)],
    "a stale read of absence": [put(0, 1, "x", 5), get(2, 3, None)],
    "a lost write": [put(0, 1, "x", 5), get(2, 3, "x", 5), put(4, 5, "y", 6), get(6, 7, "x", 5)],
    "two reads that travel back": [*(put(0, 1, "x", 5), put(2, 20, "y", 6), get(3, 4, "y", 6), get(5, 6, "x", 5))],
    "readers that disagree about the order": [
        *(put(0, 3, "x", 5), put(0, 3, "y", 6), get(4, 5, "x", 5), get(6, 7, "y", 6))
    ],
    "a swap that succeeded twice": [put(0, 1, "x", 5), swap(2, 9, "y", 5, 6), swap(2, 9, "z", 5, 7)],
    "a swap onto an old revision": [put(0, 1, "x", 5), put(2, 3, "y", 6), swap(4, 5, "z", 5, 7)],
    "a swap refused though nobody else wrote": [put(0, 1, "x", 5), swap(2, 3, "y", 5)],
    "a refused swap that took place": [put(0, 1, "x", 5), swap(2, 3, "y", 4), get(4, 5, "y", 6)],
    "created twice": [swap(0, 9, "x", 0, 5), swap(0, 9, "y", 0, 6)],
    "a value that nobody wrote": [put(0, 1, "x", 5), get(2, 3, "ghost", 6)],
    "a failed write that took place": [get(2, 3, "failed, so left out", 6)],
    "a value before it was written": [get(0, 1, "x", 5), put(2, 3, "x", 5)],
    "an unknown write before it was sent": [get(0, 1, "x", 5), put(2, None, "x")],
    "an unknown write that surfaces twice": [
        *(put(0, None, "x"), put(1, 2, "y", 5), get(3, 4, "x", 6), put(5, 6, "z", 7), get(7, 8, "x", 8))
    ],
    "one unknown write under two revisions": [put(0, None, "x"), get(1, 2, "x", 5), get(3, 4, "x", 6)],
    "an unknown swap after its revision has passed": [
        *(put(0, 1, "x", 5), swap(2, None, "y", 5), put(3, 4, "z", 6), get(5, 6, "z", 6), get(7, 8, "y", 7))
    ],
    "a resurrected value": [put(0, 1, "x", 5), delete(2, 3, 1, 6), get(4, 5, None), get(6, 7, "x", 5)],
    "removed twice": [put(0, 1, "x", 5), delete(2, 9, 1, 6), delete(2, 9, 1, 7)],
    "nothing removed though it was there": [put(0, 1, "x", 5), delete(2, 3, 0, 5)],
    "a write below an earlier revision": [put(0, 1, "x", 5), put(2, 3, "y", 4)],
    "a revision used twice": [put(0, 1, "x", 5), put(2, 3, "y", 5)],
    "the right value under another revision": [put(0, 1, "x", 5), get(2, 3, "x", 6)],
    "a reading made before what was seen already": [put(0, 1, "x", 5), get(2, 3, "x", 5, 8), get(4, 5, "x", 5, 7)],
    "half of a transaction": [
        move(0, 1, ("a", 0), ("b", 0), told=Decided(True, 5, (Wrote(5), Wrote(5)))),
        op(2, 3, Get("b"), ABSENT),
    ],
    "half of an unknown transaction": [*(move(0, None, ("a", 0)), get(2, 3, "moved", 5), op(4, 5, Get("b"), ABSENT))],
    "a transaction that saw one write and not the one before it": [
        *(put(0, 1, "x", 5), op(2, 3, Put("b", "y"), Wrote(6))),
        move(4, 5, ("b", 9), told=Decided(False, 6, (ABSENT, Found("y", 6)))),
    ],
    "a transaction whose condition did not hold": [
        put(0, 1, "x", 5),
        move(2, 3, ("a", 4), told=Decided(True, 6, (Wrote(6), Wrote(6)))),
    ],
    "a transaction refused though its condition held": [
        put(0, 1, "x", 5),
        move(2, 3, ("a", 5), told=Decided(False, 5, (Found("x", 5), ABSENT))),
    ],
    "a transaction that answers what was not asked": [
        put(0, 1, "x", 5),
        move(2, 3, ("a", 5), told=Decided(True, 6, (Found("x", 5), ABSENT))),
    ],
    "an instance made twice": [
        op(0, 9, Put("a", "10.0.0.1"), Wrote(5, created=True)),
        op(0, 9, Put("a", "10.0.0.2"), Wrote(6, created=True)),
    ],
    "an instance that a deregistration left": [
        op(0, 1, Put("a", "10.0.0.1"), Wrote(5, created=True)),
        op(2, 3, Delete("a"), Deleted()),
        get(4, 5, "10.0.0.1", 5),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_it_accepts(name: str) -> None:
    assert check(GOOD[name]).outcome == "linearizable"


@pytest.mark.parametrize("name", BAD)
def test_it_rejects(name: str) -> None:
    assert check(BAD[name]).outcome == "violation"


@pytest.mark.parametrize("name", BAD)
def test_what_it_shows_of_a_bad_history_is_bad_and_the_shortest_beginning_that_is(name: str) -> None:
    shown = list(check(BAD[name]).operations)
    answered = [one for one in shown if one.returned is not None]
    last = answered[-1]
    without = [msgspec.structs.replace(one, returned=None, output=None) if one is last else one for one in shown]
    assert check(shown).outcome == "violation"
    assert check(without).outcome == "linearizable"


def test_a_bad_key_is_found_among_good_ones_and_named() -> None:
    elsewhere = [op(number, number + 0.5, Put(f"k{number}", "v"), Wrote(number + 1)) for number in range(20)]
    verdict = check([*elsewhere, *BAD["a stale read"]])
    assert not verdict
    assert verdict.keys == ("a",)
    assert {one.call.key for one in verdict.operations if not isinstance(one.call, Txn)} == {"a"}
    assert "violation" in str(verdict)
    assert "Get(key='a')" in str(verdict)


def test_keys_of_one_transaction_are_judged_together_and_no_others() -> None:
    parts = partition([get(0, 1, None), op(0, 1, Get("c"), ABSENT), op(2, 3, Get("b"), ABSENT), move(4, None)])
    assert sorted(keys for keys, _ in parts) == [("a", "b"), ("c",)]


def test_it_gives_up_after_its_limit_of_steps_and_says_so() -> None:
    writes = [swap(0, 1, f"v{number}", 0, number + 5) for number in range(12)]
    assert check(writes, steps_max=2).outcome == "undecided"
    assert check(writes).outcome == "violation"


def test_a_violation_elsewhere_outweighs_a_part_that_was_given_up() -> None:
    elsewhere = [op(0, 1, Put("hard", f"v{number}"), Wrote(40 - number)) for number in range(14)]
    assert check([*BAD["a stale read"], *elsewhere], steps_max=60).outcome == "violation"
    assert check([*elsewhere, *GOOD["one after the other"]], steps_max=60).outcome == "undecided"


def test_unknown_writes_do_not_double_the_search() -> None:
    unknown = [put(0, None, f"u{number}") for number in range(40)]
    reads = [get(number + 1, number + 1.5, f"u{number}", number + 10) for number in range(40)]
    verdict = check([*unknown, *reads, get(50, 51, "u3", 13)])
    assert verdict.outcome == "violation"
    assert verdict.steps < 100_000


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    operations = [one for name in ("a transaction moved both", "an unknown swap took place") for one in GOOD[name]]
    history.save(tmp_path / "history", operations)
    assert history.load(tmp_path / "history") == operations


def test_the_recorder_keeps_what_may_have_taken_place() -> None:
    times = iter(range(10))
    record = history.History(lambda: float(next(times)))
    ok, failed, unknown, still_open = (record.invoke(n, Put("a", f"v{n}")) for n in range(4))
    record.ok(ok, Wrote(5), "n1")
    record.failed(failed)
    record.unknown(unknown)
    assert record.operations() == [
        Operation(0, Put("a", "v0"), 0.0, 4.0, Wrote(5), "n1"),
        Operation(2, Put("a", "v2"), 2.0),
        Operation(3, Put("a", "v3"), 3.0),
    ]
    assert record.refused == [Operation(1, Put("a", "v1"), 1.0, 5.0)]
    assert record.outcomes == {"ok": 1, "failed": 1, "unknown": 1}
    assert still_open


def test_an_open_revision_is_told_by_the_first_reading() -> None:
    [written] = Registry().step(State(7), Put("a", "x"), None)
    assert written.cell("a") == Cell("x", None, 7)
    [read] = Registry().step(written, Get("a"), Found("x", 9, 12))
    assert (read.cell("a"), read.floor) == (Cell("x", 9), 12)
    assert Registry().step(written, Get("a"), Found("x", 7, 12)) == []
    assert Registry().step(written, Get("a"), Found("x", 13, 12)) == []


# An atomic registry, written down once more and differently, whose clients overlap


class Atomic:
    """Each operation takes effect at once; the script says when it is sent, takes effect, and is answered."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, int]] = {}
        self.revision = 0

    def of(self, key: str) -> int:
        return self.keys[key][1] if key in self.keys else 0

    def found(self, key: str) -> Found:
        value, revision = self.keys.get(key, (None, 0))
        return Found(value, revision, self.revision)

    def do(self, call: Input) -> Output:
        match call:
            case Get():
                return self.found(call.key)
            case Txn():
                return self._txn(call)
            case Put() | Delete() if call.if_revision is not None and call.if_revision != self.of(call.key):
                return Refused()
            case Put():
                created = call.key not in self.keys
                self.revision += 1
                self.keys[call.key] = call.value, self.revision
                return Wrote(self.revision, created)
            case Delete():
                gone = self.keys.pop(call.key, None) is not None
                self.revision += gone
                return Deleted(int(gone), self.revision)

    def _txn(self, call: Txn) -> Decided:
        if any(self.of(key) != revision for key, revision in call.compare):
            seen = [self.found(one.key) for one in call.orelse]
            return Decided(False, self.revision, tuple(Found(one.value, one.revision) for one in seen))
        self.revision += 1
        for one in call.then:
            assert isinstance(one, Put)
            self.keys[one.key] = one.value, self.revision
        return Decided(True, self.revision, tuple(Wrote(self.revision) for _ in call.then))


def call_of(choice: int, number: int, registry: Atomic) -> Input:
    """An operation on one of two keys; conditions are often, not always, true at the time of sending."""
    key = "ab"[choice % 2]
    calls: list[Input] = [
        Get(key),
        Put(key, f"v{number}"),
        Put(key, f"v{number}", registry.of(key)),
        Put(key, f"v{number}", 0),
        Delete(key),
        Delete(key, registry.of(key)),
        Txn(
            (("a", registry.of("a")),),
            (Put("a", f"v{number}"), Put("b", f"v{number}")),
            (Get("a"), Get("b")),
        ),
    ]
    return calls[choice // 2 % len(calls)]


def played(script: Iterable[tuple[int, int]]) -> list[Operation]:
    """The history of a script: each (client, choice) lets that client send, take effect, or be answered."""
    registry, operations = Atomic(), []
    sent: dict[int, tuple[Input, float]] = {}
    told: dict[int, Output] = {}
    for moment, (client, choice) in enumerate(script):
        if client not in sent:
            sent[client] = call_of(choice, moment, registry), moment
        elif client not in told:
            told[client] = registry.do(sent[client][0])
        else:
            call, invoked = sent.pop(client)
            output = told.pop(client)
            lost = choice % 6 == 0
            operations.append(Operation(client, call, invoked, *((None, None) if lost else (moment, output))))
    return [*operations, *(Operation(client, call, invoked) for client, (call, invoked) in sent.items())]


def brute_force(operations: list[Operation]) -> bool:
    """Try every order that keeps real time, with every choice of unknown ones; nothing remembered, nothing cut."""
    model = Registry()

    def search(left: list[Operation], state: State) -> bool:
        if all(one.returned is None for one in left):
            return True
        first_answer = min(one.returned for one in left if one.returned is not None)
        for position, one in enumerate(left):
            if one.invoked <= first_answer:
                others = left[:position] + left[position + 1 :]
                if any(search(others, after) for after in model.step(state, one.call, one.output)):
                    return True
        return False

    return search(operations, model.initial)


def mutated(output: Output, choice: int) -> Output:
    """Another answer than the true one."""
    step = (-2, -1, 1, 2)[choice % 4]
    match output:
        case Found():
            other: list[Output] = [
                Found(f"v{choice % 30}", output.revision, output.as_of),
                Found(output.value, output.revision + step, output.as_of),
                Found(output.value, output.revision, (output.as_of or 0) + step),
                Found(None, 0, output.as_of),
            ]
        case Wrote():
            made = output.created
            other = [Refused(), Wrote((output.revision or 0) + step, made), Wrote(output.revision, not made)]
        case Deleted():
            other = [Refused(), Deleted(1 - (output.count or 0), output.revision), Deleted(output.count, choice % 9)]
        case Refused():
            other = [Wrote(choice % 30), Deleted(1, choice % 30)]
        case Decided():
            other = [
                msgspec.structs.replace(output, succeeded=not output.succeeded),
                msgspec.structs.replace(output, revision=output.revision + step),
                msgspec.structs.replace(output, results=(Found(None), *output.results[1:])),
            ]
    return other[choice // 4 % len(other)]


def scripts(most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, 3), st.integers(0, 41)), max_size=most)


@given(scripts(60))
def test_what_an_atomic_registry_answered_is_accepted(script: list[tuple[int, int]]) -> None:
    assert check(played(script)).outcome == "linearizable"


@given(scripts(21), st.integers(0, 50), st.integers(0, 200))
@settings(max_examples=400)
def test_with_one_answer_changed_it_judges_as_brute_force_does(
    script: list[tuple[int, int]], which: int, choice: int
) -> None:
    operations = played(script)
    answered = [one for one in operations if one.output is not None]
    assume(answered)
    changed = answered[which % len(answered)]
    assert changed.output is not None
    lie = msgspec.structs.replace(changed, output=mutated(changed.output, choice))
    history = [lie if one is changed else one for one in operations]
    accepted = bool(check(history))
    parts = [part for _, part in partition(history)]
    assert accepted == all(brute_force(settle(part)) for part in parts)
    if not all(map(brute_force, parts)):  # who does not ask the readers sees less: he accepts more, never less
        assert not accepted


def long_history(operations: int, clients: int, seed: int, lost: float = 0.02) -> list[Operation]:
    """All on two keys that transactions bind together; every fiftieth answer is lost."""
    chance = random.Random(seed)
    choices = [choice for choice in range(14) if choice % 6]
    script = (
        (chance.randrange(clients), 0 if chance.random() < lost else chance.choice(choices))
        for _ in range(operations * 3)
    )
    return played(script)


def test_a_long_history_of_many_clients_is_judged_in_passing() -> None:
    operations = long_history(2000, 12, seed=1)
    assert len(operations) > 1900
    verdict: Verdict = check(operations)
    assert verdict
    assert verdict.steps < 200_000


def test_one_stale_read_late_in_a_long_history_is_found() -> None:
    operations = long_history(400, 8, seed=2)
    reads = [one for one in operations if isinstance(one.output, Found) and one.output.value is not None]
    earlier, late = reads[10], next(one for one in reversed(reads) if one.call == reads[10].call)
    stale = msgspec.structs.replace(late, output=msgspec.structs.replace(earlier.output, as_of=None))
    assert check([stale if one is late else one for one in operations]).outcome == "violation"
