"""How fresh a node says it is, and what it says is missing."""

from __future__ import annotations

import asyncio

import pytest

from discovery.consensus import Tasks
from discovery.raft.types import DiskStatus, MemberStatus, RaftStatus
from discovery.readiness import CACHE_S, Freshness, problems


def member(id: str, contact_ms: int | None) -> MemberStatus:
    return MemberStatus(id, "", "", "follower", contact_ms is not None, contact_ms, None)


def status(
    leader="n1", *, ready=False, commit=5, applied=5, contacts=(10, 30), leaderless_s=0.0, full="", stalled=""
) -> RaftStatus:
    others = tuple(member(f"n{number}", contact) for number, contact in enumerate(contacts, 2))
    members = (member("n1", 0), *others)
    return RaftStatus(
        "n1", "follower", 3, leader, ready, commit, applied, 9, members, leaderless_s, DiskStatus(full, stalled=stalled)
    )


@pytest.mark.parametrize(
    ("seen", "founded", "behind", "names", "areas"),
    [
        (status(ready=True), True, [], [], set()),
        (status("n2"), True, [], [], set()),
        (status(None), True, [], ["leader"], {"reads", "writes"}),
        (status("n1", ready=False), True, [], ["leader"], {"writes"}),
        (status("n2"), False, [], ["history"], {"dns", "reads", "writes"}),
        (status("n2", full="the disk is full"), True, [], ["disk"], {"writes"}),
        (status(None, stalled="the disk does not answer"), True, [], ["disk"], {"reads", "writes"}),
        (status("n2", applied=4), True, [], ["applied"], {"dns", "reads", "writes"}),
        (status("n2"), True, ["DNS worker 0 is not connected"], ["dns_workers"], {"dns"}),
    ],
    ids=[
        "leads",
        "follows",
        "no leader",
        "elected only",
        "not founded",
        "disk full",
        "disk hangs",
        "not applied",
        "worker behind",
    ],
)
def test_each_thing_that_is_missing_is_named_with_what_it_hinders(seen, founded, behind, names, areas):
    found = problems(seen, founded, behind)
    assert [problem.name for problem in found] == names
    assert set().union(*(problem.areas for problem in found)) == areas


@pytest.mark.parametrize(
    ("seen", "stale_ms", "leaderless_ms"),
    [
        (status("n2", contacts=(40, 7)), 40, 0),
        (status("n1", ready=True, contacts=(40, 7)), 7, 0),
        (status("n1", ready=True, contacts=(40, 7, 90, None)), 40, 0),
        (status("n1", ready=True, contacts=()), 0, 0),
        (status(None, leaderless_s=3.0), 3_000, 3_000),
    ],
    ids=["follower: its leader", "leader of 3: one other", "leader of 5: two others", "alone", "nobody leads"],
)
def test_staleness_is_the_time_since_the_last_contact_that_counts(seen, stale_ms, leaderless_ms):
    fresh = Freshness(lambda: seen, lambda: 100.0)
    assert (fresh.staleness_ms(), fresh.leaderless_ms()) == (stale_ms, leaderless_ms)


def test_between_two_looks_at_raft_time_goes_on():
    now, asked = [100.0], []
    fresh = Freshness(lambda: asked.append(now[0]) or status("n2", contacts=(40, 7)), lambda: now[0])
    assert fresh.staleness_ms() == 40
    now[0] += CACHE_S / 2
    assert fresh.staleness_ms() == 40 + round(CACHE_S * 500)
    assert len(asked) == 1
    fresh.forget()
    assert fresh.staleness_ms() == 40
    assert len(asked) == 2


async def test_a_background_task_that_dies_is_fatal_and_one_that_is_cancelled_is_not():
    died = []
    tasks = Tasks(lambda what, error: died.append((what, str(error))))

    async def fail():
        raise ValueError("a bug")

    tasks.spawn("evictions", fail())
    tasks.spawn("sleeper", asyncio.sleep(60))
    await asyncio.sleep(0.01)
    tasks.cancel()
    await asyncio.sleep(0.01)
    assert died == [("evictions", "a bug")]
