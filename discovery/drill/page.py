"""A report as one self-contained HTML page: no scripts, nothing loaded, light and dark. Pure.

Everything that comes from a cluster or an operator is escaped here, at the border; the policy in the head would keep
even a forgotten script from running.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from discovery.drill.judge import Measure
from discovery.drill.plot import svg
from discovery.drill.report import FAILED, PASSED, SKIPPED, Report, Result
from discovery.drill.style import STYLE
from discovery.drill.summary import amount, bound

NONE: Final = "\N{EN DASH}"
WORDS: Final = {PASSED: "passed", FAILED: "FAILED", SKIPPED: "not rehearsed"}
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
TILES: Final = (  # key, what users would say, whether it counts
    ("lost_writes", "confirmed writes lost", True),
    ("wrong_answers", "wrong DNS answers", True),
    ("false_evictions", "living services evicted", True),
    ("write_gap", "longest pause in writes", False),
    ("dns_gap", "longest pause in DNS, at a node that was up", False),
    ("lateness", "longest a dead service stayed", False),
)
LEGEND: Final = (
    ("kept", "write confirmed"),
    ("failed", "write failed: its node was down, or refused it"),
    ("right", "right DNS answers"),
    ("refused", "“I do not know yet”"),
    ("silent", "no answer"),
    ("wrong", "wrong answer"),
    ("down", "taken down by the rehearsal"),
    ("nothing", "nothing asked: the rehearsal itself stood still"),
)


def page(report: Report) -> str:
    """The whole page."""
    verdict = "called off" if report.called_off else PASSED if report.ok else FAILED
    body = "\n".join([*_head(report), *_overview(report), *(part for r in report.results for part in _section(r))])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Rehearsal of failures: {verdict}</title>\n<style>\n{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n{_foot(report)}\n</main>\n</body>\n</html>\n"
    )


def _head(report: Report) -> Iterator[str]:
    total, passed = len(report.rehearsed), sum(result.verdict == PASSED for result in report.rehearsed)
    yield '<p class="kicker">Rehearsal of failures</p>'
    all_of_them = f"all {total} rehearsals" if total > 1 else "its rehearsal"
    if report.called_off:
        yield f'<h1 class="{FAILED}"><span>✗</span> Called off: {passed} of {total} rehearsals passed until then</h1>'
    elif report.ok:
        yield f'<h1 class="{PASSED}"><span>✓</span> The cluster passed {all_of_them}</h1>'
    else:
        yield f'<h1 class="{FAILED}"><span>✗</span> The cluster passed {passed} of {total} rehearsals</h1>'
    nodes = ", ".join(f"<b>{escape(node)}</b> ({escape(url)})" for node, url in report.nodes.items())
    yield (
        f"<p>On {escape(_date(report.started))}, for {_length(report.seconds)}, nodes and services of a running "
        "cluster were made to fail on purpose, while independent clients wrote to it and asked every node for names "
        f"the whole time: {report.writes:,} writes were confirmed and {report.answers:,} DNS questions answered. "
        f"The nodes: {nodes}.</p>"
    )
    yield '<div class="tiles">'
    for key, words, counts in TILES:
        yield from _tile(report, key, words, counts)
    yield "</div>"


def _date(started: str) -> str:
    """``2026-11-24T13:22:41+00:00`` for people."""
    return started[:16].replace("T", " at ") + " UTC"


def _length(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _tile(report: Report, key: str, words: str, counts: bool) -> Iterator[str]:
    worst = report.worst(key)
    if worst is None:
        return
    value = f"{report.total(key):,}" if counts else amount(worst)
    allowed = "none allowed" if counts else f"at most {bound(worst)} allowed in that rehearsal"
    kind = PASSED if worst.ok else FAILED
    yield f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(words)}</span>'
    yield f"<small>{escape(allowed)}</small></div>"


def _overview(report: Report) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr><th>rehearsal</th><th>outcome</th>'
    yield "<th>writes paused</th><th>DNS paused</th><th>dead ones gone</th><th>wrong or lost</th></tr></thead><tbody>"
    for result in report.results:
        anchor = f'<a href="#{escape(result.name)}">{escape(result.title)}</a>'
        yield f'<tr><td>{anchor}</td><td class="{result.verdict}">{WORDS[result.verdict]}</td>'
        yield "".join(
            f'<td class="n">{escape(_worst(result, key))}</td>' for key in ("write_gap", "dns_gap", "lateness")
        )
        yield f'<td class="n">{_harm(result)}</td></tr>'
    yield "</tbody></table></div>"


def _worst(result: Result, key: str) -> str:
    found = [m for m in result.measures if m.key.partition(".")[0] == key and m.limit is not None]
    worst = max(found, key=lambda m: float("inf") if m.value is None else m.value, default=None)
    return NONE if worst is None else amount(worst)


def _harm(result: Result) -> str:
    """How often something happened that must never."""
    counts = [int(measure.value or 0) for measure in result.measures if measure.limit == 0]
    return f"{sum(counts):,}" if counts else NONE


def _section(result: Result) -> Iterator[str]:
    yield f'<section id="{escape(result.name)}"><h2>{escape(result.title)} '
    yield f'<small class="{result.verdict}">{WORDS[result.verdict]}</small></h2><p>{escape(result.story)}</p>'
    if result.skipped:
        yield f'<p class="note">Not rehearsed: {escape(result.skipped)}</p>'
    if result.failure:
        yield f'<p class="note {FAILED}">It did not come to its end: {escape(result.failure)}</p>'
    if result.timeline is not None:
        yield '<figure><div class="wide">'
        yield svg(result.timeline, f"Timeline of {result.title}: {WORDS[result.verdict]}")
        yield "</div>"
        yield from _caption(result)
        yield "</figure>"
    if result.measures:
        yield from _table(result)
    yield "</section>"


def _caption(result: Result) -> Iterator[str]:
    assert result.timeline is not None
    yield '<figcaption><ol class="marks">'
    for mark in result.timeline.marks:
        kind = "act" if mark.act else "seen"
        yield f'<li class="{kind}"><b>{mark.at:.1f} s</b> {escape(mark.text)}</li>'
    yield '</ol><ul class="legend">'
    for kind, words in LEGEND:
        yield '<li><svg viewBox="0 0 14 14" aria-hidden="true">'
        yield f'<rect class="{kind}" width="14" height="14"/></svg>{words}</li>'
    yield "</ul></figcaption>"


def _table(result: Result) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr><th>measured</th><th>value</th><th>allowed</th><th>goal</th>'
    yield "<th>remarks</th></tr></thead><tbody>"
    for measure in result.measures:
        kind = "" if measure.limit is None else PASSED if measure.ok else FAILED
        goal = NONE if measure.goal is None else f"{measure.goal:g} {measure.unit}".strip()
        cells = (_sign(measure) + amount(measure), bound(measure).replace("-", NONE), goal)
        yield f'<tr><td>{escape(measure.label)}</td><td class="n {kind}">{escape(cells[0])}</td>'
        yield f'<td class="n">{escape(cells[1])}</td><td class="n">{escape(cells[2])}</td>'
        yield f"<td>{escape(measure.detail)}</td></tr>"
    yield "</tbody></table></div>"


def _sign(measure: Measure) -> str:
    """Not by colour alone."""
    return "" if measure.limit is None or measure.ok else "✗ "


def _foot(report: Report) -> str:
    return (
        "<footer><h2>How to read this</h2><dl>"
        "<dt>write</dt><dd>A change that a client sends to the cluster. Confirmed means that the cluster promised to "
        "keep it; after each rehearsal every node was asked for every confirmed write.</dd>"
        "<dt>pause in writes</dt><dd>The longest time in which no write at all was confirmed, whichever node it was "
        "sent to. A client whose node is down turns to another one; if it tries again until then, it notices a delay "
        "of that length, and no error.</dd>"
        "<dt>pause in DNS</dt><dd>The longest time in which a node that was up answered no question. Names are asked "
        "for at every node; the time in which the rehearsal itself had a node down is hatched and does not count.</dd>"
        "<dt>wrong answer</dt><dd>One that leaves out a living service or names one that is none.</dd>"
        "<dt>leader</dt><dd>The node that puts writes in order. When it fails the others elect another.</dd>"
        "<dt>allowed and goal</dt><dd>The goal is what the software aims at on a quiet machine; allowed is ten times "
        "that unless the operator set it.</dd></dl>"
        f"<p>discovery {escape(report.version)}, zone {escape(report.zone)}; nodes were acted on by "
        f"{escape(report.acting)}.</p></footer>"
    )
