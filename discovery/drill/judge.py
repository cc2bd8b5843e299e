"""From what the clients noted to measures with a verdict. Pure.

What must never happen has the limit 0. What takes time has the goal of the house, and as limit ten times the goal: a
rehearsal on a busy or distant cluster is no benchmark. Flags of ``discovery drill`` tighten it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from discovery.drill.record import NO_ANSWER, SERVFAIL, Attempt, Reply, Span, longest_pause, without

TOLERANCE: Final = 10.0
DNS_GAP_S_GOAL: Final = 0.25
LATENESS_S_GOAL: Final = 0.25
GAP_S_GOALS: Final[Mapping[str, float]] = {  # longest pause in writes, by scenario
    "leader-kill": 0.40,
    "leader-pause": 1.2,
    "partition": 1.2,
    "node-kill": 0.25,
    "heartbeat-stop": 0.25,
    "mass-expiry": 0.25,
    "rolling-restart": 0.1,
}
ELECTION_LATENESS_S_GOAL: Final = 1.5  # the leader dies 1 s after the last heartbeat of what is to be evicted
MASS_LATENESS_S_GOALS: Final = ((5_000, 0.3), (1_000_000, 1.0))  # up to so many at once: the last one late by
SPAN_S_MIN: Final = 0.05  # a shorter stretch of time says nothing about a probe of 100 questions a second


@dataclass(frozen=True)
class Limits:
    """What a measure may be. Seconds; ``None``: goal times ``tolerance``."""

    write_gap_s: float | None = None
    dns_gap_s: float | None = None
    lateness_s: float | None = None
    tolerance: float = TOLERANCE

    def of(self, given: float | None, goal: float) -> float:
        """The limit for a measure with that goal."""
        return goal * self.tolerance if given is None else given


@dataclass(frozen=True)
class Measure:
    """One figure of one scenario.

    Args:
        key: for programs.
        label: for people.
        value: seconds or a count; ``None`` when it never came true (an instance that never left).
        unit: ``s`` or empty.
        goal: what we aim at.
        limit: what it may be; ``None``: shown, not judged.
        detail: how it came about.
    """

    key: str
    label: str
    value: float | None
    unit: str = ""
    goal: float | None = None
    limit: float | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is within its limit."""
        return self.limit is None or (self.value is not None and self.value <= self.limit)


@dataclass(frozen=True)
class Leaving:
    """How one dead service left the answers of one node, in seconds after last acknowledged heartbeat + TTL.

    Args:
        first: the first answer that lacked an instance; negative: too early. ``None``: none ever did.
        last: the first answer without any; ``None``: there still was one when the drill gave up.
    """

    node: str
    service: str
    first: float | None
    last: float | None


@dataclass
class Evidence:
    """All that is known of one scenario.

    Args:
        replies: node → name → answers.
        expected: name → the addresses of instances that live.
        outages: node → when the drill itself had it down.
        evicted: living instances that were evicted.
        lost: acknowledged keys that a node does not hold, ``NODE: KEY``.
        risen: refused (503) keys that are there.
        leavings: of instances that stopped heartbeating.
        doomed: how many those were.
        stall_s: longest time in which the drill's own process did not get to run.
    """

    span: Span
    attempts: Sequence[Attempt] = ()
    replies: Mapping[str, Mapping[str, Sequence[Reply]]] = field(default_factory=dict)
    expected: Mapping[str, frozenset[str]] = field(default_factory=dict)
    outages: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    evicted: Sequence[str] = ()
    lost: Sequence[str] = ()
    risen: Sequence[str] = ()
    leavings: Sequence[Leaving] = ()
    doomed: int = 0
    stall_s: float = 0.0


def judge(scenario: str, evidence: Evidence, limits: Limits) -> list[Measure]:
    """Every measure of a scenario, in the order to read them."""
    measures = [_write_gap(scenario, evidence, limits)]
    measures += [_dns_gap(node, evidence, limits) for node in sorted(evidence.replies)]
    measures += [_wrong(evidence)]
    measures += [_never("false_evictions", "Living instances evicted", evidence.evicted)]
    measures += [_never("lost_writes", "Acknowledged writes lost", evidence.lost)]
    measures += [_never("risen_writes", "Refused writes that took effect", evidence.risen)]
    if evidence.leavings:
        measures += _lateness(scenario, evidence, limits)
    stall = "gaps shorter than this may be the drill's own"
    return [
        *measures,
        Measure("client_stall", "Longest stall of the drill itself", evidence.stall_s, "s", detail=stall),
    ]


def is_answer(reply: Reply) -> bool:
    """Whether a node answered the question; SERVFAIL says that it cannot yet."""
    return reply.rcode not in (NO_ANSWER, SERVFAIL)


def wrong(name: str, reply: Reply, expected: Mapping[str, frozenset[str]]) -> bool:
    """Whether an answer leaves out a living instance, or names one that is none."""
    return is_answer(reply) and reply.addresses != expected.get(name, reply.addresses)


def _write_gap(scenario: str, evidence: Evidence, limits: Limits) -> Measure:
    span, goal = evidence.span, GAP_S_GOALS[scenario]
    inside = [attempt for attempt in evidence.attempts if span.holds(attempt.answered)]
    acknowledged = [attempt.answered for attempt in inside if attempt.acknowledged]
    detail = f"{len(acknowledged):,} of {len(inside):,} writes acknowledged"
    gap = longest_pause(acknowledged, span.begin, span.end)
    limit = limits.of(limits.write_gap_s, goal)
    return Measure("write_gap", "Longest pause in writes", gap, "s", goal, limit, detail)


def _dns_gap(node: str, evidence: Evidence, limits: Limits) -> Measure:
    outages = evidence.outages.get(node, ())
    spans = [span for span in without(evidence.span, outages) if span.seconds >= SPAN_S_MIN]
    answered = [r.answered for replies in evidence.replies[node].values() for r in replies if is_answer(r)]
    gap = max((longest_pause(answered, span.begin, span.end) for span in spans), default=None)
    detail = f"{sum(evidence.span.holds(moment) for moment in answered):,} answers"
    if outages:
        detail += f"; {sum(outage.seconds for outage in outages):.1f} s in which it was down do not count"
    limit = limits.of(limits.dns_gap_s, DNS_GAP_S_GOAL) if spans else None
    return Measure(f"dns_gap.{node}", f"Longest pause in DNS at {node}", gap, "s", DNS_GAP_S_GOAL, limit, detail)


def _wrong(evidence: Evidence) -> Measure:
    found = [
        f"{node}: {name}"
        for node, names in evidence.replies.items()
        for name, replies in names.items()
        for reply in replies
        if evidence.span.holds(reply.answered) and wrong(name, reply, evidence.expected)
    ]
    return _never("wrong_answers", "Wrong DNS answers", found)


def _never(key: str, label: str, found: Sequence[str]) -> Measure:
    return Measure(key, label, len(found), "", 0, 0, _some(found))


def _some(found: Iterable[str], most: int = 3) -> str:
    """The first few, for people."""
    distinct = list(dict.fromkeys(found))
    more = f" and {len(distinct) - most} more" if len(distinct) > most else ""
    return ", ".join(distinct[:most]) + more


def _lateness(scenario: str, evidence: Evidence, limits: Limits) -> list[Measure]:
    early = [f"{one.service} at {one.node}" for one in evidence.leavings if one.first is not None and one.first < 0]
    stayed = [f"{one.service} at {one.node}" for one in evidence.leavings if one.last is None]
    late = [one.last for one in evidence.leavings if one.last is not None]
    goal = lateness_goal(scenario, evidence.doomed)
    detail = f"{evidence.doomed:,} instances stopped; half of the services left after {median(late or [0]):.2f} s"
    if stayed:
        detail = f"still answered: {_some(stayed)}"
    last, limit = None if stayed else max(late), limits.of(limits.lateness_s, goal)
    return [
        _never("early_evictions", "Evicted before their time", early),
        Measure("lateness", "Last dead one gone, after its TTL", last, "s", goal, limit, detail),
    ]


def lateness_goal(scenario: str, doomed: int) -> float:
    """By when what is dead shall be gone from every node, in seconds after its TTL."""
    if scenario == "leader-kill":
        return ELECTION_LATENESS_S_GOAL
    if scenario == "mass-expiry":
        return next(goal for most, goal in MASS_LATENESS_S_GOALS if doomed <= most)
    return LATENESS_S_GOAL
