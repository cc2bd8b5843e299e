"""The leader's sending: entries in a bounded window, heartbeats, and snapshots to those whose next entry is gone.

Replaces PySyncObj's ``__sendAppendEntries``, which sends a whole backlog at once, repeats what is on its way at each
acknowledgement and pickles long entries. A stream loses nothing unless it ends (see ``EngineAPI.connected``): so what
was sent is sent again only after a reset or a new connection.
"""

from __future__ import annotations

from collections import deque

import msgspec
from pysyncobj.node import Node

from discovery.errors import CorruptData
from discovery.raft.codec import AppendEntries, NextIndex, SnapshotAck, SnapshotChunk
from discovery.raft.core import Core
from discovery.raft.seam import instant
from discovery.raft.types import Settings, SnapshotFile, SnapshotStore

_PATIENCE_S = 10.0
"""A snapshot transfer without any answer for so long begins anew."""


class Transfer:
    """A snapshot on its way to one follower.

    ``acked``: bytes the follower has; ``offset``: bytes sent. After each new connection one chunk asks where to
    continue.
    """

    def __init__(self, file: SnapshotFile) -> None:
        self.file = file
        self.acked = 0
        self.offset = 0
        self.asked = False
        self.agreed = False
        self.answered_at = instant.now

    def rewind(self, offset: int) -> None:
        """Continue at ``offset``, after asking whether that is right; a question always carries something."""
        self.acked = self.offset = max(0, min(offset, self.file.size - 1))
        self.asked = self.agreed = False
        self.answered_at = instant.now

    def answered(self, offset: int) -> None:
        """The follower has ``offset`` bytes; its first answer on a stream decides where to go on.

        Answers of one stream arrive in order: less than before means that it lost what it had, for want of room.
        """
        offset = min(offset, self.file.size)
        if self.agreed and (offset == 0 or offset < self.acked):
            self.rewind(offset)
        elif self.agreed:
            self.acked = offset
        else:
            self.acked = self.offset = offset
            self.agreed = True
        self.answered_at = instant.now

    def room(self, bytes_max: int) -> bool:
        """Whether a chunk may be sent: one to ask with, then up to ``bytes_max`` on the way."""
        if self.offset >= self.file.size:
            return False
        return self.offset - self.acked < bytes_max if self.agreed else not self.asked


class Flow(msgspec.Struct):
    """What is on its way to one follower: (last index, bytes) of each batch, and what it was last told."""

    batches: deque[tuple[int, int]]
    bytes: int = 0
    commit: int = -1
    round: int = -1
    applied: int | None = None
    transfer: Transfer | None = None

    def forget(self) -> None:
        """The stream ended: nothing is on its way."""
        self.batches.clear()
        self.bytes, self.commit, self.round = 0, -1, -1

    def arrived(self, index: int) -> None:
        """Everything up to ``index`` is there."""
        while self.batches and self.batches[0][0] <= index:
            self.bytes -= self.batches.popleft()[1]


class Replication:
    """Sends for one leader. ``round`` is stamped on every append; the engine moves it."""

    def __init__(self, core: Core, snapshots: SnapshotStore, settings: Settings) -> None:
        self._core = core
        self._snapshots = snapshots
        self._settings = settings
        self.round = 0
        self.flows: dict[Node, Flow] = {}
        self.elected()

    def elected(self) -> None:
        """A new leadership: nothing is known of anybody."""
        self.flows = {node: Flow(deque()) for node in self._core.nodes.values()}

    def members_changed(self) -> None:
        """Forget who was removed; nothing is on its way to who was added."""
        nodes = self._core.nodes.values()
        same = {id(node) for node in nodes}
        kept = {node: flow for node, flow in self.flows.items() if id(node) in same}
        self.flows = {node: kept.get(node) or Flow(deque()) for node in nodes}

    def connected(self, node: Node) -> None:
        """A new stream: what was on its way is lost; begin behind what is surely there."""
        core = self._core
        flow = self.flows[node]
        flow.forget()
        if core.match.get(node):
            core.next[node] = core.match[node] + 1
        if flow.transfer is not None:
            flow.transfer.rewind(flow.transfer.acked)

    def on_next_index(self, node: Node, message: NextIndex) -> None:
        """An acknowledgement that the core has booked."""
        flow = self.flows[node]
        flow.applied = message.applied
        if message.success:
            flow.arrived(message.next - 1)
        elif message.reset:
            flow.batches.clear()
            flow.bytes = 0

    def pump(self, *, due: bool) -> None:
        """Send each connected follower what it needs; a heartbeat to all when ``due``."""
        shared: dict[int, AppendEntries] = {}
        for node in self._core.nodes.values():
            if node in self._core.connected:
                self._send(node, self.flows[node], shared, due=due)

    def _send(self, node: Node, flow: Flow, shared: dict[int, AppendEntries], *, due: bool) -> None:
        core = self._core
        if core.next[node] <= core.first_index:
            self._send_snapshot(node, flow)
            # Appends go on during a transfer: they keep the follower from campaigning and carry rounds (hazard 25).
            if due or flow.round != self.round:
                self._append(node, flow, self._message(core.last_index + 1, {}, empty=True))
            return
        flow.transfer = None
        sent = False
        while core.next[node] <= core.last_index and flow.bytes < self._settings.window_bytes:
            message = self._message(core.next[node], shared)
            size = sum(len(entry[0]) for entry in message.entries)
            last = message.entries[-1][1]
            core.next[node] = last + 1
            flow.batches.append((last, size))
            flow.bytes += size
            self._append(node, flow, message)
            sent = True
        if not sent and (due or flow.commit != core.commit or flow.round != self.round):
            self._append(node, flow, self._message(core.next[node], {}, empty=True))

    def _message(self, following: int, shared: dict[int, AppendEntries], *, empty: bool = False) -> AppendEntries:
        """The append that begins at ``following``; one object for all followers at the same place."""
        message = shared.get(following)
        if message is None:
            core = self._core
            entries = () if empty else core.entries_from(following, self._settings.batch_bytes)
            previous = following - 1
            term = core.term_at(previous)
            message = AppendEntries(core.term, previous, term, core.commit, self.round, entries)
            shared[following] = message
        return message

    def _append(self, node: Node, flow: Flow, message: AppendEntries) -> None:
        flow.commit, flow.round = message.commit, message.round
        self._core.outbox.early.append((node.id, message))

    # -- snapshots ----------------------------------------------------------------------------------------------

    def _send_snapshot(self, node: Node, flow: Flow) -> None:
        transfer = flow.transfer
        if transfer is None:
            transfer = flow.transfer = Transfer(self._latest())
        if instant.now - transfer.answered_at > _PATIENCE_S:
            transfer.rewind(0)
        bytes_max = self._settings.chunk_bytes * self._settings.chunks_in_flight
        while transfer.room(bytes_max):
            if not self._send_chunk(node, flow, transfer):
                return

    def _send_chunk(self, node: Node, flow: Flow, transfer: Transfer) -> bool:
        file = transfer.file
        try:
            data = file.read(transfer.offset, self._settings.chunk_bytes)
        except OSError:  # a newer snapshot replaced the file
            flow.transfer = None
            return False
        transfer.asked = True
        chunk = SnapshotChunk(self._core.term, file.index, file.term, transfer.offset, file.size, file.digest, data)
        self._core.outbox.early.append((node.id, chunk))
        transfer.offset += len(data)
        return True

    def _latest(self) -> SnapshotFile:
        file = self._snapshots.latest()
        if file is None or file.index < self._core.first_index:
            raise CorruptData(f"the log begins at {self._core.first_index}, but no snapshot holds what came before")
        return file

    def on_ack(self, node: Node, message: SnapshotAck) -> None:
        """The follower has bytes up to an offset, or everything."""
        core, flow = self._core, self.flows[node]
        core.responded[node] = instant.now
        if message.done:
            flow.transfer = None
            flow.arrived(message.index)
            core.match[node] = max(core.match[node], message.index)
            core.next[node] = max(core.next[node], message.index + 1)
            return
        transfer = flow.transfer
        if transfer is None or transfer.file.index != message.index:
            return
        transfer.answered(message.offset)
