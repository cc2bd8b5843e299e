"""What other servers said: as long as it holds, never more than there is room for, later only when asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from discovery import limits
from discovery.dns import codes, name
from discovery.dns.forward_cache import STALE_TTL_S, ForwardCache, Key
from discovery.dns.sections import Answer, RRSet


def key(text: str = "www.example.com", **fields: object) -> Key:
    return Key(name.from_text(text), codes.A, False, False, ())._replace(**fields)  # type: ignore[arg-type]


def answer(*ttls: int, rcode: int = codes.NOERROR, records: int = 1) -> Answer:
    data = [bytes((0, 4, 10, 0, 0, at)) for at in range(records)]
    return Answer(rcode, [RRSet(codes.A, ttl, data) for ttl in ttls], authoritative=False)


def ttls(found: Answer | None) -> list[int] | None:
    return None if found is None else [rrset.ttl for rrset in found.answer]


def test_ttls_run_down_and_then_it_is_gone() -> None:
    cache = ForwardCache()
    cache.put(key(), answer(10, 300), 10, now=100.0)
    assert ttls(cache.get(key(), 100.0)) == [10, 10]  # nobody keeps one part of it longer than the whole holds
    assert ttls(cache.get(key(), 104.9)) == [6, 6]
    assert ttls(cache.get(key(), 109.99)) == [1, 1]
    assert cache.get(key(), 110.0) is None


def test_what_depends_on_the_question_is_kept_apart() -> None:
    cache = ForwardCache()
    cache.put(key(), answer(10), 10, now=0.0)
    others = [
        key(rtype=codes.AAAA),
        key(dnssec_ok=True),
        key(checking_off=True),
        key(zone=(b"com",)),
        key("example.com"),
    ]
    assert all(cache.get(other, 1.0) is None for other in others)


def test_long_ttls_are_cut_and_those_of_denials_shorter() -> None:
    cache = ForwardCache()
    cache.put(key(), answer(10**9), 10**9, now=0.0)
    assert ttls(cache.get(key(), 0.0)) == [limits.DNS_FORWARD_TTL_S_MAX]
    cache.put(key(), answer(rcode=codes.NXDOMAIN), 10**9, now=0.0)
    assert cache.get(key(), limits.DNS_FORWARD_DENIAL_TTL_S_MAX - 0.1) is not None
    assert cache.get(key(), limits.DNS_FORWARD_DENIAL_TTL_S_MAX) is None


def test_a_ttl_of_zero_is_not_kept() -> None:
    cache = ForwardCache()
    cache.put(key(), answer(0), 0, now=0.0)
    assert len(cache) == 0


def test_what_has_run_out_is_told_on_request_marked_and_for_a_short_time() -> None:
    cache = ForwardCache()
    cache.put(key(), answer(5), 5, now=0.0)
    stale = cache.stale(key(), 10.0)
    assert ttls(stale) == [min(5, STALE_TTL_S)]
    assert stale is not None
    assert stale.ede == codes.EDE_STALE
    assert cache.stale(key(), 5.0 + limits.DNS_FORWARD_STALE_S_MAX) is None
    fresh = cache.stale(key(), 1.0)
    assert fresh is not None
    assert fresh.ede is None
    cache.put(key(), answer(rcode=codes.NXDOMAIN), 5, now=0.0)
    assert (cache.stale(key(), 10.0) or fresh).ede == codes.EDE_STALE_NXDOMAIN


def test_a_failure_is_remembered_for_a_moment() -> None:
    cache = ForwardCache()
    cache.fail(key(), 0.0)
    assert cache.has_failed(key(), 0.5)
    assert not cache.has_failed(key(), limits.DNS_FORWARD_FAILURE_S)
    cache.fail(key(), 2.0)
    cache.put(key(), answer(5), 5, now=2.1)
    assert not cache.has_failed(key(), 2.2)


def test_addresses_take_turns() -> None:
    cache = ForwardCache()
    cache.put(key(), answer(60, records=3), 60, now=0.0)
    found = [cache.get(key(), 0.0) for _ in range(3)]
    firsts = {one.answer[0].data[0] for one in found if one is not None}
    assert len(firsts) == 3
    assert all(len(one.answer[0].data) == 3 for one in found if one is not None)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50), st.integers(0, 100)), max_size=200))
def test_it_never_holds_more_than_it_may_and_the_longest_unused_goes_first(
    steps: list[tuple[int, int, int]],
) -> None:
    cache = ForwardCache(entries_max=10, bytes_max=20_000)
    used: list[Key] = []
    for name_number, records, ttl in steps:
        one = key(f"n{name_number}.example")
        cache.put(one, answer(ttl, records=records), ttl, now=0.0)
        assert len(cache) <= 10
        assert cache.bytes <= 20_000
        if cache.get(one, 0.0) is not None:
            used = [*(other for other in used if other != one), one]
            assert all(cache.get(other, 0.0) is not None for other in used[-2:])


def test_an_answer_that_would_take_all_the_room_is_not_kept() -> None:
    cache = ForwardCache(bytes_max=20_000)
    cache.put(key("small.example"), answer(60), 60, now=0.0)
    cache.put(key(), answer(60, records=200), 60, now=0.0)
    assert cache.get(key(), 0.0) is None
    assert cache.get(key("small.example"), 0.0) is not None
