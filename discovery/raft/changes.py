"""The leader's side of membership: one change at a time, learners that become voters, and leadership handed over.

The guard of hazard 15: no change while the last one is above the commit index, none before the no-op of the term is
applied. A node is added as a learner, which costs no quorum; it votes by a second entry, once a whole round of
catching up took less than an election timeout (Raft dissertation, section 4.2.1). A leader does not remove itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

from discovery import levels
from discovery.errors import Conflict, NotApplied, OutcomeUnknown, RegistryError
from discovery.raft.codec import Campaign
from discovery.raft.configuration import Add, Change, Configuration, entry, one_step
from discovery.raft.core import LEADER, Core
from discovery.raft.seam import instant
from discovery.raft.types import Settings

_SILENT_PERIODS: Final = 3
"""A peer that did not answer for so many heartbeats is not waited for."""


def _follows_closely(core: Core, settings: Settings, peer: str) -> bool:
    """Whether a voter answers, and has what the log begins with: it could lead, or carry a majority, at once."""
    if peer not in core.voters:
        return False
    node = core.nodes[peer]
    silent_s = instant.now - core.responded[node]
    near = node in core.connected and core.next[node] > core.first_index
    return near and silent_s <= _SILENT_PERIODS * settings.append_period_s


class Changes:
    """Runs inside the engine's pass. Outcomes gather in :attr:`resolved`."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self._core, self._settings = core, settings
        self._waiting: list[tuple[Hashable, int]] = []
        self._catching: dict[str, tuple[int, float]] = {}
        self.met: dict[str, str] = {}
        """Nodes with an empty data directory that are connected now: its incarnation by id."""
        self.known: dict[str, int] = {}
        """The highest feature level that a node announced, whether it is connected now or not."""
        self.resolved: list[tuple[Hashable, object]] = []

    def ask(self, token: Hashable, change: Change) -> None:
        """Make a change; answered under ``token`` with the configuration that holds, once it is applied here."""
        try:
            self._waiting.append((token, self._change(change)))
        except RegistryError as error:
            self.resolved.append((token, error))

    def _change(self, change: Change) -> int:
        self._guard()
        self._check_level(change)
        active = self._core.electorate.active
        if isinstance(change, Add):
            incarnation = self.met.get(change.node) or self._core.links.get(change.node, "")
            after = active.added(change, incarnation)
        else:
            after = active.removed(change.node)
            self._check_removal(change.node, after)
        if after is not active:
            self._append(after)
        return self._core.electorate.active.index

    def _guard(self) -> None:
        core = self._core
        if not core.ready:
            raise NotApplied("this node does not lead (any more), or has not begun to")
        if core.electorate.active.index > core.commit:
            raise NotApplied("another change of members is not committed yet: one at a time")

    def _check_level(self, change: Change) -> None:
        """Members change only when all understand the entry that says so; and nobody joins who would not."""
        level = self._core.electorate.active.level
        if level < levels.MEMBERS:
            if held := self._holding(levels.MEMBERS):
                raise Conflict(
                    f"changing members needs feature level {levels.MEMBERS}, the cluster is at {level}, held by "
                    f"{'; '.join(held)}. Bring them up with this version first"
                )
            raise NotApplied(f"the cluster is just being raised to feature level {levels.MEMBERS}")
        if isinstance(change, Add) and (known := self.known.get(change.node, level)) < level:
            raise Conflict(
                f"{change.node} knows feature level {known}, the cluster is at {level}: install the version of the "
                f"other members on it"
            )

    def _holding(self, level: int) -> list[str]:
        """Who keeps the cluster below a level, and why, for people."""
        core = self._core
        known = {core.node_id: core.electorate.known_level, **self.known}
        told = {peer: known.get(peer) for peer in sorted(core.electorate.active.members)}
        return [
            f"{peer}, " + ("which was not heard of yet" if it is None else f"which runs a version that knows {it}")
            for peer, it in told.items()
            if it is None or it < level
        ]

    def _attainable(self) -> int:
        """The highest level that every member knows; one that was never heard of holds the level."""
        core = self._core
        active = core.electorate.active
        others = (self.known.get(peer, active.level) for peer in active.members if peer != core.node_id)
        return min((core.electorate.known_level, *others))

    def _append(self, after: Configuration) -> None:
        assert one_step(self._core.electorate.active, after), "members change one at a time"
        self._core.append_members(entry(after))

    def _check_removal(self, node: str, after: Configuration) -> None:
        """The dead may go, but not so many living ones that the rest could decide nothing."""
        core = self._core
        if node == core.node_id:
            raise Conflict(f"{node} leads: it cannot remove itself, leadership must be handed over first")
        voters = after.voters()
        near = sum(1 for peer in voters if peer == core.node_id or self._near(peer))
        if 2 * near <= len(voters):
            raise Conflict(
                f"without {node} only {near} of {len(voters)} voters would be within reach: the cluster could not "
                f"decide anything; bring the others back, or remove those first"
            )
        # From then on every write waits for one of the rest: not for one that has stopped answering, or catches up.
        close = sum(1 for peer in voters if peer == core.node_id or _follows_closely(core, self._settings, peer))
        if 2 * close <= len(voters):
            raise NotApplied(f"only {close} of {len(voters)} voters without {node} are in step: not now")

    def _near(self, peer: str) -> bool:
        core = self._core
        node = core.nodes.get(peer)
        return node in core.connected and instant.now - core.responded[node] < self._settings.fallback_s

    def lead(self) -> None:
        """Each pass of a leader: raise the level, bind a learner that came, or make one a voter; the guard holds."""
        core = self._core
        active = core.electorate.active
        if not core.ready or active.index > core.commit:
            return
        if active.level < core.electorate.known_level and (level := self._attainable()) > active.level:
            self._append(active.raised(level))
            return
        learners = [peer for peer, member in active.members.items() if member.role == "learner"]
        for peer in learners:
            if not active.members[peer].incarnation:
                # An empty directory that came, or one that was this cluster's before and is whole.
                incarnation = self.met.get(peer) or core.links.get(peer, "")
                if incarnation and self.known.get(peer, active.level) >= active.level:
                    self._append(active.bound(peer, incarnation))
                    return
            elif core.is_member(peer) and self._caught_up(peer):
                self._catching.pop(peer, None)
                self._append(active.promoted(peer))
                return

    def _caught_up(self, peer: str) -> bool:
        """A round: all that the log had when it began. The last one was short, so what is missing now is little."""
        core = self._core
        match = core.match[core.nodes[peer]]
        goal, since = self._catching.setdefault(peer, (core.last_index, instant.now))
        if match < goal:
            return False
        if instant.now - since < self._settings.election_min_s:
            return True
        self._catching[peer] = core.last_index, instant.now
        return False

    def applied(self, index: int) -> None:
        """The log up to ``index`` is applied here, in one leadership: answer who waits for it."""
        if self._waiting:
            members = self._core.electorate.at(index)
            self.resolved += [(token, members) for token, needed in self._waiting if needed <= index]
            self._waiting = [waiting for waiting in self._waiting if waiting[1] > index]

    def deposed(self) -> None:
        """The leadership ended: what was asked may be in the log of others, or not."""
        self.resolved += [(token, OutcomeUnknown("leadership changed meanwhile")) for token, _ in self._waiting]
        self._waiting, self._catching = [], {}

    def members_changed(self) -> None:
        """Who was removed catches up no more."""
        members = self._core.electorate.active.members
        self._catching = {peer: goal for peer, goal in self._catching.items() if peer in members}


class Handover:
    """A leader gives its leadership to a voter: it takes no more writes until that has all, then tells it (24)."""

    def __init__(self, core: Core, settings: Settings) -> None:
        self._core, self._settings = core, settings
        self._to: tuple[str, float, bool] | None = None

    @property
    def active(self) -> bool:
        """Whether one is under way: then nothing is packed."""
        return self._to is not None

    def next_deadline(self) -> float:
        """When it is given up (``inf``: none is under way)."""
        return float("inf") if self._to is None else self._to[1]

    def begin(self, peer: str) -> None:
        """Hand over to ``peer``, if it can take over and this node leads; asking again changes nothing."""
        asked = self._to is not None and self._to[0] == peer
        if not asked and self._core.ready and _follows_closely(self._core, self._settings, peer):
            self._to = (peer, instant.now + self._settings.transfer_s, False)

    def end(self) -> None:
        """Leadership ended, with or without success."""
        self._to = None

    def lead(self) -> None:
        """Each pass of a leader."""
        if self._to is None:
            return
        core = self._core
        peer, until, told = self._to
        if instant.now >= until or not _follows_closely(core, self._settings, peer):
            self._to = None
        elif not told and core.match[core.nodes[peer]] == core.last_index:
            core.outbox.late.append((peer, Campaign(core.term)))
            # Whoever does not campaign at once, or does not win, has its reasons: nothing is written meanwhile.
            until = min(until, instant.now + _SILENT_PERIODS * self._settings.append_period_s)
            self._to = (peer, until, True)

    def on_campaign(self, peer: str, message: Campaign, campaign: Callable[[], None]) -> None:
        """The leader of this term hands over: no pre-vote, its other followers still hear it (hazard 24)."""
        core = self._core
        if message.term == core.term and core.leader == peer and core.state != LEADER:
            campaign()
