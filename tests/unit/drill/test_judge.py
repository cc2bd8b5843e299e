"""Each promise can fail: for every measure a row that keeps it and a row that breaks it."""

from __future__ import annotations

import pytest

from discovery.drill.judge import Evidence, Leaving, Limits, Measure, judge, lateness_goal
from discovery.drill.record import NO_ANSWER, SERVFAIL, Attempt, Reply, Span

NAME = "live0.drill.svc.cluster.local"
LIVING = {NAME: frozenset({"10.9.0.1", "10.9.0.2"})}
NEVER = Span(-1, -1)
BOTH = ("10.9.0.1", "10.9.0.2")


def write(answered: float, status: int = 200) -> Attempt:
    return Attempt("k", b"v", answered - 0.01, answered, status)


def reply(answered: float, addresses: tuple[str, ...] = BOTH, rcode: int = 0) -> Reply:
    return Reply(answered - 0.001, answered, rcode, frozenset(addresses), 53)


def steady(begin: float = 0, end: float = 10, *, but: Span = NEVER) -> list[float]:
    moments = [begin + number * 0.1 for number in range(round((end - begin) * 10) + 1)]
    return [moment for moment in moments if not but.holds(moment)]


def judged(scenario: str = "node-kill", limits: Limits | None = None, **evidence: object) -> dict[str, Measure]:
    given = {"attempts": [write(m) for m in steady()], "expected": LIVING, **evidence}
    if "replies" not in given:
        given["replies"] = {"n1": {NAME: [reply(moment) for moment in steady()]}}
    measures = judge(scenario, Evidence(Span(0, 10), **given), limits or Limits())  # type: ignore[arg-type]
    return {measure.key: measure for measure in measures}


def test_a_quiet_cluster_passes() -> None:
    measures = judged()
    assert all(measure.ok for measure in measures.values())
    assert measures["write_gap"].value == pytest.approx(0.1)
    assert measures["dns_gap.n1"].value == pytest.approx(0.1)


@pytest.mark.parametrize(("seconds", "ok"), [(3.0, True), (4.5, False)])
def test_a_pause_in_writes_may_last_ten_times_the_goal(seconds: float, ok: bool) -> None:
    attempts = [write(moment) for moment in steady(but=Span(2.05, 2 + seconds))]
    gap = judged("leader-kill", attempts=attempts)["write_gap"]
    assert gap.limit == 4.0
    assert gap.ok is ok


def test_a_refused_write_ends_no_pause() -> None:
    attempts = [write(0, 200), *(write(moment, 503) for moment in steady(0.1, 9.9)), write(10, 200)]
    assert judged(attempts=attempts)["write_gap"].value == 10


@pytest.mark.parametrize(
    ("limits", "limit"),
    [(Limits(), 4.0), (Limits(write_gap_s=1.5), 1.5), (Limits(tolerance=1), 0.4), (Limits(1.5, tolerance=1), 1.5)],
)
def test_flags_tighten_the_limit(limits: Limits, limit: float) -> None:
    assert judged("leader-kill", limits)["write_gap"].limit == pytest.approx(limit)


def test_a_pause_in_dns_counts_only_while_the_drill_had_the_node_up() -> None:
    replies = {"n1": {NAME: [reply(moment) for moment in steady(but=Span(3, 7))]}}
    assert not judged(replies=replies)["dns_gap.n1"].ok
    held_down = judged(replies=replies, outages={"n1": [Span(2.9, 7.1)]})["dns_gap.n1"]
    assert held_down.ok
    assert "4.2 s in which it was down" in held_down.detail


@pytest.mark.parametrize("rcode", [NO_ANSWER, SERVFAIL])
def test_silence_and_servfail_are_no_answers_and_not_wrong(rcode: int) -> None:
    replies = {"n1": {NAME: [reply(moment, (), rcode) for moment in steady()]}}
    measures = judged(replies=replies)
    assert measures["dns_gap.n1"].value == 10
    assert measures["wrong_answers"].value == 0


@pytest.mark.parametrize(
    "bad",
    [reply(5, BOTH[:1]), reply(5, (*BOTH, "10.66.0.1")), reply(5, ()), reply(5, (), rcode=3), reply(5, (), rcode=5)],
    ids=["one left out", "one too many", "nodata", "nxdomain", "refused"],
)
def test_a_wrong_answer_is_never_allowed_not_even_from_a_node_that_comes_back(bad: Reply) -> None:
    replies = {"n1": {NAME: [*(reply(moment) for moment in steady()), bad]}}
    found = judged(replies=replies, outages={"n1": [Span(4, 6)]})["wrong_answers"]
    assert (found.value, found.ok) == (1, False)
    assert found.detail == f"n1: {NAME}"


@pytest.mark.parametrize(
    ("key", "evidence"),
    [
        ("false_evictions", {"evicted": ["live0/i1"]}),
        ("lost_writes", {"lost": ["n2: drill/1"]}),
        ("risen_writes", {"risen": ["n2: drill/2"]}),
        ("early_evictions", {"leavings": [Leaving("n1", "dead0", -0.2, 0.1)]}),
        ("lateness", {"leavings": [Leaving("n1", "dead0", 3.0, 3.1)]}),
        ("lateness", {"leavings": [Leaving("n1", "dead0", 0.1, 0.1), Leaving("n2", "dead0", None, None)]}),
    ],
)
def test_what_must_not_be_fails_and_nothing_else_with_it(key: str, evidence: dict[str, object]) -> None:
    measures = judged("heartbeat-stop", doomed=5, **evidence)
    assert [measure.key for measure in measures.values() if not measure.ok] == [key]


def test_the_worst_node_counts_for_lateness() -> None:
    leavings = [Leaving("n1", "dead0", 0.02, 0.03), Leaving("n2", "dead0", 0.05, 0.9)]
    late = judged("heartbeat-stop", leavings=leavings, doomed=5)["lateness"]
    assert (late.value, late.ok) == (0.9, True)


@pytest.mark.parametrize(
    ("scenario", "doomed", "goal"),
    [("heartbeat-stop", 5, 0.25), ("leader-kill", 5, 1.5), ("mass-expiry", 5000, 0.3), ("mass-expiry", 20_000, 1.0)],
)
def test_goals_of_lateness(scenario: str, doomed: int, goal: float) -> None:
    assert lateness_goal(scenario, doomed) == goal


def test_a_stall_of_the_drill_is_shown_and_not_judged() -> None:
    stall = judged(stall_s=9.0)["client_stall"]
    assert (stall.value, stall.limit, stall.ok) == (9.0, None, True)


def test_a_long_list_is_named_by_its_first() -> None:
    lost = judged(lost=[f"n1: k{number}" for number in range(9)])["lost_writes"]
    assert lost.detail == "n1: k0, n1: k1, n1: k2 and 6 more"
