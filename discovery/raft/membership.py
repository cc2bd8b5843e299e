"""Who counts: the identity, what peers announced, founding and adoption, and the addresses to dial.

Shell around :mod:`.founding`: it keeps the data directory's identity and tells the facade what changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from discovery import levels
from discovery.errors import ConfigError
from discovery.raft.configuration import Configuration, founding
from discovery.raft.founding import Announced, adopt, found, judge
from discovery.raft.hello import Refused, decode_announced, encode_announced
from discovery.raft.identity import DataDirectory, Identity, Member

_log: Final = logging.getLogger(__name__)
REMOVED: Final = (
    "was removed from the cluster: it neither votes nor takes writes, and its DNS answers grow old. Stop it. To use "
    "the machine again, empty its data directory, start it, and add it (discovery members add)"
)


class Membership:
    """The members as this node knows them.

    Args:
        directory: where the identity is stored.
        configured: Raft address by id, this node included.
        raft, http, version, level: what this node announces of itself.

    Raises:
        Beyond: the directory is at a higher feature level.
    """

    def __init__(
        self,
        directory: DataDirectory,
        identity: Identity,
        configured: Mapping[str, str],
        *,
        http: str,
        version: str,
        level: int = levels.LEVEL,
    ) -> None:
        levels.check(identity.level, level, f"data_dir {directory.path}: it is that of a cluster")
        self._directory = directory
        self.identity = identity
        self.configured = dict(configured)
        self._http, self.version, self.level = http, version, level
        self.announced: dict[str, Announced] = {}
        """What the peers that are connected now said of themselves last."""
        self._reasons: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self.known: dict[str, tuple[int, str]] = {}
        """Feature level and version that peers announced last, connected now or not."""
        self.active = self.seed()
        self._later: tuple[tuple[str, str, str], ...] = ()
        self._later_at = 0
        self.replaced = False
        """Whether another data directory has this node's id: two of one id must not dial the same peers."""

    @property
    def node(self) -> str:
        """Own id."""
        return self.identity.node

    def seed(self) -> Configuration:
        """The members by the identity: what holds until log or snapshot say something else.

        Its level is where every cluster begins: what raised it stands in log or snapshot, and what lies before that
        was applied without it everywhere else.
        """
        identity = self.identity
        return msgspec.structs.replace(
            founding(identity.members, levels.BASE), former=identity.former, index=identity.index
        )

    def follow(self, active: Configuration, applied: Configuration) -> bool:
        """Snapshot and log say this of the members; whether the identity, to be stored, is another one now.

        Only what is applied goes into the identity: what is merely in the log may be cut again.
        """
        before, identity = self.active, self.identity
        self.active = active
        if active.index >= self._later_at:
            self._later = ()
        self._see(active.members.get(self.node))
        if active.standing(self.node, identity.incarnation) != before.standing(self.node, identity.incarnation):
            self._say_standing()
        if applied.index <= identity.index:
            return False
        kept = {name: getattr(applied, name) for name in ("members", "former", "index", "level")}
        self.identity = msgspec.structs.replace(identity, **kept)
        if applied.level > identity.level:
            _log.info("feature level %d is in force: all members know it", applied.level)
        _log.info("members by entry %d: %s", applied.index, listed(applied.members))
        return True

    @property
    def removed(self) -> bool:
        """Whether this node was removed, by its own log or by what others told."""
        identity = self.identity
        if identity.told > self.active.index:
            return True
        return identity.founded and self.active.standing(self.node, identity.incarnation) == "removed"

    def _see(self, own: Member | None) -> None:
        if own is not None:
            self.replaced = own.incarnation not in ("", self.identity.incarnation)

    def _say_standing(self) -> None:
        standing = self.active.standing(self.node, self.identity.incarnation)
        if self.removed:
            _log.warning("this node %s", REMOVED)
        elif standing == "learner":
            _log.info("this node is a learner: it becomes a voter once it has caught up")
        elif standing == "voter":
            _log.info("this node is a voter")

    def announcement(self) -> Announced:
        """What to say of this node now."""
        identity = self.identity
        members = tuple((node, member.incarnation, member.raft) for node, member in sorted(identity.members.items()))
        learners = tuple(node for node, member in sorted(identity.members.items()) if member.role == "learner")
        return Announced(
            identity.node,
            identity.incarnation,
            identity.cluster,
            identity.zone,
            tuple(sorted(self.configured)),
            members,
            self.configured[identity.node],
            self._http,
            self.version,
            identity.index,
            learners,
            self.level,
            identity.level,
        )

    def check_size(self) -> None:
        """Refuse ids and addresses that would not fit into a handshake, before and after the founding.

        Raises:
            ConfigError: names what is too long.
        """
        members = tuple((peer, self.identity.incarnation, place) for peer, place in sorted(self.configured.items()))
        told = self.announcement()
        for announced in (told, msgspec.structs.replace(told, members=members)):
            try:
                encode_announced(announced)
            except ValueError as error:
                raise ConfigError(f"--peer, --raft-advertise, --http-advertise: {error}") from error

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Where to dial each peer: the founded list holds; a configured address that differs is tried after it."""
        identity = self.identity
        if not identity.founded:
            return {peer: (place,) for peer, place in self.configured.items()}
        if self.replaced:
            return {}
        places = {former.node: former.raft for former in self.active.former}
        places |= {peer: member.raft for peer, member in identity.members.items()}
        # A node that is behind may be led by one that its log does not know yet.
        places |= {peer: raft for peer, _, raft in self._later}
        places |= {peer: member.raft for peer, member in self.active.members.items()}
        return {peer: tuple(dict.fromkeys((raft, self.configured.get(peer, raft)))) for peer, raft in places.items()}

    def former(self) -> frozenset[str]:
        """Peers that are only looked for to tell them that they were removed."""
        known = {peer for peer, _, _ in self._later}.union(self.identity.members, self.active.members)
        return frozenset(former.node for former in self.active.former) - known

    def raft_of(self, peer: str) -> str:
        """Raft address of a member, as the founded list has it."""
        member = self.active.members.get(peer)
        return member.raft if member is not None else self.configured.get(peer, "")

    def http_of(self, peer: str) -> str:
        """Advertised HTTP address, as the peer told it last, else as it was added; empty when neither is known."""
        if peer == self.node:
            return self._http
        member = self.active.members.get(peer)
        return self._places.get(peer) or ("" if member is None else member.http)

    def role_of(self, peer: str) -> str:
        """``learner`` or ``voter``."""
        member = self.active.members.get(peer)
        return "voter" if member is None else member.role

    def hear(self, peer: str, data: bytes | Announced) -> None:
        """A connected peer announced itself (again)."""
        try:
            announced = decode_announced(data) if isinstance(data, bytes) else data
        except Refused as error:
            _log.warning("peer %s %s", peer, error)
            return
        if announced.node == peer:
            self.announced[peer] = announced
            self.known[peer] = announced.level, announced.version
            if announced.http:
                self._places[peer] = announced.http
            self._learn(announced)

    def check_levels(self) -> None:
        """Whether a cluster that this node belongs or would belong to is beyond it.

        Raises:
            Beyond: it is, as a connected peer says.
        """
        for peer in self.announced.values():
            if self.identity.cluster in ("", peer.cluster) and peer.zone == self.identity.zone:
                levels.check(peer.in_force, self.level, f"{peer.node} is a member of a cluster")

    def _learn(self, announced: Announced) -> None:
        """A node of this cluster that has applied a later configuration says whom to look for, and whether we count."""
        identity = self.identity
        known = max(self.active.index, identity.index)  # who was added and catches up goes through what is long over
        if not identity.founded or announced.cluster != identity.cluster or announced.at <= known:
            return
        self._later, self._later_at = announced.members, announced.at
        own = {incarnation for node, incarnation, _ in announced.members if node == self.node}
        self.replaced = bool(own - {identity.incarnation, ""})
        if identity.incarnation not in own and "" not in own and announced.at > identity.told:
            self.identity = msgspec.structs.replace(identity, told=announced.at)
            _log.warning("this node %s (says %s)", REMOVED, announced.node)

    def forget(self, peer: str) -> None:
        """The connection ended."""
        self.announced.pop(peer, None)
        self._reasons.pop(peer, None)

    def settle(self, first_write: Callable[[], None]) -> bool:
        """Adopt or found a cluster if that is right now; whether this node became a member.

        Args:
            first_write: makes the log durable before the identity is, so that a log lost later is noticed.
        """
        if self.identity.founded:
            return False
        adopted = (adopt(self.identity, peer) for peer in self.announced.values())
        identity = next(filter(None, adopted), None) or found(self.identity, self.configured, self.announced)
        if identity is None:
            return False
        first_write()
        self._directory.store(identity)
        self.identity, self.active = identity, founding(identity.members, levels.BASE)
        _log.info("member of cluster %s: %s", identity.cluster, listed(identity.members))
        return True

    def counts(self, peer: str) -> bool:
        """Whether a connected peer is of this cluster; the reason why it is no member is logged once."""
        verdict, why = judge(self.identity, self.announced[peer])
        if verdict == "member":
            self._reasons.pop(peer, None)
            return True
        if why != self._reasons.get(peer):
            self._reasons[peer] = why
            _log.log(logging.WARNING if verdict == "stranger" else logging.DEBUG, "peer %s", why)
        return verdict == "outsider"

    def waiting(self) -> str:
        """What stands in the way of being a member."""
        missing = set(self.configured) - set(self.announced) - {self.node}
        if missing and not any(peer.cluster for peer in self.announced.values()):
            return f"peers {listed(missing)}, to found the cluster"
        return "; ".join(sorted(self._reasons.values())) or "the founding of the cluster"

    def warn_of_difference(self) -> None:
        """The founded list holds; say so when the configuration says something else."""
        members = {peer: member.raft for peer, member in self.identity.members.items()}
        if self.identity.founded and len(self.configured) > 1 and members != self.configured:
            _log.warning("--peer says %s, the data directory %s: the data directory holds", self.configured, members)


def listed(ids: Iterable[str]) -> str:
    """Ids for a sentence."""
    return ", ".join(sorted(ids)) or "none"
