"""The façade on a real Raft member: writes, refusals, visibility, leases, freshness."""

from __future__ import annotations

import asyncio
import time

import pytest

from discovery import feed, limits
from discovery.command import SINCE, Deregister, Found, Grant, Idempotency, Meta, Put, Revoke, encode
from discovery.errors import (
    Conflict,
    HolderConflict,
    IdempotencyMismatch,
    NotApplied,
    NotFound,
    PreconditionFailed,
    TooLarge,
)
from discovery.hub import Hub
from discovery.levels import LEVEL
from discovery.raft.types import RaftStatus
from discovery.registry import Registry


async def test_a_write_is_applied_and_answers_its_revision(node, register):
    result = await node.registry.write(register("a"))
    assert (result.changed, result.created, result.revision, result.dns) == (True, True, 1, 1)
    assert node.registry.store.instance("default", "web", "a") is not None


async def test_what_the_state_machine_refuses_is_raised_with_its_field(node, register):
    await node.registry.write(register("a", lease=7))
    with pytest.raises(HolderConflict) as caught:
        await node.registry.write(Deregister("default", "web", "a", holder=8))
    assert caught.value.errors[0].field == "lease"
    with pytest.raises(PreconditionFailed):
        await node.registry.write(Put("k", b"1", if_revision=99))


async def test_a_command_above_the_limit_never_reaches_raft(node):
    applied = node.raft.status().applied
    with pytest.raises(TooLarge):
        await node.registry.write(Put("k", b"x" * limits.COMMAND_BYTES_MAX))
    assert node.raft.status().applied == applied


async def test_the_same_key_again_gives_the_same_answer_and_another_body_is_refused(node):
    first = await node.registry.write(Put("k", b"1"), idempotency=Idempotency("once", b"d"))
    again = await node.registry.write(Put("k", b"1"), idempotency=Idempotency("once", b"d"))
    assert (again.revision, node.registry.store.revision) == (first.revision, first.revision)
    with pytest.raises(IdempotencyMismatch):
        await node.registry.write(Put("k", b"2"), idempotency=Idempotency("once", b"e"))


async def test_before_raft_is_there_a_write_is_not_applied(register):
    registry = Registry("n1", Hub(), history=lambda: "h")
    with pytest.raises(NotApplied):
        await registry.write(register("a"))


async def test_the_first_leader_founds_the_history(node):
    assert node.registry.store.history == "h-n1"


async def test_one_history_for_the_whole_cluster(cluster):
    nodes = await cluster(3)
    assert len({node.registry.store.history for node in nodes}) == 1


async def test_a_lease_is_renewed_by_its_id_and_404_when_it_is_gone(node):
    await node.registry.write(Grant(5, 10_000))
    assert (await node.registry.renew_lease(5)).ttl_ms == 10_000
    await node.registry.write(Revoke(5))
    with pytest.raises(NotFound):
        await node.registry.renew_lease(5)


async def test_remaining_is_the_same_from_every_node_and_none_when_unknown(cluster):
    nodes = await cluster(3)
    await nodes[0].registry.write(Grant(5, 60_000))
    for node in nodes:
        left = await node.registry.remaining([5, 6])
        assert 55_000 < left[5] <= 60_000
        assert left[6] is None


async def test_a_strong_read_on_a_follower_sees_what_another_node_acknowledged(cluster, register, followers):
    nodes = await cluster(3)
    first, second = followers(nodes)
    for number in range(20):
        await first.registry.write(register(f"i{number}"))
        await second.registry.barrier()
        assert second.registry.store.instance("default", "web", f"i{number}") is not None


async def test_a_single_node_is_never_stale(node):
    assert node.registry.staleness_ms() == 0
    assert node.registry.readiness() == []


async def test_a_node_of_three_is_as_stale_as_its_last_contact(cluster, until):
    nodes = await cluster(3)
    await until(lambda: all(0 <= node.registry.staleness_ms() < 1_000 for node in nodes))
    assert all(node.registry.readiness() == [] for node in nodes)


async def test_a_node_whose_workers_are_behind_says_so(node, worker, until):
    node.hub.set_workers([(0, 4711)])
    (problem,) = node.registry.readiness()
    assert (problem.name, problem.areas) == ("dns_workers", {"dns"})
    await worker(node, 4711)
    await until(lambda: node.registry.readiness() == [])


async def test_a_registration_is_visible_once_every_worker_serves_it(node, worker, register, until):
    workers = [await worker(node) for _ in range(2)]
    await until(lambda: all(one.in_step() for one in workers))
    for number in range(50):
        result = await node.registry.write(register(f"i{number}"))
        assert await node.registry.visible(result) == (True, [])
        assert all(f"i{number}" in one.ids for one in workers)


async def test_a_key_waits_for_no_worker(node, worker, until):
    silent = await worker(node)
    silent.silent = True
    await until(silent.in_step)
    result = await node.registry.write(Put("k", b"1"))
    async with asyncio.timeout(0.5):
        assert await node.registry.visible(result) == (True, [])


async def test_visible_in_the_cluster_names_the_nodes_that_do_not_follow(cluster, worker, register, until):
    nodes = await cluster(3)
    workers = [await worker(node) for node in nodes]
    await until(lambda: all(one.in_step() for one in workers))
    result = await nodes[0].registry.write(register("a"))
    assert await nodes[0].registry.visible(result, cluster=True) == (True, [])
    assert all("a" in one.ids for one in workers)
    workers[2].silent = True
    result = await nodes[0].registry.write(register("b"))
    assert await nodes[0].registry.visible(result, cluster=True) == (True, ["n3"])
    await until(lambda: nodes[2].killed == [workers[2].pid])


async def test_a_restart_gives_back_everything_that_was_acknowledged(node, register, cluster):
    await node.registry.write(register("a"))
    before = node.registry.store.digest()
    loaded = node.registry.load(node.registry.snapshot()())
    assert loaded.digest() == before
    node.registry.install(loaded)
    assert node.registry.store.instance("default", "web", "a") is not None


async def test_a_kind_of_command_that_not_all_members_know_is_refused_before_the_log(node, register, monkeypatch):
    command = register("a")
    monkeypatch.setitem(SINCE, type(command), LEVEL + 1)
    before = node.registry.status().last_index
    with pytest.raises(Conflict, match=f"needs feature level {LEVEL + 1}, the cluster is at {LEVEL}"):
        await node.registry.write(command)
    assert node.registry.status().last_index == before


class Restarted:
    """Raft as a node that has just been started sees it: the log holds more than is applied."""

    def __init__(self):
        self.leader, self.applied, self.commit = None, 0, 5

    def status(self):
        return RaftStatus("n1", "follower", 1, self.leader, False, self.commit, self.applied, 5, (), 0.0)

    def on_request(self, kind, handler):
        """Nobody asks."""

    def before_round(self, callback):
        """There are no rounds."""


@pytest.fixture
async def restarted(tmp_path):
    """A registry that applies its log anew, the feed that its workers connect to, and the Raft that it sees."""
    hub, raft, clock = Hub(lambda pid: None, time.monotonic, lambda sock: 0), Restarted(), Clock()
    registry = Registry("n1", hub, history=lambda: "h", clock=clock)
    registry.attach(raft)
    await hub.start(str(tmp_path / "feed"))
    yield registry, str(tmp_path / "feed"), raft, clock
    await registry.stop()
    await hub.stop()


class Clock:
    """Stands still until told."""

    now = 1000.0

    def __call__(self):
        return self.now


async def replay(registry, raft, register, first, last):
    for index in range(first, last + 1):
        command = Found("h1") if index == 1 else register(f"i{index}")
        raft.applied = index
        registry.apply(encode(command), Meta(index, 1, 1_000 + index))
        await asyncio.sleep(0)


async def test_workers_never_see_the_past_come_back_while_the_log_is_applied_anew(restarted, worker, register, until):
    registry, path, raft, _ = restarted
    one = await worker(path)
    raft.leader = "n2"
    await replay(registry, raft, register, 1, 3)
    registry.role("follower", 1, "n2", False)
    await asyncio.sleep(0.02)
    assert one.kinds() == [], "what the log holds is not applied yet"
    await replay(registry, raft, register, 4, 5)
    await until(one.in_step)
    assert one.ids == {"i2", "i3", "i4", "i5"}
    assert [frame.revision for frame in one.frames if isinstance(frame, feed.Begin)] == [4]


async def test_without_a_leader_the_newest_state_known_here_is_served_after_a_while(restarted, worker, register, until):
    registry, path, raft, clock = restarted
    one = await worker(path)
    await replay(registry, raft, register, 1, 5)
    await asyncio.sleep(0.02)
    assert one.kinds() == [], "a leader may know of more"
    clock.now += limits.STALE_AFTER_S
    await registry.start()
    await until(one.in_step)
    assert len(one.ids) == 4


async def test_nothing_is_visible_before_the_workers_are_fed(restarted, worker, register, until):
    registry, path, raft, _ = restarted
    registry.hub.set_workers([(0, 4711)])
    one = await worker(path, 4711)
    raft.leader = "n2"
    await replay(registry, raft, register, 1, 3)
    assert not await registry.hub.visible(1, timeout_s=0.02)
    waiting = asyncio.ensure_future(registry.hub.visible(4))
    await replay(registry, raft, register, 4, 5)
    assert await waiting
    assert "i5" in one.ids
