"""Promises of the state machine and its followers that a simulated run keeps: each a small memory that can object.

Equal states at equal index, log time that never falls, one effect for one write, a feed without gap, repetition or
disorder, revisions that never fall for who reads strongly, leases that end in time.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from discovery.command import Failure, Written
from discovery.errors import Compacted, Unavailable

if TYPE_CHECKING:
    from discovery.command import Meta
    from discovery.model import Group
    from discovery.store import Outcome, Store
    from discovery.testing.simnet import Network
    from discovery.testing.simnode import SimNode

DIGEST_EVERY: Final = 64
"""A digest costs much more than a command: the states are compared before each so-manieth entry."""

LATE_S: Final = 0.7
"""Beyond the TTL, in the leader's time: two slots, a tick of 50 ms, a round and a commit with the slowest pieces on
their way, and the 0.3 s that a leader waits for a successor who fell silent in the middle of the hand-over."""

_encode = msgspec.msgpack.Encoder().encode


class Violation(AssertionError):
    """A guarantee was broken."""


def fingerprint(value: Any) -> int:
    """A number for a record; equal for equal ones in every process."""
    return zlib.crc32(_encode(value))


class LogTime:
    """Log time goes by the time that went by: never backwards, and never more than a quarter too fast (decision 10)."""

    def __init__(self) -> None:
        self._stamped: dict[tuple[int, int], float] = {}
        self._first: tuple[int, float] | None = None
        self._last = (0, 0, 0.0)
        self.judged = 0

    def stamping(self, term: int, index: int, now: float) -> None:
        """A leader asks its wall clock: for the entry that will stand at ``index``, if it makes one."""
        self._stamped[term, index] = now

    def applied(self, meta: Meta) -> None:
        """Some node applies an entry; the first to apply each judges it."""
        index, time_ms, at = self._last
        if meta.index <= index:
            return
        if meta.time_ms < time_ms:
            raise Violation(f"log time fell from {time_ms} at {index} to {meta.time_ms} at {meta.index}")
        now = self._stamped.get((meta.term, meta.index))
        if now is None:  # packed together with the one before
            self._last = (meta.index, meta.time_ms, at)
            return
        self._last = (meta.index, meta.time_ms, now)
        if self._first is None:
            self._first = (meta.time_ms, now)
            return
        self.judged += 1
        for since_ms, since in (self._first, (time_ms, at)):
            if meta.time_ms - since_ms > 1250 * (now - since) + 2:
                raise Violation(
                    f"log time ran ahead: {meta.time_ms - since_ms} ms at index {meta.index} in {now - since:.6f} s"
                )


class Sameness:
    """One content and one outcome for each command of the log, one state for each index."""

    def __init__(self) -> None:
        self._commands: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._outcomes: dict[tuple[int, int], int] = {}
        self._states: dict[int, str] = {}

    def command(self, node: str, command: bytes, meta: Meta, position: int) -> None:
        """A node applies the ``position``-th command of an entry."""
        content = (meta.term, meta.time_ms, zlib.crc32(command))
        known = self._commands.setdefault((meta.index, position), content)
        if known != content:
            raise Violation(f"index {meta.index} was applied as {known} and, on {node}, as {content}")

    def outcome(self, node: str, meta: Meta, position: int, outcome: Outcome) -> None:
        """What it came to there."""
        mark = fingerprint((outcome.result, outcome.group, outcome.leases))
        if self._outcomes.setdefault((meta.index, position), mark) != mark:
            raise Violation(f"command {position} of index {meta.index} came to something else on {node}: {outcome}")

    def state(self, node: str, index: int, store: Store) -> None:
        """A node is about to apply ``index``."""
        if index % DIGEST_EVERY == 0:
            digest = store.digest()
            if self._states.setdefault(index, digest) != digest:
                raise Violation(f"{node} has another state than the others before index {index}")


class Once:
    """One effect for one write, however often it is sent with its Idempotency-Key, and one answer."""

    def __init__(self) -> None:
        self.effects: dict[str, tuple[int, int]] = {}
        self.revisions: dict[str, int] = {}
        self.repeats = 0

    def effect(self, name: str, index: int, position: int) -> None:
        """A write changed the state, on some node."""
        known = self.effects.setdefault(name, (index, position))
        if known != (index, position):
            raise Violation(f"{name} took effect at {known} and again at {(index, position)}")

    def answered(self, name: str, result: Any) -> None:
        """A client that repeats until he knows got an answer."""
        if isinstance(result, Failure) or not isinstance(result, Written):
            raise Violation(f"{name}, written once, repeated with its key: {result}")
        known = self.revisions.setdefault(name, result.revision)
        if known != result.revision:
            raise Violation(f"{name} was answered with revision {known}, and when repeated with {result.revision}")
        if name not in self.effects:
            raise Violation(f"{name} was acknowledged but never took effect")


class Groups:
    """What the feed said for each revision, the same on every node."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def judge(self, node: str, group: Group) -> None:
        """A group is published by a node."""
        mark = fingerprint(group)
        if self._known.setdefault(group.revision, mark) != mark:
            raise Violation(f"{node} published other changes for revision {group.revision} than another")


class Follower:
    """A DNS worker of one node: it outlives the process, resumes, and never takes a gap or goes back."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.revision = 0
        self._published = 0
        self.views = 0

    def restarted(self, revision: int) -> None:
        """A new process of the node, whose state stands at ``revision``; the follower knows more, mostly."""
        self._published = revision

    def jumped(self, store: Store, groups: Groups) -> None:
        """A snapshot became the state: resume from its change log, or take the whole view when that is too short."""
        self._published = store.revision
        try:
            missed = store.changes_since(self.revision)
        except Unavailable:
            return
        except Compacted:
            self.revision = store.revision
            self.views += 1
            return
        for group in missed:
            groups.judge(self.node, group)
            self._take(group)
        if self.revision != store.revision:
            raise Violation(f"{self.node}: the change log ends at {self.revision}, the state is at {store.revision}")

    def published(self, group: Group, groups: Groups) -> None:
        """The node published a group."""
        groups.judge(self.node, group)
        if group.revision != self._published + 1:
            raise Violation(f"{self.node} published revision {group.revision} after {self._published}")
        self._published = group.revision
        if group.revision > self.revision:
            self._take(group)

    def _take(self, group: Group) -> None:
        if group.revision != self.revision + 1:
            raise Violation(f"the follower of {self.node} got revision {group.revision} after {self.revision}")
        self.revision = group.revision


class Strong:
    """Revisions never fall for who reads strongly or writes, wherever he asks."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = [(0.0, 0)]

    def seen(self, now: float, revision: int) -> None:
        """Somebody was told a revision."""
        if revision > self._seen[-1][1]:
            self._seen.append((now, revision))

    def read(self, node: str, begun: float, now: float, revision: int) -> None:
        """A strong read that began at ``begun`` is answered with ``revision``."""
        for at, known in reversed(self._seen):
            if at < begun:
                if revision < known:
                    raise Violation(f"a read begun at {begun} on {node} saw {revision}, {known} was known at {at}")
                break
        self.seen(now, revision)


class Lateness:
    """No lease lives longer than its TTL and a bound, in the time of a leader that has a majority all the while.

    And none shorter: time in which the leader's process stood still counts against nobody.
    """

    def __init__(self, majority: int) -> None:
        self._majority = majority
        self._heard: dict[tuple[str, int], float] = {}
        self._awake: dict[tuple[str, int], float] = {}
        self._led: tuple[tuple[str, int, int], float] = (("", 0, 0), 0.0)
        self.judged = 0

    def heard(self, lease: int, leader: SimNode) -> None:
        """The leader noted a sign of life, or started the lease."""
        key = (leader.name, lease)
        self._heard[key], self._awake[key] = leader.world.now, leader.awake_s()

    def promoted(self, leader: SimNode, store: Store) -> None:
        """A new leader begins to count."""
        for lease in store.leases():
            self._awake[leader.name, lease.id] = leader.awake_s()

    def evicting(self, lease: int, leader: SimNode) -> None:
        """A leader decides that a lease is over."""
        held = leader.registry.store.lease(lease)
        silent = leader.awake_s() - self._awake.get((leader.name, lease), 0.0)
        if held is not None and silent * 1000 < held.ttl_ms - 1:
            raise Violation(
                f"{leader.name} evicts lease {lease} of {held.ttl_ms} ms after it listened in vain for {silent:.3f} s"
            )

    def look(self, nodes: list[SimNode], network: Network, now: float) -> None:
        """Called often."""
        leader = max((node for node in nodes if _leads(node)), key=lambda n: n.engine.status().term, default=None)
        if leader is None:
            return
        reign = (leader.name, leader.process, leader.engine.status().term)
        if self._led[0] != reign:
            self._led = (reign, now)
            self._begin_reign(leader, now)
        since = max(self._led[1], network.fine_since, self._carried_since(leader, nodes, network))
        for lease in leader.registry.store.leases():
            begun = max(since, self._heard.get((leader.name, lease.id), 0.0))
            self.judged += 1
            if now > begun + lease.ttl_ms / 1000 + LATE_S:
                raise Violation(
                    f"lease {lease.id} of {lease.ttl_ms} ms is alive {now - begun:.3f} s after its last sign of life, "
                    f"though {leader.name} leads and has a majority since {since:.3f}"
                )

    def _begin_reign(self, leader: SimNode, now: float) -> None:
        """Another leader, or the same one in another term."""

    def _carried_since(self, leader: SimNode, nodes: list[SimNode], network: Network) -> float:
        """Since when the leader and as many others as it needs are well and connected with it."""
        others = sorted(
            max(node.well_since, network.steady_since(leader.name, node.name)) for node in nodes if node is not leader
        )
        return max([leader.well_since, *others[: self._majority - 1]])


def _leads(node: SimNode) -> bool:
    return node.running and node.engine.status().ready
