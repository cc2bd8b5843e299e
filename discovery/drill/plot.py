"""The timeline of one scenario as an inline SVG: who led, writes, and DNS at each node, over the seconds. Pure.

Colours are classes, so that the page's style sheet decides for light and dark; meaning never hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from statistics import median
from typing import Final

from discovery.drill.record import Mark
from discovery.drill.report import NOTHING, REFUSED, RIGHT, SILENT, WRONG, Timeline

WIDTH: Final = 960
LEFT: Final = 104
RIGHT_EDGE: Final = 944
BADGE: Final = 18  # width of a mark's number
ROW: Final = 20  # a row of numbers
LEADER: Final = 22
WRITES: Final = 84
DNS: Final = 20
GAP: Final = 10
AXIS: Final = 34
ROOM: Final = 2  # times the usual number of writes fit into their lane
TICKS_MAX: Final = 12
STEPS_S: Final = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
CLASSES: Final = {RIGHT: "right", REFUSED: "refused", SILENT: "silent", WRONG: "wrong"}
WORDS: Final = {
    RIGHT: "right answers",
    REFUSED: "says that it does not know yet",
    SILENT: "no answer",
    WRONG: "WRONG ANSWER",
}


def svg(line: Timeline, label: str) -> str:
    """The picture.

    Args:
        label: what it shows, for those who cannot see it.
    """
    rows = badge_rows(line)
    top = ROW * (max(rows, default=0) + 1) + GAP
    height = top + LEADER + GAP + WRITES + GAP + len(line.dns) * (DNS + GAP) + AXIS
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">',
        *_grid(line, top, height - AXIS),
        *_leaders(line, top),
        *_writes(line, top + LEADER + GAP),
        *_dns(line, top + LEADER + GAP + WRITES + GAP),
        *_marks(line, rows, height - AXIS),
        "</svg>",
    ]
    return "\n".join(parts)


def x(line: Timeline, moment: float) -> float:
    """Where a moment stands."""
    share = min(1.0, max(0.0, moment / line.seconds)) if line.seconds else 0.0
    return round(LEFT + share * (RIGHT_EDGE - LEFT), 1)


def badge_rows(line: Timeline) -> list[int]:
    """The row of each mark's number, so that no two numbers overlap."""
    ends: list[float] = []
    rows = []
    for mark in line.marks:
        at = x(line, mark.at)
        row = next((index for index, end in enumerate(ends) if end <= at), len(ends))
        ends[row : row + 1] = [at + BADGE]
        rows.append(row)
    return rows


def _label(text: str, y: float) -> str:
    shown = text if len(text) <= 14 else text[:13] + "…"
    return f'<text class="lane" x="{LEFT - 10}" y="{y}">{escape(shown)}<title>{escape(text)}</title></text>'


def _on(text: str, at: float, y: float) -> str:
    return f'<text class="on" x="{at:.1f}" y="{y}">{escape(text)}</text>'


def _rect(kind: str, left: float, top: float, width: float, height: float, title: str = "") -> str:
    box = f'<rect class="{kind}" x="{left}" y="{top}" width="{max(0.8, round(width, 1))}" height="{height}"'
    return f"{box}><title>{escape(title)}</title></rect>" if title else f"{box}/>"


def _grid(line: Timeline, top: int, bottom: int) -> Iterator[str]:
    step = next((step for step in STEPS_S if line.seconds / step <= TICKS_MAX), STEPS_S[-1])
    for number in range(int(line.seconds / step) + 1):
        at = x(line, number * step)
        yield f'<line class="grid" x1="{at}" y1="{top}" x2="{at}" y2="{bottom}"/>'
        yield f'<text class="tick" x="{at}" y="{bottom + 18}">{number * step:g} s</text>'


def _leaders(line: Timeline, top: int) -> Iterator[str]:
    yield _label("leader", top + 15)
    nodes = sorted({reign.leader for reign in line.reigns if reign.leader})
    ends = [*(reign.since for reign in line.reigns[1:]), line.seconds]
    for reign, end in zip(line.reigns, ends, strict=False):  # without any reign there still is an end
        left, right = x(line, reign.since), x(line, end)
        kind = f"leader{nodes.index(reign.leader) % 3}" if reign.leader else "nobody"
        title = f"{reign.leader or 'nobody'} from {reign.since:.1f} s to {end:.1f} s, term {reign.term}"
        yield _rect(kind, left, top, right - left, LEADER, title)
        if right - left > 40:
            yield _on(reign.leader or "nobody", (left + right) / 2, top + 15)


def _writes(line: Timeline, top: int) -> Iterator[str]:
    sums = [kept + failed for kept, failed in zip(line.acknowledged, line.failed, strict=True)]
    usual = max(1, median([count for count in sums if count] or [1]))
    most = ROOM * usual  # what was held up and comes at once would flatten all the rest: it is cut off at the top
    yield _label("writes", top + 14)
    middle = top + WRITES * (1 - 1 / ROOM)
    yield f'<line class="grid" x1="{LEFT}" y1="{middle}" x2="{RIGHT_EDGE}" y2="{middle}"/>'
    yield f'<text class="small" x="{LEFT - 10}" y="{middle + 4:.0f}">{usual / line.step_s:.0f}/s</text>'
    yield f'<line class="base" x1="{LEFT}" y1="{top + WRITES}" x2="{RIGHT_EDGE}" y2="{top + WRITES}"/>'
    for kind, lower, upper in (("kept", [0] * len(sums), line.acknowledged), ("failed", line.acknowledged, sums)):
        yield f'<path class="{kind}" d="{_bars(line, lower, upper, most, top)}"/>'


def _bars(line: Timeline, lower: Sequence[int], upper: Sequence[int], most: float, top: int) -> str:
    """All buckets of one kind as one path."""
    parts = []
    for number, (low, high) in enumerate(zip(lower, upper, strict=True)):
        if high > low:
            left, right = x(line, number * line.step_s), x(line, (number + 1) * line.step_s)
            roof, floor = (round(top + WRITES * (1 - min(1.0, count / most)), 1) for count in (high, low))
            parts.append(f"M{left} {floor}V{roof}H{right}V{floor}Z")
    return "".join(parts)


def _dns(line: Timeline, top: int) -> Iterator[str]:
    for number, (node, strip) in enumerate(sorted(line.dns.items())):
        y = top + number * (DNS + GAP)
        yield _label(f"DNS {node}", y + 14)
        at = 0
        for letter, run in groupby(strip):
            count = len(list(run))
            begin, end = at * line.step_s, (at + count) * line.step_s
            at += count
            if letter != NOTHING:
                left, right = x(line, begin), x(line, end)
                title = f"{node}: {WORDS[letter]} from {begin:.1f} s to {end:.1f} s"
                yield _rect(CLASSES[letter], left, y, right - left, DNS, title)
        for span in line.down.get(node, ()):
            left, right = x(line, span.begin), x(line, span.end)
            yield _rect("down", left, y, right - left, DNS, f"{node} was down by the drill for {span.seconds:.1f} s")
            if right - left > 40:
                yield _on("down", (left + right) / 2, y + 14)


def _marks(line: Timeline, rows: Sequence[int], bottom: int) -> Iterator[str]:
    for number, (mark, row) in enumerate(zip(line.marks, rows, strict=True), 1):
        at, y = x(line, mark.at), row * ROW + 10
        kind = "act" if mark.act else "seen"
        yield f'<g class="{kind}"><line x1="{at}" y1="{y + 8}" x2="{at}" y2="{bottom}"/>'
        yield f'<circle cx="{at}" cy="{y}" r="8"/><text x="{at}" y="{y + 3.5}">{number}</text>'
        yield f"<title>{escape(told(mark))}</title></g>"


def told(mark: Mark) -> str:
    """A mark as a line of text."""
    return f"{mark.at:.1f} s: {mark.text}"
