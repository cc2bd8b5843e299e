"""One member of the cluster without I/O: events in, :class:`Output` out, a pass a wake-up (see :mod:`.types`).

The order of a pass is fixed, and each step rests on the one before:

1. Deliver what was received, in order. Everything in the log is durable now, since the last sync.
2. Pre-vote: an election deadline that is past begins an attempt, a won attempt lets the base class campaign.
3. The base class's tick: elect, move the commit index (self counted up to the last sync), step down without a
   majority, apply what is committed, pack waiting commands into new entries.
4. Rounds, reads, snapshots, forwarding; then send: appends early (their term is durable), all else after the sync.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from discovery import levels
from discovery.raft import codec, rounds, seam
from discovery.raft.configuration import Change, Configuration, Electorate, founding
from discovery.raft.configuration import Member as FoundingMember
from discovery.raft.core import CANDIDATE, LEADER, Core
from discovery.raft.member import Member
from discovery.raft.seam import instant
from discovery.raft.types import (
    EngineStatus,
    Job,
    Log,
    Machine,
    Output,
    PeerStatus,
    Role,
    Settings,
    SnapshotStore,
)

_ROLES: Final[dict[int, Role]] = {0: "follower", CANDIDATE: "candidate", LEADER: "leader"}
_NUDGE_S: Final = 1e-4
"""The base class compares with ``<``: a deadline is past a moment after it."""


class Engine(Member):
    """A member. Public methods: :class:`discovery.raft.types.EngineAPI`."""

    def __init__(
        self,
        *,
        node_id: str,
        peers: Sequence[str] = (),
        wal: Log,
        snapshots: SnapshotStore,
        machine: Machine,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        random: random_module.Random,
        settings: Settings | None = None,
        core_class: type[Core] = Core,
        incarnation: str = "",
        members: Configuration | None = None,
        level: int = levels.LEVEL,
    ) -> None:
        seam.verify_source()
        self._clock, self._random = clock, random
        self._inbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._awaiting_sync = self._batch_given = False
        self._promised = float("inf")
        self._role: tuple[Role, int, str | None, bool] | None = None
        self._enter()
        self._leaderless_since: float | None = instant.now
        seed = members or founding({node: FoundingMember("", "") for node in (node_id, *peers)})
        where = (wal, snapshots, machine, wall_ms, random, settings or Settings(), core_class)
        super().__init__(node_id, incarnation, Electorate(seed, level), *where)
        self._log_end = (self._core.last_index, self._core.wal[-1][2])

    # -- events: they only queue ----------------------------------------------------------------------------------

    def receive(self, peer: str, message: codec.RaftMessage) -> None:
        """A message of a member, of its present connection only."""
        self._inbox.append((self._deliver, (peer, message)))

    def connected(self, peer: str, incarnation: str = "") -> None:
        """A stream to and from a node of this cluster begins; whether it counts, the configuration says."""
        self._inbox.append((self._on_connected, (peer, incarnation)))

    def met(self, peer: str, incarnation: str) -> None:
        """A node with an empty data directory is connected, until ``disconnected`` or ``connected``."""
        self._inbox.append((self._on_met, (peer, incarnation)))

    def knows(self, peer: str, level: int) -> None:
        """A node announced the highest feature level that it knows."""
        self._inbox.append((self._on_knows, (peer, level)))

    def told(self, index: int) -> None:
        """By the configuration of that index, which others applied, this node was removed."""
        self._inbox.append((self._on_told, (index,)))

    def change(self, token: Hashable, change: Change) -> None:
        """Leader only: add or remove a member; answered in ``Output.resolved`` (see :class:`.changes.Changes`)."""
        self._inbox.append((self._changes.ask, (token, change)))

    def disconnected(self, peer: str, hint: bool = True) -> None:
        """The stream ended; ``hint``: the peer's side was closed, its process may be dead."""
        self._inbox.append((self._on_disconnected, (peer, hint)))

    def propose(self, token: Hashable, command: bytes, deadline: float, term: int | None = None) -> None:
        """Replicate a command; the answer comes in ``Output.resolved`` (see :class:`.types.EngineAPI`)."""
        self._proposals.submit(token, command, deadline, term)
        self._again = True

    def confirm(self, token: Hashable) -> None:
        """Leader only: a round that begins after this call; answered in ``Output.confirmed``."""
        self._rounds.wait(rounds.Confirmation(token))
        self._again = True

    def read_index(self, token: Hashable, deadline: float) -> None:
        """Any node: answered in ``Output.readable`` once local state holds all acknowledged before this call."""
        self._reads.wait(token, deadline)
        self._again = True

    def transfer(self, peer: str) -> None:
        """Leader only: hand leadership to ``peer``; given up after ``transfer_s``."""
        self._inbox.append((self._handover.begin, (peer,)))

    def job_done(self, job: Job, result: Any) -> None:
        """A job of an output ended with this value (or CorruptData)."""
        self._inbox.append((self._on_job_done, (job, result)))

    # -- the pass -------------------------------------------------------------------------------------------------

    def step(self) -> Output:
        """One pass.

        Raises:
            RuntimeError: the batch of the last pass was not reported as synced.
            CorruptData: no protocol step leads to what was found; end the process.
        """
        if self._awaiting_sync:
            raise RuntimeError("a pass began before the sync of the last one ended")
        core = self._core
        self._enter()
        self._room.look(instant.now)
        if not self._room.mute:
            core.durable = core.last_index
        core.hard_moved = False
        self._again = False
        self._shortage.begin_pass()
        if instant.now > self._promised + self._settings.stall_s:
            self._prevoting.stood_still(instant.now - self._promised)
        inbox, self._inbox = self._inbox, []
        for handle, arguments in inbox:
            handle(*arguments)
        self._proposals.drop_bound(core.term if core.state == LEADER else None)
        self._prevoting.tick()
        core._onTick(0)
        self._shortage.refuse_writes()
        self._lead() if core.state == LEADER else self._follow()
        self._snapshot_if_due()
        self._expire()
        self._tell_role()
        return self._output()

    def synced(self) -> None:
        """The batch of the last output is on the disk."""
        self._awaiting_sync = False
        if self._room.mute and self._batch_given:
            self._room.written()
            self._again = True

    def unsynced(self, cause: str) -> None:
        """There was no room for the batch of the last output; its ``late`` messages must be dropped."""
        self._awaiting_sync = False
        self._room.log.failed(cause, self._clock())
        self._reads.lost(None)  # the question may have been among what was dropped
        self._again = True

    def next_deadline(self) -> float:
        """When to step next although nothing happened (on ``clock``; ``inf``: never)."""
        if self._inbox or self._again:
            return self._clock()
        core = self._core
        timer = core.next_append if core.state == LEADER else core.election_deadline
        deadlines = [
            timer + _NUDGE_S,
            self._proposals.next_deadline(),
            self._reads.next_deadline(),
            self._reads.retry_at(instant.now),
        ]
        return min(*deadlines, self._handover.next_deadline(), self._room.next_deadline(instant.now))

    def _enter(self) -> None:
        instant.now, instant.source = self._clock(), self._random

    def _lead(self) -> None:
        core = self._core
        read = self._reads.take_local()
        if read is not None:
            self._rounds.wait(read)
        # A leader acts only once the no-op of its term is applied: before that its commit index may be an old one.
        if core.ready and self._rounds.begin(core.commit):
            self._replication.round = self._rounds.number
        self._finish_rounds()
        self._handover.lead()
        if not self._handover.active:
            self._changes.lead()
        self._changes.applied(core.applied)
        self._replication.pump(due=core.append_due)
        core.append_due = False

    def _finish_rounds(self) -> None:
        while (finished := self._rounds.finish()) is not None:
            index, served = finished
            for waiter in served:
                self._serve(waiter, index)
            if not self._rounds.begin(self._core.commit):
                return
            self._replication.round = self._rounds.number

    def _serve(self, waiter: rounds.Waiter, index: int) -> None:
        if isinstance(waiter, rounds.Confirmation):
            self._confirmed.append((waiter.token, self._core.term))
        elif isinstance(waiter, rounds.LocalRead):
            self._reads.know(index, waiter.reads)
        else:
            reply = codec.ReadIndexReply(self._core.term, waiter.token, index)
            self._core.outbox.early.append((waiter.peer, reply))

    def _follow(self) -> None:
        core = self._core
        core.append_due = False
        for waiter in self._rounds.abort():
            self._refuse(waiter)
        leader = core.leader
        if leader is None or leader not in core.links:
            return
        if self._proposals.idle:
            self._forward(leader)
        question = self._reads.ask(leader, core.term, instant.now)
        if question is not None:
            core.outbox.early.append((leader, question))

    def _forward(self, leader: str) -> None:
        core = self._core
        while items := self._proposals.take(core.term, self._settings.batch_bytes):
            core.outbox.early.append((leader, codec.Propose(core.term, tuple(items))))

    def _expire(self) -> None:
        self._proposals.expire(instant.now)
        self._reads.applied(self._core.applied)
        self._reads.expire(instant.now)
        self._room.receive_again(instant.now, self._incoming.ask_again)

    def _tell_role(self) -> None:
        core = self._core
        role = (_ROLES[core.state], core.term, core.leader, core.ready)
        if role != self._role:
            self._role = role
            self._machine.role(*role)
        if core.leader is not None:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = instant.now

    def _output(self) -> Output:
        core = self._core
        end = (core.last_index, core.wal[-1][2])  # an entry may be replaced by another at the same index
        if end != self._log_end:
            self._log_end, self._log_moved_at = end, instant.now
        early, late = core.outbox.take()
        mute = self._room.mute
        batch = core.wal.take() if not mute or instant.now >= self._room.log.retry_at else None
        self._batch_given = batch is not None
        if mute:  # what a follower asks promises nothing
            late = late if self._batch_given else []
        elif core.hard_moved:  # then even an append would speak of a term that a crash could take back
            early, late = [], early + late
        jobs, self._jobs = self._jobs, []
        if not self._saving:  # two jobs never write snapshots at the same time
            jobs += self._incoming.take_jobs()
        resolved = self._proposals.resolved + self._changes.resolved
        output = Output(early, batch, late, jobs, resolved, self._confirmed, self._reads.readable)
        self._proposals.resolved, self._confirmed, self._reads.readable = [], [], []
        self._changes.resolved = []
        self._awaiting_sync = True
        # Alone, nobody's acknowledgement wakes us: look again once our own disk has what was added.
        self._again = self._again or (not core.voters and core.state == LEADER and core.commit < core.last_index)
        self._promised = self.next_deadline()
        return output

    # -- status ---------------------------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        """The Raft state of this node."""
        core, now = self._core, self._clock()
        leading = core.state == LEADER
        peers = []
        for peer, node in core.nodes.items():
            contact = self._contact.get(peer)
            applied = self._replication.flows[node].applied if leading else None
            match = core.match.get(node) if leading else None
            peers.append(
                PeerStatus(peer, node in core.connected, None if contact is None else now - contact, applied, match)
            )
        since = self._leaderless_since
        return EngineStatus(
            node=core._SyncObj__selfNode.id,
            role=_ROLES[core.state],
            term=core.term,
            leader=core.leader,
            ready=core.ready,
            commit=core.commit,
            applied=core.applied,
            last_index=core.last_index,
            first_index=core.first_index,
            snapshot_index=self._snapshot_index,
            leaderless_s=0.0 if since is None else now - since,
            waiting=len(self._proposals),
            elections=self._prevoting.elections,
            peers=tuple(peers),
            full=self._room.cause,
            standing=core.standing,
        )

    def members(self) -> tuple[Configuration, Configuration]:
        """(in effect, applied): the members by the whole log, and by the part of it that is applied."""
        electorate = self._core.electorate
        return electorate.active, electorate.at(self._core.applied)
