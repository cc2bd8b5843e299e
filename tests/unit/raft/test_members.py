"""Members that change at run time: hazards 6, 15 and 22, learners, removal, and who has forgotten what he promised."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery import limits
from discovery.errors import Conflict, CorruptData, InvalidInput, NotApplied, NotFound, OutcomeUnknown
from discovery.raft import codec, member
from discovery.raft.changes import Changes
from discovery.raft.configuration import (
    Add,
    Configuration,
    Electorate,
    Former,
    Member,
    Remove,
    before_state,
    decode_change,
    entry,
    founding,
    from_entry,
    one_step,
    split,
)
from discovery.raft.core import Core
from discovery.testing.rig import SMALL, Rig

D = Add("d", "10.0.0.4:8300", "http://d")


def led_by_a(count: int = 4, voters: int = 3, **options) -> Rig:
    rig = Rig(count, voters=voters, **options)
    rig.elect("a")
    assert rig.leaders() == ["a"]
    return rig


def voters(rig: Rig, name: str) -> str:
    return "".join(sorted(rig[name].engine.members()[0].voters()))


def grown(rig: Rig, name: str = "d") -> Rig:
    rig["a"].answers.clear()
    rig.change("a", msgspec.structs.replace(D, node=name))
    rig.run(0.3)
    assert name in voters(rig, "a")
    return rig


# -- hazard 15: one change at a time, in effect at append, rebuilt from snapshot and log


def test_hazard_15_a_change_is_refused_while_the_last_one_is_not_committed():
    rig = led_by_a(5)
    rig.isolate("a")
    rig.settle()
    assert rig.change("a", D) is None
    for change in (Add("e", "x:1", ""), Remove("b"), Remove("d")):
        assert isinstance(rig.change("a", change), NotApplied)
    assert sorted(rig["a"].engine.members()[0].members) == ["a", "b", "c", "d"]


def test_a_learner_does_not_confirm_who_leads():
    """Cut off with a learner, a leader whose voters elect another must not answer strong reads and heartbeats."""
    rig = led_by_a(4)
    rig.isolate("a", "b", "c")
    rig.change("a", D)
    rig.run(0.1)
    assert rig["d"].status.last_index == rig["a"].status.last_index
    rig["a"].engine.confirm("round")
    rig.run(0.2)
    assert "round" not in rig["a"].answers
    rig.join("a", "b")
    rig.run(0.05)
    assert rig["a"].answers["round"] == rig["a"].status.term


def test_nobody_is_removed_while_the_rest_would_wait_for_one_that_is_not_in_step():
    rig = led_by_a(3)
    rig.stopped.add("c")
    rig.run(0.5)
    refused = rig.change("a", Remove("b"))
    assert isinstance(refused, NotApplied)
    assert "in step" in refused.detail
    assert voters(rig, "a") == "abc"
    rig.stopped.clear()
    rig.run(0.2)
    assert isinstance(rig.change("a", Remove("b")), Configuration)


def two_halves_decide(rig: Rig) -> bool:
    """An isolated leader takes members out one after the other, and the others do without it."""
    rig.isolate("a")
    rig.run(0.01)
    for name in ("b", "c"):
        rig["a"].engine.change(name, Remove(name))
        rig["a"].step()
    rig.propose("a", b"alone")
    rig["a"].step()
    rig["a"].step()
    rig["a"].step()
    return rig["a"].answers.get(b"alone") == 1


def test_hazard_15_without_the_guard_an_isolated_leader_decides_alone(monkeypatch):
    assert not two_halves_decide(led_by_a())
    monkeypatch.setattr(Changes, "_guard", lambda self: None)
    monkeypatch.setattr(Changes, "_check_removal", lambda *_: None)
    assert two_halves_decide(led_by_a())


def test_hazard_15_nothing_is_changed_before_the_no_op_of_the_term_is_applied():
    rig = led_by_a()
    rig["b"].engine._prevoting.campaign()
    rig["b"].step()
    rig.deliver()
    rig["a"].step(), rig["c"].step()
    rig.deliver()
    rig["b"].step()
    assert rig["b"].status.role == "leader"
    assert not rig["b"].status.ready
    rig["b"].engine.change("early", D)
    rig["b"].step()
    assert isinstance(rig["b"].answers["early"], NotApplied)


def test_hazard_15_a_configuration_counts_from_when_it_is_in_the_log_and_no_longer_than_that():
    rig = led_by_a(5)
    rig.isolate("a", "b", "c")
    rig.change("a", D)
    assert "d" in rig["a"].engine.members()[0].members
    assert "d" not in rig["a"].engine.members()[1].members
    rig.stopped.add("a")
    rig.elect("b")
    rig.propose("b", b"x")
    rig.settle()
    rig.stopped.discard("a")
    rig.join("a", "b", "c")
    rig.run(1.0)
    assert sorted(rig["a"].engine.members()[0].members) == ["a", "b", "c"]  # the entry was cut
    assert isinstance(rig["a"].answers[D], OutcomeUnknown)


@pytest.mark.parametrize("power", [False, True])
def test_hazard_15_the_members_are_rebuilt_from_the_log_before_the_first_pass(power):
    rig = grown(led_by_a())
    rig.isolate("a")
    rig["a"].step()
    rig["a"].engine.change("removal", Remove("b"))
    rig["a"].finish(rig["a"].begin())
    for name in ("a", "d"):
        before = rig[name].engine.members()[0]
        rig[name].restart(power=power)
        assert rig[name].engine.members()[0] == before
        assert rig[name].core.majority == len(before.voters()) // 2 + 1


def test_hazard_15_without_the_rebuild_a_restarted_node_counts_the_wrong_majority(monkeypatch):
    rig = grown(led_by_a())
    monkeypatch.setattr(Electorate, "rebuild", lambda *_: None)
    rig["a"].restart()
    assert voters(rig, "a") == "abc"


def test_hazard_15_the_members_are_rebuilt_from_a_snapshot_whose_log_is_gone():
    rig = grown(led_by_a(settings=msgspec.structs.replace(SMALL, snapshot_bytes=2000), retained_bytes=0))
    for number in range(60):
        rig.propose("a", b"%d" % number * 40)
        rig.run(0.01)
    assert rig["a"].status.first_index > rig["a"].engine.members()[0].index
    rig["a"].restart()
    assert voters(rig, "a") == "abcd"
    assert rig["a"].engine.members()[0].members["d"].http == "http://d"


def test_a_node_that_is_far_behind_gets_the_members_with_the_snapshot():
    rig = led_by_a(settings=msgspec.structs.replace(SMALL, snapshot_bytes=2000), retained_bytes=0)
    rig.isolate("c")
    grown(rig)
    for number in range(60):
        rig.propose("a", b"%d" % number * 40)
        rig.run(0.01)
    assert voters(rig, "c") == "abc"
    rig.join("c")
    rig.run(3.0)
    assert rig["c"].status.first_index > rig["c"].engine.members()[0].index
    assert voters(rig, "c") == "abcd"
    rig["c"].restart()
    assert voters(rig, "c") == "abcd"


# -- hazard 6: a commit hint beyond the log


def test_hazard_06_a_commit_hint_beyond_the_log_commits_no_change():
    rig = led_by_a()
    rig["a"].wal.setRaftCommitIndex(10**6)
    rig["a"].engine.change("add", D)
    rig["a"].step()
    rig["a"].restart()
    core = rig["a"].core
    assert core.commit <= core.last_index
    assert rig["a"].engine.members()[0].index <= core.last_index


# -- hazard 22: what a removed member still says


class Believes(Core):
    """Asks nobody who he is."""

    def is_member(self, peer: str) -> bool:
        return peer in self.links


def after_a_removal(core_class: type[Core]) -> Rig:
    rig = led_by_a(3, 3, core_class=core_class)
    rig.change("a", Remove("c"))
    rig.settle()
    assert voters(rig, "a") == "ab"
    return rig


LATE = (
    codec.NextIndex(1, 999, reset=False, success=True, round=10**6),
    codec.NextIndex(1, 2, reset=True, success=False),
    codec.SnapshotAck(1, 3, 0, done=True),
    codec.ResponseVote(1, granted=True),
    codec.PreVoteResponse(1, 1, granted=True),
)


@pytest.mark.parametrize("message", LATE, ids=lambda message: type(message).__name__)
def test_hazard_22_late_acks_of_a_removed_member_are_dropped(message):
    rig = after_a_removal(Core)
    rig.inject("c", "a", message)
    assert "c" not in rig["a"].core.nodes
    assert rig.leaders() == ["a"]


def test_hazard_22_without_the_guard_a_late_ack_ends_the_leader(monkeypatch):
    rig = after_a_removal(Core)
    monkeypatch.setattr(member, "_OF_MEMBERS", ())
    monkeypatch.setattr(Core, "is_member", lambda self, peer: True)
    with pytest.raises(KeyError):
        rig.inject("c", "a", LATE[0])


def test_hazard_22_a_removed_member_is_no_part_of_a_round_under_way():
    rig = led_by_a()
    rig["a"].engine.confirm("round")
    rig["a"].step()
    rig.queue.clear()
    rig.inject("c", "a", codec.NextIndex(rig["a"].status.term, 2, reset=False, success=True, round=0))
    rig["a"].engine.change("gone", Remove("c"))
    rig["a"].step()
    rig.queue.clear()
    rig.inject("c", "a", codec.NextIndex(rig["a"].status.term, 2, reset=False, success=True, round=10**6))
    assert "round" not in rig["a"].answers


def test_who_is_behind_is_led_by_a_member_that_it_does_not_know():
    rig = led_by_a()
    rig.isolate("c")
    grown(rig)
    rig.isolate("a")
    rig.stopped.add("a")
    rig.join("c", "b", "d")
    rig["d"].engine._prevoting.campaign()
    rig["d"].step()
    rig.run(0.5)
    assert rig.leaders() == ["d"]  # with c's vote, which knew it as nobody
    assert voters(rig, "c") == "abcd"


# -- learners


def test_a_learner_costs_no_quorum_and_casts_no_vote():
    rig = led_by_a()
    rig.isolate("d")
    rig.stopped.add("d")
    assert sorted(rig.change("a", D).members) == ["a", "b", "c", "d"]
    rig.isolate("c")
    rig.propose("a", b"two of three")
    rig.run(0.2)
    assert rig["a"].answers[b"two of three"] == 1
    assert voters(rig, "a") == "abc"


def test_a_learner_is_not_counted_for_commit():
    rig = led_by_a()
    rig["a"].engine._changes.lead = lambda: None
    rig.change("a", D)
    rig.isolate("b"), rig.isolate("c")
    rig.propose("a", b"x")
    rig.run(0.3)
    assert rig["d"].core.last_index == rig["a"].core.last_index
    assert b"x" not in rig["a"].answers


def test_a_node_becomes_a_voter_only_when_it_has_caught_up():
    rig = led_by_a()
    for number in range(20):
        rig.propose("a", b"%d" % number * 100)
    rig.settle()
    rig.isolate("d")
    rig.stopped.add("d")
    rig.change("a", D)
    rig.run(1.0)
    assert voters(rig, "a") == "abc"
    rig.stopped.discard("d")
    rig.join("d")
    rig.run(0.5)
    assert voters(rig, "a") == voters(rig, "d") == "abcd"
    assert rig["d"].machine.applied == rig["a"].machine.applied


def test_a_learner_does_not_campaign_also_when_it_is_told_to():
    rig = led_by_a()
    rig["a"].engine._changes.lead = lambda: None
    rig.change("a", D)
    rig.run(0.2)
    assert rig["d"].status.standing == "learner"
    rig.inject("a", "d", codec.Campaign(rig["d"].status.term))
    rig.isolate("d")
    rig.run(5.0)
    assert (rig["d"].status.role, rig["d"].status.term) == ("follower", 1)
    rig["a"].engine.transfer("d")
    rig.settle()
    assert not rig["a"].engine._handover.active


def test_a_learner_that_is_not_there_yet_is_bound_to_the_directory_with_which_it_comes():
    rig = led_by_a()
    rig.isolate("d")
    rig.settle()
    rig.change("a", D)
    assert rig["a"].engine.members()[0].members["d"].incarnation == ""
    rig["a"].engine.met("d", "d-0")
    rig.settle()
    assert rig["a"].engine.members()[1].members["d"] == Member("10.0.0.4:8300", "d-0", "http://d", "learner")


# -- removal


def test_a_leader_cannot_remove_itself():
    rig = led_by_a()
    assert isinstance(rig.change("a", Remove("a")), Conflict)
    assert voters(rig, "a") == "abc"


def test_a_removal_that_would_leave_no_living_majority_is_refused():
    rig = led_by_a()
    rig.isolate("c")
    rig.stopped.add("c")
    rig.settle()
    assert isinstance(rig.change("a", Remove("b")), Conflict)
    assert isinstance(rig.change("a", Remove("c")), Configuration)
    rig.propose("a", b"on")
    rig.run(0.2)
    assert rig["a"].answers[b"on"] == 1


def test_a_removed_node_that_was_told_campaigns_no_more():
    rig = led_by_a()
    index = rig.change("a", Remove("c")).index
    rig["c"].engine.told(index)
    rig.isolate("a"), rig.isolate("b"), rig.isolate("c")
    rig.run(3.0)
    assert rig["c"].status.standing == "removed"
    assert rig["c"].status.elections == 0


def test_a_removed_node_disturbs_nobody_before_it_is_told():
    rig = led_by_a()
    rig.change("a", Remove("c"))
    rig.run(5.0)
    assert rig.leaders() == ["a"]
    assert rig["a"].status.term == 1


def test_a_removed_node_may_come_back_with_what_it_has():
    rig = led_by_a()
    index = rig.change("a", Remove("c")).index
    rig["c"].engine.told(index)
    rig.run(0.2)
    rig.change("a", Add("c", "c:1", ""))
    rig.run(0.3)
    assert rig["c"].status.standing == "voter"
    assert voters(rig, "c") == "abc"


def test_from_one_to_three_and_back():
    rig = led_by_a(3, 1)
    for name in ("b", "c"):
        grown(rig, name)
    rig.propose("a", b"three")
    rig.run(0.1)
    for name in ("b", "c"):
        rig.change("a", Remove(name))
        rig.run(0.1)
    rig.propose("a", b"one")
    rig.run(0.1)
    assert rig["a"].machine.applied == [b"three", b"one"]
    assert rig.leaders() == ["a"]


# -- a wiped node


def a_write_that_b_forgets(rig: Rig) -> Rig:
    rig.isolate("c")
    rig.stopped.add("c")
    rig.propose("a", b"kept")
    rig.settle()
    assert rig["a"].answers[b"kept"] == 1
    rig.isolate("a")
    rig.stopped.add("a")
    rig["b"].wipe()
    rig.stopped.discard("c")
    rig.join("b", "c")
    rig.run(5.0)
    return rig


def test_hazard_20_a_wiped_node_does_not_count_under_its_known_id():
    rig = a_write_that_b_forgets(led_by_a(3, 3))
    assert rig.leaders() == []
    rig.stopped.discard("a")
    rig.join("a")
    rig.run(3.0)
    assert rig["c"].machine.applied == [b"kept"]


def test_hazard_20_without_incarnations_it_would_elect_who_has_nothing():
    assert a_write_that_b_forgets(led_by_a(3, 3, core_class=Believes)).leaders() == ["c"]


def test_a_wiped_node_counts_once_it_was_removed_and_added_again():
    rig = led_by_a(3, 3)
    rig.propose("a", b"kept")
    rig.settle()
    rig["c"].wipe()
    rig.join("c")
    rig.run(0.3)
    assert not rig["a"].core.is_member("c")
    assert isinstance(rig.change("a", Add("c", "", "")), Conflict)
    assert isinstance(rig.change("a", Remove("c")), Configuration)
    rig.change("a", Add("c", "c:1", ""))
    rig.run(0.5)
    assert rig["a"].engine.members()[1].members["c"] == Member("c:1", "c-1")
    assert rig["c"].machine.applied == [b"kept"]


def test_what_the_former_directory_acknowledged_does_not_count_for_the_new_one():
    rig = grown(led_by_a())
    match = rig["a"].core.match[rig["a"].core.nodes["d"]]
    assert match > 1
    rig["a"].core.wal.add(entry(rig["a"].engine.members()[0].removed("d")), rig["a"].core.last_index + 1, 1)
    rig["a"].core.electorate.follow(rig["a"].core.wal[-1][0], rig["a"].core.last_index)
    again = rig["a"].engine.members()[0].added(D, "d-1")
    rig["a"].core.electorate.follow(entry(again), rig["a"].core.last_index)
    rig["a"].core.members_changed()
    assert rig["a"].core.match[rig["a"].core.nodes["d"]] == 0


# -- handing over


def test_what_waits_for_a_change_is_answered_when_leadership_ends():
    rig = led_by_a()
    rig.isolate("a")
    rig.settle()
    rig["a"].engine.change("waiting", D)
    rig.run(2.0)
    assert isinstance(rig["a"].answers["waiting"], OutcomeUnknown)


def test_leadership_goes_to_a_voter_without_an_election_timeout():
    rig = led_by_a()
    begin = rig.now
    rig["a"].engine.transfer("c")
    rig.settle()
    assert rig.leaders() == ["c"]
    assert rig.now - begin < 0.05


def test_a_hand_over_to_who_is_removed_meanwhile_is_given_up():
    rig = led_by_a()
    rig.isolate("c", "b")
    rig.stopped.add("c")
    rig["a"].engine.transfer("c")
    rig["a"].engine.change("gone", Remove("c"))
    rig.run(0.2)
    rig.propose("a", b"on")
    rig.run(0.2)
    assert rig["a"].answers[b"on"] == 1


# -- the value


ids = st.sampled_from("abcdefghi")
members = st.dictionaries(
    ids,
    st.builds(
        Member, st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), st.sampled_from(["voter", "learner"])
    ),
    min_size=1,
)
configurations = st.builds(Configuration, members, st.lists(st.builds(Former, ids, ids, ids), max_size=9).map(tuple))


@given(configurations, st.integers(1, 2**60))
def test_an_entry_and_a_snapshot_give_back_what_they_were_given(configuration, index):
    read = from_entry(entry(configuration), index)
    assert read == msgspec.structs.replace(configuration, index=index)
    members, state = split(before_state(read, iter([b"\x01state", b"more"])))
    assert members == read
    assert list(state) == [b"\x01state", b"more"]


@given(st.binary(max_size=60))
def test_other_bytes_are_no_configuration_or_a_clear_error(data):
    assert from_entry(b"\x00" + data, 1) is None
    for read in (lambda: from_entry(b"\x02" + data, 1), lambda: split(iter([b"\xc1members" + data]))):
        with contextlib.suppress(CorruptData):
            read()


def test_a_snapshot_from_before_any_change_is_what_it_always_was():
    configuration = founding({"a": Member("", "1")})
    assert list(before_state(configuration, iter([b"x"]))) == [b"x"]
    members, state = split(iter([b"x"]))
    assert (members, list(state)) == (None, [b"x"])
    assert split(iter([]))[0] is None


@given(configurations, st.lists(st.tuples(st.sampled_from(["add", "promote", "remove"]), ids), max_size=20))
def test_each_change_moves_one_voter_at_most(configuration, steps):
    for step, node in steps:
        try:
            if step == "add":
                after = configuration.added(Add(node, "r", ""), "new")
            elif step == "remove":
                after = configuration.removed(node)
            elif node in configuration.members:
                after = configuration.promoted(node)
            else:
                continue
        except (Conflict, NotFound):
            continue
        assert one_step(configuration, after)
        assert len(after.members) <= max(len(configuration.members), limits.PEERS_MAX)
        configuration = after


@given(st.lists(st.sampled_from(["add", "other", "cut", "compact"]), max_size=30), st.data())
def test_the_electorate_is_what_a_walk_through_snapshot_and_log_would_find(steps, data):
    seed = founding({"a": Member("", "1")})
    electorate, log, base, at = Electorate(seed), [(b"\x01", 1, 0)], None, 0
    for number, step in enumerate(steps):
        last = log[-1][1] if log else at
        if step == "add":
            command = entry(Configuration({"a": Member("", "1"), f"n{number}": Member("", "1")}))
            log.append((command, last + 1, 1))
            electorate.follow(command, last + 1)
        elif step == "other":
            log.append((b"\x00", last + 1, 1))
        elif step == "cut" and last > at + 1:
            index = data.draw(st.integers(at + 2, last))
            log = [one for one in log if one[1] < index]
            electorate.cut(index)
        elif step == "compact":
            at = data.draw(st.integers(at, last))
            base = electorate.at(at)
            electorate.compact(at)
        walked = Electorate(seed)
        walked.rebuild(base if base is not None and base.index else None, log, at)
        assert walked.active == electorate.active


def test_a_change_travels_as_bytes():
    for change in (D, Remove("a")):
        assert decode_change(msgspec.msgpack.encode(change)) == change
    with pytest.raises(InvalidInput):
        decode_change(b"\x00")
