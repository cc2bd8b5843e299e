"""The simulated network: what arrives together, what waits, what is lost."""

from __future__ import annotations

from discovery.raft.codec import Campaign
from discovery.testing.simnet import Network, World


class Box:
    """A host that keeps what it gets, with the time."""

    running = True

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.got: list[tuple[float, int]] = []
        self.streams = 0

    def knows(self, other) -> bool:
        return True

    def on_connected(self, peer: str) -> None:
        self.streams += 1

    def on_disconnected(self, peer: str, hint: bool) -> None:
        pass

    def on_message(self, peer: str, message) -> None:
        self.got.append((self.world.now, message.term))


def pair() -> tuple[World, Network, Box]:
    world = World(1)
    network = Network(world)
    one, two = Box("one", world), Box("two", world)
    network.add(one)
    network.add(two)
    world.run_until(world.now + 1)
    return world, network, two


def test_what_one_pass_sends_arrives_together():
    world, network, two = pair()
    network.send_all("one", [("two", Campaign(1)), ("two", Campaign(2)), ("two", Campaign(3))])
    world.run_until(world.now + 1)
    assert [term for _, term in two.got] == [1, 2, 3]
    assert len({at for at, _ in two.got}) == 1


def test_a_blocked_direction_holds_until_everybody_lets_go():
    world, network, two = pair()
    network.block("one", "two", by=1)
    network.block("one", "two", by=2)
    network.send("one", "two", Campaign(1))
    network.unblock(1)
    world.run_until(world.now + 1)
    assert two.got == []
    assert network.steady_since("one", "two") == float("inf")
    network.unblock(2)
    assert network.steady_since("one", "two") == world.now
    world.run_until(world.now + 1)
    assert [term for _, term in two.got] == [1]


def test_what_is_held_is_lost_with_its_stream():
    world, network, two = pair()
    network.block("one", "two")
    network.send("one", "two", Campaign(1))
    network.cut("one", "two")
    world.run_until(world.now + 1)
    network.heal()
    world.run_until(world.now + 1)
    assert two.got == []
    assert two.streams == 2
