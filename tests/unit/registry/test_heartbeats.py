"""Heartbeats on any node: what they are answered, and when."""

from __future__ import annotations

import asyncio

import pytest

from discovery import heartbeats, limits
from discovery.command import Deregister, Grant
from discovery.errors import NotApplied, Overloaded


def beat(id: str, holder: int = 0) -> tuple[str, str, str, int]:
    return ("default", "web", id, holder)


class Rounds:
    """Counts the leader's rounds and can hold them back."""

    def __init__(self, raft, monkeypatch):
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._confirm = raft.confirm
        monkeypatch.setattr(raft, "confirm", self.confirm)

    async def confirm(self):
        self.count += 1
        await self.gate.wait()
        return await self._confirm()


async def test_every_kind_of_answer_in_one_request_in_order(node, register):
    await node.registry.write(register("a", 10_000, lease=7))
    await node.registry.write(register("p", None))
    answer = await node.registry.heartbeat([beat("a"), beat("x"), beat("a", 7), beat("a", 8), beat("p"), beat("p", 7)])
    assert answer.renewed == 3
    assert answer.missing == [("default", "web", "x")]
    assert answer.conflict == [("default", "web", "a"), ("default", "web", "p")]
    assert answer.ttls == [10_000, None, 10_000, None, None, None]


async def test_nothing_asked_nothing_done(node):
    assert (await node.registry.heartbeat([])).ttls == []


async def test_a_heartbeat_renews_and_moves_no_revision_and_no_log(node, register):
    await node.registry.write(register("a", 10_000, lease=7))
    before = (node.registry.store.revision, node.raft.status().last_index)
    node.clock.ahead_s += 0.15
    node.registry.lead.now()
    assert (await node.registry.remaining([7]))[7] <= 9_850
    await node.registry.heartbeat([beat("a")])
    assert (await node.registry.remaining([7]))[7] > 9_950
    assert (node.registry.store.revision, node.raft.status().last_index) == before


@pytest.mark.parametrize("size", [1, 3])
async def test_every_node_takes_heartbeats(cluster, register, size):
    nodes = await cluster(size)
    await nodes[0].registry.write(register("a"))
    for node in nodes:
        answers = await asyncio.gather(*(node.registry.heartbeat([beat("a"), beat("x")]) for _ in range(10)))
        assert all(answer.ttls == [10_000, None] and len(answer.missing) == 1 for answer in answers)


async def test_an_instance_of_an_instant_ago_is_known_through_every_node(cluster, register, followers):
    nodes = await cluster(3)
    first, second = followers(nodes)
    for number in range(30):
        await first.registry.write(register(f"i{number}"))
        assert (await second.registry.heartbeat([beat(f"i{number}")])).renewed == 1
    await second.registry.write(Deregister("default", "web", "i0"))
    assert (await first.registry.heartbeat([beat("i0")])).missing == [beat("i0")[:3]]


async def test_followers_gather_what_comes_together_into_one_message(cluster, register, followers, monkeypatch):
    nodes = await cluster(3)
    await nodes[0].registry.write(register("a"))
    follower = followers(nodes)[0]
    messages = []
    request = follower.raft.request

    def counted(peer, kind, payload, timeout_s):
        messages.append(kind)
        return request(peer, kind, payload, timeout_s)

    monkeypatch.setattr(follower.raft, "request", counted)
    await asyncio.gather(*(follower.registry.heartbeat([beat("a")]) for _ in range(200)))
    assert messages == ["heartbeat"]


async def test_no_answer_before_a_round_that_began_after_it_was_noted(node, register, monkeypatch):
    await node.registry.write(register("a"))
    rounds = Rounds(node.raft, monkeypatch)
    rounds.gate.clear()
    first = asyncio.ensure_future(node.registry.heartbeat([beat("a")]))
    missing = asyncio.ensure_future(node.registry.heartbeat([beat("x")]))
    await asyncio.sleep(0.01)
    assert rounds.count == 1, "one round serves both"
    later = asyncio.ensure_future(node.registry.heartbeat([beat("a")]))
    await asyncio.sleep(0.01)
    assert rounds.count == 2, "the round in flight began before the third was noted"
    assert [task.done() for task in (first, missing, later)] == [False] * 3
    rounds.gate.set()
    assert (await first).renewed == (await later).renewed == 1
    assert len((await missing).missing) == 1


async def test_a_round_that_fails_acknowledges_nothing(node, register, monkeypatch):
    await node.registry.write(register("a"))

    async def deposed():
        raise NotApplied("deposed")

    monkeypatch.setattr(node.raft, "confirm", deposed)
    for items in ([beat("a")], [beat("x")]):
        with pytest.raises(NotApplied):
            await node.registry.heartbeat(items)


async def test_without_a_leader_nothing_is_acknowledged(node, register):
    await node.registry.write(register("a"))
    node.registry.role("follower", 2, None, False)
    with pytest.raises(NotApplied):
        await node.registry.heartbeat([beat("a")])


async def test_a_member_that_does_not_lead_refuses_a_batch(cluster, register, followers):
    nodes = await cluster(3)
    await nodes[0].registry.write(register("a"))
    first, second = followers(nodes)
    first.registry.role("follower", first.registry.lead.term, second.name, False)
    with pytest.raises(NotApplied, match="does not lead"):
        await first.registry.heartbeat([beat("a")])


async def test_a_follower_hands_its_batch_over_before_it_answers_a_round(
    cluster, register, followers, leader, monkeypatch
):
    monkeypatch.setattr(heartbeats, "BATCH_S", 60.0)
    nodes = await cluster(3)
    await nodes[0].registry.write(register("a", 10_000, lease=7))
    chief, (one, two) = leader(nodes), followers(nodes)
    for follower in (one, two):
        await follower.registry.heartbeat([beat("x")])  # the next one has to wait
    chief.clock.ahead_s += 0.19
    chief.registry.lead.now()
    waiting = [asyncio.ensure_future(follower.registry.heartbeat([beat("a")])) for follower in (one, two)]
    await asyncio.sleep(0)
    assert chief.registry.lead.lessor.remaining_ms(7, chief.registry.lead.now()) < 9_900
    await chief.raft.confirm()
    assert chief.registry.lead.lessor.remaining_ms(7, chief.registry.lead.now()) > 9_900
    await asyncio.gather(*waiting)


async def test_more_than_the_limit_is_refused_as_overload(cluster, followers):
    follower = followers(await cluster(3))[0]
    follower.registry._beats._waiting = limits.HEARTBEATS_WAITING_MAX
    with pytest.raises(Overloaded):
        await follower.registry.heartbeat([beat("a")])


async def test_ten_thousand_in_one_request_through_a_follower(cluster, register, followers):
    nodes = await cluster(3)
    await nodes[0].registry.write(register("a"))
    items = [beat("a")] * limits.HEARTBEATS_PER_REQUEST_MAX
    answer = await followers(nodes)[0].registry.heartbeat(items)
    assert answer.renewed == len(items)


async def test_an_instance_on_a_shared_lease_renews_that_lease(node, register):
    await node.registry.write(Grant(9, 20_000))
    await node.registry.write(register("a", join=9))
    assert (await node.registry.heartbeat([beat("a", 9)])).ttls == [20_000]


async def test_a_caller_that_gave_up_leaves_the_others_their_answer(cluster, register, followers):
    nodes = await cluster(3)
    await nodes[0].registry.write(register("a"))
    follower = followers(nodes)[0]
    gone = asyncio.ensure_future(follower.registry.heartbeat([beat("a")]))
    stays = asyncio.ensure_future(follower.registry.heartbeat([beat("a")]))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).renewed == 1
