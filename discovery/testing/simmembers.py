"""Members that change while everything goes wrong: a run in which an operator adds, removes and replaces nodes.

``python -m discovery.testing.simmembers --seeds 1..100`` runs 3 -> 4 -> 5 -> 3 with a wiped node in between;
``--nodes 1`` grows a cluster of one to three. What the daemon's facade does beside the engine is done here by hand: an
empty node adopts what a member has *applied*, members tell each other what they applied, identities are kept, late.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Container, Sequence
from typing import Any, Final

import msgspec

from discovery.raft.configuration import Add, Change, Configuration, Member, Remove, founding
from discovery.raft.types import Output
from discovery.testing.simdisk import SimDisk
from discovery.testing.simmemberwatch import MemberWatch
from discovery.testing.simnet import Host
from discovery.testing.simnode import SimNode
from discovery.testing.simpromises import Follower
from discovery.testing.simulation import Plan, Report, Simulation, small_limits
from discovery.testing.simwatch import Violation

GROWTH: Final = (("add", "n4"), ("add", "n5"), ("replace", ""), ("remove", ""), ("remove", ""))
ALONE: Final = (("add", "n2"), ("add", "n3"))
FEWEST: Final = 3
_OPERATOR_S: Final = (0.02, 0.4)
_GOSSIP_S: Final = 0.05


class MemberNode(SimNode):
    """A node that may be added later, lose its disk, and be told that it was removed."""

    seed: Configuration | None
    told = 0
    empty = False

    def start(self) -> None:
        """Start, if it belongs to a cluster."""
        if self.empty:
            return
        super().start()
        self.engine.told(self.told)

    def join(self, members: Configuration) -> None:
        """Adopt the cluster that has added this node."""
        self.seed, self.empty, self.told = members, False, 0
        self.start()

    def wipe(self) -> None:
        """Lose the disk; what comes back under this name is empty."""
        self.kill(power=True)
        self.disk = SimDisk(random.Random(self.world.random.random()))  # noqa: S311
        number = int(self.incarnation.rpartition("-")[2])
        self.incarnation = f"{self.name}-{number + 1}"
        self.follower = Follower(self.name)
        self.empty = True

    def knows(self, other: Host) -> bool:
        """All that are of this cluster talk; the engine knows who counts."""
        return isinstance(other, MemberNode) and not (self.empty or other.empty)

    def on_connected(self, peer: str) -> None:
        """A stream begins, with who has this data directory."""
        other = self.network.hosts[peer]
        assert isinstance(other, MemberNode)
        incarnation = other.incarnation
        self._event(lambda: self._joined(peer, incarnation))

    def _joined(self, peer: str, incarnation: str) -> None:
        self._epochs[peer] = self._epochs.get(peer, 0) + 1
        self.engine.connected(peer, incarnation)

    def _synced(self, output: Output, epochs: dict[str, int], full: str = "") -> None:
        super()._synced(output, epochs, full)
        applied = self.engine.members()[1]
        assert isinstance(self.watch, MemberWatch)
        self.watch.members_applied(self, applied)
        if self.seed is None or (applied.index > self.seed.index and self.world.chance(0.3)):
            self.seed = applied  # the identity file is written beside everything else

    def hear(self, applied: Configuration) -> None:
        """Another node of the cluster says what it has applied."""
        left_out = applied.standing(self.name, self.incarnation) in ("removed", "unknown")
        known = max(self.told, self.engine.members()[0].index, 0 if self.seed is None else self.seed.index)
        if left_out and applied.index > known:
            self.told = applied.index
            self._event(lambda: self.engine.told(self.told))


class Operator:
    """Wants one thing after the other, and asks until it is so; sometimes hastily, for two things at once."""

    def __init__(self, simulation: MemberSimulation, wishes: Sequence[tuple[str, str]]) -> None:
        self._simulation, self._world = simulation, simulation.world
        self._source = random.Random(f"operator {simulation.seed}")  # noqa: S311
        self._wishes = list(wishes)
        self.done: list[str] = []
        self.refused = 0

    @property
    def idle(self) -> bool:
        """Whether all is as it was wanted."""
        return not self._wishes

    def turn(self) -> None:
        """Look, and ask."""
        self._world.after(self._source.uniform(*_OPERATOR_S), self.turn)
        leader = next((node for node in self._simulation.nodes if node.running and node.engine.status().ready), None)
        if leader is None or not self._wishes:
            return
        kind, name = self._wishes[0]
        if not name:
            self._wishes[0] = kind, self._choose(leader)
            return
        {"add": self._add, "remove": self._remove, "replace": self._replace}[kind](leader, name)
        if self._source.random() < 0.2:
            haste = kind == "remove" and len(leader.engine.members()[0].voters()) > FEWEST
            self._ask(leader, Remove(self._choose(leader)) if haste else Add("n9", "", ""))

    def _choose(self, leader: SimNode) -> str:
        return self._source.choice(sorted(leader.engine.members()[0].voters()))

    def _add(self, leader: SimNode, name: str) -> None:
        node = self._simulation.host(name)
        if leader.engine.members()[1].standing(name, node.incarnation) == "voter":
            self._next(f"{name} added")
        elif name not in leader.engine.members()[0].members:
            if node.empty and self._source.random() < 0.7:
                leader.engine.met(name, node.incarnation)
            self._ask(leader, Add(name, "", ""))
        elif node.empty:
            leader.engine.met(name, node.incarnation)
            leader.wake()

    def _remove(self, leader: SimNode, name: str) -> None:
        if name not in leader.engine.members()[1].members:
            self._next(f"{name} removed")
        elif name != "n9" and not self._lost(name) and len(leader.engine.members()[0].voters()) <= FEWEST:
            self._next(f"{name} stays: haste removed another")
        elif leader.name == name:
            leader.engine.transfer(self._choose(leader))
            leader.wake()
        else:
            self._ask(leader, Remove(name))

    def _lost(self, name: str) -> bool:
        """Whether its disk was lost: then it goes also when haste has removed another meanwhile."""
        return self._simulation.host(name).empty

    def _replace(self, leader: SimNode, name: str) -> None:
        """A member's disk is lost; he is removed, and added as somebody new."""
        node = self._simulation.host(name)
        if leader.name == name or not self._healthy(leader):
            self._wishes[0] = "replace", ""  # what is lost must be a minority, with what is down already
            return
        node.wipe()
        self._simulation.out(node)
        self._next(f"{name} wiped")
        self._wishes[:0] = [("remove", name), ("add", name)]

    def _healthy(self, leader: SimNode) -> bool:
        voters = leader.engine.members()[0].voters()
        return all(node.running for node in self._simulation.nodes if node.name in voters)

    def _ask(self, leader: SimNode, change: Change) -> None:
        watch = self._simulation.watch
        assert isinstance(watch, MemberWatch)

        def answered(result: Any) -> None:
            self.refused += isinstance(result, Exception)
            if isinstance(result, Configuration):
                watch.change_acknowledged(result)

        leader.engine.change(answered, change)
        leader.wake()

    def _next(self, done: str) -> None:
        self.done.append(done)
        del self._wishes[0]
        # Whoever waits for n9 waits in vain: it is taken out again.
        if "n9" in self._some_leader_members():
            self._wishes.insert(0, ("remove", "n9"))

    def _some_leader_members(self) -> Container[str]:
        leaders = [node for node in self._simulation.nodes if node.running and node.engine.status().ready]
        return leaders[0].engine.members()[0].members if leaders else ()


class MemberSimulation(Simulation):
    """One run with changing members."""

    node_class = MemberNode
    watch_class = MemberWatch

    def __init__(self, seed: int, plan: Plan, *, only: Container[int] | None = None) -> None:
        super().__init__(seed, plan, only=only)
        members = founding({node.name: Member("", node.incarnation) for node in self.nodes})
        for node in self.nodes:
            node.seed = members
        self._later: dict[str, MemberNode] = {}
        wishes = ALONE if plan.nodes == 1 else GROWTH
        for kind, name in wishes:
            if kind == "add":
                self._later[name] = self._empty(name)
        self.operator = Operator(self, wishes)
        self.ghosts: list[SimNode] = []

    def _empty(self, name: str) -> MemberNode:
        node = MemberNode(name, [other.name for other in self.nodes], self.world, self.network, self.watch)
        node.empty = True
        return node

    def host(self, name: str) -> MemberNode:
        """The node of that name, in the cluster or not."""
        node = self.network.hosts[name]
        assert isinstance(node, MemberNode)
        return node

    def out(self, node: SimNode) -> None:
        """No client and no fault looks for it any more; if it runs, it goes on."""
        if node in self.nodes:
            self.nodes.remove(node)
            if node.running:
                self.ghosts.append(node)

    def run(self) -> Report:
        """As :meth:`Simulation.run`, until the operator has what he wants."""
        with small_limits():
            self.world.after(1.5, self.operator.turn)
            self.world.after(0.5, self._gossip)
            return self._run()

    def _gossip(self) -> None:
        """What members applied becomes known to whom they are connected with, and to empty nodes."""
        self.world.after(_GOSSIP_S, self._gossip)
        everyone = [host for host in self.network.hosts.values() if isinstance(host, MemberNode)]
        for teller in everyone:
            if not teller.running or teller.empty:
                continue
            applied = teller.engine.members()[1]
            for other in everyone:
                if other.empty and not other.alive:
                    self._maybe_join(other, applied)
                elif other is not teller and other.running and self._linked(teller, other):
                    other.hear(applied)
        for node in list(self.nodes):
            if isinstance(node, MemberNode) and node.running and node.engine.status().standing == "removed":
                self.out(node)

    def _linked(self, one: SimNode, two: SimNode) -> bool:
        return self.network.steady_since(one.name, two.name) < float("inf")

    def _maybe_join(self, node: MemberNode, applied: Configuration) -> None:
        if applied.standing(node.name, node.incarnation) in ("learner", "voter"):
            node.join(msgspec.structs.replace(applied))
            if node not in self.nodes:
                self.nodes.append(node)

    def _calm(self) -> None:
        super()._calm()
        for _ in range(60):
            if self.operator.idle:
                break
            self.world.run_until(self.world.now + 0.5)
        if not self.operator.idle:
            raise Violation(f"the members are not as wanted after all is calm: {self.operator.done}")
        for ghost in self.ghosts:
            if ghost.alive and ghost.engine.status().role == "leader":
                raise Violation(f"{ghost.name} was removed and leads")

    def _sum_up(self) -> Report:
        newest = max((node.engine.members()[1] for node in self.nodes if node.alive), key=lambda members: members.index)
        for node in list(self.nodes):
            if newest.standing(node.name, node.incarnation) != "voter":
                self.out(node)
        self.nodes.sort(key=lambda node: node.name)
        if {node.name for node in self.nodes} != newest.voters():
            raise Violation(f"members are {sorted(newest.voters())}, but {[n.name for n in self.nodes]} run")
        return super()._sum_up()


def simulate(seed: int, plan: Plan | None = None) -> tuple[Report, list[str], int]:
    """One run: report, what was done to the members, and how often a change was refused; raises Violation."""
    run = MemberSimulation(seed, plan or Plan())
    report = run.run()
    return report, run.operator.done, run.operator.refused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds; 1 when one of them breaks a guarantee."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1..100", help="one seed, or A..B")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3))
    parser.add_argument("--chaos-s", type=float, default=14.0, help="virtual seconds of chaos")
    parser.add_argument("--verbose", action="store_true", help="a line a seed")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition("..")
    plan = Plan(nodes=options.nodes, chaos_s=options.chaos_s)
    failed = 0
    for seed in range(int(first), int(last or first) + 1):
        failed += not _one(seed, plan, options.verbose)
    return 1 if failed else 0


def _one(seed: int, plan: Plan, verbose: bool) -> bool:
    try:
        report, done, refused = simulate(seed, plan)
    except Exception as error:
        again = f"--seeds {seed} --nodes {plan.nodes} --chaos-s {plan.chaos_s}"
        print(f"seed {seed} FAILED: {type(error).__name__}: {error}\n", flush=True)
        print(f"  replay: python -m discovery.testing.simmembers {again}", flush=True)
        return False
    if verbose:
        print(seed, done, refused, report, flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
