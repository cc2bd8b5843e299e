"""A node's own place in the catalogue."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from discovery import presence
from discovery.command import Deregister, Meta, Register, encode
from discovery.errors import NotApplied
from discovery.heartbeats import Heartbeats
from discovery.model import Port
from discovery.store import Store

NAME = (presence.NAMESPACE, presence.SERVICE, "n1")


@dataclass
class StandInRegistry:
    """The real state machine behind a registry that can be told to fail."""

    store: Store = field(default_factory=Store)
    refusals: int = 0
    index: int = 0
    barriers: int = 0
    written: list[Any] = field(default_factory=list)
    beats: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    conflict: bool = False

    async def write(self, command: Any, **_: Any) -> Any:
        self.written.append(command)
        if self.refusals:
            self.refusals -= 1
            raise NotApplied("no leader")
        self.index += 1
        return self.store.apply(encode(command), Meta(self.index, 1, self.index)).result

    async def barrier(self) -> None:
        self.barriers += 1

    async def heartbeat(self, items: list[Any]) -> Heartbeats:
        self.beats.put_nowait(items)
        known = self.store.instance(*items[0][:3]) is not None
        conflict, self.conflict = self.conflict, False
        return Heartbeats(1, [] if known else items, items if conflict else [], [])


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(presence, "RETRY_S", 0.01)


def made(registry: StandInRegistry) -> presence.Presence:
    instance = presence.own_instance("n1", "http://10.0.0.1:8500", "10.0.0.1:53", "10.0.0.1:8300")
    assert instance is not None
    return presence.Presence(registry, instance)  # type: ignore[arg-type]


async def run_until(keeper: presence.Presence, registry: StandInRegistry, beats: int) -> None:
    task = asyncio.create_task(keeper.run())
    for _ in range(beats):
        await asyncio.wait_for(registry.beats.get(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_node_registers_once_and_renews_with_its_own_lease() -> None:
    registry = StandInRegistry()
    await run_until(made(registry), registry, beats=3)
    (command,) = registry.written
    assert isinstance(command, Register)
    record = registry.store.instance(*NAME)
    assert record is not None
    assert record.spec.ports == (
        Port("http", 8500),
        Port("dns", 53, "udp"),
        Port("dns", 53, "tcp"),
        Port("raft", 8300),
    )
    assert record.spec.hostname == "n1"


async def test_a_refusal_is_tried_again() -> None:
    registry = StandInRegistry(refusals=3)
    await run_until(made(registry), registry, beats=1)
    assert len(registry.written) == 4
    assert registry.store.instance(*NAME) is not None


async def test_after_a_restart_the_place_is_kept_without_a_change() -> None:
    registry = StandInRegistry()
    await run_until(made(registry), registry, beats=1)
    revision = registry.store.revision
    await run_until(made(registry), registry, beats=1)
    assert (len(registry.written), registry.store.revision) == (2, revision)
    assert registry.barriers == 2  # the state after a restart is read only when it is whole


async def test_who_lost_the_place_registers_again() -> None:
    registry = StandInRegistry()
    keeper = made(registry)
    task = asyncio.create_task(keeper.run())
    await asyncio.wait_for(registry.beats.get(), 5)
    await registry.write(Deregister(*NAME))
    while registry.store.instance(*NAME) is None:
        await asyncio.wait_for(registry.beats.get(), 5)
    registry.conflict = True
    while len([one for one in registry.written if isinstance(one, Register)]) < 3:
        await asyncio.wait_for(registry.beats.get(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_at_the_end_the_place_is_given_up() -> None:
    registry = StandInRegistry()
    keeper = made(registry)
    await keeper.leave()  # not registered yet: nothing to do
    await run_until(keeper, registry, beats=1)
    await keeper.leave()
    assert registry.store.instance(*NAME) is None
    assert isinstance(registry.written[-1], Deregister)


async def test_a_cluster_that_does_not_answer_does_not_hold_up_the_end() -> None:
    registry = StandInRegistry()
    keeper = made(registry)
    await run_until(keeper, registry, beats=1)
    registry.refusals = 1
    await keeper.leave()
    assert registry.store.instance(*NAME) is not None


@pytest.mark.parametrize(
    ("http", "raft", "dns_ip", "address"),
    [
        ("http://10.0.0.1:8500", "10.0.0.2:8300", "10.0.0.3", "10.0.0.3"),
        ("http://10.0.0.1:8500", "10.0.0.2:8300", "", "10.0.0.1"),
        ("http://[fd00::1]:8500", "10.0.0.2:8300", "", "fd00::1"),
        ("http://n1.example", "10.0.0.2:8300", "", "10.0.0.2"),
    ],
)
def test_the_address_is_the_first_that_is_known(http: str, raft: str, dns_ip: str, address: str) -> None:
    instance = presence.own_instance("n1", http, "10.0.0.9:53", raft, dns_ip)
    assert instance is not None
    assert instance.addresses == (address,)


def test_a_node_that_knows_no_address_of_its_own_stays_out() -> None:
    assert presence.own_instance("n1", "http://n1.example:8500", "ns.example:53", "n1.example:8300") is None
