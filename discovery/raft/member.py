"""A member's reactions to messages, connections, jobs and turns of leadership. The pass is in :mod:`.engine`."""

from __future__ import annotations

import random as random_module
from collections.abc import Callable, Hashable
from typing import Any, Final

from discovery.command import Meta
from discovery.errors import DiskFull, InvalidInput
from discovery.raft import codec, packing, rounds
from discovery.raft.changes import Changes, Handover
from discovery.raft.configuration import Configuration, Electorate
from discovery.raft.core import LEADER, Core
from discovery.raft.install import Incoming, reconcile
from discovery.raft.prevote import PreVoting
from discovery.raft.proposals import Accepted, Proposals
from discovery.raft.replication import Replication
from discovery.raft.room import Room
from discovery.raft.seam import instant
from discovery.raft.shortage import Shortage
from discovery.raft.types import InstallSnapshot, Job, Log, Machine, SaveSnapshot, Settings, SnapshotStore, loaded

_APPLY_MAX: Final = 10_000
"""Commands applied in one pass; the rest follows in the next, so that a node far behind still answers its peers."""
_OF_MEMBERS: Final = (codec.NextIndex, codec.ResponseVote, codec.PreVoteResponse, codec.SnapshotAck)
"""What counts, so that it counts from members only (hazard 22). A question is answered whoever asks."""


class Member:
    """State and reactions of a member. Everything here runs inside :meth:`.engine.Engine.step`."""

    def __init__(
        self,
        node_id: str,
        incarnation: str,
        electorate: Electorate,
        wal: Log,
        snapshots: SnapshotStore,
        machine: Machine,
        wall_ms: Callable[[], int],
        random: random_module.Random,
        settings: Settings,
        core_class: type[Core],
    ) -> None:
        self._settings, self._machine, self._wall_ms = settings, machine, wall_ms
        snapshot = snapshots.latest()
        reconcile(wal, snapshot)
        self._core = core = core_class(node_id, incarnation, electorate, wal, settings)
        self.before_round: Callable[[], None] | None = None
        self._snapshots = snapshots
        self._incoming = Incoming(core, snapshots)
        self._snapshot_index, self._applied_term = 1, 0
        if snapshot is not None:
            members, state = loaded(snapshot, machine, electorate.known_level)
            machine.install(state)
            self._incoming.place(snapshot.index, snapshot.term, members)
            self._snapshot_index, self._applied_term = snapshot.index, snapshot.term
        else:
            core.electorate.rebuild(None, wal, 0)
            core.members_changed()
        self._bytes_mark = wal.bytes_written - sum(len(entry[0]) for entry in wal[:] if entry[1] > self._snapshot_index)
        self._saving = False
        self._jobs: list[Job] = []
        process = random.getrandbits(64)
        self._proposals = Proposals(process.to_bytes(8, "big"), settings)
        self._accepted = Accepted(settings)
        self._replication = Replication(core, snapshots, settings)
        self._prevoting = PreVoting(core, settings)
        self._room = Room()
        self._shortage = Shortage(self._room, core, self._prevoting, self._proposals)
        self._rounds = rounds.Rounds(core.majority)
        self._reads = rounds.Reads(process >> 16)
        self._confirmed: list[tuple[Hashable, int | Exception]] = []
        self._contact: dict[str, float] = {}
        self._round_seen = (0, 0)
        self._log_clock = packing.LogClock(0, instant.now)
        self._log_moved_at = instant.now
        self._changes, self._handover = Changes(core, settings), Handover(core, settings)
        self._again = True
        core.on_elected, core.on_deposed, core.on_members = self._on_elected, self._on_deposed, self._on_members
        core.on_pack, core.on_apply = self._on_pack, self._on_apply
        if not core.voters:
            core.election_deadline = instant.now
        self._handlers: dict[type, Callable[[str, Any], None]] = {
            codec.AppendEntries: self._on_append,
            codec.NextIndex: self._on_next_index,
            codec.RequestVote: core.on_request_vote,
            codec.ResponseVote: core.on_response_vote,
            codec.PreVote: self._prevoting.on_question,
            codec.PreVoteResponse: self._prevoting.on_answer,
            codec.Propose: self._on_propose,
            codec.ProposeRefused: self._on_refused,
            codec.SnapshotChunk: self._on_chunk,
            codec.SnapshotAck: self._on_snapshot_ack,
            codec.ReadIndex: self._on_read_index,
            codec.ReadIndexReply: self._on_read_reply,
            codec.Campaign: self._on_campaign,
        }

    # -- what the core reports --------------------------------------------------------------------------------------

    def _on_elected(self) -> None:
        core = self._core
        self._replication.elected()
        self._reads.lost(None)
        stamped = (command for command, _, _ in reversed(core.wal[:]) if command.startswith(packing.REGULAR))
        previous_ms = packing.time_of(next(stamped, packing.NO_OP))
        self._log_clock = packing.LogClock(max(previous_ms, self._machine.time_ms), self._log_moved_at)

    def _on_deposed(self) -> None:
        """Nothing survives its leadership: what was taken is refused, what was decided is dropped (hazard 17)."""
        self._handover.end()
        self._changes.deposed()
        for waiter in self._rounds.abort():
            self._refuse(waiter)
        for peer, ids in self._accepted.clear().items():
            self._core.outbox.late.append((peer, codec.ProposeRefused(self._core.term, tuple(ids))))
        self._proposals.drop_bound(None)

    def _on_pack(self) -> None:
        """Group commit: everything that waits goes into few entries, capped by bytes, in one batch."""
        if self._handover.active:
            return
        core, proposals, accepted = self._core, self._proposals, self._accepted
        budget, cap = self._settings.window_bytes, self._settings.entry_bytes - 64 * 1024
        while budget > 0 and (proposals.idle or len(accepted)):
            items = accepted.take(cap // 2)
            used = sum(len(item[1]) + packing.ITEM_BYTES for item in items)
            items += proposals.take(core.term, cap - used)
            self._append_packed(items)
            budget -= cap
        self._again = self._again or proposals.idle or len(accepted) > 0

    def _append_packed(self, items: list[codec.Item]) -> None:
        core, cap = self._core, self._settings.entry_bytes
        time_ms = self._log_clock.stamp(instant.now, self._wall_ms())
        begin = size = 0
        for position, item in enumerate(items):
            size += len(item[1]) + packing.ITEM_BYTES
            if size > cap:
                core.wal.add(packing.pack(time_ms, items[begin:position]), core.last_index + 1, core.term)
                begin, size = position, len(item[1]) + packing.ITEM_BYTES
        if items:
            core.wal.add(packing.pack(time_ms, items[begin:]), core.last_index + 1, core.term)

    def _on_apply(self) -> None:
        core, count = self._core, 0
        while core.applied < core.commit and count < _APPLY_MAX:
            index = core.applied + 1
            command, _, term = core.wal[index - core.first_index]
            if term > self._applied_term:
                self._applied_term = term
                self._proposals.term_applied(term)
            count += self._apply(command, index, term)
            core.applied = index
        self._again = self._again or core.applied < core.commit

    def _apply(self, command: bytes, index: int, term: int) -> int:
        """Apply one entry. Whatever it holds, the next one must be reached (hazard 13)."""
        try:
            time_ms, items = packing.unpack(command)
        except InvalidInput:
            return 1
        meta = Meta(index, term, time_ms, self._core.electorate.at(index).level)
        apply, applied = self._machine.apply, self._proposals.applied
        for wire, data in items:
            try:
                result: object = apply(data, meta)
            except MemoryError:
                raise
            except Exception as error:  # the same on every node, as the machine is deterministic
                result = error
            applied(wire, result)
        return len(items) + 1

    # -- messages -------------------------------------------------------------------------------------------------

    def _deliver(self, peer: str, message: codec.RaftMessage) -> None:
        core = self._core
        if peer not in core.links or (type(message) in _OF_MEMBERS and not core.is_member(peer)):
            return
        self._contact[peer] = instant.now
        core.adopt(message.term)
        self._handlers[type(message)](peer, message)

    def _on_connected(self, peer: str, incarnation: str) -> None:
        core = self._core
        core.links[peer] = incarnation
        self._changes.met.pop(peer, None)
        self._see_members()
        if core.state != LEADER and core.leader == peer:
            if items := self._proposals.again(core.term):
                core.outbox.early += [(peer, codec.Propose(core.term, part)) for part in self._parts(items)]
        elif core.leader is None and core.heard_at < 0 and core.voters_near() >= core.majority:
            self._prevoting.hint()  # nobody was heard since the start: do not sit out a whole timeout

    def _see_members(self) -> None:
        """Of those that have a stream, members count: they are sent to, asked and believed."""
        core = self._core
        for peer in core.links:
            node = core.nodes.get(peer)
            counted = node is not None and node in core.connected
            if counted and not core.is_member(peer):
                core._SyncObj__onNodeDisconnected(node)
            elif not counted and core.is_member(peer):
                core._SyncObj__onNodeConnected(node)
                if core.state == LEADER:
                    self._replication.connected(node)

    def _on_members(self) -> None:
        """The log or a snapshot says something else about who counts."""
        core = self._core
        self._replication.members_changed()
        self._changes.members_changed()
        self._rounds.members_changed(core.voters, core.majority)
        self._see_members()
        self._contact = {peer: at for peer, at in self._contact.items() if peer in core.nodes or peer in core.links}

    def _on_told(self, index: int) -> None:
        self._core.told = max(self._core.told, index)

    def _on_met(self, peer: str, incarnation: str) -> None:
        self._changes.met[peer] = incarnation

    def _on_knows(self, peer: str, level: int) -> None:
        self._changes.known[peer] = level

    def _parts(self, items: list[codec.Item]) -> list[tuple[codec.Item, ...]]:
        parts: list[list[codec.Item]] = [[]]
        size = 0
        for item in items:
            if size > self._settings.batch_bytes:
                parts.append([])
                size = 0
            parts[-1].append(item)
            size += len(item[1]) + packing.ITEM_BYTES
        return [tuple(part) for part in parts]

    def _on_disconnected(self, peer: str, hint: bool) -> None:
        core = self._core
        self._changes.met.pop(peer, None)
        if core.links.pop(peer, None) is None:
            return
        core._SyncObj__onNodeDisconnected(core.peer(peer))
        self._reads.lost(peer)
        if core.state != LEADER and core.leader == peer and hint:
            # The best detector of a killed process. Only a hint: whoever still hears the leader refuses the pre-vote.
            core.heard_at = float("-inf")
            self._prevoting.hint()

    def _on_append(self, peer: str, message: codec.AppendEntries) -> None:
        self._lead_news(peer, message.term, message.round)
        if self._room.mute:
            self._shortage.on_append(peer, message)
        else:
            self._core.on_append(peer, message)

    def _lead_news(self, peer: str, term: int, number: int) -> None:
        """Somebody leads: attempts are void, reads ask him; a new round is announced before it is answered."""
        core = self._core
        if term < core.term:
            return
        self._prevoting.void()
        if core.leader != peer:
            self._reads.lost(None)
        if self._round_seen < (term, number):
            self._round_seen = (term, number)
            if self.before_round is not None and number:
                self.before_round()

    def _on_next_index(self, peer: str, message: codec.NextIndex) -> None:
        core = self._core
        if core.on_next_index(peer, message):
            self._replication.on_next_index(core.nodes[peer], message)
            if peer in core.voters:  # a learner elects nobody: it cannot know that nobody else was elected
                self._rounds.answer(peer, message.round)

    def _on_propose(self, peer: str, message: codec.Propose) -> None:
        """Only the leader of the very term the proposer aimed at takes it (hazard 24)."""
        core = self._core
        if core.state != LEADER or message.term != core.term:
            ids = tuple(item[0] for item in message.items)
            core.outbox.late.append((peer, codec.ProposeRefused(core.term, ids)))
            return
        refused = self._accepted.offer(peer, message.items)
        if refused:
            core.outbox.late.append((peer, codec.ProposeRefused(core.term, tuple(refused), overloaded=True)))

    def _on_refused(self, peer: str, message: codec.ProposeRefused) -> None:
        term = self._proposals.refused(message.ids, message.overloaded)
        if term and not message.overloaded:
            self._core.forget_leader(peer, term)

    def _on_chunk(self, peer: str, message: codec.SnapshotChunk) -> None:
        core = self._core
        if message.term < core.term:
            core.answer(peer, 0, core.commit + 1, success=False)
            return
        self._prevoting.void()
        core.follow(peer)
        if self._room.mute:
            self._missed(peer, message, self._room.cause)
            core.forget_leader(peer, core.term)
            return
        if self._room.receive.cause and message.offset and not self._incoming.receiving:
            return  # what was under way when the room ended
        try:
            self._incoming.on_chunk(peer, message)
        except DiskFull as error:
            self._missed(peer, message, error.detail)

    def _missed(self, peer: str, message: codec.SnapshotChunk, cause: str) -> None:
        if message.index <= self._core.applied:
            return  # nothing is missing
        self._room.receive_failed(cause, instant.now)
        self._incoming.miss(peer, message.index, message.size)

    def _on_snapshot_ack(self, peer: str, message: codec.SnapshotAck) -> None:
        core = self._core
        if core.state == LEADER and message.term == core.term:
            self._replication.on_ack(core.nodes[peer], message)

    def _on_read_index(self, peer: str, message: codec.ReadIndex) -> None:
        core = self._core
        waiter = rounds.RemoteRead(peer, message.token)
        if core.state == LEADER and message.term == core.term:
            self._rounds.wait(waiter)
        else:
            self._refuse(waiter)

    def _on_read_reply(self, peer: str, message: codec.ReadIndexReply) -> None:
        term = self._reads.on_reply(message, instant.now)
        if term:
            self._core.forget_leader(peer, term)

    def _on_campaign(self, peer: str, message: codec.Campaign) -> None:
        self._handover.on_campaign(peer, message, self._prevoting.campaign)

    # -- snapshots ------------------------------------------------------------------------------------------------

    def _snapshot_if_due(self) -> None:
        core, wanted = self._core, self._room.save
        if self._saving or self._incoming.installing or core.applied <= self._snapshot_index:
            return
        if not (wanted.cause or self._snapshot_is_worth_it()) or instant.now < wanted.retry_at:
            return
        self._saving = True
        self._bytes_mark = core.wal.bytes_written
        members = core.electorate.at(core.applied)
        self._jobs.append(SaveSnapshot(core.applied, core.term_at(core.applied), self._machine.snapshot(), members))

    def _snapshot_is_worth_it(self) -> bool:
        """A large state is written again only when as much was logged: the cost stays in proportion to the writes."""
        written, latest = self._core.wal.bytes_written - self._bytes_mark, self._snapshots.latest()
        return written >= max(self._settings.snapshot_bytes, 0 if latest is None else latest.size)

    def _on_job_done(self, job: Job, result: Any) -> None:
        if isinstance(job, InstallSnapshot):
            if self._incoming.finished(job, result):
                self._install(job, *result)
            if isinstance(result, DiskFull):
                self._room.receive_failed(result.detail, instant.now)
            return
        self._saving = False
        if isinstance(result, DiskFull):
            self._room.save.failed(result.detail, instant.now)
            return
        if isinstance(result, Exception):
            raise result
        self._snapshot_saved(job.index)

    def _snapshot_saved(self, index: int) -> None:
        self._room.save.done()
        if index > self._snapshot_index:
            self._snapshot_index = index
            self._core.wal.compact(index)
            self._core.electorate.compact(index)

    def _install(self, job: InstallSnapshot, members: Configuration | None, state: Any) -> None:
        """Hazard 18: only forward. Callers whose commands may be inside get "outcome unknown"."""
        self._room.receive.done()
        self._machine.install(state)
        self._incoming.place(job.index, job.term, members)
        self._snapshot_saved(job.index)
        self._applied_term = max(self._applied_term, job.term)
        self._proposals.installed(job.term)
        self._incoming.acknowledge(job.index)

    def _refuse(self, waiter: rounds.Waiter) -> None:
        if isinstance(waiter, rounds.Confirmation):
            self._confirmed.append(rounds.failed(waiter))
        elif isinstance(waiter, rounds.LocalRead):
            self._reads.back(waiter)
        else:
            self._core.outbox.late.append((waiter.peer, codec.ReadIndexReply(self._core.term, waiter.token, None)))
