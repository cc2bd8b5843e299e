"""Entries' bytes and log time: it never falls, and goes by elapsed time whatever the wall clocks say (decision 10)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.errors import InvalidInput
from discovery.raft import packing
from discovery.raft.packing import LogClock
from discovery.testing.rig import Rig

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("previous_ms", "elapsed_s", "wall_ms", "expected_ms"),
    [
        (0, 0.0, 5_000_000, 5_000_000),  # the first entry of all
        (1000, 2.0, 3000, 3000),
        (1000, 2.0, 9_000_000, 3500),  # a clock that is far ahead: five quarters of what went by
        (1000, 2.0, 10, 2500),  # one that is behind: three quarters
        (1000, 2.0, 3400, 3400),
        (1000, 0.0, 9_000_000, 1000),
    ],
)
def test_log_time_follows_the_wall_clock_at_no_pace_but_its_own(previous_ms, elapsed_s, wall_ms, expected_ms):
    assert LogClock(previous_ms, 100.0).stamp(100.0 + elapsed_s, wall_ms) == expected_ms


STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 0.002), st.floats(0, 5)),  # seconds since the last entry
        st.integers(-10 * HOUR_MS, 10 * HOUR_MS),  # how wrong the clock of who stamps it is
        st.booleans(),  # whether another leader stamps it
    ),
    min_size=1,
    max_size=60,
)


@given(STEPS)
def test_whatever_clocks_and_elections_do_log_time_is_never_a_quarter_faster_than_time(steps):
    now, clock = 1000.0, LogClock(20 * HOUR_MS, 1000.0)
    begun, stamps = now, [20 * HOUR_MS]
    for elapsed_s, skew_ms, elected in steps:
        if elected:
            clock = LogClock(stamps[-1], now)
        now += elapsed_s
        stamps.append(clock.stamp(now, 20 * HOUR_MS + int(now * 1000) + skew_ms))
    assert stamps == sorted(stamps)
    assert stamps[-1] - stamps[0] <= 1.25 * (now - begun) * 1000 + 1
    elections = sum(elected for _, _, elected in steps)
    assert stamps[-1] - stamps[0] >= 0.75 * (now - begun) * 1000 - 1 - elections


@given(st.integers(1, 3000), st.integers(-HOUR_MS, HOUR_MS))
def test_many_entries_move_it_no_further_than_few(entries, skew_ms):
    many, few = LogClock(HOUR_MS, 50.0), LogClock(HOUR_MS, 50.0)
    for number in range(1, entries + 1):
        last = many.stamp(50.0 + 10 * number / entries, 2 * HOUR_MS + skew_ms)
    assert abs(last - few.stamp(60.0, 2 * HOUR_MS + skew_ms)) <= 1


def test_it_is_as_the_wall_clock_again_in_four_times_what_it_lacked():
    clock, now = LogClock(HOUR_MS, 0.0), 0.0
    while now < 4 * 3600:
        now += 10
        last = clock.stamp(now, 2 * HOUR_MS + int(now * 1000))
    assert last == 2 * HOUR_MS + int(now * 1000)


def test_an_entry_that_took_the_place_of_another_does_not_count_the_time_since_that_one():
    """Or a follower whose log was mended and who leads then would find minutes that nobody else saw go by."""
    rig = Rig(3)
    rig.elect("a")
    rig.propose("a", b"first")
    rig.settle()
    rig.isolate("a")
    for command in (b"to be cut", b"as well"):
        rig.propose("a", command)
        rig["a"].step()
    rig.stopped = {"a"}
    rig.run(100)
    rig.elect("b")
    assert rig.leaders() == ["b"]
    rig.stopped = set()
    rig.propose("b", b"second")
    rig.settle()
    assert rig["a"].status.last_index == rig["b"].status.last_index
    rig.join("a")
    rig.run(0.3)
    rig["a"].engine._wall_ms = lambda: 10**12
    rig.elect("a")
    rig.propose("a", b"third")
    rig.settle()
    machine = rig["c"].machine
    times = {command: meta.time_ms for command, meta in zip(machine.applied, machine.metas, strict=True)}
    assert times[b"third"] - times[b"second"] <= 1250


def test_bytes_that_are_no_entry_are_refused_by_name():
    assert packing.unpack(packing.NO_OP) == (0, [])
    assert packing.unpack(packing.pack(7, [(b"id", b"data")])) == (7, [(b"id", b"data")])
    with pytest.raises(InvalidInput, match="holds no commands"):
        packing.unpack(packing.REGULAR + bytes(8) + b"\xff")
