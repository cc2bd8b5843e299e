"""``?visible=cluster`` on writes that touch no name: the other nodes have applied them, whatever their workers do."""

from __future__ import annotations

import asyncio

import pytest

from discovery.command import Delete, Grant, Put, Txn
from discovery.errors import RegistryError

WRITES = {
    "key": Put("k", b"1"),
    "nothing deleted": Delete("k"),
    "transaction": Txn((), (Put("k", b"1"),), ()),
    "lease": Grant(5, 10_000),
}


@pytest.mark.parametrize("name", WRITES)
async def test_every_node_has_applied_it_and_no_worker_is_waited_for(cluster, worker, until, name):
    nodes = await cluster(3)
    silent = await worker(nodes[1])
    await until(silent.in_step)
    silent.silent = True
    result = await nodes[0].registry.write(WRITES[name])
    assert await nodes[0].registry.visible(result, cluster=True) == (True, [])
    assert {node.registry.store.revision for node in nodes} == {result.revision}


async def test_a_node_that_lags_is_waited_for_and_then_named(cluster):
    nodes = await cluster(3)
    result = await nodes[0].registry.write(WRITES["key"])
    ahead = type(result)(result.revision + 1, True)
    asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(nodes[0].registry.write(Put("k2", b"2"))))
    assert await nodes[0].registry.visible(ahead, cluster=True) == (True, [])
    never = type(result)(result.revision + 9, True)
    assert await nodes[0].registry.visible(never, cluster=True) == (True, ["n2", "n3"])


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x01", b"\x91\x01", b"\x92\x01\xa1x"])
async def test_a_question_that_is_garbled_is_an_error_of_the_asker(node, payload):
    with pytest.raises(RegistryError):
        await node.registry._asked_visible("n2", payload)
