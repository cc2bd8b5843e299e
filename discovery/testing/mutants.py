"""Broken nodes: each leaves out one guard. A check that catches none of them proves nothing (``tests/simulation``)."""

from __future__ import annotations

from typing import Any

import msgspec

from discovery import command as commands
from discovery.command import Evict, Meta
from discovery.leases import Due
from discovery.raft.codec import AppendEntries, NextIndex
from discovery.raft.core import Core
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


def breed(core: type[Core] = Core, registry: type[SimRegistry] = SimRegistry) -> type[Simulation]:
    """A simulation whose nodes are mutants."""

    class MutantNode(SimNode):
        core_class = core
        registry_class = registry

    class MutantSimulation(Simulation):
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
