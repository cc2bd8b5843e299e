"""Broken nodes: each leaves out one guard. A check that catches none of them proves nothing (``tests/simulation``)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import ExitStack, suppress
from typing import Any
from unittest.mock import patch

import msgspec

from discovery import command as commands
from discovery.command import Evict, Meta
from discovery.leases import Due, LeaseClock
from discovery.model import Group
from discovery.raft import member
from discovery.raft.changes import Changes
from discovery.raft.codec import AppendEntries, NextIndex, PreVote, ResponseVote
from discovery.raft.configuration import Change
from discovery.raft.core import LEADER, Core
from discovery.raft.packing import LogClock
from discovery.raft.prevote import PreVoting
from discovery.raft.types import Output
from discovery.store import Outcome
from discovery.testing.simnode import SimNode
from discovery.testing.simregistry import SimRegistry
from discovery.testing.simulation import Plan, Simulation


class ForgetsVotes(Core):
    """Keeps its vote in memory only (hazard 1)."""

    _vote: str | None = None

    @property
    def _SyncObj__votedForNodeId(self) -> str | None:
        return self._vote

    @_SyncObj__votedForNodeId.setter
    def _SyncObj__votedForNodeId(self, node_id: str | None) -> None:
        self._vote = node_id

    def adopt(self, term: int) -> None:
        """With a new term comes no vote."""
        if term > self.term:
            self._vote = None
        super().adopt(term)


class BelievesOldAnswers(Core):
    """Counts acknowledgements of any term (hazard 10)."""

    def on_next_index(self, peer: str, message: NextIndex) -> bool:
        """Whatever the term."""
        return super().on_next_index(peer, msgspec.structs.replace(message, term=self.term))


class NeverAdopts(Core):
    """Follows a higher term only where the Raft paper's RPCs say so, and not in answers to them (hazard 16)."""

    def adopt(self, term: int) -> None:
        """Not for answers and questions."""

    def on_append(self, peer: str, message: AppendEntries) -> None:
        """A leader of a higher term is followed."""
        if message.term >= self.term:
            Core.adopt(self, message.term)
            super().on_append(peer, message)


class CountsNoVotes(Core):
    """Never becomes leader."""

    def on_response_vote(self, peer: str, message: ResponseVote) -> None:
        """Into the void."""


class AcknowledgesBeforeQuorum(Core):
    """Takes for committed what its own disk holds."""

    def _SyncObj__applyLogEntries(self) -> bool:
        if self.state == LEADER:
            self._commit = max(self._commit, self.durable)
        return super()._SyncObj__applyLogEntries()


class CommitsEarlierTerms(Core):
    """Commits what a majority holds, whatever its term (Raft section 5.4.2, figure 8)."""

    def _SyncObj__applyLogEntries(self) -> bool:
        if self.state == LEADER:
            held = sorted([self.durable, *self.match.values()], reverse=True)
            self._commit = max(self._commit, held[self.majority - 1])
        return super()._SyncObj__applyLogEntries()


class ObeysStaleResets(Core):
    """Sends again from wherever an answer says, also from below what is acknowledged (hazard 18)."""

    def on_next_index(self, peer: str, message: NextIndex) -> bool:
        """Believe a reset."""
        ours = super().on_next_index(peer, message)
        if ours and message.reset:
            self.next[self.nodes[peer]] = message.next
        return ours


class BeginsBeforeCommitted(Changes):
    """Begins a change of members while the last one is not committed (hazard 15)."""

    def _guard(self) -> None:
        """Whoever leads may."""
        if not self._core.ready:
            super()._guard()

    def lead(self) -> None:
        """Promote whoever caught up, whether the last change is committed or not."""
        core = self._core
        for peer, one in core.electorate.active.members.items():
            if one.role == "learner" and core.is_member(peer) and core.match[core.nodes[peer]] == core.last_index:
                self._append(core.electorate.active.promoted(peer))
                return
        super().lead()


class AnswersBeforeCommitted(Changes):
    """Tells an operator that the members are changed when that is in the leader's log."""

    def ask(self, token: Hashable, change: Change) -> None:
        """Done."""
        super().ask(token, change)
        self.resolved += [(waiting, self._core.electorate.active) for waiting, _ in self._waiting]
        self._waiting = []


class GrantsAfterWinning(PreVoting):
    """Gives a pre-vote away in the very pass in which it won one itself."""

    def _grants(self, peer: str, message: PreVote) -> bool:
        won, self._won = self._won, False
        granted = super()._grants(peer, message)
        self._won = won
        return granted


class BelievesTheWall(LogClock):
    """Stamps entries with the leader's wall clock, as it is."""

    def stamp(self, now: float, wall_ms: int) -> int:
        """Whatever it says."""
        return wall_ms


class LeapsWithEachEntry(LogClock):
    """Lets a clock that is ahead gain a second with every entry."""

    def stamp(self, now: float, wall_ms: int) -> int:
        """As it was once."""
        elapsed_ns = int(now * 1e9) - self._at_ns
        ceiling_ns = self._log_ns + elapsed_ns + 10**9 if self._log_ns else wall_ms * 10**6
        self._log_ns, self._at_ns = max(self._log_ns, min(wall_ms * 10**6, ceiling_ns)), int(now * 1e9)
        return self._log_ns // 10**6


class EvictsUnconditionally(SimRegistry):
    """Applies an eviction whatever happened to the lease since it was decided."""

    def _apply(self, command: bytes, meta: Meta) -> Outcome:
        return self.store.apply(_rewritten(self, command, meta), meta)


class ForwardsEvictions(EvictsUnconditionally):
    """Proposes an eviction like any other command: a later leader may append it (hazard 17)."""

    def _evict(self, due: list[Due], term: int) -> None:
        if due:
            pairs = tuple((item.id, item.version, None) for item in due)
            self.propose(commands.encode(Evict(term, pairs)), lambda result: None)

    def _confirmed(self, due: list[Due], result: Any) -> None:
        self._evict(due, self.term)


def _rewritten(registry: SimRegistry, command: bytes, meta: Meta) -> bytes:
    envelope = commands.decode(command)
    if isinstance(envelope, commands.Failure) or not isinstance(envelope.command, Evict):
        return command
    held = {lease.id: lease.version for lease in registry.store.leases()}
    pairs = tuple((lease, held.get(lease, version), heard) for lease, version, heard in envelope.command.leases)
    return commands.encode(Evict(meta.term, pairs))


class AcknowledgesUnconfirmed(SimRegistry):
    """Acknowledges a heartbeat once it is noted, without asking whether it still leads."""

    def confirm(self, answer: Callable[[Any], None]) -> None:
        """Sure."""
        answer(self.term)


class CountsStalls(SimRegistry):
    """Lets TTLs run while the process stands still."""

    def __init__(self, node: SimNode) -> None:
        super().__init__(node)
        self.clock = LeaseClock(node.world.now, stall_s=float("inf"))


class NeverLooks(SimRegistry):
    """Looks for what is due far too seldom."""

    def _tick(self) -> None:
        self.node.timer(3.0, super()._tick)


class ForgetsKeys(SimRegistry):
    """Keeps no results of requests with an Idempotency-Key."""

    def _apply(self, command: bytes, meta: Meta) -> Outcome:
        envelope = commands.decode(command)
        assert isinstance(envelope, commands.Envelope)
        return self.store.apply(commands.encode(envelope.command), meta)


class ReadsLocally(SimRegistry):
    """Serves strong reads from what it has."""

    def read(self, answer: Callable[[Any], None], within: float = 3.0) -> None:
        """At once."""
        answer(None)


class UsesItsOwnClock(SimRegistry):
    """Lets the wall clock into the state."""

    def _apply(self, command: bytes, meta: Meta) -> Outcome:
        return self.store.apply(command, msgspec.structs.replace(meta, time_ms=meta.time_ms + self.node.skew_ms))


class SkipsGroups(SimRegistry):
    """Does not publish every revision."""

    def _publish(self, group: Group | None) -> None:
        if group is None or group.revision % 50:
            super()._publish(group)


class TrustsThePageCache(SimNode):
    """Takes for durable what it read at the start (a killed process may not have synced it)."""

    def start(self) -> None:
        """Sync nothing of it."""
        self.disk._lying, lying = True, self.disk._lying
        super().start()
        self.disk._lying = lying


class IgnoresFailedSyncs(SimNode):
    """Goes on after a sync that failed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        sync = self.disk.sync

        def forgiving(name: str) -> None:
            with suppress(OSError):
                sync(name)

        self.disk.sync = forgiving  # type: ignore[method-assign]


class PromisesWithoutRoom(SimNode):
    """Takes a batch that found no room for written."""

    def _synced(self, output: Output, epochs: dict[str, int], full: str = "") -> None:
        super()._synced(output, epochs)


class Trusting(SimNode):
    """Takes everybody by name, also one with an emptied disk."""

    def knows(self, other: Any) -> bool:
        """Whoever says so."""
        return True


class WipedVoter(Simulation):
    """Wipes nodes in the middle of it all, and nobody asks who they are (hazard 20)."""

    node_class = Trusting

    def kill(self, node: SimNode, *, power: bool) -> None:
        """Sometimes with the disk."""
        super().kill(node, power=power)
        if self.world.chance(0.3):
            node.disk.wipe()
            node.incarnation += "'"


def breed(
    core: type[Core] = Core,
    registry: type[SimRegistry] = SimRegistry,
    node: type[SimNode] = SimNode,
    parts: dict[str, Any] | None = None,
    kind: type[Simulation] = Simulation,
) -> type[Simulation]:
    """A simulation whose nodes are mutants.

    Args:
        core, registry, node: subclasses to use.
        parts: what to put in place of names in :mod:`discovery.raft.member`.
        kind: the simulation.
    """

    class MutantNode(node):  # type: ignore[valid-type, misc]
        core_class = core
        registry_class = registry

        def start(self) -> None:
            """With the parts of a mutant."""
            with ExitStack() as stack:
                for name, part in (parts or {}).items():
                    stack.enter_context(patch.object(member, name, part))
                super().start()

    class MutantSimulation(kind):  # type: ignore[valid-type, misc]
        node_class = MutantNode

    return MutantSimulation


def first_caught(
    kind: type[Simulation], seeds: range, plan: Plan | None = None, **options: Any
) -> tuple[int, str] | None:
    """The first seed that catches a mutant, and how; ``None`` when none does."""
    for seed in seeds:
        try:
            kind(seed, plan or Plan(), **options).run()
        except Exception as error:
            return seed, f"{type(error).__name__}: {error}"
    return None
