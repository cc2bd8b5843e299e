"""Whether a concurrent history is linearizable: each operation seems to take effect at one moment while it is open.

Pure. The search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with the two savings of Lowe
("Testing for linearizability", 2017) and porcupine: states already seen are not searched again, and an operation is
put in its place only when an answer forces it ("just in time"). Linearizability is local (Herlihy and Wing), so a
history is parted by key; keys that a transaction touches together stay together.

A *configuration* is what may be true at a moment: which of the open operations have taken effect, and the state.
Operations of unknown outcome stay open for ever and may take effect at any later time or never. So of two
configurations that differ only in them, the one that has used fewer can do all that the other can, and the other is
dropped: without that, every unknown write would double the search.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from math import inf
from typing import Any, Final, Literal, Protocol

import msgspec

from discovery.testing.models import Operation, Registry, keys_of
from discovery.testing.settle import settle

STEPS_MAX: Final = 2_000_000
SHOWN: Final = 30


class Model(Protocol):
    """A sequential specification; see :class:`discovery.testing.models.Registry`."""

    @property
    def initial(self) -> Hashable:
        """The state before the first operation."""

    def step(self, state: Any, call: Any, output: Any) -> Sequence[Hashable]:
        """The states after ``call`` was answered ``output``; none: it cannot have been."""

    def clock(self, state: Any) -> float:
        """A number that no step lowers."""

    def deadline(self, output: Any) -> float:
        """The highest clock of a state in which ``output`` may be answered; infinity where nothing is known."""


class Verdict(msgspec.Struct, frozen=True):
    """What the checker found. ``undecided``: the search was given up after its limit of steps.

    ``operations`` is the shortest beginning of the history of ``keys`` that is no linearizable one already: what was
    sent until the fatal answer, those that were answered later as unknown. The last answered one is the fatal one.
    """

    outcome: Literal["linearizable", "violation", "undecided"]
    steps: int = 0
    keys: tuple[str, ...] = ()
    operations: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return self.outcome == "linearizable"

    def __str__(self) -> str:
        answered = [one for one in self.operations if one.returned is not None]
        shown = [*answered[-SHOWN:], *[one for one in self.operations if one.returned is None]]
        left_out = len(answered) - SHOWN
        head = f"{self.outcome} after {self.steps} steps; keys: {', '.join(self.keys) or 'none'}"
        return "\n".join([head, *([f"({left_out} earlier ones)"] if left_out > 0 else []), *map(str, shown)])


class Exhausted(Exception):
    """The search was given up."""


def check(operations: Iterable[Operation], model: Model | None = None, steps_max: int = STEPS_MAX) -> Verdict:
    """Judge a history; the first part that is not linearizable decides.

    Args:
        operations: those that surely did not take place left out (``History.operations``).
        model: of one part; :class:`Registry` when not given.
        steps_max: how often the model may be asked, in all.
    """
    model = model or Registry()
    steps = 0
    undecided: tuple[str, ...] = ()
    for keys, part in partition(operations):
        search = Search(model, settle(part), steps_max - steps)
        try:
            linearizable = search.run()
        except Exhausted:
            linearizable, undecided = True, keys
        steps += search.steps
        if not linearizable:
            return Verdict("violation", steps, keys, tuple(shortest(part, model, steps_max)))
    return Verdict("undecided", steps, undecided) if undecided else Verdict("linearizable", steps)


def partition(operations: Iterable[Operation]) -> list[tuple[tuple[str, ...], list[Operation]]]:
    """The history by key; keys that one operation touches together are one part."""
    found = list(operations)
    leader: dict[str, str] = {}

    def root(key: str) -> str:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for operation in found:
        first, *others = keys_of(operation.call)
        for key in others:
            leader[root(key)] = root(first)
        root(first)
    parts: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in found:
        parts[root(keys_of(operation.call)[0])].append(operation)
    names: defaultdict[str, list[str]] = defaultdict(list)
    for key in sorted(leader):
        names[root(key)].append(key)
    return [(tuple(names[key]), part) for key, part in parts.items()]


def shortest(operations: Sequence[Operation], model: Model, steps_max: int) -> list[Operation]:
    """The shortest beginning of a bad history that is bad: what follows a bad one is bad too, so it can be halved."""
    moments = sorted({one.returned for one in operations if one.returned is not None})

    def bad(moment: float) -> bool:
        try:
            return not Search(model, settle(until(operations, moment)), steps_max).run()
        except Exhausted:
            return False

    return until(operations, moments[bisect(range(len(moments) - 1), False, key=lambda place: bad(moments[place]))])


def until(operations: Iterable[Operation], end: float) -> list[Operation]:
    """The history up to a moment: later calls left out, later answers not yet known."""
    began = [one for one in operations if one.invoked <= end]
    unanswered = msgspec.structs.replace
    cut = [
        one if one.returned is not None and one.returned <= end else unanswered(one, returned=None, output=None)
        for one in began
    ]
    return sorted(cut, key=lambda one: (one.returned is None, one.returned or 0.0, one.invoked))


Configuration = tuple[int, int, Hashable]
"""Open operations with an answer that have taken effect, likewise those without (bit sets), and the state."""


class Frontier:
    """Configurations of which none can do all that another can: see the head of this module."""

    def __init__(self) -> None:
        self._least: defaultdict[tuple[int, Hashable], list[int]] = defaultdict(list)

    def add(self, configuration: Configuration) -> bool:
        """Take it, unless one that can do as much is there."""
        known, unknown, state = configuration
        least = self._least[known, state]
        if any(other & ~unknown == 0 for other in least):
            return False
        least[:] = [other for other in least if unknown & ~other]
        least.append(unknown)
        return True


class Search:
    """The search over one part of a history: the furthest configuration is followed first, then the next one."""

    def __init__(self, model: Model, operations: Sequence[Operation], steps_max: int) -> None:
        self._model = model
        self._operations = operations
        self._steps_max = steps_max
        self._answers, self._open = _timeline(operations)
        self._alike = _alike(operations)
        self._deadlines = [model.deadline(one.output) for one in operations]
        self._later = _later(operations, self._answers, self._deadlines)
        self._seen = [Frontier() for _ in self._answers]
        self._heap: list[tuple[int, int, int, bool, Configuration]] = []
        self._done = False
        self.steps = 0

    def run(self) -> bool:
        """Whether there is an order that explains every answer. Raises :class:`Exhausted`."""
        self._reach(0, (0, 0, self._model.initial))
        while not self._done:
            if not self._heap:
                return False
            place, uncertain, _, last, configuration = heapq.heappop(self._heap)
            self._expand(-place, configuration, last)
            if not last:
                heapq.heappush(self._heap, (place, uncertain + 1, self._step(), True, configuration))
        return True

    def _reach(self, place: int, configuration: Configuration) -> None:
        """A configuration before the answer number ``place``; answers to what has taken effect pass at once."""
        known, unknown, state = configuration
        while place < len(self._answers) and known >> self._answers[place] & 1:
            known &= ~(1 << self._answers[place])
            place += 1
        if place < len(self._answers) and not self._hopeful(place, known | unknown, state):
            return
        self._done = self._done or place == len(self._answers)
        if not self._done and self._seen[place].add((known, unknown, state)):
            heapq.heappush(self._heap, (-place, unknown.bit_count(), self._step(), False, (known, unknown, state)))

    def _hopeful(self, place: int, used: int, state: Hashable) -> bool:
        """Whether all that was answered and has yet to take effect still can, by the clock."""
        clock = self._model.clock(state)
        if self._later[place] < clock:
            return False
        return all(used >> bit & 1 or self._deadlines[bit] >= clock for bit in self._open[place])

    def _expand(self, place: int, configuration: Configuration, uncertain: bool) -> None:
        """Let each open operation take effect next: those with an answer, or later, if that led nowhere, the others."""
        known, unknown, state = configuration
        used = known | unknown
        for bit in self._open[place]:
            operation = self._operations[bit]
            if uncertain is not (operation.returned is None) or used >> bit & 1 or self._alike[bit] & ~used:
                continue
            self._step()
            for after in self._model.step(state, operation.call, operation.output):
                now = (known, unknown | 1 << bit) if uncertain else (known | 1 << bit, unknown)
                self._reach(place, (*now, after))

    def _step(self) -> int:
        self.steps += 1
        if self.steps > self._steps_max:
            raise Exhausted
        return self.steps


def _timeline(operations: Sequence[Operation]) -> tuple[list[int], list[tuple[int, ...]]]:
    """The operations by the time of their answers, and for each answer those that are open just before it."""
    events = [(one.invoked, 0, bit) for bit, one in enumerate(operations)]
    events += [(one.returned, 1, bit) for bit, one in enumerate(operations) if one.returned is not None]
    answers, open_then = [], []
    open_now: dict[int, None] = {}
    for _, answered, bit in sorted(events):  # at the same moment calls come first: they overlap then
        if answered:
            answers.append(bit)
            open_then.append(tuple(open_now))
            del open_now[bit]
        else:
            open_now[bit] = None
    return answers, open_then


def _alike(operations: Sequence[Operation]) -> list[int]:
    """For each operation of unknown outcome the earlier ones that do the same: they go first, whoever sent them."""
    alike, same = [0] * len(operations), defaultdict[Any, int](int)
    for _, bit in sorted((one.invoked, bit) for bit, one in enumerate(operations) if one.returned is None):
        alike[bit] = same[operations[bit].call]
        same[operations[bit].call] |= 1 << bit
    return alike


def _later(operations: Sequence[Operation], answers: Sequence[int], deadlines: Sequence[float]) -> list[float]:
    """For each answer the earliest deadline of the operations that were sent after it."""
    unsent = sorted(range(len(operations)), key=lambda bit: operations[bit].invoked)
    later, least = [], inf
    for bit in reversed(answers):
        while unsent and operations[unsent[-1]].invoked > (operations[bit].returned or 0.0):
            least = min(least, deadlines[unsent.pop()])
        later.append(least)
    return later[::-1]
