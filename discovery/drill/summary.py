"""A report as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from discovery.drill.judge import Measure
from discovery.drill.report import FAILED, PASSED, SKIPPED, Report, Result

SIGNS = {PASSED: "PASSED ", FAILED: "FAILED ", SKIPPED: "skipped"}


def summary(report: Report) -> str:
    """A line a scenario with its most telling figures, each failure in full, and the verdict."""
    return "\n".join([*_lines(report), "", verdict(report)])


def verdict(report: Report) -> str:
    """One sentence."""
    total, passed = len(report.rehearsed), sum(result.verdict == PASSED for result in report.rehearsed)
    if not total:
        return "Called off before anything was rehearsed." if report.called_off else "Nothing was rehearsed."
    counted = f"{passed} of {total} scenarios passed"
    word = "CALLED OFF" if report.called_off else "PASSED" if report.ok else "FAILED"
    lost, wrong, evicted = (report.total(key) for key in ("lost_writes", "wrong_answers", "false_evictions"))
    return (
        f"{word}: {counted}; {lost} of {report.writes:,} acknowledged writes lost, "
        f"{wrong} of {report.answers:,} DNS answers wrong, {evicted} living instances evicted."
    )


def _lines(report: Report) -> Iterator[str]:
    width = max((len(result.name) for result in report.results), default=0)
    for result in report.results:
        yield f"{SIGNS[result.verdict]}  {result.name.ljust(width)}  {_figures(result)}".rstrip()
        if result.failure:
            yield f"{' ' * 9}{printable(result.failure)}"
        yield from (f"{' ' * 9}{_excess(measure)}" for measure in result.measures if not measure.ok)


def _excess(measure: Measure) -> str:
    detail = f" ({printable(measure.detail)})" if measure.detail else ""
    return f"{measure.label}: {amount(measure)}, allowed {bound(measure)}{detail}"


def _figures(result: Result) -> str:
    if result.skipped:
        return printable(result.skipped)
    shown = []
    for key, words in (("write_gap", "writes paused"), ("dns_gap", "DNS paused"), ("lateness", "dead ones gone")):
        found = [m for m in result.measures if m.key.partition(".")[0] == key and m.limit is not None]
        if found:
            worst = max(found, key=lambda m: float("inf") if m.value is None else m.value)
            shown.append(f"{words} {amount(worst)}{' late' if key == 'lateness' else ''}")
    return ", ".join(shown)


def amount(measure: Measure) -> str:
    """Its value for people."""
    if measure.value is None:
        return "never" if measure.limit is not None else "-"
    if not measure.unit:
        return f"{measure.value:,.0f}"
    return f"{measure.value:.2f} {measure.unit}"


def bound(measure: Measure) -> str:
    """Its limit for people."""
    if measure.limit is None:
        return "-"
    return f"{measure.limit:g} {measure.unit}".strip()


def printable(text: str) -> str:
    """Without control characters: what a server says must not steer the reader's terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
