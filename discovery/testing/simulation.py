"""Seeded chaos over a cluster in virtual time: ``python -m discovery.testing.simulation --seeds 1..200 --nodes 3``.

One seed and one commit are one run, event for event. A run: clients write, read and hold leases while nodes are
killed, frozen, cut off and lose power; then the network heals, everything is quiet, and the sum is checked. The seed
that failed is printed with the command that replays it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import msgspec

from discovery.testing.simclients import Clients
from discovery.testing.simnet import Network, World
from discovery.testing.simnode import SimNode
from discovery.testing.simwatch import Violation, Watch

_LOOK_S = 0.25
_ALONE = ("kill", "power", "pause", "slow_disk")
"""Faults that need no second node."""


class Plan(msgspec.Struct, frozen=True):
    """What a run does. ``weights``: how often each fault is chosen (0: never)."""

    nodes: int = 3
    chaos_s: float = 8.0
    quiet_s: float = 6.0
    fault_every_s: tuple[float, float] = (0.1, 1.2)
    weights: tuple[tuple[str, int], ...] = (
        ("kill", 5),
        ("power", 4),
        ("power_all", 2),
        ("partition", 4),
        ("one_way", 3),
        ("cut", 3),
        ("pause", 4),
        ("slow_disk", 1),
        ("transfer", 2),
        ("heal", 3),
    )


class Report(msgspec.Struct, frozen=True):
    """What a run saw."""

    seed: int
    events: int
    acknowledged: int
    refused: int
    unknown: int
    reads: int
    confirmations: int
    leaders: int
    evictions: int
    installs: int
    last_index: int
    digest: str


class Simulation:
    """One run."""

    node_class: type[SimNode] = SimNode

    def __init__(self, seed: int, plan: Plan, *, lying_disk: bool = False) -> None:
        self.seed, self.plan = seed, plan
        self.world = World(seed)
        self.network = Network(self.world)
        self.watch = Watch(self.world, plan.nodes // 2 + 1)
        names = [f"n{number}" for number in range(1, plan.nodes + 1)]
        self.nodes = [
            self.node_class(
                name,
                [other for other in names if other != name],
                self.world,
                self.network,
                self.watch,
                lying_disk=lying_disk,
            )
            for name in names
        ]
        members = {node.name: node.incarnation for node in self.nodes}
        for node in self.nodes:
            node.members = dict(members)
        self.clients = Clients(self.world, self.nodes, self.watch)
        self._faults: dict[str, Callable[[], None]] = {
            "kill": lambda: self._down(self._some(), power=False),
            "power": lambda: self._down(self._some(), power=True),
            "power_all": self._power_all,
            "partition": self._partition,
            "one_way": self._one_way,
            "cut": self._cut,
            "pause": self._pause,
            "slow_disk": self._slow_disk,
            "transfer": self._transfer,
            "heal": self.network.heal,
        }

    def run(self) -> Report:
        """Chaos, quiet, sum.

        Raises:
            Violation: a guarantee was broken.
        """
        world, plan = self.world, self.plan
        for node in self.nodes:
            world.after(world.between(0, 0.3), node.start)
        world.after(_LOOK_S, self._look)
        self.clients.begin(until=world.now + plan.chaos_s)
        end = world.now + plan.chaos_s
        self._next_fault(end)
        world.run_until(end)
        self._calm()
        world.run_until(world.now + plan.quiet_s)
        self.clients.quiet = True
        world.run_until(world.now + 1.0)
        return self._sum_up()

    # -- faults ---------------------------------------------------------------------------------------------------

    def _next_fault(self, end: float) -> None:
        when = self.world.now + self.world.between(*self.plan.fault_every_s)
        if when < end:
            self.world.at(when, lambda: self._fault(end))

    def _fault(self, end: float) -> None:
        possible = [(name, weight) for name, weight in self.plan.weights if self.plan.nodes > 1 or name in _ALONE]
        names = [name for name, _ in possible]
        weights = [weight for _, weight in possible]
        self._faults[self.world.random.choices(names, weights)[0]]()
        self._next_fault(end)

    def _some(self) -> SimNode:
        """A node; the leader more often than its share."""
        leaders = [node for node in self.nodes if node.alive and node.engine.status().role == "leader"]
        if leaders and self.world.chance(0.4):
            return self.world.random.choice(leaders)
        return self.world.random.choice(self.nodes)

    def _down(self, node: SimNode, *, power: bool, back: tuple[float, float] = (0.02, 2.0)) -> None:
        if node.alive:
            node.kill(power=power)
            self.world.after(self.world.between(*back), lambda: None if node.alive else node.start())

    def _power_all(self) -> None:
        for node in self.nodes:
            self._down(node, power=True, back=(0.02, 1.0))

    def _partition(self) -> None:
        cut_off = self.world.random.sample(self.nodes, self.world.random.randint(1, len(self.nodes) // 2))
        for node in cut_off:
            for other in self.nodes:
                if other not in cut_off:
                    self._block(node.name, other.name)
                    self._block(other.name, node.name)
        self._heal_later()

    def _one_way(self) -> None:
        node = self._some()
        outwards = self.world.chance(0.5)
        for other in self.nodes:
            if other is not node and self.world.chance(0.7):
                self._block(*((node.name, other.name) if outwards else (other.name, node.name)))
        self._heal_later()

    def _block(self, source: str, target: str) -> None:
        self.network.block(source, target)
        if self.world.chance(0.3):
            self.network.cut(source, target)

    def _heal_later(self) -> None:
        self.world.after(self.world.between(0.2, 3.0), self.network.heal)

    def _cut(self) -> None:
        first, second = self.world.random.sample(self.nodes, 2)
        self.network.cut(first.name, second.name)

    def _pause(self) -> None:
        node = self._some()
        if node.running:
            node.pause()
            self.world.after(self.world.between(0.05, 4.0), node.resume)

    def _slow_disk(self) -> None:
        node = self._some()
        node.slow_disk = True
        self.world.after(self.world.between(0.5, 2.0), lambda: setattr(node, "slow_disk", False))

    def _transfer(self) -> None:
        for node in self.nodes:
            if node.running and node.engine.status().ready:
                node.engine.transfer(self.world.random.choice(node.peers))
                node.wake()

    # -- checks ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self.watch.look(self.nodes, self.network)
        self.world.after(_LOOK_S, self._look)

    def _calm(self) -> None:
        self.network.heal()
        for node in self.nodes:
            node.slow_disk = False
            if node.alive:
                node.resume()
            else:
                node.start()

    def _sum_up(self) -> Report:
        watch, states = self.watch, [node.engine.status() for node in self.nodes]
        if len({status.applied for status in states}) != 1:
            raise Violation(f"not all caught up: {[(s.node, s.applied, s.commit, s.last_index) for s in states]}")
        digests = {node.registry.store.digest() for node in self.nodes}
        if len(digests) != 1:
            raise Violation("equal indices, different states")
        missing = [name for name in watch.acknowledged if not self.nodes[0].registry.has(name)]
        if missing:
            raise Violation(f"{len(missing)} acknowledged writes are lost: {sorted(missing)[:5]}")
        self.clients.check_end(self.nodes[0].registry.store)
        return Report(
            seed=self.seed,
            events=self.world.events,
            acknowledged=len(watch.acknowledged),
            refused=len(watch.refused),
            unknown=watch.unknown,
            reads=watch.reads,
            confirmations=watch.confirmations,
            leaders=len(watch.leaders),
            evictions=len(watch.evicted),
            installs=watch.installs,
            last_index=max(status.last_index for status in states),
            digest=digests.pop(),
        )


def simulate(seed: int, plan: Plan | None = None) -> Report:
    """One run of the real thing; raises :class:`Violation`."""
    return Simulation(seed, plan or Plan()).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds; 1 when one of them breaks a guarantee."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1..100", help="one seed, or A..B")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5))
    parser.add_argument("--chaos-s", type=float, default=8.0, help="virtual seconds of chaos")
    parser.add_argument("--verbose", action="store_true", help="a line a seed")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("..")
    plan = Plan(nodes=options.nodes, chaos_s=options.chaos_s)
    failed = [seed for seed in range(int(first), int(last or first) + 1) if not _one(seed, plan, options.verbose)]
    return 1 if failed else 0


def _one(seed: int, plan: Plan, verbose: bool) -> bool:
    try:
        report = simulate(seed, plan)
    except Exception as error:
        again = f"python -m discovery.testing.simulation --seeds {seed} --nodes {plan.nodes} --chaos-s {plan.chaos_s}"
        print(f"seed {seed} FAILED: {type(error).__name__}: {error}\n  replay: {again}", flush=True)
        return False
    if verbose:
        print(report, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
