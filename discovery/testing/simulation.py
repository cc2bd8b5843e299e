"""Seeded chaos over a cluster in virtual time: ``python -m discovery.testing.simulation --seeds 1..200 --nodes 3``.

One seed and one commit are one run, event for event. A run: clients write, read and hold leases while nodes are
killed, frozen, cut off and lose power; then the network heals, everything is quiet, and the sum is checked. A seed that
failed is run again with parts of its faults left out, until none can be: what is left is printed with the command
that replays it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import msgspec

from discovery import limits
from discovery.testing.simclients import Clients
from discovery.testing.simfaults import USUAL, Chaos, Weights, draw
from discovery.testing.simnet import FINE, Network, World
from discovery.testing.simnode import SimNode
from discovery.testing.simshrink import kind_of, shrink
from discovery.testing.simwatch import Violation, Watch

_LOOK_S = 0.1
_ROOM_S = 20.0
"""A snapshot that found no room, here or on its way to here, is tried again after up to 16 s only."""

_LIMITS = {"CHANGE_LOG_CHANGES_MAX": 200}
"""Smaller here, so that followers meet a change log that does not reach back far enough."""


class Plan(msgspec.Struct, frozen=True):
    """What a run does.

    Args:
        nodes: members.
        chaos_s, quiet_s: virtual seconds with faults, and without.
        fault_every_s: from one fault to the next.
        weights: how often each fault is chosen (0: never).
        busy_s: how late each process looks at what arrived, at most; 0: each node's own, drawn from the seed.
    """

    nodes: int = 3
    chaos_s: float = 8.0
    quiet_s: float = 6.0
    fault_every_s: tuple[float, float] = (0.1, 1.2)
    weights: Weights = USUAL
    busy_s: float = 0.0


class Report(msgspec.Struct, frozen=True):
    """What a run saw."""

    seed: int
    events: int
    acknowledged: int
    refused: int
    unknown: int
    repeats: int
    reads: int
    confirmations: int
    leaders: int
    evictions: int
    judged: int
    fulls: int
    failures: int
    installs: int
    views: int
    last_index: int
    digest: str


class Simulation:
    """One run. ``only``: numbers of the faults to do, ``None`` for all."""

    node_class: type[SimNode] = SimNode
    watch_class: type[Watch] = Watch

    def __init__(self, seed: int, plan: Plan, *, only: Container[int] | None = None, lying_disk: bool = False) -> None:
        self.seed, self.plan = seed, plan
        self.world = World(seed)
        self.network = Network(self.world)
        self.watch = self.watch_class(self.world, plan.nodes // 2 + 1)
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
            node.usual_s = node.busy_s = plan.busy_s or node.usual_s
        self.clients = Clients(self.world, self.nodes, self.watch)
        faults = draw(seed, plan.fault_every_s, plan.chaos_s, plan.weights, plan.nodes)
        self.chaos = Chaos(self, faults, only)

    def run(self) -> Report:
        """Chaos, quiet, sum.

        Raises:
            Violation: a guarantee was broken.
        """
        with small_limits():
            return self._run()

    def _run(self) -> Report:
        world, plan = self.world, self.plan
        for node in self.nodes:
            world.after(world.between(0, 0.3), node.start)
        world.after(_LOOK_S, self._look)
        self.clients.begin(until=world.now + plan.chaos_s)
        self.chaos.begin()
        world.run_until(world.now + plan.chaos_s)
        self._calm()
        world.run_until(world.now + plan.quiet_s)
        end = world.now + _ROOM_S
        while world.now < end and not self._level():
            world.run_until(world.now + 1.0)
        self.clients.quiet = True
        world.run_until(world.now + 1.0)
        return self._sum_up()

    def kill(self, node: SimNode, *, power: bool) -> None:
        """End a process."""
        node.kill(power=power)

    # -- checks ---------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self.watch.look(self.nodes, self.network)
        self.world.after(_LOOK_S, self._look)

    def _calm(self) -> None:
        self.network.heal()
        self.network.weather = FINE
        for node in self.nodes:
            node.slow_disk, node.busy_s = False, node.usual_s
            node.disk.full = node.disk.failing = False
            if node.alive:
                node.resume()
                node.note_health()
            else:
                node.start()

    def _level(self) -> bool:
        """Whether all nodes have about the same, and room for more."""
        states = [node.engine.status() for node in self.nodes]
        applied = [status.applied for status in states]
        return max(applied) - min(applied) < 10 and not any(status.full for status in states)

    def _sum_up(self) -> Report:
        watch, states = self.watch, [node.engine.status() for node in self.nodes]
        if len({status.applied for status in states}) != 1:
            raise Violation(f"not all caught up: {[(s.node, s.applied, s.commit, s.last_index) for s in states]}")
        stores = [node.registry.store for node in self.nodes]
        digests = {store.digest() for store in stores}
        if len(digests) != 1:
            raise Violation("equal indices, different states")
        if {node.follower.revision for node in self.nodes} != {stores[0].revision}:
            raise Violation(f"followers stand at {[node.follower.revision for node in self.nodes]}")
        missing = [name for name in watch.acknowledged if not self.nodes[0].registry.has(name)]
        if missing:
            raise Violation(f"{len(missing)} acknowledged writes are lost: {sorted(missing)[:5]}")
        self.clients.check_end(stores[0])
        return Report(
            seed=self.seed,
            events=self.world.events,
            acknowledged=len(watch.acknowledged),
            refused=len(watch.refused),
            unknown=watch.unknown,
            repeats=watch.once.repeats,
            reads=watch.reads,
            confirmations=watch.confirmations,
            leaders=len(watch.leaders),
            evictions=len(watch.evicted),
            judged=watch.lateness.judged,
            fulls=sum(node.fulls for node in self.nodes),
            failures=sum(node.failures for node in self.nodes),
            installs=watch.installs,
            views=sum(node.follower.views for node in self.nodes),
            last_index=max(status.last_index for status in states),
            digest=digests.pop(),
        )


@contextmanager
def small_limits() -> Iterator[None]:
    """Limits that a run of seconds can reach."""
    with ExitStack() as stack:
        for name, value in _LIMITS.items():
            stack.enter_context(patch.object(limits, name, value))
        yield


def simulate(seed: int, plan: Plan | None = None, only: Container[int] | None = None) -> Report:
    """One run of the real thing; raises :class:`Violation`."""
    return Simulation(seed, plan or Plan(), only=only).run()


def shrunk(kind: type[Simulation], seed: int, plan: Plan, error: Exception) -> list[int]:
    """The faults that are enough for a seed to fail as it did."""

    def fails(numbers: tuple[int, ...]) -> bool:
        try:
            kind(seed, plan, only=numbers).run()
        except Exception as other:
            return kind_of(other) == kind_of(error)
        return False

    return shrink([fault.number for fault in kind(seed, plan).chaos.faults], fails)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds; 1 when one of them breaks a guarantee."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1..100", help="one seed, or A..B")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5))
    parser.add_argument("--chaos-s", type=float, default=8.0, help="virtual seconds of chaos")
    parser.add_argument("--faults", type=_numbers, help="numbers of the faults to do, as 2,5,7 (default: all)")
    parser.add_argument("--verbose", action="store_true", help="a line a seed")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("..")
    plan = Plan(nodes=options.nodes, chaos_s=options.chaos_s)
    seeds = range(int(first), int(last or first) + 1)
    failed = [seed for seed in seeds if not _one(seed, plan, options.faults, options.verbose)]
    if failed:
        print(f"{len(failed)} of {len(seeds)} seeds failed: {failed}", flush=True)
    return 1 if failed else 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part.strip()]


def _one(seed: int, plan: Plan, only: list[int] | None, verbose: bool) -> bool:
    try:
        report = simulate(seed, plan, only)
    except Exception as error:
        print(f"seed {seed} FAILED: {type(error).__name__}: {error}", flush=True)
        _explain(seed, plan, only if only is not None else shrunk(Simulation, seed, plan, error))
        return False
    if verbose:
        print(report, flush=True)
    return True


def _explain(seed: int, plan: Plan, numbers: list[int]) -> None:
    """What is enough to fail, and how to see it again."""
    run = Simulation(seed, plan, only=numbers)
    try:
        run.run()
    except Exception as error:
        print(f"  so with these faults alone: {type(error).__name__}: {error}")
    for line in run.chaos.story:
        print(f"    {line}")
    again = (
        f"--seeds {seed} --nodes {plan.nodes} --chaos-s {plan.chaos_s} --faults {','.join(map(str, numbers)) or ','}"
    )
    print(f"  replay: python -m discovery.testing.simulation {again}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
