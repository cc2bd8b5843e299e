"""What must hold in every simulated run, checked while it runs. A breach raises :class:`Violation`.

The list, each a sentence of the guarantees: one leader a term; one content for each log index, one outcome, one state;
log time never falls nor runs ahead of the time that went by; no acknowledged write lost; no refused write applied; no
write applied twice, repeated with its key or not; a confirmation is true; a strong read sees every write acknowledged
before it, and no revision falls; no lease expires before its TTL has passed since its last acknowledged heartbeat was
sent, none lives much longer while a leader has a majority; the feed has no gap; a majority connected for five seconds
had a leader in that time.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from discovery.command import Evict, Meta, Written
from discovery.errors import NotApplied
from discovery.testing.simpromises import Follower, Groups, Lateness, LogTime, Once, Sameness, Strong, Violation

if TYPE_CHECKING:
    from discovery.command import Envelope
    from discovery.store import Outcome, Store
    from discovery.testing.simnet import Network, World
    from discovery.testing.simnode import SimNode

__all__ = ["LIVENESS_S", "Violation", "Watch"]

LIVENESS_S: Final = 5.0


class Watch:
    """One run's memory of everything that was promised."""

    def __init__(self, world: World, majority: int) -> None:
        self.world = world
        self.majority = majority
        self.leaders: dict[int, tuple[str, float]] = {}
        self.same, self.once, self.groups = Sameness(), Once(), Groups()
        self.strong, self.lateness = Strong(), Lateness(majority)
        self.log_time = LogTime()
        self.acknowledged: dict[str, float] = {}
        self.refused: set[str] = set()
        self.unknown = 0
        self.heard: dict[int, float] = {}
        self.evicted: dict[int, float] = {}
        self.ttl_s: dict[int, float] = {}
        self.reads = self.confirmations = self.installs = 0
        self.broken: Exception | None = None
        """What was raised where the engine may not stop for it."""
        self._led_at = world.now

    # -- Raft -----------------------------------------------------------------------------------------------------

    def role(self, node: str, role: str, term: int) -> None:
        """A node tells its role."""
        if role != "leader":
            return
        known = self.leaders.setdefault(term, (node, self.world.now))
        if known[0] != node:
            raise Violation(f"{known[0]} and {node} both led term {term}")

    def applied(self, node: str, envelope: Envelope, outcome: Outcome, meta: Meta, position: int) -> None:
        """A node applied the ``position``-th command of an entry."""
        self.same.outcome(node, meta, position, outcome)
        self.log_time.applied(meta)
        name = getattr(envelope.command, "key", None)
        if name is not None and outcome.group is not None:
            self.once.effect(name, meta.index, position)
            if name in self.refused:
                raise Violation(f"{name} was refused as surely not applied, but stands at {meta.index}")
        if isinstance(envelope.command, Evict):
            named = {lease for lease, _, _ in envelope.command.leases}
            self.evictions([effect.id for effect in outcome.leases if effect.kind == "gone" and effect.id in named])

    def answered(self, name: str, result: Any) -> None:
        """A client gets the answer to his write."""
        if isinstance(result, NotApplied):
            self.refused.add(name)
            if name in self.once.effects:
                raise Violation(f"{name} was refused as surely not applied, but took effect: {self.once.effects[name]}")
        elif isinstance(result, Exception):
            self.unknown += 1
        elif isinstance(result, Written):
            self.acknowledge(name, result)
        else:
            raise Violation(f"{name}: {result}")

    def acknowledge(self, name: str, result: Written) -> None:
        """A client knows that his write took effect."""
        self.acknowledged.setdefault(name, self.world.now)
        self.strong.seen(self.world.now, result.revision)
        if name not in self.once.effects:
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
        self.strong.read(node.name, begun, self.world.now, node.registry.store.revision)
        for name, at in self.acknowledged.items():
            if at < begun and not node.registry.has(name):
                raise Violation(f"a read begun at {begun} on {node.name} misses {name}, acknowledged at {at}")

    # -- the feed -------------------------------------------------------------------------------------------------

    def installed(self, follower: Follower, store: Store) -> None:
        """A snapshot became a node's state."""
        self.installs += 1
        follower.jumped(store, self.groups)

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
        if self.broken is not None:
            raise self.broken
        core = node.engine._core
        if core.commit > core.last_index:
            raise Violation(f"{node.name} committed {core.commit}, but its log ends at {core.last_index}")

    def look(self, nodes: list[SimNode], network: Network) -> None:
        """Called often: leases end in time; a majority that was connected for five seconds had a leader meanwhile."""
        now = self.world.now
        self.lateness.look(nodes, network, now)
        if any(node.running and node.engine.status().ready for node in nodes):
            self._led_at = now
        begun = now - LIVENESS_S
        if self._led_at > begun:
            return
        fit = [node for node in nodes if node.well_since <= begun]
        for group in combinations(fit, self.majority):
            if all(network.steady_since(one.name, two.name) <= begun for one, two in combinations(group, 2)):
                states = [node.engine.status() for node in group]
                raise Violation(f"{[n.name for n in group]} are connected for {LIVENESS_S} s, nobody leads: {states}")
