"""What must hold in every simulated run, checked while it runs. A breach raises :class:`Violation`.

The list, each a sentence of the guarantees: one leader a term; one content for each log index; no acknowledged write
lost; no refused write applied; no write applied twice; a confirmation is true; a strong read sees every write
acknowledged before it; no lease expires before its TTL has passed since its last acknowledged heartbeat was sent; a
connected majority has a leader within five seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from discovery.command import Evict, Failure, Meta, decode
from discovery.errors import NotApplied

if TYPE_CHECKING:
    from discovery.testing.simnet import Network, World
    from discovery.testing.simnode import SimNode

LIVENESS_S = 5.0


class Violation(AssertionError):
    """A guarantee was broken."""


class Watch:
    """One run's memory of everything that was promised."""

    def __init__(self, world: World, majority: int) -> None:
        self.world = world
        self.majority = majority
        self.leaders: dict[int, tuple[str, float]] = {}
        self.entries: dict[int, tuple[int, int]] = {}
        self.first_applied: dict[str, tuple[int, float]] = {}
        self.asked: dict[str, float] = {}
        self.acknowledged: dict[str, float] = {}
        self.refused: set[str] = set()
        self.unknown = 0
        self.heard: dict[int, float] = {}
        self.evicted: dict[int, float] = {}
        self.ttl_s: dict[int, float] = {}
        self.reads = self.confirmations = self.elections = self.installs = 0
        self.max_index = 0
        self._quorum_since: tuple[frozenset[str], float] | None = None

    # -- Raft -----------------------------------------------------------------------------------------------------

    def role(self, node: str, role: str, term: int) -> None:
        """A node tells its role."""
        if role != "leader":
            return
        known = self.leaders.setdefault(term, (node, self.world.now))
        if known[0] != node:
            raise Violation(f"{known[0]} and {node} both led term {term}")

    def applied(self, node: str, command: bytes, meta: Meta, position: int) -> None:
        """A node applies the ``position``-th command of an entry."""
        key = meta.index * 100_000 + position
        content = (meta.term, hash(command))
        known = self.entries.setdefault(key, content)
        if known != content:
            raise Violation(f"index {meta.index} was applied as {known} and, on {node}, as {content}")
        self.max_index = max(self.max_index, meta.index)

    def write_applied(self, name: str, index: int) -> None:
        """A client's write is applied somewhere."""
        known = self.first_applied.setdefault(name, (index, self.world.now))
        if known[0] != index:
            raise Violation(f"{name} was applied at {known[0]} and again at {index}")
        if name in self.refused:
            raise Violation(f"{name} was refused as surely not applied, but stands at {index}")

    def answered(self, name: str, result: Any) -> None:
        """A client gets the answer to his write."""
        if isinstance(result, NotApplied):
            self.refused.add(name)
            if name in self.first_applied:
                raise Violation(
                    f"{name} was refused as surely not applied, but was applied: {self.first_applied[name]}"
                )
        elif isinstance(result, Exception):
            self.unknown += 1
        elif isinstance(result, Failure):
            raise Violation(f"{name}: {result}")
        else:
            self.acknowledged[name] = self.world.now
            if name not in self.first_applied:
                raise Violation(f"{name} was acknowledged but never applied")

    def confirmed(self, node: str, term: int, begun: float) -> None:
        """A round that began at ``begun`` confirmed the leadership of ``term``."""
        self.confirmations += 1
        later = [item for item in self.leaders.items() if item[0] > term and item[1][1] <= begun]
        if later:
            raise Violation(f"{node} confirmed term {term} begun at {begun}, but {later} led before")

    def read(self, node: SimNode, begun: float) -> None:
        """A strong read that began at ``begun`` is served from ``node``'s state."""
        self.reads += 1
        for name, at in self.acknowledged.items():
            if at < begun and not node.registry.has(name):
                raise Violation(f"a read begun at {begun} on {node.name} misses {name}, acknowledged at {at}")

    # -- leases ---------------------------------------------------------------------------------------------------

    def evictions(self, gone: list[int]) -> None:
        """Leases are evicted, on some node."""
        for lease in gone:
            if lease in self.evicted:
                continue
            self.evicted[lease] = self.world.now
            self._judge(lease)

    def heartbeat_acknowledged(self, lease: int, sent: float) -> None:
        """A heartbeat that was sent at ``sent`` is acknowledged now."""
        self.heard[lease] = max(self.heard.get(lease, 0.0), sent)
        self._judge(lease)

    def _judge(self, lease: int) -> None:
        evicted, heard = self.evicted.get(lease), self.heard.get(lease)
        if evicted is None or heard is None:
            return
        if evicted < heard + self.ttl_s[lease]:
            raise Violation(
                f"lease {lease} expired at {evicted}, {evicted - heard:.3f} s after an acknowledged heartbeat"
            )

    # -- liveness -------------------------------------------------------------------------------------------------

    def stepped(self, node: SimNode) -> None:
        """A node made a pass: acknowledged writes can be lost only by a cut of what was committed."""
        core = node.engine._core
        if core.commit > core.last_index:
            raise Violation(f"{node.name} committed {core.commit}, but its log ends at {core.last_index}")

    def look(self, nodes: list[SimNode], network: Network) -> None:
        """Called often: a majority that is connected for five seconds has a leader that can act."""
        group = self._connected_majority(nodes, network)
        if group is None:
            self._quorum_since = None
            return
        if self._quorum_since is None or self._quorum_since[0] != group:
            self._quorum_since = (group, self.world.now)
        if self.world.now - self._quorum_since[1] < LIVENESS_S:
            return
        if not any(node.running and node.engine.status().ready for node in nodes):
            states = [node.engine.status() for node in nodes if node.running]
            raise Violation(f"{sorted(group)} are connected for {LIVENESS_S} s and nobody leads: {states}")

    def _connected_majority(self, nodes: list[SimNode], network: Network) -> frozenset[str] | None:
        group: list[SimNode] = []
        for node in nodes:
            if not node.running or node.slow_disk:
                continue
            if all(
                network.linked(node.name, other.name) and node.knows(other) and other.knows(node) for other in group
            ):
                group.append(node)
        return frozenset(node.name for node in group) if len(group) >= self.majority else None


def evict_leases(command: bytes) -> list[int]:
    """The leases that an eviction names."""
    envelope = decode(command)
    if isinstance(envelope, Failure) or not isinstance(envelope.command, Evict):
        return []
    return [lease for lease, _, _ in envelope.command.leases]
