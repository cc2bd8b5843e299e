"""Who counts: the identity, what peers announced, founding and adoption, and the addresses to dial.

Shell around :mod:`.founding`: it keeps the data directory's identity and tells the facade what changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from discovery.errors import ConfigError
from discovery.raft.founding import Announced, adopt, found, judge
from discovery.raft.hello import Refused, decode_announced, encode_announced
from discovery.raft.identity import DataDirectory, Identity

_log: Final = logging.getLogger(__name__)


class Membership:
    """The members as this node knows them.

    Args:
        directory: where the identity is stored.
        configured: Raft address by id, this node included.
        raft, http, version: what this node announces of itself.
    """

    def __init__(
        self,
        directory: DataDirectory,
        identity: Identity,
        configured: Mapping[str, str],
        *,
        http: str,
        version: str,
    ) -> None:
        self._directory = directory
        self.identity = identity
        self.configured = dict(configured)
        self._http, self._version = http, version
        self.announced: dict[str, Announced] = {}
        """What the peers that are connected now said of themselves last."""
        self._reasons: dict[str, str] = {}
        self._places: dict[str, str] = {}

    @property
    def node(self) -> str:
        """Own id."""
        return self.identity.node

    @property
    def others(self) -> list[str]:
        """Ids of the other members, empty until founded."""
        return [peer for peer in self.identity.members if peer != self.node]

    def announcement(self) -> Announced:
        """What to say of this node now."""
        identity = self.identity
        members = tuple((node, member.incarnation, member.raft) for node, member in sorted(identity.members.items()))
        return Announced(
            identity.node,
            identity.incarnation,
            identity.cluster,
            identity.zone,
            tuple(sorted(self.configured)),
            members,
            self.configured[identity.node],
            self._http,
            self._version,
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
        if not self.identity.founded:
            return {peer: (place,) for peer, place in self.configured.items()}
        return {
            peer: tuple(dict.fromkeys((member.raft, self.configured.get(peer, member.raft))))
            for peer, member in self.identity.members.items()
        }

    def raft_of(self, peer: str) -> str:
        """Raft address of a member, as the founded list has it."""
        member = self.identity.members.get(peer)
        return member.raft if member is not None else self.configured.get(peer, "")

    def http_of(self, peer: str) -> str:
        """Advertised HTTP address, as the peer told it last; empty before."""
        return self._http if peer == self.node else self._places.get(peer, "")

    def hear(self, peer: str, data: bytes | Announced) -> None:
        """A connected peer announced itself (again)."""
        try:
            announced = decode_announced(data) if isinstance(data, bytes) else data
        except Refused as error:
            _log.warning("peer %s %s", peer, error)
            return
        if announced.node == peer:
            self.announced[peer] = announced
            self._places[peer] = announced.http

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
        self.identity = identity
        _log.info("member of cluster %s: %s", identity.cluster, listed(identity.members))
        return True

    def counts(self, peer: str) -> bool:
        """Whether a connected peer is a member whose messages count; the reason why not is logged once."""
        verdict, why = judge(self.identity, self.announced[peer])
        if verdict == "member":
            self._reasons.pop(peer, None)
            return True
        if why != self._reasons.get(peer):
            self._reasons[peer] = why
            _log.log(logging.WARNING if verdict == "stranger" else logging.DEBUG, "peer %s", why)
        return False

    def waiting(self) -> str:
        """What stands in the way of being a member."""
        missing = set(self.configured) - set(self.announced) - {self.node}
        if missing:
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
