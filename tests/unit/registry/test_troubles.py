"""What hinders a node's disk reaches the others, is named where it explains a failure, and is forgotten in time."""

from __future__ import annotations

import asyncio

import pytest

from discovery import limits
from discovery.errors import NotApplied, OutcomeUnknown, Overloaded
from discovery.raft.types import DiskStatus, MemberStatus, RaftStatus
from discovery.troubles import Troubles

NOW = 1000.0


class Peers:
    """Three nodes without a network: what one asks another is answered at once, or not at all."""

    def __init__(self):
        self.now = NOW
        self.full = dict.fromkeys(("n1", "n2", "n3"), "")
        self.handlers = {}
        self.away = set()
        self.nodes = {node: Troubles(Side(self, node), lambda: self.now) for node in self.full}

    def problems(self, node):
        status = self.nodes[node].shown(Side(self, node).status())
        return {member.id: member.problem for member in status.members if member.problem}


class Side:
    """Raft of one of them."""

    def __init__(self, peers, node):
        self.peers, self.node = peers, node

    def on_request(self, kind, handler):
        self.peers.handlers[self.node, kind] = handler

    def request(self, peer, kind, payload, timeout_s):
        future = asyncio.get_running_loop().create_future()
        if peer in self.peers.away:
            future.set_exception(OutcomeUnknown("no answer"))
        else:
            future.set_result(self.peers.handlers[peer, kind](self.node, payload))
        return future

    def status(self):
        members = tuple(MemberStatus(node, "", "", "follower", True, 0, 0) for node in self.peers.full)
        disk = DiskStatus(self.peers.full[self.node])
        return RaftStatus(self.node, "follower", 1, "n1", False, 1, 1, 1, members, 0.0, disk)


@pytest.fixture
def peers():
    return Peers()


async def test_what_hinders_a_node_is_known_everywhere_until_it_says_that_it_is_over(peers):
    peers.nodes["n2"].tell()
    assert [peers.problems(node) for node in peers.full] == [{}, {}, {}]
    peers.full["n2"] = "the disk is full"
    peers.nodes["n2"].tell()
    assert [peers.problems(node) for node in peers.full] == [{"n2": "the disk is full"}] * 3
    peers.full["n2"] = ""
    peers.nodes["n2"].tell()
    assert [peers.problems(node) for node in peers.full] == [{}, {}, {}]


async def test_a_node_that_falls_silent_is_believed_for_a_while_only(peers):
    peers.full["n2"] = "the disk is full"
    peers.nodes["n2"].tell()
    peers.now += limits.TROUBLE_S_MAX - 0.1
    assert peers.problems("n1") == {"n2": "the disk is full"}
    peers.now += 0.2
    assert peers.problems("n1") == {}


async def test_a_node_out_of_reach_does_not_keep_the_others_from_hearing(peers):
    peers.full["n2"], peers.away = "the disk is full", {"n1"}
    peers.nodes["n2"].tell()
    assert (peers.problems("n1"), peers.problems("n3")) == ({}, {"n2": "the disk is full"})


async def test_strangers_are_not_listened_to_and_long_stories_are_cut(peers):
    told = peers.handlers["n1", "trouble"]
    told("n9", b"the disk is full")
    assert peers.problems("n1") == {}
    told("n2", b"x" * 5000 + b"\xff")
    assert peers.problems("n1") == {"n2": "x" * limits.TROUBLE_CHARS_MAX}


@pytest.mark.parametrize("error", [NotApplied, OutcomeUnknown])
async def test_a_write_without_a_majority_names_the_disks_that_hinder_it(peers, error):
    peers.full |= {"n2": "no room at two", "n3": "no room at three"}
    for node in ("n2", "n3"):
        peers.nodes[node].tell()
    with pytest.raises(error) as failure, peers.nodes["n1"].named():
        raise error("no leader in time")
    expected = "no leader in time (the disks of these nodes hinder it: n2: no room at two; n3: no room at three)"
    assert failure.value.detail == str(failure.value) == expected


async def test_what_has_another_cause_is_left_as_it_is(peers):
    peers.full["n2"] = "no room"
    peers.nodes["n2"].tell()
    with pytest.raises(Overloaded) as failure, peers.nodes["n1"].named():
        raise Overloaded("too many")
    assert failure.value.detail == "too many"
    with pytest.raises(NotApplied) as own, peers.nodes["n2"].named():
        raise NotApplied("no room")
    assert own.value.detail == "no room", "nothing is said twice"
