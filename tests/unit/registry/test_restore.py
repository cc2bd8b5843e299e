"""A restore on real Raft members: every node, its workers and the leader's clocks change over in one step."""

from __future__ import annotations

import asyncio

import pytest

from discovery.command import Found, Grant, Meta, Put, Stage, Switch, encode
from discovery.errors import Conflict
from discovery.store import Store, backup
from discovery.store.staging import STEP


@pytest.fixture
def saved(register):
    """A state to restore: two instances, a key on one of their leases, a lease on its own."""
    store = Store()
    commands = [Found("old"), register("a", 1_000, lease=7), register("b", 60_000, lease=8), Put("k", b"v", 8),
                Grant(9, 1_000)]  # fmt: skip
    for index, command in enumerate(commands):
        store.apply(encode(command), Meta(index, 1, 1))
    return store


def parts_of(store):
    snapshot = store.snapshot()
    head = backup.header(snapshot, version="1", node="n1", zone="z", time_ms=1)
    reader = backup.Reader()
    return [frame for chunk in backup.write(snapshot, head) for frame in reader.push(chunk)]


async def restore(node, store):
    parts = parts_of(store)
    for position, part in enumerate(parts):
        await node.registry.write(Stage(1, position, part))
    return await node.registry.write(Switch(1, len(parts), "new", store.revision, store.serial))


async def test_every_node_changes_over_and_goes_on(cluster, saved, until, register, followers):
    nodes = await cluster(3)
    result = await restore(followers(nodes)[0], saved)
    assert result.revision == saved.revision + STEP
    await until(lambda: all(node.registry.store.history == "new" for node in nodes))
    assert len({node.registry.store.digest() for node in nodes}) == 1
    assert [node.registry.store.key("k").value for node in nodes] == [b"v"] * 3
    assert (await nodes[2].registry.write(Put("k", b"w"))).revision == result.revision + 1


async def test_restored_leases_begin_with_their_full_ttl_and_expire_after_it(node, saved, until):
    begin = asyncio.get_running_loop().time()
    await restore(node, saved)
    left = await node.registry.remaining([7, 8, 9])
    assert 900 < left[7] <= 1_000
    assert 59_000 < left[8] <= 60_000
    assert (await node.registry.heartbeat([("default", "web", "b", 8)])).renewed == 1
    await until(lambda: list(node.registry.store.instance_ids("default", "web")) == ["b"])
    assert asyncio.get_running_loop().time() - begin >= 1.0
    assert node.registry.store.lease(9) is None


async def test_workers_read_the_whole_anew_and_the_write_waits_for_them(node, saved, worker, until):
    one = await worker(node)
    await until(lambda: one.history == node.registry.store.history)
    result = await restore(node, saved)
    assert await node.registry.visible(result) == (True, [])
    assert (one.history, one.revision, one.ids) == ("new", result.revision, {"a", "b"})


async def test_what_came_in_between_wins(node, saved):
    parts = parts_of(saved)
    for position, part in enumerate(parts):
        await node.registry.write(Stage(1, position, part))
    await node.registry.write(Put("mine", b"1"))
    with pytest.raises(Conflict, match="not empty"):
        await node.registry.write(Switch(1, len(parts), "new", saved.revision, saved.serial))
    assert node.registry.store.key("mine").value == b"1"
    assert node.registry.store.history == "h-n1"
