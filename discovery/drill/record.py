"""What clients of a drill note down: each request's fate, and what happened meanwhile. Pure.

All moments are seconds of one monotonic clock, the drill's own; no clock of a node is ever compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

FORMERR: Final = 1
SERVFAIL: Final = 2
NO_ANSWER: Final = -1


@dataclass(frozen=True, slots=True)
class Attempt:
    """One write: when it was sent and answered, and what the answer was (0: the connection failed)."""

    key: str
    value: bytes
    sent: float
    answered: float
    status: int

    @property
    def acknowledged(self) -> bool:
        """Whether the cluster promised to keep it."""
        return 200 <= self.status < 300

    @property
    def refused(self) -> bool:
        """Whether the cluster promised that it was not applied (DESIGN guarantee 7)."""
        return self.status == 503


@dataclass(frozen=True, slots=True)
class Beat:
    """One heartbeat's fate."""

    sent: float
    answered: float
    status: int


@dataclass(frozen=True, slots=True)
class Reply:
    """One DNS question's fate; ``rcode`` -1: no answer in time."""

    asked: float
    answered: float
    rcode: int
    addresses: frozenset[str]
    port: int


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin

    def holds(self, moment: float) -> bool:
        """Whether ``moment`` lies in it, the ends included."""
        return self.begin <= moment <= self.end


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened once, for the timeline: what the drill did (``act``), or what the cluster did."""

    at: float
    text: str
    act: bool = True


@dataclass(frozen=True, slots=True)
class Reign:
    """Who led, as far as the nodes said; ``None``: none of them knew a leader."""

    since: float
    leader: str | None
    term: int


def without(whole: Span, holes: Iterable[Span]) -> list[Span]:
    """What is left of ``whole`` outside ``holes``."""
    left, begin = [], whole.begin
    for hole in sorted(holes, key=lambda hole: hole.begin):
        if hole.end <= begin or hole.begin >= whole.end:
            continue
        if hole.begin > begin:
            left.append(Span(begin, hole.begin))
        begin = hole.end
    if begin < whole.end:
        left.append(Span(begin, whole.end))
    return left


def longest_pause(moments: Iterable[float], begin: float, end: float) -> float:
    """The longest time between two neighbours among ``moments`` and the ends of the span, seconds."""
    marks = [begin, *sorted(moment for moment in moments if begin <= moment <= end), end]
    return max(later - earlier for earlier, later in pairwise(marks))


def distribution(values: Sequence[float], unit: str = "s") -> str:
    """Minimum, median, 90th percentile and maximum, for people: ``min 0.012 p50 0.034 … s (n=50)``."""
    if not values:
        return "no values"
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return f"min {ordered[0]:.3f} p50 {at(0.5):.3f} p90 {at(0.9):.3f} max {ordered[-1]:.3f} {unit} (n={len(ordered)})"
