"""The table of waiting commands: what it keeps, and for how long."""

from __future__ import annotations

import tracemalloc

import pytest

from discovery.errors import OutcomeUnknown
from discovery.raft.proposals import Proposals
from discovery.raft.types import Settings

DAY_S = 86_400.0


def answered(proposals: Proposals, count: int, *, within_s: float, size: int = 1) -> None:
    """Commands that come, are sent, applied and answered, one after the other."""
    for number in range(count):
        proposals.submit(number, bytes(size), number * 0.01 + within_s, None)
        ((wire, _),) = proposals.take(1, 1 << 20)
        proposals.applied(wire, "done")
        proposals.resolved.clear()


@pytest.mark.parametrize(("within_s", "count", "size"), [(10.0, 100, 100_000), (DAY_S, 20_000, 1)])
def test_what_was_answered_is_not_kept_until_its_deadline(within_s, count, size):
    """Commands may be large and many, and evictions have a day: memory must follow what waits, not what came."""
    proposals = Proposals(b"12345678", Settings())
    tracemalloc.start()
    answered(proposals, count, within_s=within_s, size=size)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(proposals) == 0
    assert kept < 200_000
    assert proposals.next_deadline() == float("inf")


def test_those_that_wait_are_answered_at_their_deadline_whoever_was_answered_before():
    proposals = Proposals(b"12345678", Settings())
    proposals.submit("late", b"x", 11.0, None)
    proposals.submit("early", b"x", 10.0, None)
    proposals.submit("answered", b"x", 10.0, None)
    (*_, (wire, _)) = proposals.take(1, 1 << 20)
    proposals.applied(wire, "done")
    assert proposals.resolved == [("answered", "done")]
    assert 10.0 <= proposals.next_deadline() <= 10.1
    proposals.expire(10.1)
    assert [token for token, _ in proposals.resolved] == ["answered", "early"]
    assert isinstance(proposals.resolved[-1][1], OutcomeUnknown)
    assert 11.0 <= proposals.next_deadline() <= 11.1
    proposals.expire(11.1)
    assert proposals.resolved[-1][0] == "late"
    assert proposals.next_deadline() == float("inf")


def test_what_no_leader_took_in_time_is_forgotten_too():
    """Without a quorum nobody takes anything, and clients go on asking."""
    proposals = Proposals(b"12345678", Settings())
    tracemalloc.start()
    for number in range(100):
        proposals.submit(number, bytes(100_000), float(number), None)
        proposals.expire(number + 0.1)
        proposals.resolved.clear()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 200_000
    assert not proposals.idle
