from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from discovery.dns.rotor import Rotor, Ttls

TTL = st.none() | st.integers(0, 5)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "replace"]), st.integers(0, 8), TTL), max_size=60)


@given(STEPS, st.integers(1, 10))
def test_a_rotor_is_a_multiset_whatever_came_and_went(steps: list[tuple[str, int, int | None]], cap: int) -> None:
    rotor: Rotor[int] = Rotor()
    inside: list[tuple[int, int | None]] = []
    for step, item, ttl in steps:
        if step == "add":
            rotor.add(item, ttl)
            inside.append((item, ttl))
        elif inside and step == "replace":
            old, old_ttl = inside.pop(item % len(inside))
            rotor.replace(old, item, old_ttl, ttl)
            inside.append((item, ttl))
        elif inside:
            rotor.remove(*inside.pop(item % len(inside)))
        dealt = rotor.deal(cap)
        distinct = {item for item, _ in inside}
        assert len(dealt) == len(set(dealt)) == min(cap, len(distinct))
        assert set(dealt) <= distinct
        assert len(rotor) == len(distinct)
        assert rotor.ttls.least(9) == min([9, *(ttl for _, ttl in inside if ttl is not None)])


@given(st.integers(2, 30), st.integers(1, 30))
def test_every_element_comes_first_equally_often(size: int, cap: int) -> None:
    rotor: Rotor[int] = Rotor()
    for item in range(size):
        rotor.add(item, None)
    firsts = Counter(rotor.deal(cap)[0] for _ in range(size * 3))
    assert set(firsts.values()) == {3}
    assert len(firsts) == size


def test_an_order_is_kept_but_for_where_it_begins() -> None:
    rotor: Rotor[str] = Rotor()
    for item in "abcde":
        rotor.add(item, None)
    assert ["".join(rotor.deal(9)) for _ in range(3)] == ["bcdea", "cdeab", "deabc"]
    assert ["".join(rotor.deal(2)) for _ in range(3)] == ["ea", "ab", "bc"]


def test_who_takes_a_place_keeps_the_order() -> None:
    rotor: Rotor[str] = Rotor()
    for item in "abc":
        rotor.add(item, None)
    rotor.replace("b", "x", None, 3)
    assert "".join(rotor.deal(9)) == "xca"
    assert rotor.ttls.least(9) == 3


def test_the_least_ttl_goes_with_the_last_that_had_it() -> None:
    ttls = Ttls()
    assert ttls.least(5) == 5
    ttls.add(3)
    ttls.add(3)
    ttls.add(None)
    ttls.remove(3)
    assert ttls.least(5) == 3
    ttls.remove(3)
    ttls.remove(None)
    assert ttls.least(5) == 5


def test_what_was_dealt_and_not_given_away_is_dealt_again() -> None:
    for size in range(4):
        rotor: Rotor[int] = Rotor()
        for item in range(size):
            rotor.add(item, None)
        for _ in range(5):
            dealt = rotor.deal(2)
            rotor.take_back()
            assert rotor.deal(2) == dealt
