"""The engine's ordinary life: electing, replicating, answering, handing over. Each test is one sentence."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from discovery.errors import NotApplied, OutcomeUnknown, Overloaded, TooLarge, Unavailable
from discovery.raft import codec
from discovery.testing.rig import SMALL, Rig


def led_by_a(count: int = 3, **options) -> Rig:
    rig = Rig(count, **options)
    rig.elect("a")
    assert rig.leaders() == ["a"]
    return rig


def test_a_fresh_cluster_elects_within_a_quarter_second():
    rig = Rig(3)
    rig.run(0.25)
    assert len(rig.leaders()) == 1


def test_a_cluster_of_one_leads_and_commits_after_its_own_sync():
    rig = Rig(1)
    output = rig["a"].begin()
    assert rig["a"].status.role == "leader"
    assert rig["a"].status.commit == 1, "its no-op is not on the disk yet"
    rig["a"].finish(output)
    rig.settle()
    assert rig.leaders() == ["a"]
    rig.propose("a", b"x")
    rig.settle()
    assert rig["a"].answers == {b"x": 1}


def test_a_write_is_answered_after_a_majority_has_it_on_disk():
    rig = led_by_a()
    rig.stopped.add("c")
    rig.propose("a", b"x")
    rig["a"].step()
    rig.deliver()
    output = rig["b"].begin()
    assert output.batch is not None
    rig.deliver()
    rig["a"].step()
    assert rig["a"].answers == {}
    rig["b"].finish(output)
    rig.settle()
    assert rig["a"].answers == {b"x": 1}


def test_many_callers_share_one_entry_and_one_sync():
    rig = led_by_a()
    before = rig["a"].status.last_index
    for number in range(64):
        rig.propose("a", b"%d" % number)
    rig.settle()
    assert rig["a"].status.last_index == before + 1
    assert len(rig["b"].machine.applied) == 64


def test_entries_are_capped_by_bytes():
    rig = led_by_a(settings=msgspec.structs.replace(SMALL, batch_bytes=1 << 20, window_bytes=4 << 20))
    for number in range(5):
        rig.propose("a", bytes([number]) * 400_000)
    rig.settle()
    assert all(len(command) < 1 << 20 for command, _, _ in rig["a"].wal[:])
    assert len(rig["c"].machine.applied) == 5


def test_a_follower_forwards_and_answers_at_its_own_apply():
    rig = led_by_a()
    rig.propose("b", b"x")
    rig.settle()
    assert rig["b"].answers == {b"x": 1}
    assert rig["b"].machine.applied == [b"x"]


def test_a_write_without_a_leader_is_surely_not_applied():
    rig = Rig(3)
    rig.isolate("a")
    rig.propose("a", b"x", within=0.3)
    rig.run(0.5)
    assert type(rig["a"].answers[b"x"]) is NotApplied


def test_a_write_that_waits_finds_the_next_leader():
    rig = Rig(3)
    rig.propose("a", b"x", within=2)
    rig.run(1)
    assert rig["a"].answers == {b"x": 1}


def test_a_write_in_an_isolated_leaders_log_is_unknown_at_its_deadline():
    rig = led_by_a()
    rig.isolate("a")
    rig.propose("a", b"x", within=0.4)
    rig.run(0.5)
    assert isinstance(rig["a"].answers[b"x"], OutcomeUnknown)


def test_a_write_surely_dead_with_its_leader_is_proposed_again():
    rig = led_by_a()
    rig.propose("b", b"x")
    rig["b"].step()
    rig.queue.clear()  # it never reached the leader, and b cannot know
    rig.stopped.add("a")
    rig.isolate("a")
    rig.run(2.5)
    assert rig["b"].answers == {b"x": 1}
    assert rig["c"].machine.applied == [b"x"]


def test_a_write_sent_twice_over_a_reconnect_is_applied_once():
    rig = led_by_a()
    rig.propose("b", b"x")
    rig["b"].step()
    rig.deliver()
    rig["a"].step()  # taken, but b loses its stream before it hears of it
    rig.isolate("b", "a")
    rig.join("b", "a")
    rig.run(0.5)
    assert rig["b"].answers == {b"x": 1}
    assert rig["a"].machine.applied == [b"x"]


def test_a_refusal_of_one_copy_proves_nothing_about_another():
    rig = led_by_a()
    rig.propose("b", b"x", within=0.3)
    rig["b"].step()
    (wire,) = (message.items[0][0] for _, _, message in rig.queue if isinstance(message, codec.Propose))
    rig.queue.clear()
    rig["b"].engine.disconnected("a", False)
    rig["b"].engine.connected("a")
    rig["b"].step()  # sends it again
    rig.queue.clear()
    rig["b"].engine.receive("a", codec.ProposeRefused(1, (wire,)))
    rig.stopped |= {"a", "c"}
    rig.run(0.4)
    assert isinstance(rig["b"].answers[b"x"], OutcomeUnknown)


def test_a_refused_only_copy_is_surely_not_applied():
    rig = led_by_a()
    rig.propose("b", b"x", within=0.3)
    rig["b"].step()
    (wire,) = (message.items[0][0] for _, _, message in rig.queue if isinstance(message, codec.Propose))
    rig.queue.clear()
    rig.stopped |= {"a", "c"}
    rig["b"].engine.receive("a", codec.ProposeRefused(1, (wire,)))
    rig.run(0.4)
    assert type(rig["b"].answers[b"x"]) is NotApplied


def test_what_a_snapshot_may_hold_is_unknown():
    rig = led_by_a(settings=msgspec.structs.replace(SMALL, snapshot_bytes=4096), retained_bytes=0)
    rig.propose("b", b"x")
    rig["b"].step()
    rig.deliver()
    rig["a"].step()
    rig.isolate("b")
    for number in range(80):
        rig.propose("a", bytes([number]) * 200)
        rig.settle()
    rig.join("b")
    rig.run(0.5)
    assert rig["b"].machine.applied == rig["a"].machine.applied
    assert isinstance(rig["b"].answers[b"x"], OutcomeUnknown)


def test_too_many_writes_are_refused_at_once():
    rig = Rig(3, settings=msgspec.structs.replace(SMALL, waiting_max=2))
    for number in range(3):
        rig.propose("a", b"%d" % number)
    rig.propose("a", bytes(2_000_000))
    rig["a"].step()
    assert isinstance(rig["a"].answers[b"2"], Overloaded)
    assert isinstance(rig["a"].answers[bytes(2_000_000)], TooLarge)


def test_a_confirmation_rests_on_a_round_begun_after_the_question():
    rig = led_by_a()
    rig["a"].engine.confirm("first")
    rig["a"].step()
    rig["a"].engine.confirm("second")  # joins the next round, not the one in flight
    rig["a"].step()
    rounds = {message.round for _, _, message in rig.queue if isinstance(message, codec.AppendEntries)}
    assert rounds == {1}
    rig.settle()
    assert rig["a"].answers == {"first": 1, "second": 1}
    assert rig["a"].engine._rounds.number == 2


def test_a_follower_or_deposed_leader_confirms_nothing():
    rig = led_by_a()
    rig["b"].engine.confirm("at a follower")
    rig.settle()
    assert isinstance(rig["b"].answers["at a follower"], NotApplied)
    rig.isolate("a")
    rig["a"].engine.confirm("alone")
    rig.run(1.2)
    assert isinstance(rig["a"].answers["alone"], NotApplied)


def test_a_follower_announces_a_round_before_it_answers_it():
    rig = led_by_a()
    seen: list[int] = []
    rig["b"].engine.before_round = lambda: seen.append(len(rig.queue))
    rig["a"].engine.confirm("x")
    rig.settle()
    assert len(seen) == 1


@pytest.mark.parametrize("where", ["a", "b"])
def test_a_strong_read_waits_until_all_that_was_acknowledged_is_here(where):
    rig = led_by_a()
    rig.stopped.add("b")
    rig.propose("a", b"x")
    rig.settle()
    assert rig["a"].answers == {b"x": 1}
    rig.stopped.clear()
    rig[where].engine.read_index("read", rig.now + 1)
    rig.settle()
    assert rig[where].answers["read"] >= 3
    assert rig[where].machine.applied == [b"x"]


def test_a_strong_read_without_a_quorum_fails_at_its_deadline():
    rig = led_by_a()
    rig.isolate("b")
    rig["b"].engine.read_index("read", rig.now + 0.5)
    rig.run(0.6)
    assert isinstance(rig["b"].answers["read"], Unavailable)


def test_a_strong_read_survives_a_change_of_leader():
    rig = led_by_a()
    rig["b"].engine.read_index("read", rig.now + 4)
    rig["b"].step()
    rig.queue.clear()
    rig.stopped.add("a")
    rig.isolate("a")
    rig.run(3)
    assert isinstance(rig["b"].answers["read"], int)


def test_a_closed_connection_makes_for_a_quick_election():
    rig = led_by_a()
    rig.stopped.add("a")
    rig.isolate("a", hint=True)
    rig.run(0.25)
    assert len(rig.leaders()) == 1


def test_a_hint_does_not_depose_a_leader_that_others_hear():
    rig = led_by_a()
    rig.isolate("b", "a", hint=True)
    rig.run(0.4)
    rig.join("b", "a")
    rig.run(0.4)
    assert rig.leaders() == ["a"]
    assert rig["a"].status.term == 1


def test_a_node_cut_off_does_not_raise_the_term():
    rig = led_by_a()
    rig.isolate("c", "a")
    rig.run(5)
    assert {node.status.term for node in rig.nodes.values()} == {1}
    assert rig.leaders() == ["a"]


def test_a_leader_without_a_majority_steps_down_within_its_fallback():
    rig = led_by_a()
    rig.isolate("a")
    rig.run(1.15)
    assert rig["a"].status.role == "follower"
    assert rig["a"].status.leader is None


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_pause_of_a_node_is_harmless(who):
    rig = led_by_a()
    rig.run(0.3)
    node = rig[who]
    rig.stopped.add(who)
    rig.run(0.45)  # shorter than an election timeout: the others notice nothing …
    rig.stopped.clear()
    rig.now += 3.0  # … and then the whole host stands still
    rig.run(1.0)
    assert rig.leaders() == ["a"]
    assert node.status.term == 1


def test_leadership_is_handed_over_without_a_gap():
    rig = led_by_a()
    rig["a"].engine.transfer("b")
    rig.propose("a", b"x")
    rig.settle()
    assert rig.leaders() == ["b"]
    assert rig["a"].answers == {b"x": 1}


def test_a_handover_to_a_dead_node_is_given_up():
    rig = led_by_a()
    rig.isolate("b")
    rig["a"].engine.transfer("b")
    rig.propose("a", b"x")
    rig.run(1.2)
    assert rig.leaders() == ["a"]
    assert rig["a"].answers == {b"x": 1}


def test_a_handover_to_a_node_without_a_connection_holds_up_no_write():
    rig = led_by_a()
    rig.isolate("b")
    rig["a"].engine.transfer("b")
    rig.propose("a", b"x")
    rig.run(0.05)
    assert rig["a"].answers == {b"x": 1}


def test_a_handover_to_a_node_that_does_not_campaign_holds_up_writes_for_three_heartbeats_however_often_it_is_asked():
    rig = Rig(3)
    rig.elect("a")
    rig["b"].engine._room.save.failed("it has no room for a snapshot", rig.now)
    rig["a"].engine.transfer("b")
    rig.settle()
    rig.propose("a", b"x")
    for _ in range(4):
        rig["a"].engine.transfer("b")
        rig.run(0.06)
    assert b"x" not in rig["a"].answers
    rig.run(0.1)
    assert rig["a"].answers[b"x"] == 1
    assert rig.leaders() == ["a"]


def test_a_handover_to_a_node_that_falls_silent_holds_up_writes_for_three_heartbeats_only():
    rig = led_by_a()
    rig.stopped.add("b")
    rig.propose("a", b"x")
    rig.run(0.05)  # so b is one entry behind, and does not answer
    rig["a"].engine.transfer("b")
    rig.propose("a", b"y")
    rig.run(0.5)
    assert rig.leaders() == ["a"]
    assert rig["a"].answers == {b"x": 1, b"y": 2}


def test_two_that_are_granted_each_others_pre_vote_in_one_pass_do_not_ask_for_ever():
    rig = Rig(3)
    rig.elect("a")
    rig.stopped.add("a")
    rig.isolate("a", hint=True)
    b, c = rig["b"], rig["c"]
    for node in (b, c):
        node.step()
    b.core.election_deadline = rig.now - 1
    b.step()  # asks
    rig.deliver()
    c.core.election_deadline = rig.now - 1
    c.step()  # says yes, and asks in the same pass: both reach b together, and so it goes on
    rig.settle(passes=20)
    assert rig.leaders() != []


def test_an_answer_to_a_former_process_fits_no_read_of_its_successor():
    """It may rest on a round that began before the read did."""
    rig = led_by_a()
    rig["b"].engine.read_index("old", rig.now + 5)
    rig["b"].step()
    (old,) = [message for _, _, message in rig.queue if isinstance(message, codec.ReadIndex)]
    rig.run(0.01)
    rig["b"].restart()
    rig.join("b")
    rig.run(0.2)
    assert rig["b"].status.leader == "a"
    rig["b"].engine.read_index("new", rig.now + 5)
    rig["b"].step()
    rig.inject("a", "b", codec.ReadIndexReply(rig["a"].status.term, old.token, 1))
    assert "new" not in rig["b"].answers
    rig.settle()
    assert rig["b"].answers["new"] == rig["a"].status.commit


def test_a_large_state_is_not_written_again_for_every_bit_of_log():
    """Snapshots are due when the log has grown by as much as the last one was large: cost in proportion to writes."""
    rig = Rig(1, settings=msgspec.structs.replace(SMALL, snapshot_bytes=2_000), retained_bytes=1_000)
    rig.settle()
    written = []
    for number in range(300):
        rig.propose("a", bytes(100) + bytes([number & 255, number >> 8]))
        rig.settle()
        index = rig["a"].status.snapshot_index
        if index not in written:
            written.append(index)
    gaps = [later - earlier for earlier, later in pairwise(written)]
    assert len(gaps) >= 3
    assert gaps[-1] > 3 * gaps[1], "the state of this machine only grows, and so must the distance"
    before = rig["a"].status.snapshot_index
    rig["a"].restart()
    rig.settle()
    for number in range(gaps[-1] // 2):
        rig.propose("a", bytes(100) + bytes([number]))
        rig.settle()
    assert rig["a"].status.snapshot_index == before, "a restart does not forget how large it was"
