"""A member without room on its disk (:mod:`.room`): it gives up leadership, refuses writes, and goes on listening.

Why that is safe: what a node *says* about votes and entries leaves after a sync only; without room there is none, so
nothing is said. What it *hears* may be kept in memory and applied as far as the leader calls it committed: that is
on the disks of a majority without this one. What a crash takes from this node it has promised to nobody.
"""

from __future__ import annotations

import msgspec

from discovery.errors import DiskFull
from discovery.raft import packing
from discovery.raft.codec import AppendEntries, Campaign
from discovery.raft.core import FOLLOWER, LEADER, Core
from discovery.raft.prevote import PreVoting
from discovery.raft.proposals import Proposals
from discovery.raft.room import Room


class Shortage:
    """What a member does differently while :attr:`.room.Room.cause` says why. Runs inside the engine's pass."""

    def __init__(self, room: Room, core: Core, prevoting: PreVoting, proposals: Proposals) -> None:
        self._room, self._core, self._prevoting, self._proposals = room, core, prevoting, proposals

    def begin_pass(self) -> None:
        """Who cannot write does not campaign; who is mute says yes to nobody; who leads hands over and steps down."""
        core, room = self._core, self._room
        self._prevoting.may_campaign, self._prevoting.may_vote = not room.cause, not room.mute
        if not room.cause or core.state == FOLLOWER:
            return
        if core.state == LEADER:
            self._name_heir()
        core.step_down()
        if room.mute and not core.voters:
            self._take_back()

    def _name_heir(self) -> None:
        """Whoever is nearest need not wait for an election timeout. If he cannot either, that ends it as always."""
        core = self._core
        near = [peer for peer, node in core.nodes.items() if node in core.connected and peer in core.voters]
        if near:
            heir = max(near, key=lambda peer: core.match[core.nodes[peer]])
            core.outbox.early.append((heir, Campaign(core.term)))

    def _take_back(self) -> None:
        """Alone: what did not reach the disk has no other voter, so it surely was not applied."""
        core = self._core
        following = core.durable + 1
        if not core.first_index < following <= core.last_index:
            return
        commands = [command for command, _, _ in core.wal[following - core.first_index :]]
        core.cut(following)
        packed = (packing.unpack(command)[1] for command in commands if command.startswith(packing.REGULAR))
        self._proposals.died([wire for items in packed for wire, _ in items], DiskFull(self._room.cause))

    def refuse_writes(self) -> None:
        """Writes of this node's clients that are in no log yet."""
        if self._room.cause:
            self._proposals.refuse_idle(DiskFull(self._room.cause))

    def on_append(self, peer: str, message: AppendEntries) -> None:
        """Listen, within bounds. A mute node that cannot keep up must not look fresh: it knows no leader then."""
        core = self._core
        if not self._room.hold(sum(len(entry[0]) for entry in message.entries)):
            message = msgspec.structs.replace(message, entries=())
        core.on_append(peer, message)
        if message.commit > core.last_index:
            core.forget_leader(peer, core.term)
