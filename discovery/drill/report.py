"""What a drill found, as data: scenarios with measures and a timeline. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from discovery.drill.judge import Evidence, Measure, is_answer, wrong
from discovery.drill.record import SERVFAIL, Mark, Reign, Reply, Span

BUCKETS_MAX: Final = 300
BUCKET_S_MIN: Final = 0.1
NOTHING: Final = " "  # no question was asked
RIGHT: Final = "r"
REFUSED: Final = "s"  # SERVFAIL: "I do not know yet"
SILENT: Final = "-"
WRONG: Final = "w"

PASSED: Final = "passed"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


@dataclass(frozen=True)
class Timeline:
    """One scenario in equal steps of time; moments are seconds since its beginning.

    Args:
        seconds: its length.
        step_s: width of a bucket.
        acknowledged: writes acknowledged in each bucket.
        failed: writes that failed or were refused.
        dns: node → a letter a bucket, see the constants above.
        down: node → when the drill itself had it down.
        marks: what happened.
        reigns: who led since when.
    """

    seconds: float
    step_s: float
    acknowledged: Sequence[int]
    failed: Sequence[int]
    dns: Mapping[str, str]
    down: Mapping[str, Sequence[Span]]
    marks: Sequence[Mark]
    reigns: Sequence[Reign]


@dataclass(frozen=True)
class Result:
    """One scenario: what was done and what came of it.

    Args:
        skipped: why it was not rehearsed; empty when it was.
        failure: what kept it from its end; empty when nothing did.
    """

    name: str
    title: str
    story: str
    measures: Sequence[Measure] = ()
    timeline: Timeline | None = None
    skipped: str = ""
    failure: str = ""

    @property
    def verdict(self) -> str:
        """``passed``, ``failed`` or ``skipped``."""
        if self.skipped:
            return SKIPPED
        return PASSED if not self.failure and all(measure.ok for measure in self.measures) else FAILED


@dataclass(frozen=True)
class Report:
    """A whole drill.

    Args:
        started: UTC, RFC 3339.
        nodes: id → URL.
        acting: how nodes were killed, for people.
        writes: acknowledged in all.
        answers: DNS answers in all.
        called_off: somebody ended the drill before it was done.
    """

    version: str
    started: str
    seconds: float
    nodes: Mapping[str, str]
    zone: str
    acting: str
    writes: int
    answers: int
    results: Sequence[Result] = field(default_factory=tuple)
    called_off: bool = False

    @property
    def rehearsed(self) -> list[Result]:
        """Those that were not skipped."""
        return [result for result in self.results if result.verdict != SKIPPED]

    @property
    def ok(self) -> bool:
        """Whether something was rehearsed, all of it passed, and nobody called it off."""
        return (
            bool(self.rehearsed) and not self.called_off and all(result.verdict == PASSED for result in self.rehearsed)
        )

    def worst(self, key: str) -> Measure | None:
        """The worst measure named ``key``, or below it as ``dns_gap.n1``: first what failed, then the greatest."""
        found = [
            measure
            for result in self.rehearsed
            for measure in result.measures
            if measure.key.partition(".")[0] == key and measure.limit is not None
        ]
        return max(found, key=_badness, default=None)

    def total(self, key: str) -> int:
        """The sum of a count over all scenarios."""
        return sum(
            int(measure.value or 0) for result in self.results for measure in result.measures if measure.key == key
        )


def _badness(measure: Measure) -> tuple[bool, float]:
    return not measure.ok, float("inf") if measure.value is None else measure.value


def to_json(report: Report) -> str:
    """One JSON document: everything, verdicts included."""
    shown = asdict(report)
    shown["verdict"] = PASSED if report.ok else FAILED
    for text, result in zip(shown["results"], report.results, strict=True):
        text["verdict"] = result.verdict
        for one, measure in zip(text["measures"], result.measures, strict=True):
            one["ok"] = measure.ok
    return json.dumps(shown, ensure_ascii=False, indent=1, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} has no place in a report")


def timeline(evidence: Evidence, marks: Sequence[Mark], reigns: Sequence[Reign]) -> Timeline:
    """Everything that a picture of a scenario needs."""
    span = evidence.span
    step = max(BUCKET_S_MIN, span.seconds / BUCKETS_MAX)
    count = max(1, int(span.seconds / step) + 1)
    acknowledged, failed = [0] * count, [0] * count
    for attempt in evidence.attempts:
        if span.holds(attempt.answered):
            row = acknowledged if attempt.acknowledged else failed
            row[int((attempt.answered - span.begin) / step)] += 1
    return Timeline(
        span.seconds,
        step,
        acknowledged,
        failed,
        {node: _strip(span, step, count, names, evidence.expected) for node, names in evidence.replies.items()},
        {node: _moved(outages, span) for node, outages in evidence.outages.items()},
        [Mark(mark.at - span.begin, mark.text, mark.act) for mark in marks if span.holds(mark.at)],
        _reigns(reigns, span),
    )


def _strip(
    span: Span,
    step: float,
    count: int,
    names: Mapping[str, Sequence[Reply]],
    expected: Mapping[str, frozenset[str]],
) -> str:
    """A letter a bucket: the worst that must not be, else the best that was seen."""
    found: list[set[str]] = [set() for _ in range(count)]
    for name, replies in names.items():
        for reply in replies:
            moment = reply.answered if is_answer(reply) or reply.rcode == SERVFAIL else reply.asked
            if span.holds(moment):
                found[int((moment - span.begin) / step)].add(_letter(name, reply, expected))
    return "".join(
        next((letter for letter in (WRONG, RIGHT, REFUSED, SILENT) if letter in seen), NOTHING) for seen in found
    )


def _letter(name: str, reply: Reply, expected: Mapping[str, frozenset[str]]) -> str:
    if wrong(name, reply, expected):
        return WRONG
    if is_answer(reply):
        return RIGHT
    return REFUSED if reply.rcode == SERVFAIL else SILENT


def _moved(outages: Sequence[Span], span: Span) -> list[Span]:
    return [
        Span(max(0.0, outage.begin - span.begin), min(span.end, outage.end) - span.begin)
        for outage in outages
        if outage.end > span.begin and outage.begin < span.end
    ]


def _reigns(reigns: Sequence[Reign], span: Span) -> list[Reign]:
    """Those of a span; the one that it began under begins with it."""
    before = [reign for reign in reigns if reign.since <= span.begin][-1:]
    inside = [reign for reign in reigns if span.begin < reign.since <= span.end]
    return [Reign(max(0.0, reign.since - span.begin), reign.leader, reign.term) for reign in [*before, *inside]]
