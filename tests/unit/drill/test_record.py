from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from discovery.drill.record import Span, distribution, longest_pause, without

moments = st.floats(0, 100)
spans = st.tuples(moments, moments).map(lambda pair: Span(min(pair), max(pair)))


def test_the_longest_pause_counts_the_ends_of_the_span() -> None:
    assert longest_pause([], 2, 5) == 3
    assert longest_pause([3, 3.5], 2, 5) == 1.5
    assert longest_pause([1, 9], 2, 5) == 3, "what lies outside does not count"


@given(st.lists(moments), spans)
def test_no_pause_is_longer_than_its_span_and_more_moments_shorten_it(found: list[float], span: Span) -> None:
    pause = longest_pause(found, span.begin, span.end)
    assert 0 <= pause <= span.seconds
    assert longest_pause([*found, (span.begin + span.end) / 2], span.begin, span.end) <= pause


def test_what_is_left_without_holes() -> None:
    whole = Span(0, 10)
    assert without(whole, []) == [whole]
    assert without(whole, [Span(8, 12), Span(2, 3), Span(2.5, 4)]) == [Span(0, 2), Span(4, 8)]
    assert without(whole, [Span(-1, 11)]) == []


@given(spans, st.lists(spans, max_size=5), moments)
def test_a_moment_is_left_unless_a_hole_holds_it(whole: Span, holes: list[Span], moment: float) -> None:
    left = without(whole, holes)
    inside = whole.begin < moment < whole.end
    if inside and not any(hole.holds(moment) for hole in holes):
        assert any(span.holds(moment) for span in left)
    if any(hole.begin < moment < hole.end for hole in holes):
        assert not any(span.begin < moment < span.end for span in left)


def test_a_distribution_is_one_line() -> None:
    assert distribution([]) == "no values"
    assert distribution([0.3, 0.1, 0.2]) == "min 0.100 p50 0.200 p90 0.300 max 0.300 s (n=3)"
