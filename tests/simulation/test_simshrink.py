"""Leaving out what does not matter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from discovery.testing.simshrink import kind_of, shrink


@given(st.integers(1, 40).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(1, count), max_size=4))))
def test_what_is_left_is_exactly_what_matters(case):
    count, matters = case
    assert shrink(range(1, count + 1), lambda numbers: matters <= set(numbers), 1000) == sorted(matters)


def test_it_ends_though_more_could_be_tried():
    tried = []
    shrink(range(100), lambda numbers: bool(tried.append(numbers)), 7)
    assert len(tried) == 7


def test_failures_are_alike_whatever_the_numbers():
    assert kind_of(ValueError("n1 lost 3 writes")) == kind_of(ValueError("n2 lost 17 writes"))
    assert kind_of(ValueError("n1 lost 3 writes")) != kind_of(ValueError("n1 committed 3"))
