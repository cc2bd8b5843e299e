"""What must hold in a simulated run whose members change, beside what :mod:`.simwatch` asks of every run.

A change of members that was acknowledged is in every node's log from its index on, and the same everywhere. A lease
ends in time while its leader has a majority of whoever decides; and such a majority, connected, has a leader.
"""

from __future__ import annotations

from itertools import combinations
from typing import Final

from discovery.raft.configuration import Configuration
from discovery.testing.simnet import Network, World
from discovery.testing.simnode import SimNode
from discovery.testing.simpromises import Lateness
from discovery.testing.simwatch import LIVENESS_S, Violation, Watch

_LOOKED_S: Final = 0.1
"""A change is seen so late at most; the majority of before held until then."""


class MemberLateness(Lateness):
    """A leader has its majority all the while when it had one of each configuration, while that was in effect."""

    def __init__(self) -> None:
        super().__init__(0)
        self._ruled: list[tuple[float, Configuration]] = []

    def look(self, nodes: list[SimNode], network: Network, now: float) -> None:
        """Called often: what is in effect is noted as it changes."""
        for node in nodes:
            if self._led[0] == (node.name, node.process, node.engine.status().term if node.running else -1):
                active = node.engine.members()[0]
                if self._ruled[-1][1] != active:
                    self._ruled.append((now, active))
        super().look(nodes, network, now)

    def _begin_reign(self, leader: SimNode, now: float) -> None:
        self._ruled = [(now, leader.engine.members()[0])]

    def _carried_since(self, leader: SimNode, nodes: list[SimNode], network: Network) -> float:
        until = float("inf")
        for begun, members in reversed(self._ruled):
            carried = self._carried_by(leader, members, network)
            if carried > begun - _LOOKED_S:
                return min(carried, until)
            until = begun
        return until

    def _carried_by(self, leader: SimNode, members: Configuration, network: Network) -> float:
        """Since when, until now, the leader and as many voters as it needs are well and connected."""
        moments = [leader.well_since]
        for name in sorted(members.voters() - {leader.name}):
            node = network.hosts.get(name)
            if isinstance(node, SimNode) and node.incarnation == members.members[name].incarnation:
                moments.append(max(node.well_since, network.steady_since(leader.name, name)))
        majority = len(members.voters()) // 2 + 1
        return max(sorted(moments[1:])[: majority - 1] + moments[:1]) if len(moments) >= majority else float("inf")


class MemberWatch(Watch):
    """Who must have a leader when: a majority of *every* configuration that one of them goes by."""

    def __init__(self, world: World, majority: int) -> None:
        super().__init__(world, majority)
        self.lateness = MemberLateness()
        self._changes: dict[int, Configuration] = {}
        self.acknowledged_changes: set[int] = set()

    def change_acknowledged(self, members: Configuration) -> None:
        """An operator was told that the members are these."""
        if members.index:
            self._same(members, "who asked for it")
            self.acknowledged_changes.add(members.index)

    def members_applied(self, node: SimNode, members: Configuration) -> None:
        """By the part of its log that a node applied, the members are these."""
        self._same(members, node.name)
        applied = node.engine.status().applied
        lost = [index for index in self.acknowledged_changes if members.index < index <= applied]
        if lost:
            raise Violation(f"{node.name} applied entry {applied} without the changes of members at {lost}")

    def _same(self, members: Configuration, who: str) -> None:
        known = self._changes.setdefault(members.index, members) if members.index else members
        if known != members:
            raise Violation(f"members by entry {members.index}: {known}, but for {who} {members}")

    def look(self, nodes: list[SimNode], network: Network) -> None:
        """As where members stay, but that a majority is one of those who are members now."""
        now = self.world.now
        self.lateness.look(nodes, network, now)
        running = [node for node in nodes if node.running]
        if any(node.engine.status().ready for node in running):
            self._led_at = now
        begun = now - LIVENESS_S
        if self._led_at > begun:
            return
        fit = [node for node in running if node.well_since <= begun]
        for size in range(1, len(fit) + 1):
            for group in combinations(fit, size):
                self._judge_group(group, network, begun)

    def _judge_group(self, group: tuple[SimNode, ...], network: Network, begun: float) -> None:
        if any(network.steady_since(one.name, two.name) > begun for one, two in combinations(group, 2)):
            return
        names = {(node.name, node.incarnation) for node in group}
        for node in group:
            active = node.engine.members()[0]
            votes = {(peer, active.members[peer].incarnation) for peer in active.voters()}
            if 2 * len(votes & names) <= len(votes):
                return
        states = [node.engine.status() for node in group]
        raise Violation(f"{[n.name for n in group]} are connected for {LIVENESS_S} s, nobody leads: {states}")
