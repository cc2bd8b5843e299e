"""Feature levels: raised when every member knows more, never below what anyone relies on; the too old are refused."""

from __future__ import annotations

import msgspec
import pytest

from discovery import levels
from discovery.errors import ConfigError, Conflict, NotApplied
from discovery.levels import BASE, LEVEL, Beyond
from discovery.raft.configuration import Add, Configuration, Electorate, Member, Remove, entry, founding
from discovery.raft.founding import Announced, adopt, judge
from discovery.raft.identity import FORMAT, DataDirectory, Identity
from discovery.raft.membership import Membership
from discovery.testing.rig import Rig

D = Add("d", "10.0.0.4:8300", "http://d")


def levels_of(rig: Rig) -> set[int]:
    return {node.engine.members()[1].level for node in rig.nodes.values() if node.name not in rig.stopped}


def led_by_a(known: dict[str, int], count: int = 3) -> Rig:
    rig = Rig(count, voters=3, known=known, level=BASE)
    rig.elect("a")
    rig.run(0.3)
    assert rig.leaders() == ["a"]
    return rig


def upgraded(rig: Rig, name: str) -> None:
    """Another version starts on the data directory."""
    rig.known[name] = LEVEL
    rig[name].restart()
    rig.join(name)
    rig.run(3.0)


def test_the_level_is_raised_when_all_members_know_more():
    assert levels_of(led_by_a({})) == {LEVEL}


def test_one_member_of_an_older_version_holds_the_level():
    rig = led_by_a({"c": BASE})
    assert levels_of(rig) == {BASE}
    upgraded(rig, "c")
    assert levels_of(rig) == {LEVEL}


def test_members_replaced_one_by_one_rise_only_with_the_last():
    rig = led_by_a({"a": BASE, "b": BASE, "c": BASE})
    for name in ("c", "b"):
        upgraded(rig, name)
        rig.propose(name, name.encode())
        rig.run(1.0)
        assert levels_of(rig) == {BASE}
    upgraded(rig, "a")
    assert levels_of(rig) == {LEVEL}
    assert [node.machine.applied for node in rig.nodes.values()] == [[b"c", b"b"]] * 3


def test_a_member_that_was_never_heard_holds_the_level():
    rig = Rig(3, voters=3, level=BASE)
    rig["c"].restart()
    for name in ("a", "b"):
        rig[name].restart()  # knows nothing of the others any more
    rig.join("a", "b")
    rig.elect("a")
    rig.run(1.0)
    assert rig.leaders() == ["a"]
    assert rig["a"].engine.members()[1].level == BASE
    rig.join("c")
    rig.run(1.0)
    assert levels_of(rig) == {LEVEL}


def test_a_member_that_is_down_does_not_hold_the_level_once_it_said_what_it_knows():
    rig = Rig(3, voters=3, known={"b": BASE}, level=BASE)
    rig.elect("a")
    rig.run(0.3)
    rig.isolate("c")
    rig.stopped.add("c")
    upgraded(rig, "b")
    assert levels_of(rig) == {LEVEL}


def test_members_do_not_change_below_the_level_that_knows_of_it():
    rig = led_by_a({"c": BASE}, 4)
    for change in (D, Remove("c")):
        answer = rig.change("a", change)
        assert isinstance(answer, Conflict)
        assert "held by c, which runs a version that knows 1" in answer.detail
    assert sorted(rig["a"].engine.members()[0].members) == ["a", "b", "c"]
    upgraded(rig, "c")
    rig["a"].answers.clear()
    rig.change("a", D)
    rig.run(0.3)
    assert "d" in rig["a"].engine.members()[0].voters()


def test_without_the_guard_a_member_of_an_older_version_misses_a_change(monkeypatch):
    """What the level is for: the older version takes the entry for nothing, and counts other majorities."""
    monkeypatch.setattr("discovery.raft.changes.Changes._check_level", lambda *_: None)
    monkeypatch.setattr(Electorate, "follow", follow_as_before(Electorate.follow))
    rig = led_by_a({"c": BASE}, 4)
    rig.change("a", D)
    rig.run(0.3)
    assert "d" in rig["a"].engine.members()[0].voters()
    assert "d" not in rig["c"].engine.members()[0].voters()


def follow_as_before(follow):
    def as_before(self, command, index):
        return False if self.known_level < levels.MEMBERS else follow(self, command, index)

    return as_before


def test_a_change_that_comes_with_the_rise_is_asked_again():
    rig = Rig(4, voters=3, level=BASE)
    rig.elect("a")
    rig["a"].answers.clear()
    if rig["a"].engine.members()[0].level == BASE:
        assert isinstance(rig.change("a", D), NotApplied)
    rig.run(0.3)
    rig.change("a", D)
    rig.run(0.3)
    assert "d" in rig["a"].engine.members()[0].voters()


def test_nobody_joins_who_does_not_know_what_is_in_force():
    rig = led_by_a({"d": BASE}, 4)
    assert levels_of(rig) - {BASE} == {LEVEL}
    answer = rig.change("a", D)
    assert isinstance(answer, Conflict)
    assert "d knows feature level 1, the cluster is at 2" in answer.detail


def test_what_is_applied_knows_the_level_of_its_place_in_the_log():
    rig = Rig(3, voters=3, known={"c": BASE}, level=BASE)
    rig.elect("a")
    rig.propose("a", b"before")
    rig.run(0.3)
    upgraded(rig, "c")
    rig.propose("a", b"after")
    rig.run(0.3)
    for node in rig.nodes.values():
        told = dict(zip(node.machine.applied, [meta.level for meta in node.machine.metas], strict=True))
        assert told == {b"before": BASE, b"after": LEVEL}


def test_a_version_that_is_too_old_does_not_start_on_log_or_snapshot():
    rig = led_by_a({})
    rig.known["b"] = BASE
    with pytest.raises(Beyond, match=r"feature level 2, this version knows up to 1.*Way out"):
        rig["b"].restart()


def test_an_entry_beyond_what_a_node_knows_is_not_taken():
    electorate = Electorate(founding({"a": Member("", "1")}, BASE), BASE)
    with pytest.raises(Beyond):
        electorate.follow(entry(Configuration({"a": Member("", "1")}, level=LEVEL)), 7)
    with pytest.raises(Beyond):
        electorate.rebuild(Configuration({"a": Member("", "1")}, level=LEVEL), [], 7)


def identity(level: int, node: str = "n1", cluster: str = "c") -> Identity:
    members = {name: Member(f"10.0.0.1:{number}", name) for number, name in enumerate(("n1", "n2"), 1)}
    return Identity(FORMAT, node, "cluster.local", node, cluster, members if cluster else {}, level=level)


def announced(level: int, in_force: int, cluster: str = "c") -> Announced:
    members = (("n1", "n1", "10.0.0.1:1"), ("n2", "n2", "10.0.0.1:2"))
    return Announced(
        "n2", "n2", cluster, "cluster.local", ("n1", "n2"), members, "10.0.0.1:2", "", "0", 0, (), level, in_force
    )


@pytest.mark.parametrize(
    ("own", "known", "verdict"), [(BASE, BASE, "member"), (LEVEL, BASE, "stranger"), (LEVEL, LEVEL, "member")]
)
def test_who_knows_less_than_what_is_in_force_is_refused(own, known, verdict):
    found, why = judge(identity(own), announced(known, BASE))
    assert found == verdict
    assert not why or "install the version of the other members" in why


def test_who_adopts_a_cluster_adopts_its_level():
    adopted = adopt(identity(BASE, cluster=""), announced(LEVEL, LEVEL))
    assert adopted is not None
    assert adopted.level == LEVEL


def test_versions_without_levels_announce_the_first():
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(announced(LEVEL, LEVEL)))[:9]
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Announced)
    assert (told.level, told.in_force) == (BASE, BASE)


def test_the_directory_refuses_older_versions_once_the_level_has_risen_and_not_before(tmp_path):
    for level, format in ((BASE, 1), (LEVEL, FORMAT)):
        directory = DataDirectory(tmp_path)
        directory.store(identity(level))
        assert msgspec.json.decode((tmp_path / "identity.json").read_bytes())["format"] == format
        assert directory.identity("n1", "cluster.local") == identity(level)
        configured = {"n1": "10.0.0.1:1", "n2": "10.0.0.1:2"}
        if level > BASE:
            with pytest.raises(ConfigError, match=r"data_dir .*feature level 2, this version knows up to 1"):
                Membership(directory, identity(level), configured, http="", version="0", level=BASE)
        directory.close()


def test_a_start_after_the_rise_applies_what_lies_before_it_as_all_others_did(tmp_path):
    directory = DataDirectory(tmp_path)
    configured = {"n1": "10.0.0.1:1", "n2": "10.0.0.1:2"}
    seed = Membership(directory, identity(LEVEL), configured, http="", version="0", level=LEVEL).seed()
    directory.close()
    electorate = Electorate(seed, LEVEL)
    electorate.follow(entry(Configuration(seed.members, level=LEVEL)), 7)
    assert [electorate.at(index).level for index in (1, 6, 7)] == [BASE, BASE, LEVEL]


def test_a_node_does_not_join_a_cluster_that_is_beyond_it(tmp_path):
    directory = DataDirectory(tmp_path)
    for cluster in ("", "c"):
        configured = {"n1": "10.0.0.1:1", "n2": "10.0.0.1:2"}
        members = Membership(directory, identity(BASE, cluster=cluster), configured, http="", version="0", level=BASE)
        members.check_levels()
        members.hear("n2", announced(LEVEL, LEVEL, "another"))
        if cluster:
            members.check_levels()  # that of another cluster does not matter
        members.hear("n2", announced(LEVEL, LEVEL))
        with pytest.raises(Beyond, match="n2 is a member of a cluster at feature level 2"):
            members.check_levels()
    directory.close()


def test_the_variable_of_the_tests_can_only_lower():
    assert levels.supported({}) == LEVEL
    told = [levels.supported({"DISCOVERY_TESTING_LEVEL": text}) for text in ("1", "9", "0", "x")]
    assert told == [1, LEVEL, 1, LEVEL]
