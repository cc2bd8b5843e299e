"""What Raft tells of itself: of the engine, of each peer, of the disk, and for people. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from discovery import levels
from discovery.raft.configuration import Standing

Role = Literal["leader", "candidate", "follower"]


class PeerStatus(msgspec.Struct, frozen=True):
    """A peer as this node sees it. ``match`` is known at the leader, ``applied`` and contact where there was one."""

    id: str
    connected: bool
    last_contact_s: float | None
    applied: int | None
    match: int | None


class EngineStatus(msgspec.Struct, frozen=True):
    """The Raft state of this node.

    Args:
        leaderless_s: seconds since a leader was last known, 0 when one is.
        full: why this node has no room to write, empty when it has.
        standing: what this node is by the configuration in effect here.
    """

    node: str
    role: Role
    term: int
    leader: str | None
    ready: bool
    commit: int
    applied: int
    last_index: int
    first_index: int
    snapshot_index: int
    leaderless_s: float
    waiting: int
    elections: int
    peers: tuple[PeerStatus, ...]
    full: str = ""
    standing: Standing = "voter"


class MemberStatus(msgspec.Struct, frozen=True):
    """A member for people: :class:`PeerStatus` with the addresses that the transport knows.

    ``problem``: what hinders its disk, as it told; empty: nothing that is known here.
    ``level``: the highest feature level that it announced, ``None`` before it was heard; ``version``: of its program.
    """

    id: str
    raft: str
    http: str
    role: str
    alive: bool
    last_contact_ms: int | None
    applied: int | None
    problem: str = ""
    level: int | None = None
    version: str = ""


class DiskStatus(msgspec.Struct, frozen=True):
    """The data directory in figures.

    Args:
        full: why there is no room to write, empty when there is.
        log_bytes, snapshot_bytes: of the files of the log and of the newest snapshot.
        syncs, sync_s: batches that were written to the log since the start, and the seconds that took in all.
        fulls: batches of the log that found no room.
        stalled: why the disk counts as one that does not answer, empty when it does.
        stalled_s: seconds that the write which is under way has taken so far, 0 when none is.
    """

    full: str = ""
    log_bytes: int = 0
    snapshot_bytes: int = 0
    syncs: int = 0
    sync_s: float = 0.0
    fulls: int = 0
    stalled: str = ""
    stalled_s: float = 0.0

    @property
    def trouble(self) -> str:
        """What keeps this node from writing, empty when nothing does."""
        return self.stalled or self.full


class CertificateStatus(msgspec.Struct, frozen=True):
    """The certificate that this node shows to peers.

    Args:
        expires: when it or its authority does, seconds since 1970; 0 when none fits.
        unfit: why the files as they are now do not fit, empty when they do.
    """

    expires: float = 0.0
    unfit: str = ""


class RaftStatus(msgspec.Struct, frozen=True):
    """What the facade tells: :class:`EngineStatus` and all members, this node included.

    ``level``: the feature level in force, as this node has applied it.
    """

    node: str
    role: str
    term: int
    leader: str | None
    ready: bool
    commit: int
    applied: int
    last_index: int
    members: tuple[MemberStatus, ...]
    leaderless_s: float
    disk: DiskStatus = DiskStatus()
    standing: Standing = "voter"
    certificate: CertificateStatus | None = None
    level: int = levels.LEVEL
