"""One cluster, founded once; a directory belongs to one node and one process; the forgetful do not count."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.errors import ConfigError, CorruptData
from discovery.raft.founding import Announced, adopt, cluster_id, found, judge
from discovery.raft.identity import FORMAT, DataDirectory, Identity, Member

IDS = ("n1", "n2", "n3")
CONFIGURED = {node: f"10.0.0.{node[1]}:8300" for node in IDS}


def empty(node: str, incarnation: str | None = None) -> Identity:
    return Identity(FORMAT, node, "cluster.local", incarnation or f"first-{node}")


def announced(identity: Identity, configured=IDS) -> Announced:
    return Announced(
        node=identity.node,
        incarnation=identity.incarnation,
        cluster=identity.cluster,
        zone=identity.zone,
        configured=tuple(configured),
        members=tuple((n, m.incarnation, m.raft) for n, m in sorted(identity.members.items())),
        raft=CONFIGURED.get(identity.node, ""),
        http="",
        version="0",
    )


def others(node: str, identities: dict[str, Identity]) -> dict[str, Announced]:
    return {other: announced(identity) for other, identity in identities.items() if other != node}


@pytest.fixture
def founded() -> dict[str, Identity]:
    nodes = {node: empty(node) for node in IDS}
    return {node: found(nodes[node], CONFIGURED, others(node, nodes)) for node in IDS}


def test_every_node_computes_the_same_cluster(founded):
    assert len({identity.cluster for identity in founded.values()}) == 1
    assert founded["n1"].members == founded["n3"].members
    assert founded["n1"].members["n2"] == Member("10.0.0.2:8300", "first-n2")


def test_nothing_is_founded_while_a_configured_peer_is_missing():
    nodes = {node: empty(node) for node in IDS}
    assert found(nodes["n1"], CONFIGURED, {"n2": announced(nodes["n2"])}) is None


def test_nothing_is_founded_while_the_lists_differ():
    nodes = {node: empty(node) for node in IDS}
    peers = others("n1", nodes) | {"n3": announced(nodes["n3"], ("n1", "n3"))}
    assert found(nodes["n1"], CONFIGURED, peers) is None


def test_nothing_is_founded_beside_a_founded_peer(founded):
    peers = {"n2": announced(founded["n2"]), "n3": announced(empty("n3"))}
    assert found(empty("n1", "wiped"), CONFIGURED, peers) is None


def test_nothing_is_founded_with_a_peer_of_another_zone():
    foreign = msgspec.structs.replace(empty("n2"), zone="other.example")
    peers = {"n2": announced(foreign), "n3": announced(empty("n3"))}
    assert found(empty("n1"), CONFIGURED, peers) is None


def test_a_cluster_of_one_founds_itself():
    alone = found(empty("n1"), {"n1": "127.0.0.1:8300"}, {})
    assert alone is not None
    assert list(alone.members) == ["n1"]


def test_a_founded_node_founds_nothing_again(founded):
    assert found(founded["n1"], CONFIGURED, others("n1", founded)) is None


def test_a_node_that_missed_the_founding_adopts_it(founded):
    adopted = adopt(empty("n3"), announced(founded["n1"]))
    assert adopted == founded["n3"]


def test_a_wiped_node_adopts_nothing_and_is_refused(founded):
    wiped = empty("n3", "second-n3")
    assert adopt(wiped, announced(founded["n1"])) is None
    verdict, why = judge(founded["n1"], announced(wiped))
    assert verdict == "stranger"
    assert "lost its data directory" in why
    assert "must add this node first" in judge(wiped, announced(founded["n1"]))[1]


def test_a_list_told_by_one_who_is_not_in_it_is_not_adopted(founded):
    liar = msgspec.structs.replace(announced(founded["n1"]), incarnation="other")
    assert adopt(empty("n3"), liar) is None


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "member"),
        ({"cluster": ""}, "waiting"),
        ({"cluster": "f" * 32}, "stranger"),
        ({"zone": "other.example"}, "stranger"),
        ({"node": "n9"}, "outsider"),
        ({"node": "n9", "cluster": ""}, "waiting"),
        ({"incarnation": "other"}, "outsider"),
        ({"incarnation": "other", "cluster": ""}, "stranger"),
    ],
)
def test_only_a_member_of_the_same_cluster_counts(founded, change, verdict):
    peer = msgspec.structs.replace(announced(founded["n2"]), **change)
    assert judge(founded["n1"], peer)[0] == verdict


class World:
    """Three nodes that meet, part, crash in the middle of founding and lose their directories."""

    def __init__(self):
        self.disk = {node: empty(node) for node in IDS}
        self.links = set()
        self.wipes = 0

    def settle(self, node):
        peers = {p: announced(self.disk[p]) for p in IDS if frozenset((p, node)) in self.links}
        adopted = (adopt(self.disk[node], peer) for peer in peers.values())
        identity = next(filter(None, adopted), None) or found(self.disk[node], CONFIGURED, peers)
        if identity is not None:
            self.disk[node] = identity

    def wipe(self, node):
        self.wipes += 1
        self.disk[node] = empty(node, f"{node}-{self.wipes}")

    def quorums(self):
        """Clusters that a majority of their own members, as these are now, belongs to and agrees on."""
        clusters = {}
        for identity in self.disk.values():
            member = identity.members.get(identity.node)
            if member is not None and member.incarnation == identity.incarnation:
                clusters.setdefault(identity.cluster, set()).add(identity.node)
        return [cluster for cluster, nodes in clusters.items() if len(nodes) >= 2]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("meet"), st.sampled_from(IDS), st.sampled_from(IDS)),
        st.tuples(st.just("part"), st.sampled_from(IDS), st.sampled_from(IDS)),
        st.tuples(st.just("settle"), st.sampled_from(IDS), st.none()),
        st.tuples(st.just("wipe"), st.sampled_from(IDS), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=500, deadline=None)
@given(steps)
def test_whatever_happens_while_founding_there_is_one_cluster_that_can_elect(steps):
    world = World()
    quorums = set()
    for kind, one, other in steps:
        if kind == "settle":
            world.settle(one)
        elif kind == "wipe":
            world.wipe(one)
        elif one != other:
            (world.links.add if kind == "meet" else world.links.discard)(frozenset((one, other)))
        quorums.update(world.quorums())
        assert len(world.quorums()) <= 1
    if not world.wipes:
        assert len({identity.cluster for identity in world.disk.values()} - {""}) <= 1
        for node in (*IDS, *IDS):
            world.links = {frozenset((a, b)) for a in IDS for b in IDS if a != b}
            world.settle(node)
        assert len({identity.cluster for identity in world.disk.values()}) == 1
        assert all(identity.founded for identity in world.disk.values())


def test_the_cluster_id_depends_on_every_pair_and_not_on_their_order():
    pairs = [("n1", "a"), ("n2", "b")]
    assert cluster_id(pairs) == cluster_id(pairs[::-1])
    assert cluster_id(pairs) != cluster_id([("n1", "a"), ("n2", "c")])


def test_a_new_directory_gets_an_incarnation_and_keeps_it(tmp_path):
    directory = DataDirectory(tmp_path / "data")
    first = directory.identity("n1", "cluster.local")
    directory.close()
    directory = DataDirectory(tmp_path / "data")
    assert directory.identity("n1", "cluster.local") == first
    assert len(first.incarnation) == 32
    directory.close()


def test_what_was_founded_is_there_again(tmp_path, founded):
    directory = DataDirectory(tmp_path / "data")
    directory.store(founded["n1"])
    assert directory.identity("n1", "cluster.local") == founded["n1"]
    directory.close()


@pytest.mark.parametrize(("node", "zone", "option"), [("n2", "cluster.local", "--id"), ("n1", "other", "--zone")])
def test_another_id_or_zone_than_the_directorys_is_a_configuration_error(tmp_path, node, zone, option):
    directory = DataDirectory(tmp_path)
    directory.identity("n1", "cluster.local")
    with pytest.raises(ConfigError, match=option):
        directory.identity(node, zone)
    directory.close()


def test_a_second_process_on_the_directory_is_refused_by_pid(tmp_path):
    directory = DataDirectory(tmp_path)
    code = (
        "import sys; from pathlib import Path; from discovery.raft.identity import DataDirectory;"
        "DataDirectory(Path(sys.argv[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "in use by another process (pid " in run.stderr
    directory.close()
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0


def test_a_later_format_is_refused(tmp_path):
    (tmp_path / "identity.json").write_text(json.dumps({"format": FORMAT + 1, "future": True}))
    directory = DataDirectory(tmp_path)
    with pytest.raises(ConfigError, match="later version"):
        directory.identity("n1", "cluster.local")
    directory.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_identity_stops_the_node(tmp_path, content):
    (tmp_path / "identity.json").write_bytes(content)
    directory = DataDirectory(tmp_path)
    with pytest.raises(CorruptData, match=r"identity\.json: damaged"):
        directory.identity("n1", "cluster.local")
    directory.close()


def test_a_log_without_an_identity_stops_the_node(tmp_path):
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "wal-0000000000000001.log").write_bytes(b"")
    directory = DataDirectory(tmp_path)
    with pytest.raises(CorruptData, match="missing, though"):
        directory.identity("n1", "cluster.local")
    directory.close()


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data-dir"):
        DataDirectory(tmp_path / "file" / "data")
