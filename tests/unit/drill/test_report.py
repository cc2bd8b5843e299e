"""From evidence to a report, and the report as text, JSON and a page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.drill.judge import Evidence, Measure
from discovery.drill.page import page
from discovery.drill.plot import badge_rows, svg, x
from discovery.drill.record import NO_ANSWER, SERVFAIL, Attempt, Mark, Reign, Reply, Span
from discovery.drill.report import Report, Result, Timeline, timeline, to_json
from discovery.drill.summary import summary, verdict

NAME = "live0.drill.svc.cluster.local"
BAD = Measure("lost_writes", "Acknowledged writes lost", 2, "", 0, 0, "n1: k1, n1: k2")
GOOD = Measure("write_gap", "Longest pause in writes", 0.31, "s", 0.4, 4.0, "99 of 100 writes acknowledged")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def evidence() -> Evidence:
    """Ten seconds from moment 100: the leader n1 is killed after two, n2 gives a wrong answer after five."""
    attempts = [Attempt("k", b"", 99, 100 + n / 10, 0 if 20 <= n < 23 else 200) for n in range(100)]
    replies = {
        "n1": {NAME: [reply(100 + n / 10) if n < 20 else reply(100 + n / 10, NO_ANSWER) for n in range(100)]},
        "n2": {NAME: [reply(100 + n / 10, 3 if n == 50 else 0) for n in range(100)]},
        "n3": {NAME: [reply(109, SERVFAIL)]},
    }
    expected = {NAME: frozenset({"10.9.0.1"})}
    return Evidence(Span(100, 110), attempts, replies, expected, {"n1": [Span(102, 110)]})


def reply(answered: float, rcode: int = 0) -> Reply:
    return Reply(answered, answered, rcode, frozenset() if rcode else frozenset({"10.9.0.1"}), 53)


def line() -> Timeline:
    marks = [Mark(102, "kill the leader n1"), Mark(102.2, "n2 leads (term 2)", act=False), Mark(99, "before")]
    return timeline(evidence(), marks, [Reign(50, "n1", 1), Reign(102.1, None, 1), Reign(102.2, "n2", 2)])


def report(*results: Result) -> Report:
    nodes = {"n1": "http://10.0.0.1:8500", "n2": "http://10.0.0.2:8500"}
    return Report("1.0", "2026-01-02T03:04:05+00:00", 75.0, nodes, "cluster.local", "commands", 100, 200, results)


def passed(name: str = "leader-kill", **more: object) -> Result:
    return Result(name, "The leading node dies", "It was killed.", [GOOD], line(), **more)  # type: ignore[arg-type]


FAILED = replace(passed("node-kill"), measures=[GOOD, BAD])
SKIPPED = Result("partition", "Cut off", "It was cut off.", skipped="no command")


def test_a_timeline_begins_at_zero_and_holds_what_lies_in_its_span() -> None:
    shown = line()
    assert shown.seconds == 10
    assert sum(shown.acknowledged) == 97
    assert sum(shown.failed) == 3
    assert [(mark.at, mark.text) for mark in shown.marks] == [
        (2, "kill the leader n1"),
        (pytest.approx(2.2), "n2 leads (term 2)"),
    ]
    assert [(round(reign.since, 1), reign.leader) for reign in shown.reigns] == [(0, "n1"), (2.1, None), (2.2, "n2")]
    assert shown.down == {"n1": [Span(2, 10)]}


def test_each_moment_of_a_node_has_a_letter() -> None:
    shown = line()
    assert set(shown.dns["n1"][:19]) <= {"r", " "}
    assert set(shown.dns["n1"][21:99]) <= {"-", " "}
    assert shown.dns["n2"].count("w") == 1
    assert shown.dns["n3"].strip() == "s"
    assert len({len(strip) for strip in shown.dns.values()} | {len(shown.acknowledged)}) == 1


@pytest.mark.parametrize(
    ("results", "ok"),
    [
        ([passed()], True),
        ([passed(), SKIPPED], True),
        ([passed(), FAILED], False),
        ([SKIPPED], False),
        ([], False),
        ([passed(failure="the command failed")], False),
    ],
)
def test_a_drill_passes_when_something_was_rehearsed_and_all_of_it_passed(results: list[Result], ok: bool) -> None:
    assert report(*results).ok is ok


def test_the_summary_names_what_failed_and_by_how_much() -> None:
    lines = summary(report(passed(), FAILED, SKIPPED)).splitlines()
    assert lines[0] == "PASSED   leader-kill  writes paused 0.31 s"
    assert lines[1].startswith("FAILED   node-kill")
    assert lines[2] == "         Acknowledged writes lost: 2, allowed 0 (n1: k1, n1: k2)"
    assert lines[3] == "skipped  partition    no command"
    assert lines[-1].startswith("FAILED: 1 of 2 scenarios passed; 2 of 100 acknowledged writes lost")
    assert verdict(report(SKIPPED)) == "Nothing was rehearsed."


def test_the_summary_steers_no_terminal() -> None:
    assert "\x1b" not in summary(report(passed(failure="\x1b[2J"), replace(SKIPPED, skipped="a\x1bb")))


def test_a_drill_that_was_called_off_has_not_passed_and_says_so_everywhere() -> None:
    ended = replace(report(passed()), called_off=True)
    assert not ended.ok
    assert verdict(ended).startswith("CALLED OFF: 1 of 1 scenarios passed; 0 of 100 acknowledged writes lost")
    assert verdict(replace(report(), called_off=True)) == "Called off before anything was rehearsed."
    assert "Called off: 1 of 1 rehearsals passed until then</h1>" in page(ended)
    read = json.loads(to_json(ended))
    assert (read["verdict"], read["called_off"]) == ("failed", True)


def test_json_holds_everything_with_verdicts() -> None:
    read = json.loads(to_json(report(passed(), FAILED, SKIPPED)))
    assert read["verdict"] == "failed"
    assert [result["verdict"] for result in read["results"]] == ["passed", "failed", "skipped"]
    assert [measure["ok"] for measure in read["results"][1]["measures"]] == [True, False]
    assert read["results"][0]["timeline"]["marks"][0] == {"at": 2.0, "text": "kill the leader n1", "act": True}


class Outline(HTMLParser):
    """Reads a page as a browser does: every element must be closed; notes what could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.active: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        loads = [name for name, value in attributes if name in ("src", "srcset") or name.startswith("on")]
        loads += [name for name, value in attributes if name.endswith("href") and not (value or "").startswith("#")]
        if tag in ("script", "iframe", "object", "link", "base", "form", "img") or loads:
            self.active.append(f"{tag} {loads}")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_one_file_that_loads_and_runs_nothing() -> None:
    text = page(report(passed(), FAILED, SKIPPED))
    outline = Outline(text)
    assert outline.open == []
    assert outline.active == []
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_has_a_section_a_scenario_and_a_picture_of_each_that_was_rehearsed() -> None:
    text = page(report(passed(), FAILED, SKIPPED))
    assert re.findall(r'<section id="([a-z-]+)"', text) == ["leader-kill", "node-kill", "partition"]
    assert text.count('role="img"') == 2
    words = " ".join(Outline(text).words)
    for said in (
        "passed 1 of 2 rehearsals",
        "Not rehearsed: no command",
        "kill the leader n1",
        "2 minutes" if 0 else "75 seconds",
    ):
        assert said in words


EVIL = ["<script>alert(1)</script>", '"><b onclick="x">', "'&amp;<", "]]>-->", "</style><script>"]
texts = (st.sampled_from(EVIL) | st.text(max_size=20)).map(lambda text: f"t{text}")


@given(texts, texts, texts, texts)
def test_nothing_that_comes_from_outside_becomes_markup(a: str, b: str, c: str, d: str) -> None:
    evil = Measure(a, b, 1, "s", 1, 0, c)
    shown = replace(line(), marks=[Mark(1, d)], reigns=[Reign(0, a, 1)], dns={b: "r"}, down={b: [Span(0, 5)]})
    result = Result(a, b, c, [evil], shown, failure=d)
    text = page(replace(report(result, replace(SKIPPED, skipped=c)), nodes={a: b}, zone=c, acting=d, version=a))
    plain = page(replace(report(Result("x", "x", "x", [evil], shown, failure="x"), SKIPPED), nodes={"x": "x"}))
    outline = Outline(text)
    assert outline.open == []
    assert outline.active == []
    assert sorted(outline.tags) == sorted(Outline(plain).tags)


marks = st.lists(st.floats(0, 10), max_size=30).map(sorted)


@given(marks)
def test_numbers_of_marks_never_overlap(moments: Sequence[float]) -> None:
    shown = replace(line(), marks=[Mark(moment, "m") for moment in moments])
    rows = badge_rows(shown)
    for row in set(rows):
        places = [x(shown, moment) for moment, at in zip(moments, rows, strict=True) if at == row]
        assert all(later - earlier >= 18 for earlier, later in pairwise(places))


def test_a_scenario_without_any_time_can_be_drawn() -> None:
    assert svg(timeline(Evidence(Span(5, 5)), [], []), "nothing").startswith("<svg")


def test_one_rehearsal_is_not_called_all_of_them() -> None:
    assert "The cluster passed its rehearsal</h1>" in page(report(passed()))
    assert "The cluster passed all 2 rehearsals</h1>" in page(report(passed(), passed("node-kill")))
